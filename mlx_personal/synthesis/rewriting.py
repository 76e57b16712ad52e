"""Rewrite dialogues: all rewrites of all dialogues are generated in one batch and then filtered.

A rewrite is kept if it can be parsed, if it is neither a near-duplicate of a held-out dialogue nor a duplicate, and if
its ROUGE-1 against the original is inside a band. [Qin24 §3.3] has the lower bound only; the upper bound drops rewrites
that add nothing new.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlx_personal.dialogue import Dialogue, are_near_duplicates, rouge1, words
from mlx_personal.models.sampling import SamplingParams
from mlx_personal.progress import Progress, as_stage
from mlx_personal.synthesis.config import SynthesisConfig
from mlx_personal.synthesis.prompts import (
    REWRITE_DIALOGUE,
    REWRITE_QUESTION,
    parse_dialogue,
    parse_question,
    render_dialogue,
)

if TYPE_CHECKING:
    from mlx_personal.models import LanguageModel

FilterReason = Literal["kept", "too long", "unparsable", "held out", "duplicate", "too far", "too near"]


@dataclass(frozen=True)
class RewriteCandidate:
    """A rewrite of a dialogue and the filters' decision on it.

    Attributes:
        original_index: Index of its original among the dialogues passed to `synthesize`.
        dialogue: The new dialogue; None if the answer could not be parsed or the original is too long.
        raw_text: The generated texts, one per line: one for each user turn, or one for the whole dialogue. Empty if the
            original is too long to be rewritten.
        rouge1: ROUGE-1 of the rewritten turns against the original's, 0..1; None without a dialogue.
        reason: Why it was kept or dropped.
    """

    original_index: int
    dialogue: Dialogue | None
    raw_text: str
    rouge1: float | None
    reason: FilterReason

    @property
    def kept(self) -> bool:
        """Whether it is trained on."""
        return self.reason == "kept"


@dataclass(frozen=True)
class RewritePrompt:
    """A prompt that asks the model for a rewrite.

    Attributes:
        messages: The prompt in chat format.
        max_tokens: Maximum number of tokens of the rewrite.
    """

    messages: list[dict[str, str]]
    max_tokens: int


def synthesize(
    lm: LanguageModel,
    dialogues: Sequence[Dialogue],
    config: SynthesisConfig | None = None,
    on_progress: Progress | None = None,
    held_out: Sequence[Dialogue] = (),
) -> list[RewriteCandidate]:
    """Generate and filter `config.k` rewrites of each dialogue.

    Args:
        lm: The model that rewrites.
        dialogues: The originals.
        config: Settings of the rewriting.
        on_progress: Receives an event of stage `synthesis` for each generated text.
        held_out: Dialogues held out for evaluation; a rewrite that is a near-duplicate of one is dropped.

    Returns:
        The candidates in the order of the dialogues, including those that were dropped. They are a function of the
        arguments.

    Raises:
        ValueError: If an assistant turn of a dialogue consists of thoughts only.
    """
    config = config or SynthesisConfig()
    originals = [dialogue.without_thoughts() for dialogue in dialogues]
    prompts = [rewrite_prompts(lm, original, config) for original in originals]
    tokens: list[list[int]] = []
    max_tokens: list[int] = []
    for prompt in itertools.chain.from_iterable(prompts):
        tokens += [lm.tokenize_prompt(prompt.messages)] * config.k
        max_tokens += [prompt.max_tokens] * config.k
    generated = lm.generate(
        tokens,
        max_tokens=max_tokens,
        sampling=SamplingParams(temperature=config.temperature),
        seed=config.seed,
        on_progress=as_stage("synthesis", on_progress),
    )
    texts = iter(generated)
    known = {_normalized_turns(original) for original in originals}
    candidates: list[RewriteCandidate] = []
    for index, original in enumerate(originals):
        if not prompts[index]:
            candidates += [RewriteCandidate(index, None, "", None, "too long")] * config.k
            continue
        # There are k texts for each prompt; candidate i consists of the i-th text of each prompt of the dialogue.
        by_prompt = [list(itertools.islice(texts, config.k)) for _ in prompts[index]]
        for rewrites in zip(*by_prompt, strict=True):
            candidate = _filter(index, original, rewrites, config, known, held_out)
            if candidate.kept and candidate.dialogue is not None:
                known.add(_normalized_turns(candidate.dialogue))
            candidates.append(candidate)
    return candidates


def rewrite_prompts(lm: LanguageModel, original: Dialogue, config: SynthesisConfig) -> list[RewritePrompt]:
    """Return the prompts for a rewrite of a dialogue: one for each user turn, or one for the whole dialogue.

    Args:
        lm: The model that rewrites.
        original: The dialogue, without thoughts.
        config: Settings of the rewriting.

    Returns:
        The prompts; an empty list if one of the texts is too long.
    """
    texts: list[tuple[list[dict[str, str]], str, str]] = []
    if config.mode == "both":
        text = render_dialogue(original)
        texts.append(([], REWRITE_DIALOGUE.format(dialogue=text), text))
    else:
        for context, _ in original.exchanges():
            question = context[-1]["content"]
            texts.append((context[:-1], REWRITE_QUESTION.format(question=question), question))
    lengths = [len(lm.tokenize(text)) for _, _, text in texts]
    if max(lengths) > config.max_tokens:
        return []
    return [
        RewritePrompt([*context, {"role": "user", "content": request}], min(config.max_tokens, 2 * length + 16))
        for (context, request, _), length in zip(texts, lengths, strict=True)
    ]


def _filter(
    index: int,
    original: Dialogue,
    rewrites: tuple[str, ...],
    config: SynthesisConfig,
    known: set[tuple[str, ...]],
    held_out: Sequence[Dialogue],
) -> RewriteCandidate:
    """Parse the texts of one candidate and decide whether it is kept."""
    raw_text = "\n".join(rewrites)
    try:
        if config.mode == "both":
            dialogue = parse_dialogue(rewrites[0], original)
            overlap = rouge1(dialogue.text, original.text)
        else:
            dialogue = original.with_turns("user", [parse_question(answer) for answer in rewrites])
            overlap = rouge1("\n".join(dialogue.user_turns), "\n".join(original.user_turns))
    except ValueError:
        return RewriteCandidate(index, None, raw_text, None, "unparsable")
    reason: FilterReason = "kept"
    if any(are_near_duplicates(dialogue, other) for other in held_out):
        reason = "held out"
    elif _normalized_turns(dialogue) in known:
        reason = "duplicate"
    elif overlap < config.band[0]:
        reason = "too far"
    elif overlap > config.band[1]:
        reason = "too near"
    return RewriteCandidate(index, dialogue, raw_text, overlap, reason)


def _normalized_turns(dialogue: Dialogue) -> tuple[str, ...]:
    """Return the words of each turn without case and punctuation, which are equal for duplicates."""
    return tuple(" ".join(words(m.content)) for m in dialogue.messages if m.role != "system")
