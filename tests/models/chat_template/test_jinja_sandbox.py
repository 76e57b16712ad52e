"""The sandbox of chat templates: what they may use, how their failures read, and the limits of time and size."""

from __future__ import annotations

import datetime
import threading
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from mlx_personal.models.chat_template.jinja_sandbox import ChatTemplateProgram, TemplateFailureError
from tests.support.cases import quick_cases

NOW = datetime.datetime(2024, 2, 29, 6)
MESSAGES = [
    {"role": "system", "content": "Be <b>kind</b>."},
    {"role": "user", "content": "Grüße? "},
    {"role": "assistant", "content": "Ja\nja."},
]
# Features that published templates use.
TEMPLATES = [
    "{% for m in messages %}\n  {{- '<' + m['role'] + '>' }}{{ m.content | trim }}{{ '\\n' }}\n{% endfor %}",
    "{%- set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
    "{% set ns.n = ns.n + loop.index %}{{ loop.first ~ loop.last ~ loop.length ~ ns.n }}{% endfor %}",
    "{% macro turn(m) %}{{ m.role | upper }}: {{ m.content | tojson }}{% endmacro %}"
    "{% for m in messages | rejectattr('role', 'equalto', 'system') %}{{ turn(m) }}{% endfor %}",
    "{% for m in messages[::-1] %}{% generation %}{{ loop.revindex0 }}{{ m.content.split('\\n')[-1] }}"
    "{% endgeneration %}{% endfor %}{{ {'a': [1, 'é<']} | tojson }}{{ '%s|%5.1f' % ('x', 2) }}{{ '{:>4}'.format(7) }}",
    "{% for i in range(3) recursive %}{{ i }}{% endfor %}{{ messages | map(attribute='role') | join(', ') }}"
    "{{ missing }}{{ messages | length }}{{ 2 ** 10 }}{% filter upper %}a{% endfilter %}{{ dict(a=1).items() | list }}",
]
# Programs that never end, or fill the memory, within one instruction of Python.
ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(70) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "{{ 'x' * 99999999999 }}",
    "{{ [1] * 99999999999 }}",
    "{{ 9 ** 999999999 }}",
    "{{ 'x' | center(99999999999) }}",
    "{{ 'x'.ljust(99999999999) }}",
    "{{ '%99999999999d' % 1 }}",
    "{{ '%*d' % (99999999999, 1) }}",
    "{{ '%99999999999d' | format(1) }}",
    "{{ '{:99999999999}'.format(1) }}",
    "{% set ns = namespace(x='x') %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x=7) %}{% for a in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for a in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=[1]) %}{% for a in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
    "{{ ns.x | tojson }}",
    "{% set ns = namespace(x=[1], y=[1]) %}{% for a in range(99) %}{% set ns.x, ns.y = (ns.x, ns.x), (ns.y, ns.y) %}"
    "{% endfor %}{{ ns.x == ns.y }}",
    "{% set ns = namespace(x={}) %}{% for a in range(99) %}{% set ns.x = {'a': ns.x.items(), 'b': ns.x.items()} %}"
    "{% endfor %}{{ ns.x | upper }}",
    "{{ '%s' * 99999 % ((messages,) * 99999) }}",
]
# Programs that make a text of 200 MB in one instruction, of values that are short enough.
LONG_TEXTS = [
    "{{ ('x' * 10000).join(['a'] * 20000) | length }}",
    "{{ ('x' * 10000).join(range(20000) | map('string')) | length }}",
    "{{ range(20000) | join('x' * 10000) | length }}",
    "{{ ('a' * 20000).replace('a', 'x' * 10000) | length }}",
    "{{ ('a' * 20000) | replace('a', 'x' * 10000) | length }}",
    "{{ ('a' * 20000).translate({97: 'x' * 10000}) | length }}",
    "{{ ('\t' * 20000).expandtabs(10000) | length }}",
    "{{ ('\n' * 20000) | indent(10000, blank=true) | length }}",
    "{{ ([1] * 20000) | tojson(indent=10000) | length }}",
    "{{ ('{0}' * 20000).format('x' * 10000) | length }}",
    "{{ ('%(a)s' * 20000 % {'a': 'x' * 10000}) | length }}",
    "{{ ('%(a)s' * 20000) | format(a='x' * 10000) | length }}",
    "{{ strftime_now('%9999Y' * 20000) | length }}",
    "{% filter upper %}{% for a in range(20000) %}{{ 'x' * 10000 }}{% endfor %}{% endfilter %}",
    "{% set a %}{% for a in range(20000) %}" + "x" * 10_000 + "{% endfor %}{% endset %}{{ a | length }}",
]
# Filters with arguments that make no long text.
SHORT_TEXTS = {
    "{{ messages | map(attribute='role') | join(', ') }}": "system, user, assistant",
    "{{ ', '.join(messages | map(attribute='role')) }}": "system, user, assistant",
    "{{ 'a b' | replace(' ', '--') }}{{ 'a b'.replace(' ', '') }}": "a--bab",
    "{{ {'a': [1]} | tojson(indent=1) }}": '{\n "a": [\n  1\n ]\n}',
    "{{ 'a\nb' | indent(width=2, first=true) }}{{ 'a\tb'.expandtabs(4) }}": "  a\n  ba   b",
    "{{ '%d' % 20260101 }}{{ '{:>9}'.format(20260101) }}{{ x | default(20260101) }}": "20260101 2026010120260101",
    "{{ strftime_now('%Y%m%d') | int + 1 }}": "20240230",
    "{% for a, b in [('x', {'y': (1, 2)})] %}{{ a ~ b }}{% endfor %}": "x{'y': (1, 2)}",
}


