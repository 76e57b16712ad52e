"""From Metal's text to C++ that the host compiler takes: the least that a macro cannot do, line by line the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from .fault import Fault
from .launch import Launch, is_buffer

COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
STATEMENT_END = re.compile(r"[;{}]")
DECLARATOR = re.compile(r"(?P<type>.*?[\s>])(?P<name>[A-Za-z_]\w*)\s*(?P<dims>(?:\[.*\])?)", re.DOTALL)
DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n\\]|\\.)*$", re.MULTILINE | re.DOTALL)
# A directive with the word, but not before a pointer or reference, which needs nothing done to it.
MACRO = re.compile(r"^[ \t]*#(?:[^\n\\]|\\.)*\bthreadgroup\b(?:[^\n\\*&]|\\.)*$", re.MULTILINE | re.DOTALL)
QUALIFIER = re.compile(r"\b(?:volatile|const|static|thread_local)\b")


@dataclass(frozen=True)
class Declaration:
    """A declaration of threadgroup memory: where it stands in the text, and what it declares."""

    begin: int
    end: int
    type: str
    variables: list[tuple[str, str]]  # name, dimensions

    def as_static(self) -> str:
        """Static variables, which clang takes in an address space."""
        return " ".join(f"static threadgroup {self.type} {name}{dims};" for name, dims in self.variables)

    def as_cpp(self) -> str:
        """References into the machine's threadgroup memory, on one line."""
        return " ".join(
            f"using {name}_storage_ = {self.type} {dims}; static char {name}_declaration_; "
            f"{name}_storage_& {name} = *static_cast<{name}_storage_*>(host_threadgroup_memory(&{name}_declaration_, "
            f'"{name}", sizeof({name}_storage_), alignof({name}_storage_), host::scalar_size<{name}_storage_>));'
            for name, dims in self.variables
        )


def without_comments(text: str) -> str:
    """The text with comments and strings blanked out, every character in its place."""
    return COMMENT_OR_STRING.sub(blank, text)


def blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def split_declarators(text: str) -> list[str]:
    """`T a[f(1, 2)], b` -> [`T a[f(1, 2)]`, ` b`]: split at commas outside all brackets."""
    parts, depth, begin = [], 0, 0
    for i, character in enumerate(text):
        if character in "([{<":
            depth += 1
        elif character in ")]}>":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[begin:i])
            begin = i + 1
    return [*parts, text[begin:]]


def threadgroup_declarations(text: str, kernel: str) -> list[Declaration]:
    """All declarations of threadgroup memory; pointers and references to it, as in parameters, are none."""

    def refuse(at: int, why: str) -> NoReturn:
        line = text.count("\n", 0, at) + 1
        raise Fault("compile", why, kernel, line, text.splitlines()[line - 1])

    bare = without_comments(text)
    for macro in MACRO.finditer(bare):
        refuse(macro.start(), "the host run does not follow threadgroup memory that a macro declares")
    bare = DIRECTIVE.sub(blank, bare)
    body = bare.index("[[kernel]]")
    found = []
    for word in re.finditer(r"\bthreadgroup\b", bare):
        begin = max((m.end() for m in STATEMENT_END.finditer(bare, 0, word.start())), default=0)
        before = bare[begin : word.start()].lstrip()
        end = bare.find(";", word.end())
        statement = bare[word.end() : end]
        if not declares_memory(before, statement):
            continue
        if word.start() < body:
            refuse(word.start(), "only a kernel declares threadgroup memory, and hands it to functions")
        first, *others = split_declarators(statement)
        match = DECLARATOR.fullmatch(first.strip())
        if match is None or "=" in before + without_dimensions(statement):
            refuse(word.start(), "threadgroup memory cannot be declared so")
        variables = [(match["name"], match["dims"])]
        for other in others:
            name, bracket, dims = other.strip().partition("[")
            variables.append((name.strip(), bracket + dims))
        kind = QUALIFIER.sub("", before) + QUALIFIER.sub("", match["type"])
        found.append(Declaration(word.start() - len(before), end + 1, " ".join(kind.split()), variables))
    return found


def without_dimensions(declarators: str) -> str:
    return re.sub(r"\[.*?\]", "", declarators, flags=re.DOTALL)


def declares_memory(before: str, statement: str) -> bool:
    """Whether the statement that the word `threadgroup` parts in two declares memory, and no pointer or function."""
    if before.count("(") != before.count(")"):
        return False  # a parameter
    if re.match(r"\s*[A-Za-z_:]", statement) is None or "{" in statement or "}" in statement:
        return False  # a function, or what it says of `this`
    declarator = without_dimensions(split_declarators(statement)[0]).split("=")[0]
    return "*" not in declarator and "&" not in declarator


def replaced(text: str, declarations: list[Declaration], form: Callable[[Declaration], str]) -> str:
    """The text with each declaration in another form, and every line where it was."""
    parts, at = [], 0
    for declaration in declarations:
        lines = text.count("\n", declaration.begin, declaration.end)
        parts += [text[at : declaration.begin], form(declaration), "\n" * lines]
        at = declaration.end
    return "".join([*parts, text[at:]])


def entry_point(launch: Launch) -> str:
    """A function with one signature for all kernels, which the machine calls for each thread."""
    arguments, buffers = [], 0
    for kind, name in launch.parameters:
        if is_buffer(kind):
            arguments.append(f"host::argument<{kind}>(buffers[{buffers}])")
            buffers += 1
        else:
            arguments.append(f"host::argument(at.{name})")
    return (
        'extern "C" HOST_UNCHECKED void host_kernel_entry(void* const* buffers, const host::Position& at) {\n'
        f"  {launch.instance}({', '.join(arguments)});\n}}\n"
    )


def to_cpp(launch: Launch) -> str:
    """The whole translation unit but for the prelude; its first lines are those of the generated text."""
    text = replaced(launch.text, threadgroup_declarations(launch.text, launch.name), Declaration.as_cpp)
    return f'{text}\n#line 1 "entry"\n{entry_point(launch)}'
