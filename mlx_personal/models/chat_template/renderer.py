"""Render conversations as text by a model's chat template, read from the files in which transformers looks for it.

A model without a template gets a plain completion format: lines that begin with `User:` and `Assistant:`.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_personal.models.chat_template.jinja_sandbox import ChatTemplateProgram, TemplateFailureError
from mlx_personal.models.mlx_lm_compat import has_python_template

TemplateSource = Literal["model", "mlx-lm", "none"]

# Templates that write the date get this one for everything but a chat, so that training samples, and evaluations that
# are compared, do not depend on the day and the time zone.
FIXED_TIME: Final = datetime.datetime(2026, 1, 1, 12)
# What begins the next turn of the plain format, before which an answer ends.
PLAIN_STOP: Final = "\nUser:"

_LEGACY_TEMPLATE_FILE = "chat_template.json"
_DEFAULT_TEMPLATE = "default"


class ChatRenderer:
    """Renders conversations as text.

    Args:
        tokenizer: The tokenizer of a model.
        folder: The model's folder, if any.

    Attributes:
        source: Whose template it is: the model's, one of mlx-lm's for a family of models, or none.

    Raises:
        TemplateFailureError: If the model's template cannot be read or compiled.
    """

    def __init__(self, tokenizer: TokenizerWrapper, folder: Path | None = None):
        self._tokenizer = tokenizer
        self._program: ChatTemplateProgram | None = None
        self.source: TemplateSource = "none"
        template = None if has_python_template(tokenizer) else find_template(tokenizer, folder)
        if template is not None:
            self._program = ChatTemplateProgram(template)
            self.source = "model"
        elif tokenizer.has_chat_template:
            self.source = "mlx-lm"

    @property
    def literal_text(self) -> str:
        """All texts that the template may write."""
        return "" if self._program is None else self._program.literal_text

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        now: datetime.datetime = FIXED_TIME,
    ) -> str:
        """Return a conversation as text. Thinking is turned off in templates that support that.

        Args:
            messages: The conversation in chat format.
            add_generation_prompt: Whether the text ends with the beginning of an answer.
            now: The time for templates that write it.

        Raises:
            TemplateFailureError: If the template fails on these messages.
        """
        if self._program is not None:
            special_tokens = {
                name: token for name, token in self._tokenizer.special_tokens_map.items() if isinstance(token, str)
            }
            variables = {
                **special_tokens,
                "messages": messages,
                "tools": None,
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
                "enable_thinking": False,
            }
            return self._program.render(variables, now)
        if self.source == "none":
            lines = "".join(f"{message['role'].capitalize()}: {message['content']}\n" for message in messages)
            return lines + ("Assistant:" if add_generation_prompt else "")
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, enable_thinking=False
            )
        except Exception as error:  # mlx-lm's templates are Python functions
            raise TemplateFailureError(f"fails ({type(error).__name__})") from error
        return str(text)


def find_template(tokenizer: TokenizerWrapper, folder: Path | None = None) -> str | None:
    """Return the source of a model's chat template, or None if it has none.

    transformers has read `chat_template.jinja`, `additional_chat_templates/` and the tokenizer's config, in this order;
    of several named templates it takes the one named `default`. It reads `chat_template.json` only for models of
    images and sound, whose language models are used here too.

    Args:
        tokenizer: The tokenizer, as transformers loads it.
        folder: The model's folder, if any.

    Raises:
        TemplateFailureError: If there are several named templates and none is the default, or a file is damaged.
    """
    template = getattr(tokenizer, "chat_template", None)
    legacy_file = None if folder is None else folder / _LEGACY_TEMPLATE_FILE
    if template is None and legacy_file is not None and legacy_file.is_file():
        try:
            template = json.loads(legacy_file.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise TemplateFailureError(f"cannot be read from {_LEGACY_TEMPLATE_FILE}") from error
        template = template.get("chat_template") if isinstance(template, dict) else template
    if isinstance(template, list):
        template = {str(entry.get("name")): entry.get("template") for entry in template if isinstance(entry, dict)}
    if isinstance(template, dict):
        if _DEFAULT_TEMPLATE not in template and len(template) != 1:
            names = ", ".join(sorted(map(str, template)))[:80]
            raise TemplateFailureError(f"is not known, since none of its templates ({names}) is named default")
        template = template.get(_DEFAULT_TEMPLATE, next(iter(template.values())))
    if template is not None and not isinstance(template, str):
        raise TemplateFailureError("is not a text")
    return template
