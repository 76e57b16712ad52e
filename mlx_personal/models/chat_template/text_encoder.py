"""Tokenize texts of users, which may mention control tokens, so that only a chat template writes control tokens.

A text without a mention is tokenized by the tokenizer itself. Otherwise a copy of it is used in which every control
token has another, random spelling: what the template wrote is respelled, and the rest is tokenized as any other text.
"""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken, Tokenizer

# Characters for private use, of which two that no message contains mark the mentions of control tokens in messages.
_PRIVATE_USE: Final = range(0xF0000, 0xFFFFE)
_SPELLING_MARK: Final = chr(0x100000)
# The beginning of a line that no tokenizer which splits texts into words joins with the line before.
_LINE = re.compile(r"(?<=\S\n)(?=[a-zA-Z])")
_SAMPLE_LINES: Final = "user: one two\nUser: a)\n\nanswer:\n B \nC.\n\n\nd\t\nE1\nf"
_SAMPLE_TEXT: Final = "A sample: two words,\n\nand ünïcödé 123.\n"


class TextEncoder:
    """Tokenizes texts and renderings of a chat template.

    Args:
        tokenizer: The tokenizer.
        written_text: Texts that the chat template writes. Added tokens in them are control tokens too.
        vocabulary_size: Number of the model's embeddings; added tokens beyond it are never used. None if unknown.

    Attributes:
        control_tokens: Ids of the control tokens, by their spelling.
    """

    def __init__(self, tokenizer: TokenizerWrapper, written_text: str = "", vocabulary_size: int | None = None):
        self._tokenizer = tokenizer
        added: Mapping[int, AddedToken] = tokenizer.added_tokens_decoder
        # Added tokens of spaces or of markup are ordinary text, unless the template writes them.
        control = {
            token_id: token
            for token_id, token in added.items()
            if token.special
            or (token.content in written_text and not token.content.isspace())
            or (vocabulary_size is not None and token_id >= vocabulary_size)
        }
        self.control_tokens = {token.content: token_id for token_id, token in control.items()}
        longest_first = sorted(filter(None, self.control_tokens), key=len, reverse=True)
        self._alternatives = "|".join(map(re.escape, longest_first)) or "(?!)"
        self._mention = re.compile(self._alternatives)
        # Other spellings of a normalized token are the same token, if the tokenizer normalizes at all.
        backend = getattr(tokenizer, "backend_tokenizer", None)
        normalizes = not isinstance(backend, Tokenizer) or backend.normalizer is not None
        self._normalized_ids = {token_id for token_id, token in control.items() if token.normalized and normalizes}
        # Texts can be tokenized in pieces that begin with these tokens; others may swallow the space before them.
        self._boundaries = {
            token.content
            for token_id, token in control.items()
            if not (token.lstrip or token.single_word or token_id in self._normalized_ids)
        }

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens; control tokens that it mentions become plain text.

        Args:
            text: The text.
        """
        ids = self._encode(text)
        mentions = self._mention.search(text) is not None or not self._normalized_ids.isdisjoint(ids)
        return self._encode_respelled(text) if mentions else ids

    def mark_mentions(self, messages: Sequence[Mapping[str, str]]) -> tuple[list[dict[str, str]], str]:
        """Mark the control tokens that messages mention, so that `encode_rendering` treats them as text.

        Args:
            messages: The messages in chat format.

        Returns:
            The messages, and the two characters that mark a mention; an empty text if there is none.
        """
        contents = [message["content"] for message in messages]
        if not any(map(self._mentions, contents)):
            return [dict(message) for message in messages], ""
        used = set("".join(contents))
        unused = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
        marks = next(unused) + next(unused)
        marked = [self._mention.sub(lambda match: f"{marks[0]}{match[0]}{marks[1]}", content) for content in contents]
        return [{**message, "content": text} for message, text in zip(messages, marked, strict=True)], marks

    def split(self, rendering: str, marks: str = "", by_lines: bool = False) -> list[str]:
        """Split a rendering into pieces that are tokenized independently of each other.

        Args:
            rendering: Output of a chat template.
            marks: Result of `mark_mentions` for the messages.
            by_lines: Whether to split before lines, for renderings without control tokens but at their beginning.

        Returns:
            The pieces, each of which but the first begins with a control token of the template, or a line.
        """
        if not self._supports_pieces:
            return [rendering]
        tokens = self._written_or_marked(marks).finditer(rendering)
        cuts = [match.start() for match in tokens if match[0] in self._boundaries and match.start()]
        if by_lines and not cuts and self._supports_lines:
            cuts = [match.start() for match in _LINE.finditer(rendering)]
        return [rendering[start:end] for start, end in zip([0, *cuts], [*cuts, len(rendering)], strict=True)]

    def encode_piece(self, piece: str, marks: str = "") -> list[int]:
        """Return the token ids of a piece of a rendering.

        Args:
            piece: A piece from `split`, or the beginning of one.
            marks: Result of `mark_mentions` for the messages.
        """
        if not marks:
            return self._encode(piece)
        pattern, names = self._written_or_marked(marks), self._spellings
        if self._respelled is None:
            return self._encode_apart(piece, marks)
        # A marked token matches with its marks, and is no key.
        respelled = pattern.sub(lambda match: names.get(match[0], match[0]), piece)
        return self._encode_respelled(respelled.translate({ord(mark): None for mark in marks}))

    def encode_rendering(self, rendering: str, marks: str = "") -> list[int]:
        """Return the token ids of a rendering: the template's control tokens, and the messages as plain text.

        Args:
            rendering: Output of a chat template.
            marks: Result of `mark_mentions` for the messages.
        """
        return [token_id for piece in self.split(rendering, marks) for token_id in self.encode_piece(piece, marks)]

    def find_control_token(self, text: str) -> str | None:
        """Return the first control token in a text that a template wrote, or None.

        Args:
            text: The text.
        """
        match = self._mention.search(text)
        return None if match is None else match[0]

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _mentions(self, text: str) -> bool:
        if self._mention.search(text) is not None:
            return True
        return bool(self._normalized_ids) and not self._normalized_ids.isdisjoint(self._encode(text))

    def _encode_respelled(self, text: str) -> list[int]:
        if self._respelled is None:
            return self._encode_apart(text)
        return list(self._respelled.encode(text, add_special_tokens=False).ids)

    def _encode_apart(self, text: str, marks: str = "") -> list[int]:
        """Return the token ids of a text for a tokenizer that cannot be respelled: mentions are tokenized apart.

        Without marks, every control token in the text is a mention.
        """
        mention = f"{marks[0]}({self._alternatives}){marks[1]}|[{marks}]" if marks else f"({self._alternatives})"
        ids: list[int] = []
        for index, part in enumerate(re.split(mention, text)):
            # Every second part is a mention, or None where a template separated the marks of one.
            if part and index % 2:
                # Halves of a control token are no control token.
                ids += self._encode(part[: len(part) // 2]) + self._encode(part[len(part) // 2 :])
            elif part:
                ids += self._encode(part)
        return ids

    @functools.lru_cache(maxsize=4)  # noqa: B019 - an encoder lives as long as its model
    def _written_or_marked(self, marks: str) -> re.Pattern[str]:
        """Return the pattern of control tokens, with their marks if they are mentions."""
        marked = f"{marks[0]}(?:{self._alternatives}){marks[1]}|" if marks else ""
        return re.compile(marked + self._alternatives)

    @functools.cached_property
    def _supports_pieces(self) -> bool:
        """Whether tokenizing in pieces gives the same tokens as tokenizing a whole text."""
        text = _SAMPLE_TEXT.join(["", *self._boundaries, ""])
        cuts = [match.start() for match in self._mention.finditer(text)]
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        return self._encode(text) == [token_id for piece in pieces for token_id in self._encode(piece)]

    @functools.cached_property
    def _supports_lines(self) -> bool:
        """Whether tokenizing lines that begin with a letter separately gives the same tokens."""
        cuts = [match.start() for match in _LINE.finditer(_SAMPLE_LINES)]
        pieces = [_SAMPLE_LINES[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
        return self._encode(_SAMPLE_LINES) == [token_id for piece in pieces for token_id in self._encode(piece)]

    @functools.cached_property
    def _spellings(self) -> dict[str, str]:
        """Another spelling of every control token, which no text contains."""
        nonce = secrets.token_hex(16)
        return {
            token: f"{_SPELLING_MARK}{nonce}{token_id}{_SPELLING_MARK}"
            for token, token_id in self.control_tokens.items()
        }

    @functools.cached_property
    def _respelled(self) -> Tokenizer | None:
        """A copy of the tokenizer with other spellings of the control tokens; None if it has none that agrees."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            return None
        try:
            respelled = Tokenizer.from_str(_respell(backend.to_str(), self._spellings))
        except Exception:  # tokenizers raises Exception itself
            return None
        sample = list(respelled.encode(_SAMPLE_TEXT, add_special_tokens=False).ids)
        return respelled if sample == self._encode(_SAMPLE_TEXT) else None


def _respell(description: str, spellings: Mapping[str, str]) -> str:
    """Return the JSON of a tokenizer in which tokens have other spellings."""
    tokenizer: dict[str, Any] = json.loads(description)
    tokenizer |= {"post_processor": None, "truncation": None, "padding": None}
    for token in tokenizer["added_tokens"]:
        token["content"] = spellings.get(token["content"], token["content"])
    model = tokenizer["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {spellings.get(token, token): token_id for token, token_id in model["vocab"].items()}
    else:
        model["vocab"] = [[spellings.get(token, token), score] for token, score in model["vocab"]]
    if model.get("unk_token") is not None:
        model["unk_token"] = spellings.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if spellings.keys().isdisjoint([*pair, "".join(pair)])]
    return json.dumps(tokenizer, ensure_ascii=False)
