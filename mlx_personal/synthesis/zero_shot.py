"""Rewriting by an instruction alone, the turns before the question as context."""

from __future__ import annotations

from mlx_personal.dialogue import Dialogue
from mlx_personal.models import LanguageModel
from mlx_personal.synthesis.config import SynthesisConfig
from mlx_personal.synthesis.languages import detect_language, kind_of
from mlx_personal.synthesis.prompts import (
    REWRITE_DIALOGUE,
    REWRITE_QUESTION,
    parse_dialogue,
    parse_question,
    render_dialogue,
)
from mlx_personal.synthesis.units import Unit, UnitPrompt


class ZeroShot:
    """Asks for each user turn, or for the whole dialogue in mode `both`, in one prompt.

    Args:
        lm: The model.
        config: Settings of the rewriting.
        is_prefilled: Whether the answer's opening bracket is part of the prompt.
    """

    def __init__(self, lm: LanguageModel, config: SynthesisConfig, is_prefilled: bool):
        self._lm, self._config = lm, config
        self._beginning = "[" if is_prefilled else ""
        # A prompt is drawn from several times.
        self._prompts: dict[tuple[Dialogue, int | None], UnitPrompt] = {}

    def units(self, original: Dialogue) -> list[Unit]:
        """Return a unit for each user turn, or for the whole dialogue."""
        language = detect_language("\n".join(original.user_turns))
        if self._config.mode == "both":
            units = [Unit(render_dialogue(original), None, language=language)]
        else:
            turns = [(user, original.messages[user].content) for user, _ in original.turn_indices]
            units = [Unit(text, i, language=language, kind=kind_of(text, language)) for i, text in turns]
        longest = max(len(self._lm.tokenize(unit.text)) for unit in units)
        return units if longest <= self._config.max_tokens else []

    def prompt(self, original: Dialogue, unit: Unit, attempt: int) -> UnitPrompt:
        """Return the prompt for a unit, the same for every attempt."""
        key = (original, unit.turn)
        if key not in self._prompts:
            self._prompts[key] = self._make_prompt(original, unit)
        return self._prompts[key]

    def _make_prompt(self, original: Dialogue, unit: Unit) -> UnitPrompt:
        if unit.turn is None:
            messages = [{"role": "user", "content": REWRITE_DIALOGUE.format(dialogue=unit.text)}]
        else:
            request = {"role": "user", "content": REWRITE_QUESTION.format(question=unit.text)}
            messages = [*original.to_messages()[: unit.turn], request]
        tokens = self._lm.tokenize_prompt(messages)
        if self._beginning:
            tokens = tokens + self._lm.tokenize(self._beginning)
        max_tokens = min(self._config.max_tokens, 2 * len(self._lm.tokenize(unit.text)) + 16)
        return UnitPrompt(tokens, max_tokens, self._beginning)

    def parse(self, unit: Unit, prompt: UnitPrompt, answer: str) -> str:
        """Return the text in brackets."""
        return parse_question(f"{prompt.beginning}{answer}]" if prompt.beginning else answer)

    def compose(self, original: Dialogue, units: list[Unit], texts: list[str]) -> Dialogue:
        """Return the dialogue with the rewritten turns."""
        if units[0].turn is None:
            return parse_dialogue(f"[{texts[0]}]", original)
        return original.with_turns("user", texts)
