"""How a conversation becomes tokens: the model's chat template for prompts, and training rows that match it exactly."""

from __future__ import annotations

from jinja2.exceptions import TemplateError
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_personal.dialogue import Dialogue

Row = tuple[list[int], list[bool]]


class ChatTemplate:
    """The chat template of one tokenizer; models without a template get plain `User:` and `Assistant:` lines."""

    def __init__(self, tokenizer: TokenizerWrapper):
        self._tokenizer = tokenizer
        self._end: int | None = None

    def prompt_tokens(self, messages: list[dict[str, str]]) -> list[int]:
        """The tokens after which the model writes the next assistant turn; reasoning switched off where it can be."""
        return self._render(messages, add_generation_prompt=True)

    def training_rows(self, dialogue: Dialogue) -> list[Row]:
        """Rows of (tokens, is a target): the answers are tokens just as generation would write them after the prompt.

        One row, if each later prompt continues the row before it. Templates that render earlier turns differently
        from the last one (those that drop old thoughts, say) give one row for each assistant turn.
        """
        rows: list[Row] = []
        for context, answer in dialogue.exchanges():
            prompt = self.prompt_tokens(context)
            target = [*self._tokenizer.encode(answer, add_special_tokens=False), self.end_token()]
            tokens, is_target = rows.pop() if rows and prompt[: len(rows[-1][0])] == rows[-1][0] else ([], [])
            is_target = is_target + [False] * (len(prompt) - len(tokens)) + [True] * len(target)
            rows.append((prompt + target, is_target))
        return rows

    def end_token(self) -> int:
        """The token that ends an assistant turn: what the template writes there, which need not be the tokenizer's."""
        if self._end is None:
            ends, question = self._tokenizer.eos_token_ids, [{"role": "user", "content": "a"}]
            tail = self._render([*question, {"role": "assistant", "content": "b"}])[len(self._render(question)) :]
            self._end = next((t for t in reversed(tail) if t in ends), self._tokenizer.eos_token_id)
            if self._end is None:
                raise ValueError("this tokenizer has no end-of-text token")
        return self._end

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool = False) -> list[int]:
        if not self._tokenizer.has_chat_template:
            text = "".join(f"{m['role'].capitalize()}: {m['content']}\n" for m in messages)
            return list(self._tokenizer.encode(text + ("Assistant:" if add_generation_prompt else "")))
        try:
            return list(self._apply(messages, add_generation_prompt))
        except TemplateError:
            if messages[0]["role"] != "system" or len(messages) == 1:
                raise
            # Some templates refuse system turns; what the system says then heads the first question.
            system, first, *rest = messages
            merged = {"role": "user", "content": f"{system['content']}\n\n{first['content']}"}
            return list(self._apply([merged, *rest], add_generation_prompt))

    def _apply(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> list[int]:
        return self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, enable_thinking=False
        )
