"""Translate Metal text to C++ for the host compiler, with the same lines: only what a macro cannot do."""

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
# A directive with the word, but not before a pointer or reference, which needs no translation.
MACRO = re.compile(r"^[ \t]*#(?:[^\n\\]|\\.)*\bthreadgroup\b(?:[^\n\\*&]|\\.)*$", re.MULTILINE | re.DOTALL)
QUALIFIER = re.compile(r"\b(?:volatile|const|static|thread_local)\b")


@dataclass(frozen=True)
class Declaration:
    """A declaration of threadgroup memory.

    Attributes:
        begin: Offset of its first character in the text.
        end: Offset behind its last character.
        type: The declared type.
        variables: Names and dimensions of the declared variables.
    """

    begin: int
    end: int
    type: str
    variables: list[tuple[str, str]]

    def as_static(self) -> str:
        """Return static variables, which clang accepts in an address space."""
        return " ".join(f"static threadgroup {self.type} {name}{dims};" for name, dims in self.variables)

    def as_cpp(self) -> str:
        """Return references into the machine's threadgroup memory, on one line."""
        return " ".join(
            f"using {name}_storage_ = {self.type} {dims}; static char {name}_declaration_; "
            f"{name}_storage_& {name} = *static_cast<{name}_storage_*>(host_threadgroup_memory(&{name}_declaration_, "
            f'"{name}", sizeof({name}_storage_), alignof({name}_storage_), host::scalar_size<{name}_storage_>));'
            for name, dims in self.variables
        )


def without_comments(text: str) -> str:
    """Return the text with comments and strings replaced by spaces."""
    return COMMENT_OR_STRING.sub(blank, text)


def blank(match: re.Match[str]) -> str:
    """Replace all characters but line ends by spaces."""
    return re.sub(r"[^\n]", " ", match[0])


def split_declarators(text: str) -> list[str]:
    """Split at commas outside of all brackets: `T a[f(1, 2)], b` -> [`T a[f(1, 2)]`, ` b`]."""
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
    """Return all declarations of threadgroup memory, without pointers and references to it such as parameters."""

    def refuse(at: int, why: str) -> NoReturn:
        line = text.count("\n", 0, at) + 1
        raise Fault("compile", why, kernel, line, text.splitlines()[line - 1])

    bare = without_comments(text)
    for macro in MACRO.finditer(bare):
        refuse(macro.start(), "the host machine does not support threadgroup memory declared by a macro")
    bare = DIRECTIVE.sub(blank, bare)
    body = bare.index("[[kernel]]")
    declarations = []
    for word in re.finditer(r"\bthreadgroup\b", bare):
        begin = max((m.end() for m in STATEMENT_END.finditer(bare, 0, word.start())), default=0)
        before = bare[begin : word.start()].lstrip()
        end = bare.find(";", word.end())
        statement = bare[word.end() : end]
        if not declares_memory(before, statement):
            continue
        if word.start() < body:
            refuse(word.start(), "threadgroup memory can be declared in a kernel only")
        first, *others = split_declarators(statement)
        match = DECLARATOR.fullmatch(first.strip())
        if match is None or "=" in before + without_dimensions(statement):
            refuse(word.start(), "this declaration of threadgroup memory is not valid")
        variables = [(match["name"], match["dims"])]
        for other in others:
            name, bracket, dims = other.strip().partition("[")
            variables.append((name.strip(), bracket + dims))
        kind = QUALIFIER.sub("", before) + QUALIFIER.sub("", match["type"])
        declarations.append(Declaration(word.start() - len(before), end + 1, " ".join(kind.split()), variables))
    return declarations


def without_dimensions(declarators: str) -> str:
    """Return declarators without their dimensions."""
    return re.sub(r"\[.*?\]", "", declarators, flags=re.DOTALL)


def declares_memory(before: str, statement: str) -> bool:
    """Return whether a statement, split at the word `threadgroup`, declares memory and not a pointer or function."""
    if before.count("(") != before.count(")"):
        return False  # a parameter
    if re.match(r"\s*[A-Za-z_:]", statement) is None or "{" in statement or "}" in statement:
        return False  # a function, or the qualifier of `this`
    declarator = without_dimensions(split_declarators(statement)[0]).split("=")[0]
    return "*" not in declarator and "&" not in declarator


def replaced(text: str, declarations: list[Declaration], form: Callable[[Declaration], str]) -> str:
    """Return the text with each declaration in another form and all lines in place."""
    parts, at = [], 0
    for declaration in declarations:
        lines = text.count("\n", declaration.begin, declaration.end)
        parts += [text[at : declaration.begin], form(declaration), "\n" * lines]
        at = declaration.end
    return "".join([*parts, text[at:]])


def entry_point(launch: Launch) -> str:
    """Return a function with one signature for all kernels, which the machine calls for each thread."""
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
    """Return the translation unit without the prelude; its first lines are those of the generated text."""
    text = replaced(launch.text, threadgroup_declarations(launch.text, launch.name), Declaration.as_cpp)
    return f'{text}\n#line 1 "entry"\n{entry_point(launch)}'
