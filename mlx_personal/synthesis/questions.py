"""Propose questions that the owner might ask, in the manner of those that the owner has asked [Wang23].

The owner answers or rejects them. The model answers none: it would learn from its own output.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final, Literal, get_args

from mlx_personal.dialogue import Dialogue, rouge1, strip_thoughts, words
from mlx_personal.dialogue.similarity import NearDuplicateIndex
from mlx_personal.models.sampling import SamplingParams
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress
from mlx_personal.synthesis.checks import Rewording, has_no_loop, has_same_language, is_no_comment
from mlx_personal.synthesis.languages import Kind, detect_language, kind_of
from mlx_personal.synthesis.prompts import REWRITE_QUESTION, parse_question

if TYPE_CHECKING:
    from mlx_personal.models import LanguageModel

QuestionStyle = Literal["few-shot", "blend"]
QUESTION_STYLES: Final[tuple[QuestionStyle, ...]] = get_args(QuestionStyle)

# Questions of the owner that are needed, and how many of them a few-shot prompt shows.
MIN_OWN_QUESTIONS: Final = 3
_SHOWN: Final = 5
# A question is not new if its ROUGE-1 against a known one reaches this; Self-Instruct has the same bound on ROUGE-L.
_KNOWN_THRESHOLD: Final = 0.7
_MIN_WORDS: Final = 3
# A longer question is an assignment with its material, which another one would have to invent.
_MAX_TOKENS: Final = 128
# Questions that are drawn at once, and for each wanted question altogether.
_BATCH: Final = 8
_MAX_ATTEMPTS: Final = 5
# Warm enough for a new subject; the lower bound on the probability keeps a small model coherent.
_SAMPLING: Final = {
    "few-shot": SamplingParams(temperature=0.8, min_p=0.1, stop=("\n",)),
    "blend": SamplingParams(temperature=0.7, min_p=0.1, stop=("]",)),
}
_SYSTEM: Final = "You write questions that the user might ask."
_REQUEST: Final = "Write a question of mine."
# What models put before a question: bullets, numbers, and a label.
_DECORATION: Final = re.compile(r"^(?:[-*\u2022]\s+|\d{1,2}[.)]\s+|(?:question|q)\s*:\s*)+", re.IGNORECASE)


@dataclass(frozen=True)
class QuestionCandidate:
    """A question that the model wrote, and the decision on it.

    Attributes:
        text: The question; the generated text if none could be parsed.
        style: How the model was asked.
        reason: `kept`, or the first check that it failed: `unparsable`, `cut off`, `too short`, `comment`, `language`,
            `form` (it does not ask), `loop`, `known` (asked or proposed before) or `held out`.
    """

    text: str
    style: QuestionStyle
    reason: str

    @property
    def kept(self) -> bool:
        """Whether it is proposed."""
        return self.reason == "kept"


def propose_questions(
    lm: LanguageModel,
    own: Sequence[str],
    count: int,
    *,
    known: Sequence[str] = (),
    held_out: Sequence[Dialogue] = (),
    style: QuestionStyle | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> list[QuestionCandidate]:
    """Let the model write questions in the manner of the owner's own.

    `few-shot` shows several questions of the owner as answers to the same request, for models that follow examples.
    `blend` has two of them rewritten into one, for models that were trained on rewriting. Without a style, a batch of
    each is drawn, and the one of which more is kept is used.

    Args:
        lm: The model without an adapter.
        own: The owner's questions.
        count: Number of wanted questions.
        known: Other questions that are not proposed again.
        held_out: Dialogues held out for evaluation, of which no near-duplicate is proposed.
        style: How to ask the model; None to find out.
        seed: Random seed.
        on_progress: Receives an event of stage `questions` after each batch, counting the kept questions.

    Returns:
        All candidates, kept or not; at most `count` of them are kept. An empty list if the owner has asked fewer than
        `MIN_OWN_QUESTIONS` questions that can be shown.
    """
    report = on_progress or ignore_progress
    shown = [text for text in dict.fromkeys(own) if len(lm.tokenize(text)) <= _MAX_TOKENS]
    if len(shown) < MIN_OWN_QUESTIONS or count < 1:
        return []
    writer = _Writer(lm, shown, [*own, *known], held_out, Random(seed))
    candidates: list[QuestionCandidate] = []
    if style is None:
        trials = [(name, writer.draw(name, _BATCH)) for name in QUESTION_STYLES]
        style, candidates = max(trials, key=lambda trial: sum(candidate.kept for candidate in trial[1]))
    while True:
        kept = sum(candidate.kept for candidate in candidates)
        report(ProgressEvent("questions", min(kept, count), count))
        if kept >= count or len(candidates) >= count * _MAX_ATTEMPTS:
            return _limit_kept(candidates, count)
        candidates += writer.draw(style, min(_BATCH, count * _MAX_ATTEMPTS - len(candidates)))


class _Writer:
    """Draws questions and checks them; each is compared with all before it."""

    def __init__(
        self,
        lm: LanguageModel,
        own: Sequence[str],
        known: Sequence[str],
        held_out: Sequence[Dialogue],
        random: Random,
    ):
        self._lm, self._own, self._random = lm, own, random
        self._language = detect_language("\n".join(own))
        kinds: list[Kind] = [kind_of(text, self._language) for text in own]
        self._may_state = kinds.count("statement") * 2 > len(kinds)
        # All of the owner's texts, whose language and repetitions a new question may have.
        self._manner = "\n".join(own)
        self._known = list(dict.fromkeys(known))
        self._held_out = NearDuplicateIndex()
        for dialogue in held_out:
            self._held_out.add(dialogue)

    def draw(self, style: QuestionStyle, number: int) -> list[QuestionCandidate]:
        """Return new candidates of a style."""
        prompts = [self._prompt(style) for _ in range(number)]
        longest = max(len(self._lm.tokenize(text)) for text in self._own)
        max_tokens = min(_MAX_TOKENS, 2 * longest + 16)
        seed = self._random.randrange(2**31)
        answers = self._lm.generate(prompts, max_tokens=max_tokens, sampling=_SAMPLING[style], seed=seed)
        candidates = []
        for answer in answers:
            text, reason = self._check(style, answer, max_tokens)
            if reason == "kept":
                self._known.append(text)
            candidates.append(QuestionCandidate(text, style, reason))
        return candidates

    def _prompt(self, style: QuestionStyle) -> list[int]:
        if style == "blend":
            blended = " ".join(self._random.sample(self._own, 2))
            request = [{"role": "user", "content": REWRITE_QUESTION.format(question=blended)}]
            return self._lm.tokenize_prompt(request) + self._lm.tokenize("[")
        messages = [{"role": "system", "content": _SYSTEM}]
        for question in self._random.sample(self._own, min(_SHOWN, len(self._own))):
            messages.append({"role": "user", "content": _REQUEST})
            messages.append({"role": "assistant", "content": question})
        return self._lm.tokenize_prompt([*messages, {"role": "user", "content": _REQUEST}])

    def _check(self, style: QuestionStyle, answer: str, max_tokens: int) -> tuple[str, str]:
        """Return the question in an answer, and `kept` or the first check that it fails."""
        cut_off = len(self._lm.tokenize(answer)) >= max_tokens - 1
        answer = strip_thoughts(answer).strip()
        try:
            text = parse_question(f"[{answer}]") if style == "blend" else answer
            text = _DECORATION.sub("", text).strip().strip('"\u201c\u201d').strip()
            dialogue = Dialogue.of(text, "-")
        except ValueError:
            return answer, "unparsable"
        wording = Rewording(self._manner, text, self._language, "question", 0.0, 1.0)
        checks = {
            "cut off": not cut_off,
            "too short": len(words(text)) >= _MIN_WORDS,
            "comment": is_no_comment(wording),
            "language": has_same_language(wording),
            "form": self._may_state or kind_of(text, self._language) != "statement",
            "loop": has_no_loop(wording),
            "known": not any(rouge1(text, other) >= _KNOWN_THRESHOLD for other in self._known),
            "held out": not self._held_out.find(dialogue),
        }
        return text, next((reason for reason, passes in checks.items() if not passes), "kept")


def _limit_kept(candidates: Sequence[QuestionCandidate], count: int) -> list[QuestionCandidate]:
    """Return the candidates up to the last wanted one."""
    kept = 0
    for position, candidate in enumerate(candidates):
        kept += candidate.kept
        if kept == count:
            return list(candidates[: position + 1])
    return list(candidates)
