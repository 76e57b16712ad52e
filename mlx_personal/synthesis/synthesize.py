"""Synthetic dialogues: all rewrites of all dialogues in one batch of generation, then the four checks.

A rewrite is kept if it parses, if it asks nothing that is set aside for evaluation, if it is no duplicate, and if its
ROUGE-1 against the original lies inside a band (paper 1, 3.3; the paper has the lower bound only, the upper one drops
what would teach nothing new).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlx_personal.dialogue import Dialogue, are_near_duplicates, rouge1, words
from mlx_personal.progress import Progress, as_stage
from mlx_personal.synthesis.prompts import (
    REWRITE_DIALOGUE,
    REWRITE_QUESTION,
    parse_dialogue,
    parse_question,
    render_dialogue,
)

if TYPE_CHECKING:
    from mlx_personal.models import LanguageModel

Mode = Literal["question", "both"]
Reason = Literal["kept", "too long", "unparsable", "held out", "duplicate", "too far", "too near"]


@dataclass(frozen=True)
class SynthesisConfig:
    """How to rewrite; ValueError for a setting that makes no sense.

    Args:
        k: rewrites of each dialogue (paper 1, Fig. 3: no gain beyond 6).
        temperature: of the sampling; 0 would give k equal rewrites.
        mode: `question` rewrites the user's turns and keeps the answers; `both` rewrites all turns.
        band: the lowest and highest ROUGE-1 (0..1) of a kept rewrite against its original, both inclusive.
        max_tokens: the longest answer; a rewrite of a short text is also stopped at twice that text's length. A text
            that is longer itself is not rewritten: its rewrite would be cut off.
        seed: of the sampling.
    """

    k: int = 6
    temperature: float = 0.5
    mode: Mode = "question"
    # Of 2,000 pairs of paraphrases in the demo's world 92 % reach 0.3, of pairs of unrelated questions 13 %: no other
    # bound parts them better. Above 0.9, one word in ten or less is new.
    band: tuple[float, float] = (0.3, 0.9)
    max_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in (("k", 100), ("max_tokens", 100_000)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in 1..{most:,}")
        if not 0 <= self.temperature <= 5:
            raise ValueError(f"the temperature is {self.temperature}; it must lie in 0..5")
        if self.mode not in ("question", "both"):
            raise ValueError(f"the mode is {self.mode!r}; it must be question or both")
        if not 0 <= self.band[0] < self.band[1] <= 1:
            raise ValueError(f"the band is {self.band[0]}..{self.band[1]}; it must rise and lie in 0..1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"the seed is {self.seed}; it must lie in 0..2^63, the end left out")


@dataclass(frozen=True)
class Candidate:
    """One rewrite of one dialogue and what became of it.

    Args:
        source: index of its original among the dialogues given.
        dialogue: the new dialogue; None where the answer could not be parsed or nothing was asked.
        raw: the model's answers as they came, a line each: one for every user turn, or one for the whole dialogue. ""
            where the original is too long to be rewritten.
        rouge1: overlap of the rewritten turns with the original's, 0..1; None where there is no dialogue.
        reason: why it was kept or dropped.
    """

    source: int
    dialogue: Dialogue | None
    raw: str
    rouge1: float | None
    reason: Reason

    @property
    def kept(self) -> bool:
        """Whether it is to be trained on."""
        return self.reason == "kept"


def synthesize(
    lm: LanguageModel,
    dialogues: Sequence[Dialogue],
    config: SynthesisConfig | None = None,
    on_progress: Progress | None = None,
    forbidden: Sequence[Dialogue] = (),
) -> list[Candidate]:
    """`config.k` candidates for each dialogue, in the dialogues' order; the dropped ones are among them.

    A rewrite that is a near-duplicate of a `forbidden` dialogue, one set aside for evaluation, is dropped.
    `on_done(done, total)` is called each time an answer is finished. The same arguments give the same candidates.
    ValueError for a dialogue whose assistant says nothing but thoughts.
    """
    config = config or SynthesisConfig()
    originals = [dialogue.without_thoughts() for dialogue in dialogues]
    tasks = [rewrite_tasks(lm, original, config) for original in originals]
    prompts: list[list[int]] = []
    limits: list[int] = []
    for messages, limit in itertools.chain.from_iterable(tasks):
        prompts += [lm.tokenize_prompt(messages)] * config.k
        limits += [limit] * config.k
    generated = lm.generate(
        prompts,
        max_tokens=limits,
        temperature=config.temperature,
        seed=config.seed,
        on_progress=as_stage("synthesis", on_progress),
    )
    answers = iter(generated)
    seen = {_words_of(original) for original in originals}
    candidates: list[Candidate] = []
    for source, original in enumerate(originals):
        if not tasks[source]:
            candidates += [Candidate(source, None, "", None, "too long")] * config.k
            continue
        # The generations came task by task, k of each; candidate i is made of the i-th of every task.
        by_task = [list(itertools.islice(answers, config.k)) for _ in tasks[source]]
        for rewrites in zip(*by_task, strict=True):
            candidate = _judged(source, original, rewrites, config, seen, forbidden)
            if candidate.kept and candidate.dialogue is not None:
                seen.add(_words_of(candidate.dialogue))
            candidates.append(candidate)
    return candidates


def rewrite_tasks(
    lm: LanguageModel, original: Dialogue, config: SynthesisConfig
) -> list[tuple[list[dict[str, str]], int]]:
    """(the chat that asks for a rewrite, the tokens it may take) for every answer a candidate is made of.

    `original` is without thoughts. None at all if one of the texts is too long.
    """
    asked: list[tuple[list[dict[str, str]], str, str]] = []
    if config.mode == "both":
        text = render_dialogue(original)
        asked.append(([], REWRITE_DIALOGUE.format(dialogue=text), text))
    else:
        for context, _ in original.exchanges():
            question = context[-1]["content"]
            asked.append((context[:-1], REWRITE_QUESTION.format(question=question), question))
    lengths = [len(lm.tokenize(text)) for _, _, text in asked]
    if max(lengths) > config.max_tokens:
        return []
    return [
        ([*before, {"role": "user", "content": ask}], min(config.max_tokens, 2 * length + 16))
        for (before, ask, _), length in zip(asked, lengths, strict=True)
    ]


def _judged(
    source: int,
    original: Dialogue,
    rewrites: tuple[str, ...],
    config: SynthesisConfig,
    seen: set[tuple[str, ...]],
    forbidden: Sequence[Dialogue],
) -> Candidate:
    raw = "\n".join(rewrites)
    try:
        if config.mode == "both":
            dialogue = parse_dialogue(rewrites[0], original)
            overlap = rouge1(dialogue.text, original.text)
        else:
            dialogue = original.with_turns("user", [parse_question(answer) for answer in rewrites])
            overlap = rouge1("\n".join(dialogue.user_turns), "\n".join(original.user_turns))
    except ValueError:
        return Candidate(source, None, raw, None, "unparsable")
    reason: Reason = "kept"
    if any(are_near_duplicates(dialogue, other) for other in forbidden):
        reason = "held out"
    elif _words_of(dialogue) in seen:
        reason = "duplicate"
    elif overlap < config.band[0]:
        reason = "too far"
    elif overlap > config.band[1]:
        reason = "too near"
    return Candidate(source, dialogue, raw, overlap, reason)


def _words_of(dialogue: Dialogue) -> tuple[str, ...]:
    """What makes two dialogues duplicates: the same words turn by turn, whatever their case and punctuation."""
    return tuple(" ".join(words(m.content)) for m in dialogue.messages if m.role != "system")
