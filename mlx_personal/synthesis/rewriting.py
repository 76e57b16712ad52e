"""Rewrite dialogues: draw rewrites in batches, check them, and draw the failed ones again.

All open rewrites of all dialogues are drawn together, round by round, until each dialogue has `k` or its budget is
spent. [Qin24 §3.3] has one check, the lower bound of ROUGE-1; its upper bound drops rewrites that add nothing new, and
the checks of `checks` and `similarity` drop those that say something else.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mlx_personal.dialogue import Dialogue, rouge1, rougeL, words
from mlx_personal.dialogue.similarity import NearDuplicateIndex
from mlx_personal.embedding import HiddenStateEmbedder
from mlx_personal.models.sampling import SamplingParams
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.synthesis.checks import Rewording, find_fault
from mlx_personal.synthesis.config import SynthesisConfig
from mlx_personal.synthesis.similarity import SimilarityCheck
from mlx_personal.synthesis.units import RewriteMethod, Unit, UnitPrompt

if TYPE_CHECKING:
    from mlx_personal.models import LanguageModel
    from mlx_personal.synthesis.styles import PromptStyle

KEPT = "kept"
# Reasons for which a rewrite was dropped because it changed too little.
_TOO_LITTLE: Final = ("too near", "duplicate")
# Maximum number of tokens of a text whose similarity to its rewrite is computed.
_EMBEDDED_TOKENS: Final = 256
# A dialogue that keeps most of its rewrites has attempts left for the others, but each round computes the prompts'
# shared beginning again, for fewer and fewer draws.
_ROUNDS_PER_ATTEMPT: Final = 2
# A sentence that has failed so often stays as it is, if another one of its dialogue is reworded.
_MAX_UNIT_FAILURES: Final = 2
# The lowest and the highest temperature of later attempts.
_TEMPERATURES: Final = (0.1, 1.3)


@dataclass(frozen=True)
class RewriteCandidate:
    """A rewrite of a dialogue and the checks' decision on it.

    Attributes:
        original_index: Index of its original among the dialogues passed to `rewrite`.
        dialogue: The new dialogue; None if the answer could not be parsed or the original is too long.
        raw_text: The generated texts, one per line: one for each part of the dialogue that was drawn. Empty if the
            original is too long to be rewritten.
        rouge1: ROUGE-1 of the rewritten parts against those of the original, 0..1; None without a dialogue.
        reason: `kept`, or why it was dropped: `too long`, `unparsable`, `held out`, `duplicate`, `too far`,
            `too near`, `similarity`, or the name of one of `checks.CHECKS`.
    """

    original_index: int
    dialogue: Dialogue | None
    raw_text: str
    rouge1: float | None
    reason: str

    @property
    def kept(self) -> bool:
        """Whether it is trained on."""
        return self.reason == KEPT


def rewrite(
    lm: LanguageModel,
    dialogues: Sequence[Dialogue],
    style: PromptStyle,
    config: SynthesisConfig,
    on_progress: Progress | None = None,
    held_out: Sequence[Dialogue] = (),
) -> list[RewriteCandidate]:
    """Generate and check rewrites of each dialogue, until `config.k` are kept or its budget is spent.

    Args:
        lm: The model that rewrites.
        dialogues: The originals.
        style: How the model is asked.
        config: Settings of the rewriting.
        on_progress: Receives an event of stage `synthesis` for each generated text.
        held_out: Dialogues held out for evaluation; a rewrite that is a near-duplicate of one is dropped.

    Returns:
        The candidates in the order of the dialogues, including those that were dropped. They are a function of the
        arguments.

    Raises:
        ValueError: If an assistant turn of a dialogue consists of thoughts only.
    """
    return _Rewriting(lm, dialogues, config, held_out, style).run(on_progress)


@dataclass
class _Slot:
    """A wanted rewrite.

    Attributes:
        number: Its number among the wanted rewrites of its dialogue.
        texts: The accepted text of each unit; None where one has still to be drawn.
        failures: Number of times that each unit has failed.
        is_kept: Whether the rewrite is complete and kept.
        temperature: Sampling temperature of the next draw.
    """

    number: int
    texts: list[str | None]
    failures: Counter[int] = field(default_factory=Counter)
    is_kept: bool = False
    temperature: float = 0.0


@dataclass
class _Original:
    """A dialogue that is rewritten.

    Attributes:
        dialogue: The dialogue, without thoughts.
        units: The parts that are rewritten one by one; none if it is too long.
        slots: The wanted rewrites.
        budget: Number of rewrites that may still be drawn.
        candidates: The rewrites that have been drawn.
    """

    dialogue: Dialogue
    units: list[Unit]
    slots: list[_Slot]
    budget: int
    candidates: list[RewriteCandidate] = field(default_factory=list)

    def empty_texts(self) -> list[str | None]:
        """Return the texts of a slot for which nothing has been drawn."""
        return [unit.text if unit.is_fixed else None for unit in self.units]

    def is_reworded(self, texts: Sequence[str | None]) -> bool:
        """Return whether any of the texts accepted so far differs from its unit."""
        return any(text is not None and text != unit.text for text, unit in zip(texts, self.units, strict=True))


@dataclass
class _Draw:
    """The prompts of one slot in a round, and their answers."""

    index: int
    slot: _Slot
    units: list[int]
    prompts: list[UnitPrompt]
    answers: list[str] = field(default_factory=list)


class _Rewriting:
    def __init__(
        self,
        lm: LanguageModel,
        dialogues: Sequence[Dialogue],
        config: SynthesisConfig,
        held_out: Sequence[Dialogue],
        style: PromptStyle,
    ):
        self._lm, self._config, self._style = lm, config, style
        self._held_out = NearDuplicateIndex(held_out)
        self._method: RewriteMethod = style.method(lm, config)
        self._originals: list[_Original] = []
        for dialogue in (dialogue.without_thoughts() for dialogue in dialogues):
            units = self._method.units(dialogue)
            original = _Original(dialogue, units, [], config.k * config.max_attempts)
            count = config.k if units else 0
            original.slots = [_Slot(n, original.empty_texts(), temperature=config.temperature) for n in range(count)]
            self._originals.append(original)
        self._known = {_normalized_turns(original.dialogue) for original in self._originals}
        self._similarity: SimilarityCheck | None = None
        self._generated_count = 0

    def run(self, on_progress: Progress | None) -> list[RewriteCandidate]:
        """Return all candidates by dialogue."""
        if self._config.check_meaning and any(original.units for original in self._originals):
            texts = [_compared_text(original.dialogue, self._config) for original in self._originals]
            self._similarity = SimilarityCheck(HiddenStateEmbedder(self._lm, _EMBEDDED_TOKENS), texts)
        for round_number in range(_ROUNDS_PER_ATTEMPT * self._config.max_attempts):
            draws = self._open_draws(round_number)
            if not draws:
                break
            self._generate(draws, round_number, on_progress)
            self._decide(draws)
        candidates = []
        for index, original in enumerate(self._originals):
            too_long = [] if original.units else [RewriteCandidate(index, None, "", None, "too long")] * self._config.k
            candidates += original.candidates + too_long
        return candidates

    def _open_draws(self, round_number: int) -> list[_Draw]:
        """Return the prompts for all wanted rewrites that are not kept, within each dialogue's budget."""
        draws = []
        for index, original in enumerate(self._originals):
            open_slots = [slot for slot in original.slots if not slot.is_kept][: original.budget]
            original.budget -= len(open_slots)
            for slot in open_slots:
                attempt = slot.number + round_number * self._config.k
                units = [i for i, text in enumerate(slot.texts) if text is None]
                prompts = [self._method.prompt(original.dialogue, original.units[i], attempt) for i in units]
                draws.append(_Draw(index, slot, units, prompts))
        return draws

    def _generate(self, draws: Sequence[_Draw], round_number: int, on_progress: Progress | None) -> None:
        """Generate the answers of a round: one batch for the prompts that begin alike."""
        # By dialogue, then by unit, then by slot: the random numbers of an answer depend on its place.
        places = [(draw, n) for draw in draws for n in range(len(draw.prompts))]
        places.sort(key=lambda place: (place[0].index, place[0].units[place[1]], place[0].slot.number))
        batches: dict[tuple[float, tuple[str, ...]], list[tuple[_Draw, int]]] = {}
        for draw, n in places:
            batches.setdefault((draw.slot.temperature, draw.prompts[n].shared), []).append((draw, n))
        total = self._generated_count + len(places)
        for draw in draws:
            draw.answers = [""] * len(draw.prompts)
        for number, ((temperature, _), batch) in enumerate(batches.items()):
            prompts = [draw.prompts[n] for draw, n in batch]
            constraints = [prompt.constraint for prompt in prompts if prompt.constraint is not None]
            answers = self._lm.generate(
                [prompt.tokens for prompt in prompts],
                max_tokens=[prompt.max_tokens for prompt in prompts],
                sampling=SamplingParams(temperature=temperature, min_p=self._style.min_p, stop=self._style.stop),
                seed=(self._config.seed + round_number + (number << 32)) % 2**63,
                on_progress=_counted(on_progress, self._generated_count, total),
                constraints=constraints,
            )
            self._generated_count += len(batch)
            for (draw, n), answer in zip(batch, answers, strict=True):
                draw.answers[n] = answer

    def _decide(self, draws: Sequence[_Draw]) -> None:
        """Check what was drawn in a round, and record a candidate for each draw."""
        complete: list[tuple[_Draw, RewriteCandidate]] = []
        for draw in draws:
            candidate = self._accept_units(draw)
            if candidate.reason == KEPT and candidate.dialogue is not None:
                texts = [text for text in draw.slot.texts if text is not None]
                reason = self._check_dialogue(self._originals[draw.index], candidate, texts)
                if reason == KEPT:
                    # At once, so that the next draw is a duplicate of it; taken back if it fails the last check.
                    self._known.add(_normalized_turns(candidate.dialogue))
                candidate = dataclasses.replace(candidate, reason=reason)
            complete.append((draw, candidate))
        kept = [n for n, (_, candidate) in enumerate(complete) if candidate.reason == KEPT]
        if self._similarity is not None:
            texts = [_compared_text(complete[n][1].dialogue, self._config) for n in kept]
            passes = self._similarity.passes([complete[n][0].index for n in kept], texts)
            for n, is_similar in zip(kept, passes, strict=True):
                draw, candidate = complete[n]
                if not is_similar and candidate.dialogue is not None:
                    self._known.discard(_normalized_turns(candidate.dialogue))
                    complete[n] = (draw, dataclasses.replace(candidate, reason="similarity"))
        for draw, candidate in complete:
            original = self._originals[draw.index]
            original.candidates.append(candidate)
            draw.slot.is_kept = candidate.kept
            draw.slot.temperature = self._next_temperature(draw.slot.temperature, candidate.reason)
            if not candidate.kept and None not in draw.slot.texts:
                draw.slot.texts = original.empty_texts()

    def _next_temperature(self, temperature: float, reason: str) -> float:
        """Return the temperature after a draw: higher if it changed too little, lower if it failed another check."""
        if self._config.temperature == 0:
            return 0.0
        step = self._style.temperature_step if reason in _TOO_LITTLE else -self._style.temperature_step
        # Rounded, so that slots with equal histories share a batch.
        return round(min(max(temperature + step, _TEMPERATURES[0]), max(_TEMPERATURES[1], temperature)), 3)

    def _accept_units(self, draw: _Draw) -> RewriteCandidate:
        """Parse and check the drawn texts; those that pass are kept in the slot for the next attempt."""
        original = self._originals[draw.index]
        texts, faults = list(draw.slot.texts), dict[int, str]()
        for n, prompt, answer in zip(draw.units, draw.prompts, draw.answers, strict=True):
            try:
                texts[n] = self._method.parse(original.units[n], prompt, answer)
            except ValueError:
                faults[n] = "unparsable"
                continue
            fault = self._find_fault(original.units[n], texts[n] or "")
            if fault is None:
                draw.slot.texts[n] = texts[n]
            else:
                faults[n] = fault
        draw.slot.failures.update(list(faults))
        for n in [n for n in faults if draw.slot.failures[n] >= _MAX_UNIT_FAILURES]:
            if original.is_reworded(draw.slot.texts):
                texts[n] = draw.slot.texts[n] = original.units[n].text
                del faults[n]
        reason = next(iter(faults.values()), KEPT)
        raw_text = "\n".join(draw.answers)
        complete = [text for text in texts if text is not None]
        if len(complete) < len(texts):
            return RewriteCandidate(draw.index, None, raw_text, None, reason)
        try:
            dialogue = self._method.compose(original.dialogue, original.units, complete)
        except ValueError:
            draw.slot.texts = original.empty_texts()
            return RewriteCandidate(draw.index, None, raw_text, None, "unparsable")
        overlap = rouge1(*self._changed(original, complete, dialogue))
        return RewriteCandidate(draw.index, dialogue, raw_text, overlap, reason)

    def _find_fault(self, unit: Unit, rewrite: str) -> str | None:
        """Return the check of meaning that a rewritten unit fails, or None."""
        if not self._config.check_meaning or unit.turn is None:
            return None
        config = self._config
        return find_fault(
            Rewording(unit.text, rewrite, unit.language, unit.kind, config.min_content_kept, config.max_content_added)
        )

    def _check_dialogue(self, original: _Original, candidate: RewriteCandidate, texts: Sequence[str]) -> str:
        """Return why a rewritten dialogue is kept or dropped."""
        dialogue, overlap, band = candidate.dialogue, candidate.rouge1 or 0.0, self._config.band
        if dialogue is None:
            return "unparsable"
        if self._held_out.find(dialogue):
            return "held out"
        if _normalized_turns(dialogue) in self._known:
            return "duplicate"
        if overlap < band[0]:
            return "too far"
        if overlap <= band[1]:
            return KEPT
        # The same words in another order are another wording, if their meaning is checked.
        if self._config.check_meaning and rougeL(*self._changed(original, texts, dialogue)) <= band[1]:
            return KEPT
        return "too near"

    def _changed(self, original: _Original, texts: Sequence[str], rewrite: Dialogue) -> tuple[str, str]:
        """Return the parts that may change, rewritten and original: whole turns if a prompt asks for the dialogue."""
        if original.units[0].turn is None:
            return _compared_text(rewrite, self._config), _compared_text(original.dialogue, self._config)
        pairs = [(text, unit.text) for text, unit in zip(texts, original.units, strict=True) if not unit.is_fixed]
        return "\n".join(text for text, _ in pairs), "\n".join(text for _, text in pairs)


def _compared_text(dialogue: Dialogue | None, config: SynthesisConfig) -> str:
    """Return the turns that are rewritten, one per line."""
    if dialogue is None:
        return ""
    return dialogue.text if config.mode == "both" else "\n".join(dialogue.user_turns)


def _normalized_turns(dialogue: Dialogue) -> tuple[str, ...]:
    """Return the words of each turn without case and punctuation, which are equal for duplicates."""
    return tuple(" ".join(words(m.content)) for m in dialogue.messages if m.role != "system")


def _counted(on_progress: Progress | None, done: int, total: int) -> Progress | None:
    """Return a `Progress` that counts on from the texts of earlier batches."""
    if on_progress is None:
        return None

    def report(event: ProgressEvent, /) -> None:
        on_progress(dataclasses.replace(event, stage="synthesis", done=done + event.done, total=total))

    return report