def render(source: str, **variables: Any) -> str:
    return ChatTemplateProgram(source).render({"messages": MESSAGES, **variables}, NOW, max_seconds=0.15)


@pytest.mark.parametrize("source", TEMPLATES)
def test_templates_render_as_in_transformers(source: str) -> None:
    (expected,), _ = render_jinja_template([MESSAGES], chat_template=source)
    assert render(source) == expected != ""


@pytest.mark.parametrize(
    ("source", "failure"),
    [
        ("{{ raise_exception('roles must\n alternate') }}", "fails (roles must alternate)"),
        ("{{ raise_exception('\x1b[31m' + 'x' * 500) }}", "fails ("),
        ("{% for m in messages %}", "has an error in line 1 ("),
        ("{{ messages | shuffle }}", "has an error in line 1 (No filter named 'shuffle'.)"),
        ("{{ 1 // 0 }}", "fails (integer division or modulo by zero)"),
        ("{{ nothing.at.all }}", "fails ('nothing' is undefined)"),
        ("{{ messages[9].content.x }}", "fails ("),
        ("{% include 'other' %}", "fails ("),
        ("{{ ''.__class__.__base__ }}", "fails (access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "fails ("),
        ("{% set ns = namespace(__class__=1) %}", "fails ("),
        ("{{ '(' * 3 }}" + "{{ " + "(" * 4000 + "1" + ")" * 4000 + " }}", "needs too much memory"),
        ("x" * 200_001, "is too long"),
    ],
)
def test_a_failure_says_on_one_line_what_the_template_does(source: str, failure: str) -> None:
    with pytest.raises(TemplateFailureError) as caught:
        render(source)
    text = str(caught.value)
    assert text.startswith(failure)
    assert text.isprintable()
    assert len(text) < 200


@pytest.mark.parametrize("source", quick_cases(ENDLESS, *ENDLESS[::2]))
def test_a_template_cannot_run_on_or_fill_the_memory(source: str) -> None:
    start = time.thread_time()
    with pytest.raises(TemplateFailureError, match=r"takes too long|makes too l|needs too much memory"):
        render(source)
    assert time.thread_time() - start < 1


@pytest.mark.parametrize("source", quick_cases(LONG_TEXTS, *LONG_TEXTS[::4]))
def test_a_text_that_would_be_too_long_is_not_made(source: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TemplateFailureError, match="makes too long a text"):
            ChatTemplateProgram(source).render({"messages": MESSAGES}, NOW)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 120_000_000


@pytest.mark.parametrize("source", SHORT_TEXTS)
def test_the_limits_do_not_affect_short_texts(source: str) -> None:
    assert render(source) == SHORT_TEXTS[source]


def test_the_limit_of_time_holds_in_other_threads_at_the_same_time() -> None:
    failures: list[str] = []

    def run() -> None:
        try:
            render(ENDLESS[0])
        except TemplateFailureError as failure:
            failures.append(str(failure))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == ["takes too long"] * 2
    assert render("{{ messages | length }}") == "3"


def test_the_clock_is_the_callers() -> None:
    assert render("{{ strftime_now('%d %b %Y, %H') }}") == "29 Feb 2024, 06"


@pytest.mark.parametrize("source", ["{{ range(9) | random }}", "{{ lipsum() }}"])
def test_nothing_depends_on_chance(source: str) -> None:
    with pytest.raises(TemplateFailureError):
        render(source)


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("{}%-|()[]'\"~.,:=<+*/ \n01axmrange forifendmessagesloopset"), max_size=80))
def test_any_source_renders_or_fails_with_one_kind_of_error(source: str) -> None:
    try:
        assert isinstance(render(source), str)
    except TemplateFailureError as failure:
        assert str(failure).isprintable()
