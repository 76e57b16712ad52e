"""Convert conversations to token ids: prompts by the model's chat template, and training sequences that match them."""

from __future__ import annotations

from jinja2.exceptions import TemplateError
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_personal.dialogue import Dialogue


class ChatTemplate:
    """The chat template of a tokenizer; without one, a conversation becomes plain `User:` and `Assistant:` lines.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: TokenizerWrapper):
        self._tokenizer = tokenizer
        self._end_token_id: int | None = None

    def tokenize_prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Return the token ids after which the model generates the next assistant turn.

        Thinking is turned off in templates that support that.

        Args:
            messages: The conversation in chat format.
        """
        return self._render(messages, add_generation_prompt=True)

    def tokenize_dialogue(self, dialogue: Dialogue) -> list[tuple[list[int], list[bool]]]:
        """Return training sequences in which answers are tokenized exactly as generation produces them after a prompt.

        The result is one sequence if each prompt continues the sequence before it. For templates that render earlier
        turns differently from the last one, for example because they drop old thoughts, it is one sequence per
        assistant turn.

        Args:
            dialogue: The dialogue.

        Returns:
            Pairs of token ids and, for each token, whether it is a training target.
        """
        sequences: list[tuple[list[int], list[bool]]] = []
        for context, answer in dialogue.exchanges():
            prompt = self.tokenize_prompt(context)
            answer_ids = [*self._tokenizer.encode(answer, add_special_tokens=False), self.end_token_id()]
            continues = sequences and prompt[: len(sequences[-1][0])] == sequences[-1][0]
            token_ids, is_target = sequences.pop() if continues else ([], [])
            is_target = is_target + [False] * (len(prompt) - len(token_ids)) + [True] * len(answer_ids)
            sequences.append((prompt + answer_ids, is_target))
        return sequences

    def end_token_id(self) -> int:
        """Return the token that ends an assistant turn in the template, which may differ from the tokenizer's.

        Raises:
            ValueError: If the tokenizer has no end-of-text token.
        """
        if self._end_token_id is None:
            eos_token_ids, question = self._tokenizer.eos_token_ids, [{"role": "user", "content": "a"}]
            tail = self._render([*question, {"role": "assistant", "content": "b"}])[len(self._render(question)) :]
            self._end_token_id = next((t for t in reversed(tail) if t in eos_token_ids), self._tokenizer.eos_token_id)
            if self._end_token_id is None:
                raise ValueError("this tokenizer has no end-of-text token")
        return self._end_token_id

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool = False) -> list[int]:
        if not self._tokenizer.has_chat_template:
            text = "".join(f"{m['role'].capitalize()}: {m['content']}\n" for m in messages)
            return list(self._tokenizer.encode(text + ("Assistant:" if add_generation_prompt else "")))
        try:
            return list(self._apply(messages, add_generation_prompt))
        except TemplateError:
            if messages[0]["role"] != "system" or len(messages) == 1:
                raise
            # Some templates reject system turns: prepend the system turn to the first question instead.
            system, first, *rest = messages
            merged = {"role": "user", "content": f"{system['content']}\n\n{first['content']}"}
            return list(self._apply([merged, *rest], add_generation_prompt))

    def _apply(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> list[int]:
        return self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, enable_thinking=False
        )
