"""Render Jinja chat templates of model folders in a sandbox, with limits of time and size.

A template is a program from the model folder. The sandbox offers it what transformers offers. Every rendering has a
limit of CPU time of its thread, which is checked at each iteration of a loop and at each call, so that it works in any
thread and process. The lengths of the output and of all texts in between are bounded, so that nothing between two
checks takes long.
"""

from __future__ import annotations

import datetime
import functools
import json
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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
_MAX_TEMPLATE_CHARS: Final = 1_000_000
_MAX_BITS: Final = 4_096
_MAX_MESSAGE_CHARS: Final = 120
# Filters that make a text of any value.
_FILTERS_TO_TEXT: Final = {"format", "join", "pprint", "replace", "string", "tojson", "urlencode", "xmlattr"}
# Filters and functions whose result depends on chance.
_RANDOM_FILTER, _RANDOM_GLOBAL = "random", "lipsum"


class TemplateFailureError(ValueError):
    """A chat template cannot be compiled, fails on a conversation, or exceeds a limit.

    The message is what it does, such as `takes too long`.
    """


class TemplateLimitError(TemplateFailureError):
    """A chat template exceeds a limit of time or size."""


@dataclass(frozen=True)
class _Limits:
    """The limits of one rendering.

    Attributes:
        deadline: CPU time of the thread at which the rendering is stopped, in seconds.
        max_chars: Maximum length of the output and of each text in between, and the largest number in a call.
    """

    deadline: float
    max_chars: int

    def check_time(self) -> None:
        # The CPU time of the thread, so that a busy machine does not stop a template that does little.
        if time.thread_time() > self.deadline:
            raise TemplateLimitError("takes too long")

    def check_values(self, values: Iterable[Any]) -> None:
        for value in values:
            too_long = isinstance(value, str | bytes | list | tuple | dict) and len(value) > self.max_chars
            if too_long or (isinstance(value, int) and abs(value) > self.max_chars):
                raise TemplateLimitError("makes too long a text")

    def check_format(self, text: str, values: Iterable[Any] = ()) -> None:
        """Check the widths in a format string and its values."""
        widths = "".join(c if c.isdigit() else " " for c in text).split()
        self.check_values([*(int(digits[:20]) for digits in widths), *values])

    def check_nested(self, value: Any) -> None:
        """Check how long the text of nested lists would be, in which a list may occur many times."""
        waiting, count = [value], 0
        while waiting:
            value = waiting.pop()
            count += len(value) if isinstance(value, str) else 1
            if count > self.max_chars:
                raise TemplateLimitError("makes too long a text")
            waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()


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
        max_chars = _OUTPUT_CHARS + _OUTPUT_FACTOR * _count_chars(variables)
        token = _LIMITS.set(_Limits(time.thread_time() + seconds, max_chars))
        try:
            pieces, length = [], 0
            for piece in self._template.generate(strftime_now=now.strftime, **variables):
                length += len(piece)
                if length > max_chars:
                    raise TemplateLimitError("makes too long a text")
                pieces.append(piece)
            return "".join(pieces)
        except Exception as error:  # a template can raise anything, such as ZeroDivisionError
            raise _failure(error) from error
        finally:
            _LIMITS.reset(token)


class _LimitedNodes(NodeTransformer):
    """Wraps loops and concatenations in filters that check the limits."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - the name in Jinja
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_limited_loop", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "_limited_concat", [], [], None, None, lineno=node.lineno)


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
        limits.check_values([*args, *kwargs.values()])
        result = super().call(context, function, *args, **kwargs)
        limits.check_values([result])
        return result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        limits = _LIMITS.get()
        limits.check_time()
        if operator == "%" and isinstance(left, str):
            limits.check_format(left, right if isinstance(right, tuple) else (right,))
        if any(isinstance(number, int) and number.bit_length() > _MAX_BITS for number in (left, right)):
            raise TemplateLimitError("makes too large a number")
        if operator == "**" and isinstance(right, int | float) and abs(right) > _MAX_BITS:
            raise TemplateLimitError("makes too large a number")
        if operator == "*":
            for text, count in ((left, right), (right, left)):
                if isinstance(text, str | bytes | list | tuple) and isinstance(count, int):
                    limits.check_values([len(text) * count])
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, str | list | tuple):
            limits.check_values([result])
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        formatted = super().wrap_str_format(value)
        if formatted is None:
            return None

        def limited(*args: Any, **kwargs: Any) -> str:
            limits = _LIMITS.get()
            limits.check_format(str(value.__self__))
            limits.check_nested([*args, *kwargs.values()])
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


@functools.cache
def _environment() -> _ChatEnvironment:
    environment = _ChatEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols], finalize=_check_output
    )
    del environment.filters[_RANDOM_FILTER], environment.globals[_RANDOM_GLOBAL]
    environment.filters["tojson"] = _to_json
    environment.filters["_limited_concat"] = _concatenate
    for name, function in list(environment.filters.items()):
        environment.filters[name] = _limited(name, function)
    environment.filters["_limited_loop"] = _limited_loop
    environment.globals |= {"raise_exception": _raise_exception, "namespace": _SafeNamespace, "dict": _make_dict}
    return environment


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that checks the limits of its arguments and of its result."""

    @functools.wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        limits = _LIMITS.get()
        limits.check_time()
        limits.check_values([*args[1:], *kwargs.values()])
        if name == "format":
            limits.check_format(str(args[0]))
        if name in _FILTERS_TO_TEXT:
            limits.check_nested(args)
        result = function(*args, **kwargs)
        limits.check_values([result])
        return result

    return limited


@jinja2.pass_context  # constants are not folded in a filter that takes the context
def _limited_loop(_context: Any, items: Iterable[Any]) -> Iterator[Any]:
    limits = _LIMITS.get()
    for item in items:
        limits.check_time()
        yield item


def _concatenate(parts: list[Any]) -> str:
    limits = _LIMITS.get()
    limits.check_nested(parts)
    texts = [part if isinstance(part, str) else str(part) for part in parts]
    limits.check_values([sum(map(len, texts))])
    return "".join(texts)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Return JSON as transformers' filter of this name does: Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _check_output(value: Any) -> Any:
    """Check the limits of a value that is written."""
    if not isinstance(value, str):
        _LIMITS.get().check_nested(value)
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
