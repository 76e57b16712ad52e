"""The registered prompt styles: how a model is asked for rewrites.

No style works with every model. A model trained on rewriting needs only the instruction; a small instruct model needs
worked examples; a base model without a chat template can only continue a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlx_personal.models import LanguageModel
from mlx_personal.synthesis.config import StyleName, SynthesisConfig
from mlx_personal.synthesis.few_shot import FewShot
from mlx_personal.synthesis.units import RewriteMethod
from mlx_personal.synthesis.zero_shot import ZeroShot


@dataclass(frozen=True)
class PromptStyle:
    """A way to ask for rewrites.

    Attributes:
        name: Its name, as stored with a model.
        has_examples: Whether worked examples come before the text.
        in_brackets: Whether the rewrite is in brackets.
        is_prefilled: Whether the opening bracket, the beginning of the answer, is part of the prompt.
        is_guided: Whether sentences are rewritten one by one, with given openings and soft lexical constraints.
        is_chat: Whether the prompt is made of chat turns, which needs a chat template.
        stop: Texts before which an answer ends.
        temperature_step: What is added to the temperature after a rewrite that changed too little, and subtracted after
            one that failed another check.
        min_p: Smallest probability of a token, relative to the likeliest token's.
    """

    name: StyleName
    has_examples: bool = True
    in_brackets: bool = True
    is_prefilled: bool = True
    is_guided: bool = False
    is_chat: bool = True
    stop: tuple[str, ...] = ("]",)
    temperature_step: float = 0.2
    min_p: float = 0.0

    def method(self, lm: LanguageModel, config: SynthesisConfig) -> RewriteMethod:
        """Return the rewriting of this style with a model.

        Args:
            lm: The model.
            config: Settings of the rewriting.
        """
        if not self.has_examples:
            return ZeroShot(lm, config, self.is_prefilled)
        return FewShot(lm, config, self.in_brackets, self.is_guided, self.is_chat)


# Guided rewriting asks for one sentence, whose mark is put back.
_SENTENCE_ENDS: Final = (". ", "? ", "! ", ".\n", "?\n", "!\n", "\u3002", "\uff1f")

STYLES: Final[dict[StyleName, PromptStyle]] = {
    style.name: style
    for style in (
        PromptStyle("zero-shot", has_examples=False, is_prefilled=False, stop=()),
        PromptStyle("zero-shot-prefilled", has_examples=False),
        PromptStyle("few-shot-plain", in_brackets=False, is_prefilled=False, stop=("\n\n",)),
        PromptStyle("few-shot"),
        PromptStyle("few-shot-guided", is_guided=True, stop=("]", *_SENTENCE_ENDS), min_p=0.05),
        PromptStyle(
            "completion",
            in_brackets=False,
            is_prefilled=False,
            is_guided=True,
            is_chat=False,
            stop=("\n", *_SENTENCE_ENDS),
            min_p=0.05,
        ),
    )
}
