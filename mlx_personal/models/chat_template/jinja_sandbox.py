"""Render Jinja chat templates of model folders in a sandbox, with limits of time and size.

A template is a program from the model folder. The sandbox offers it what transformers offers. Every rendering has a
limit of CPU time of its thread, which is checked at each iteration of a loop and at each call, so that it works in any
thread and process. The lengths of the output and of all values in between are bounded, so that nothing between two
checks takes long. The length of a list is that of its text, in which a value that it contains twice occurs twice.
"""

from __future__ import annotations

import datetime
import functools
import json
import textwrap
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from mlx_personal.errors import escape_surrogates

MAX_SECONDS: Final = 5.0
# The output may be this many times as long as the messages, and this much longer.
_OUTPUT_FACTOR, _OUTPUT_CHARS = 4, 1_000_000
# All that is written in one rendering, into the output and into variables.
_MAX_WRITTEN_CHARS: Final = 50_000_000
_MAX_TEMPLATE_CHARS: Final = 200_000
_MAX_BITS: Final = 4_096
_MAX_MESSAGE_CHARS: Final = 120
# Filters and functions whose result depends on chance, and filters for web pages and debugging that can take long.
_EXCLUDED_FILTERS: Final = ("pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")
_EXCLUDED_GLOBAL: Final = "lipsum"
# Filters with numbers of characters or items.
_FILTERS_WITH_SIZES: Final = {"batch", "center", "indent", "slice", "tojson", "truncate"}


class TemplateFailureError(ValueError):
    """A chat template cannot be compiled, fails on a conversation, or exceeds a limit.

    The message is what it does, such as `takes too long`.
    """


class TemplateLimitError(TemplateFailureError):
    """A chat template exceeds a limit of time or size."""


@dataclass
class _Limits:
    """The limits of one rendering.

    Attributes:
        deadline: CPU time of the thread at which the rendering is stopped, in seconds.
        max_chars: Maximum length of the output and of each value in between.
        written_chars: Number of characters that were written so far.
    """

    deadline: float
    max_chars: int
    written_chars: int = 0

    def check_time(self) -> None:
        # The CPU time of the thread, so that a busy machine does not stop a template that does little.
        if time.thread_time() > self.deadline:
            raise TemplateLimitError("takes too long")

    def check_length(self, length: int) -> None:
        if length > self.max_chars:
            raise TemplateLimitError("makes too long a text")

    def check_sizes(self, values: Iterable[Any]) -> None:
        """Check the numbers among arguments that say how long a result is."""
        for value in values:
            self.check_length(abs(value) if isinstance(value, int) else 0)

    def measure(self, value: Any) -> int:
        """Return the length of a value, at least one for each part of it, after checking it."""
        waiting, length = [value], 0
        while waiting:
            value = waiting.pop()
            length += len(value) if isinstance(value, str | bytes) else 1
            if isinstance(value, Collection) and not isinstance(value, str | bytes | range):
                self.check_length(len(value))
                waiting += value
                waiting += value.values() if isinstance(value, dict) else ()
            self.check_length(length + len(waiting))
        return length

    def write(self, length: int) -> None:
        """Count characters that are written."""
        self.written_chars += length
        if self.written_chars > _MAX_WRITTEN_CHARS:
            raise TemplateLimitError("makes too long a text")


# Templates are also compiled outside of a rendering, when constants are folded.
_COMPILE_LIMITS: Final = _Limits(float("inf"), _OUTPUT_CHARS)
_LIMITS: ContextVar[_Limits] = ContextVar("limits", default=_COMPILE_LIMITS)


class ChatTemplateProgram:
    """A compiled chat template.

    Args:
        source: The Jinja source.

    Attributes:
        source: The Jinja source.
        literal_text: All texts of the template that it may write, joined.

    Raises:
        TemplateFailureError: If it cannot be compiled.
    """

    def __init__(self, source: str):
        self.source = source
        try:
            if len(source) > _MAX_TEMPLATE_CHARS:
                raise TemplateFailureError("is too long")
            tree = _environment().parse(source)
            self._template = _environment().from_string(source)
        except Exception as error:  # a template can raise anything, even while constants are folded
            raise _failure(error) from error
        texts = [node.data for node in tree.find_all(nodes.TemplateData)]
        texts += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
        self.literal_text = "\0".join(texts)

    def render(self, variables: Mapping[str, Any], now: datetime.datetime, max_seconds: float | None = None) -> str:
        """Return the output of the template.

        Args:
            variables: The variables: plain JSON values, of which `messages` may be large.
            now: The time that `strftime_now` formats.
            max_seconds: Limit of the CPU time in seconds; by default `MAX_SECONDS`.

        Raises:
            TemplateFailureError: If it fails, or exceeds a limit.
        """
        seconds = MAX_SECONDS if max_seconds is None else max_seconds
        limits = _Limits(time.thread_time() + seconds, _OUTPUT_CHARS + _OUTPUT_FACTOR * _count_chars(variables))
        token = _LIMITS.set(limits)

        def strftime_now(format_string: str) -> str:
            # Each directive may have a width and write as much.
            limits.check_length(sum(_numbers(format_string)))
            return now.strftime(format_string)

        try:
            pieces, length = [], 0
            for piece in self._template.generate(strftime_now=strftime_now, **variables):
                length += len(piece)
                limits.check_length(length)
                pieces.append(piece)
            return "".join(pieces)
        except Exception as error:  # a template can raise anything, such as ZeroDivisionError
            raise _failure(error) from error
        finally:
            _LIMITS.reset(token)


