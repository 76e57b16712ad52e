"""Generate mutants of the kernels: every change of one token that the tests should detect, and a sample of them.

A token is replaced by another, incremented or decremented if it is a number, or removed. Some changes that no test
could detect are not made: changes of comments; larger arrays; other notations of a constant; closed instead of open
ends of ranges of floats; the choice of the lane or simdgroup that does what is done once; and 32-bit offsets, which
only arrays of more than 2^32 values exceed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from random import Random
from typing import TypeVar

import numpy as np

T = TypeVar("T")

TOKEN = re.compile(
    r"(?P<skipped>\s+|//[^\n]*|#[^\n]*)"
    r"|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<number>\d+(?:\.\d*)?(?:e-?\d+)?[fu]?)"
    r"|(?P<operator><=|>=|==|!=|&&|\|\||\+\+|--|\+=|-=|\*=|/=|::|.)"
)
ARRAY = re.compile(r"\s*(?:threadgroup )?\w+ \w+(?:\[[^\]]*\])+;")
EXPONENT = re.compile(r"(.*e)(-?)(\d+f)")

FLOAT_CONSTANT = re.compile(r"constexpr float (\w+)")

COMPARISON = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "%": "/", "+=": "-=", "-=": "+=", "/=": "*="}
# For comparisons with a float threshold: inputs that equal it are too rare to be tested.
INVERTED_COMPARISON = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
LOGIC = {"&&": "||", "||": "&&"}
# Changes that make an array smaller. A larger array gives the same program.
SHRINKING = {"+": "-", "*": "/"}
REDUCTION = {"simd_sum": ["simd_max", ""], "simd_max": ["simd_min", ""], "simd_min": ["simd_max", ""]}
FUNCTION = {"min": "max", "max": "min", "sqrt": "", "fabs": "", "log": "log2", "log2": "log"}
CONTROL = {"return": "", "break": "continue", "continue": "break"}
# Buffers of floats: only their values lose accuracy in half precision.
FLOAT_BUFFERS = {"states", "values", "queries", "bank"}


@dataclass(frozen=True)
class Mutant:
    """A kernel source with one token changed.

    Attributes:
        file: Name of the source file.
        kind: Kind of change, such as `comparison` or `barrier`.
        offset: Number of characters before the token.
        before: The token.
        after: What replaces it.
        line_number: Number of its line, from 1.
        line: Text of its line.
        column: Number of characters of the line before the token.
    """

    file: str
    kind: str
    offset: int
    before: str
    after: str
    line_number: int
    line: str
    column: int

    @property
    def marked_line(self) -> str:
        """The line with the change marked: `if (row «< → <=» end) {`."""
        rest = self.line[self.column + len(self.before) :]
        return f"{self.line[: self.column]}«{self.before} → {self.after}»{rest}".strip()

    def apply(self, text: str) -> str:
        """Return the text of the file with the token replaced."""
        return text[: self.offset] + self.after + text[self.offset + len(self.before) :]


@dataclass(frozen=True)
class Token:
    """A token, and what decides how it can be changed.

    Attributes:
        text: The token.
        kind: `name`, `number` or `operator`.
        offset: Number of characters before it.
        line: Text of its line.
        previous: The two tokens before it.
        following: The two tokens after it.
        binary: Whether it is an operator with spaces on both sides.
        in_loop: Whether it stands in the head of a `for`.
        in_index: Whether it stands in an index.
        in_size: Whether it stands in the size of a declared array.
        before_threshold: Whether a named float constant follows.
    """

    text: str
    kind: str
    offset: int
    line: str
    previous: tuple[str, str]
    following: tuple[str, str]
    binary: bool
    in_loop: bool
    in_index: bool
    in_size: bool
    before_threshold: bool


def generate_mutants(file: str, text: str) -> list[Mutant]:
    """Return all mutants of a source file, in the order of their tokens.

    Args:
        file: Name of the file.
        text: Its text.
    """
    mutants = []
    for token in parse(text):
        line_number = text.count("\n", 0, token.offset) + 1
        column = token.offset - (text.rfind("\n", 0, token.offset) + 1)
        for kind, after in _changes(token):
            mutants.append(Mutant(file, kind, token.offset, token.text, after, line_number, token.line, column))
    return mutants


def sample(mutants: Iterable[Mutant], count: int, seed: int) -> list[Mutant]:
    """Draw mutants in equal numbers from all files, and from all kinds within a file.

    Args:
        mutants: The mutants to draw from.
        count: Number of mutants; a smaller sample is the beginning of a larger one.
        seed: Random seed.
    """
    rng = Random(seed)
    by_file: dict[str, dict[str, list[Mutant]]] = {}
    for mutant in mutants:
        by_file.setdefault(mutant.file, {}).setdefault(mutant.kind, []).append(mutant)
    files = []
    for by_kind in by_file.values():
        shuffled = [rng.sample(group, len(group)) for group in by_kind.values()]
        files.append(list(_interleave(rng.sample(shuffled, len(shuffled)))))
    return list(islice(_interleave(files), count))


def tokenize(text: str) -> list[tuple[str, str, int]]:
    """Return text, kind and offset of each token, without comments and preprocessor lines."""
    tokens = ((match[0], match.lastgroup or "", match.start()) for match in TOKEN.finditer(text))
    return [token for token in tokens if token[1] != "skipped"]


def parse(text: str) -> Iterator[Token]:
    """Yield the tokens of a text with their context."""
    tokens = tokenize(text)
    texts = ["", "", *(token for token, _, _ in tokens), "", ""]
    brackets: list[str] = []
    thresholds = FLOAT_CONSTANT.findall(text)
    for i, (token, kind, offset) in enumerate(tokens):
        line = text[text.rfind("\n", 0, offset) + 1 : text.find("\n", offset)]
        if token in ")]":
            brackets.pop()
        declares = ARRAY.match(line) is not None
        yield Token(
            text=token,
            kind=kind,
            offset=offset,
            line=line,
            previous=(texts[i], texts[i + 1]),
            following=(texts[i + 3], texts[i + 4]),
            binary=text[offset - 1].isspace() and text[offset + len(token)].isspace(),
            in_loop="for" in brackets,
            in_index="[" in brackets and not declares,
            in_size="[" in brackets and declares,
            before_threshold=texts[i + 3] in thresholds,
        )
        if token in "([":
            brackets.append("for" if texts[i + 1] == "for" else token)


def _changes(token: Token) -> Iterator[tuple[str, str]]:
    """Yield the kind of each change of a token, and what replaces it."""
    change = {"operator": _operator_changes, "number": _number_changes, "name": _name_changes}[token.kind]
    for kind, after in change(token):
        yield ("loop" if token.in_loop else "index" if token.in_index else kind), after


def _operator_changes(token: Token) -> Iterator[tuple[str, str]]:
    if token.in_size:
        if token.text in SHRINKING:
            yield "array size", SHRINKING[token.text]
    elif token.binary:
        comparison = INVERTED_COMPARISON if token.before_threshold else COMPARISON
        for kind, table in (("comparison", comparison), ("arithmetic", ARITHMETIC), ("logic", LOGIC)):
            if token.text in table:
                yield kind, table[token.text]
        if token.text == "+=" and not token.in_loop:
            yield "arithmetic", "="
    elif token.text == "++":
        yield "arithmetic", "--"
    elif token.text == "-":
        yield "arithmetic", "+"
    elif token.text == "!":
        yield "logic", ""


def _number_changes(token: Token) -> Iterator[tuple[str, str]]:
    if token.text.endswith("f"):
        yield from (("constant", after) for after in _other_floats(token.text))
        return
    suffix = "u" if token.text.endswith("u") else ""
    value = int(token.text.removesuffix("u"))
    if token.in_size:
        yield "array size", str(value + 1 if token.previous[1] == "/" else value - 1)
        return
    if token.previous in {(index, "==") for index in ("lane", "simdgroup_index", "thread_index")}:
        return
    for other in (value + 1, value - 1):
        if other >= 0:
            yield "constant", f"{other}{suffix}"


def _other_floats(number: str) -> list[str]:
    exponent = EXPONENT.fullmatch(number)
    if exponent:
        mantissa, minus, digits = exponent.groups()
        return [f"{mantissa}{'' if minus else '-'}{digits}"]
    value = float(number.removesuffix("f"))
    if np.float32(value + 1) == np.float32(value):
        return ["0.0f"]
    return [f"{value + 1}f"] + (["0.0f"] if value == 1 else [])


def _name_changes(token: Token) -> Iterator[tuple[str, str]]:
    name, (following, second_following) = token.text, token.following
    if name in REDUCTION:
        yield from (("reduction", after) for after in REDUCTION[name])
    elif name in FUNCTION and following == "(":
        yield "function", FUNCTION[name]
    elif name == "threadgroup_barrier":
        yield "barrier", ""
    elif name in CONTROL and following == ";":
        yield "control", CONTROL[name]
    elif name in ("true", "false"):
        yield "constant", "false" if name == "true" else "true"
    elif name == "float" and following == "(" and second_following in FLOAT_BUFFERS:
        yield "cast", "half"
    elif token.in_index and _is_variable(name, token.previous[1], following):
        yield "index", f"({name} + 1)"
        yield from (("index", other) for other in _index_variables(token.line) if other != name)


def _is_variable(name: str, previous: str, following: str) -> bool:
    """Whether a name is a plain variable: no constant, function, array, struct or member."""
    return not name.isupper() and previous not in (".", "::") and following not in ("(", "[", ".", "::")


def _index_variables(line: str) -> list[str]:
    """Return the distinct variables in the indices of a line, in order: each can replace another."""
    names = (
        token.text
        for token in parse(line + "\n")
        if token.kind == "name" and token.in_index and _is_variable(token.text, token.previous[1], token.following[0])
    )
    return list(dict.fromkeys(names))


def _interleave(groups: Iterable[list[T]]) -> Iterator[T]:
    """Yield the first items of all groups, then the second ones, and so on."""
    for items in zip_longest(*groups):
        yield from (item for item in items if item is not None)
