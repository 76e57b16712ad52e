"""Every change of one token in a kernel's text that its tests should notice, and a sample of them.

A token is replaced by another, by itself plus one, or by nothing. Some changes that no test could notice are not made:
in comments; larger arrays; constants spelled otherwise; the end of a range of floats counted in or out; another of
equal lanes or simdgroups that acts for all; 32-bit offsets, which differ only in arrays of more than 2^32 values.
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
# Whether a float that equals a threshold counts is as good as never seen.
TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
LOGIC = {"&&": "||", "||": "&&"}
# What makes an array smaller: a larger one is the same program.
SHRINKING = {"+": "-", "*": "/"}
REDUCTION = {"simd_sum": ["simd_max", ""], "simd_max": ["simd_min", ""], "simd_min": ["simd_max", ""]}
FUNCTION = {"min": "max", "max": "min", "sqrt": "", "fabs": "", "log": "log2", "log2": "log"}
CONTROL = {"return": "", "break": "continue", "continue": "break"}
# A value of a buffer is the only thing here that half does not hold as float does.
VALUES = {"states", "values", "queries", "bank"}


@dataclass(frozen=True)
class Mutant:
    file: str
    kind: str
    at: int  # characters of the file before the token
    before: str
    after: str
    number: int  # of the line
    line: str
    column: int

    @property
    def shown(self) -> str:
        """The line with the change in it: `if (row «< → <=» end) {`."""
        rest = self.line[self.column + len(self.before) :]
        return f"{self.line[: self.column]}«{self.before} → {self.after}»{rest}".strip()

    def applied(self, text: str) -> str:
        return text[: self.at] + self.after + text[self.at + len(self.before) :]


@dataclass(frozen=True)
class Token:
    """A token and what a change of it depends on."""

    text: str
    kind: str
    at: int
    line: str
    previous: tuple[str, str]
    following: tuple[str, str]
    binary: bool  # an operator between two operands, as its blanks show
    in_loop: bool  # in the head of a for
    in_index: bool
    in_size: bool  # of an array that is declared
    by_threshold: bool  # a comparison with a named float


def tokens(text: str) -> list[tuple[str, str, int]]:
    """(text, kind, place) of each token, without comments and preprocessor lines."""
    found = ((match[0], match.lastgroup or "", match.start()) for match in TOKEN.finditer(text))
    return [token for token in found if token[1] != "skipped"]


def in_context(text: str) -> Iterator[Token]:
    every = tokens(text)
    texts = ["", "", *(token for token, _, _ in every), "", ""]
    brackets: list[str] = []
    thresholds = FLOAT_CONSTANT.findall(text)
    for i, (token, kind, at) in enumerate(every):
        line = text[text.rfind("\n", 0, at) + 1 : text.find("\n", at)]
        if token in ")]":
            brackets.pop()
        declares = ARRAY.match(line) is not None
        yield Token(
            text=token,
            kind=kind,
            at=at,
            line=line,
            previous=(texts[i], texts[i + 1]),
            following=(texts[i + 3], texts[i + 4]),
            binary=text[at - 1].isspace() and text[at + len(token)].isspace(),
            in_loop="for" in brackets,
            in_index="[" in brackets and not declares,
            in_size="[" in brackets and declares,
            by_threshold=texts[i + 3] in thresholds,
        )
        if token in "([":
            brackets.append("for" if texts[i + 1] == "for" else token)


def mutants(file: str, text: str) -> list[Mutant]:
    found = []
    for token in in_context(text):
        number = text.count("\n", 0, token.at) + 1
        column = token.at - (text.rfind("\n", 0, token.at) + 1)
        for kind, after in changes(token):
            found.append(Mutant(file, kind, token.at, token.text, after, number, token.line, column))
    return found


def changes(token: Token) -> Iterator[tuple[str, str]]:
    """(kind, what the token becomes)."""
    change = {"operator": of_operator, "number": of_number, "name": of_name}[token.kind]
    for kind, after in change(token):
        yield ("loop" if token.in_loop else "index" if token.in_index else kind), after


def of_operator(token: Token) -> Iterator[tuple[str, str]]:
    if token.in_size:
        if token.text in SHRINKING:
            yield "array size", SHRINKING[token.text]
    elif token.binary:
        comparison = TURNED if token.by_threshold else COMPARISON
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


def of_number(token: Token) -> Iterator[tuple[str, str]]:
    if token.text.endswith("f"):
        yield from (("constant", after) for after in other_floats(token.text))
        return
    suffix = "u" if token.text.endswith("u") else ""
    value = int(token.text.removesuffix("u"))
    if token.in_size:
        yield "array size", str(value + 1 if token.previous[1] == "/" else value - 1)
        return
    if token.previous in {(index, "==") for index in ("lane", "team", "thread_index")}:
        return
    for other in (value + 1, value - 1):
        if other >= 0:
            yield "constant", f"{other}{suffix}"


def other_floats(number: str) -> list[str]:
    exponent = EXPONENT.fullmatch(number)
    if exponent:
        mantissa, minus, digits = exponent.groups()
        return [f"{mantissa}{'' if minus else '-'}{digits}"]
    value = float(number.removesuffix("f"))
    if np.float32(value + 1) == np.float32(value):
        return ["0.0f"]
    return [f"{value + 1}f"] + (["0.0f"] if value == 1 else [])


def of_name(token: Token) -> Iterator[tuple[str, str]]:
    name, (following, after_that) = token.text, token.following
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
    elif name == "float" and following == "(" and after_that in VALUES:
        yield "cast", "half"
    elif token.in_index and is_variable(name, token.previous[1], following):
        yield "index", f"({name} + 1)"
        yield from (("index", other) for other in index_variables(token.line) if other != name)


def is_variable(name: str, previous: str, following: str) -> bool:
    """Whether it is a plain variable: no constant, function, array, struct or member."""
    return not name.isupper() and previous not in (".", "::") and following not in ("(", "[", ".", "::")


def index_variables(line: str) -> list[str]:
    """The variables in the indices of a line, each once, in their order: one may stand where another does."""
    found = (
        token.text
        for token in in_context(line + "\n")
        if token.kind == "name" and token.in_index and is_variable(token.text, token.previous[1], token.following[0])
    )
    return list(dict.fromkeys(found))


def sample(candidates: Iterable[Mutant], count: int, seed: int) -> list[Mutant]:
    """So many, drawn by a seed: files take turns, and so do the kinds within each."""
    random = Random(seed)
    groups: dict[str, dict[str, list[Mutant]]] = {}
    for mutant in candidates:
        groups.setdefault(mutant.file, {}).setdefault(mutant.kind, []).append(mutant)
    files = []
    for kinds in groups.values():
        shuffled = [random.sample(group, len(group)) for group in kinds.values()]
        files.append(list(in_turns(random.sample(shuffled, len(shuffled)))))
    return list(islice(in_turns(files), count))


def in_turns(groups: Iterable[list[T]]) -> Iterator[T]:
    for turn in zip_longest(*groups):
        yield from (item for item in turn if item is not None)