class _LimitedNodes(NodeTransformer):
    """Wraps loops, concatenations and lists in filters that check the limits."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - the name in Jinja
        written = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.iter = self._filtered("_limited_loop", node.iter, nodes.Const(written))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return self._filtered("_limited_concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_List(self, node: nodes.List | nodes.Dict) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return self._filtered("_limited_value", node)

    visit_Dict = visit_List  # noqa: N815

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Tuple | nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return self._filtered("_limited_value", node) if node.ctx == "load" else node

    def _filtered(self, name: str, node: Any, *arguments: nodes.Expr) -> nodes.Filter:
        return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)


class _LimitedCodeGenerator(CodeGenerator):
    """Compiles templates with `_LimitedNodes`."""

    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:  # noqa: N802
        super().visit_Template(_LimitedNodes().visit(node), frame)


class _ChatEnvironment(ImmutableSandboxedEnvironment):
    """Checks the limits at each call and operation."""

    code_generator_class = _LimitedCodeGenerator
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        limits = _LIMITS.get()
        limits.check_time()
        limits.measure([*args, *kwargs.values()])
        text = getattr(function, "__self__", None)
        if isinstance(text, str | bytes):
            limits.check_sizes([*args, *kwargs.values()])
            args = _check_growth(f"{function.__name__}()", text, args, kwargs)
        result = super().call(context, function, *args, **kwargs)
        limits.write(limits.measure(result))
        return result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        limits = _LIMITS.get()
        limits.check_time()
        if operator == "%" and isinstance(left, str | bytes):
            values = tuple(right.values()) if isinstance(right, dict) else right
            _check_growth("format", left, values if isinstance(values, tuple) else (values,), {})
        if any(isinstance(number, int) and number.bit_length() > _MAX_BITS for number in (left, right)):
            raise TemplateLimitError("makes too large a number")
        if operator == "**" and isinstance(right, int | float) and abs(right) > _MAX_BITS:
            raise TemplateLimitError("makes too large a number")
        if operator == "*":
            for value, count in ((left, right), (right, left)):
                if isinstance(value, str | bytes | list | tuple) and isinstance(count, int):
                    limits.check_length(len(value) * count)
        result = super().call_binop(context, operator, left, right)
        limits.measure(result)
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        formatted = super().wrap_str_format(value)
        if formatted is None:
            return None

        def limited(*args: Any, **kwargs: Any) -> str:
            _check_growth("format", value.__self__, args, kwargs)
            return formatted(*args, **kwargs)

        return limited


class _GenerationTag(Extension):
    """The `{% generation %}` tag, with which templates mark what a model generates; it writes its body."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _SafeNamespace(Namespace):
    """A namespace whose attributes cannot have the names of Python's internals."""

    def __init__(*args: Any, **kwargs: Any):  # `self=...` is an attribute like any other
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"  # without the attributes, which can be long


@functools.cache
def _environment() -> _ChatEnvironment:
    environment = _ChatEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols], finalize=_check_output
    )
    for name in _EXCLUDED_FILTERS:
        del environment.filters[name]
    del environment.globals[_EXCLUDED_GLOBAL]
    environment.filters["tojson"] = _to_json
    for name, function in list(environment.filters.items()):
        environment.filters[name] = _limited(name, function)
    environment.filters |= {
        "_limited_loop": _limited_loop,
        "_limited_concat": _concatenate,
        "_limited_value": _limited_value,
    }
    environment.globals |= {"raise_exception": _raise_exception, "namespace": _SafeNamespace, "dict": _make_dict}
    return environment


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that checks the limits of its arguments and of its result."""
    takes_context = hasattr(function, "jinja_pass_arg")

    @functools.wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        limits = _LIMITS.get()
        limits.check_time()
        context, (subject, *arguments) = (args[:1], args[1:]) if takes_context else ((), args)
        limits.measure([subject, *arguments, *kwargs.values()])
        if name in _FILTERS_WITH_SIZES:
            limits.check_sizes([*arguments, *kwargs.values()])
        if name == "join" and not isinstance(subject, Collection):
            subject = list(subject)
        _check_growth(name, subject, tuple(arguments), kwargs)
        result = function(*context, subject, *arguments, **kwargs)
        limits.measure(result)
        return result

    return limited


def _check_growth(operation: str, subject: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Check an operation that can make a much longer text than its values are.

    Args:
        operation: Name of a filter, or of a method of texts with `()`.
        subject: The value that it is applied to.
        args: Its arguments.
        kwargs: Its named arguments.

    Returns:
        The arguments; an iterator among those of `join()` has become a list.
    """
    if operation == "join()":
        args = tuple(list(value) if isinstance(value, Iterator) else value for value in args)
    count = _ADDED_CHARS.get(operation)
    if count is not None:
        _LIMITS.get().check_length(count(subject, *args, **kwargs))
    return args


def _count_tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> int:
    size = indent if isinstance(indent, int) else len(str(indent or ""))
    longest = sum(map(len, map(str, separators or ())))
    # Every value can be on a line of its own, indented by as much as it is nested.
    return _LIMITS.get().measure(value) * (size * _depth(value) + longest)


def _depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return 1 + max(map(_depth, parts), default=0)


def _count_formatted(text: Any, *args: Any, **kwargs: Any) -> int:
    """Return how many characters a format string can write, given its values."""
    limits, text, values = _LIMITS.get(), str(text), [*args, *kwargs.values()]
    if "*" in text:  # a width that is a value
        limits.check_sizes(values)
    fields = text.count("%") + text.count("{")
    return sum(_numbers(text)) + fields * max(map(limits.measure, values), default=0)


def _numbers(text: str) -> list[int]:
    """Return the numbers in a text."""
    return [int(digits[:20]) for digits in "".join(c if c.isdecimal() else " " for c in text).split()]


def _length(value: Any) -> int:
    return value if isinstance(value, int) else len(str(value))


# How many characters an operation can add to a text, for those that write an argument in several places.
_ADDED_CHARS: Final[Mapping[str, Callable[..., int]]] = {
    "format": _count_formatted,
    "indent": lambda text, width=4, *_, **__: (str(text).count("\n") + 1) * _length(width),
    "join": lambda items, d="", *_, **__: len(items) * _length(d),
    "replace": lambda text, old, new, *_, **__: str(text).count(str(old)) * _length(str(new)),
    "tojson": _count_tojson,
    "expandtabs()": lambda text, tabsize=8: len(text) * tabsize,
    "join()": lambda separator, items: len(items) * len(separator),
    "replace()": lambda text, old, new, *_, **__: text.count(old) * len(new),
    "translate()": lambda text, table: len(text) * _LIMITS.get().measure(table),
}


@jinja2.pass_context  # constants are not folded in a filter that takes the context
def _limited_loop(_context: Any, items: Iterable[Any], written_chars: int) -> Iterator[Any]:
    limits = _LIMITS.get()
    for item in items:
        limits.check_time()
        limits.write(written_chars)
        yield item


def _limited_value(value: Any) -> Any:
    _LIMITS.get().measure(value)
    return value


def _concatenate(parts: list[Any]) -> str:
    _LIMITS.get().measure(parts)
    return "".join(part if isinstance(part, str) else str(part) for part in parts)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Return JSON as transformers' filter of this name does: Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@jinja2.pass_context  # as for loops
def _check_output(_context: Any, value: Any) -> Any:
    """Check the limits of a value that is written."""
    limits = _LIMITS.get()
    limits.write(limits.measure(value))
    return value


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: Any = "") -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _check_attribute(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError("an attribute whose name begins with an underscore")


def _count_chars(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_count_chars, value.values()))
    return sum(map(_count_chars, value)) if isinstance(value, list | tuple) else 0


def _failure(error: Exception) -> TemplateFailureError:
    """Return the failure that says what an error in a template means."""
    if isinstance(error, TemplateFailureError):
        return error
    if isinstance(error, RecursionError | MemoryError):
        return TemplateLimitError("needs too much memory")
    text = textwrap.shorten(escape_surrogates(error), _MAX_MESSAGE_CHARS, placeholder=" ...") or type(error).__name__
    text = "".join(character if character.isprintable() else "?" for character in text)
    if isinstance(error, jinja2.TemplateSyntaxError):
        return TemplateFailureError(f"has an error in line {error.lineno} ({text})")
    return TemplateFailureError(f"fails ({text})")
