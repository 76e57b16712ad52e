"""Prompts: what they show, and which responses are parsed as a record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_personal.augmentation.prompting import build_requests, parse_record, read_prompt
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.errors import UserError

MOVIES = [Record(f"film {i}", answer) for i, answer in enumerate(["comedy", "action", "comedy", "classic"])]

# Prompts


def test_the_prompt_follows_the_template() -> None:
    (request,) = build_requests("ann", Task(labels=("comedy", "action")), MOVIES[:1], 1, 4, seed=0)
    assert request.prompt == (
        "The answer is one of: comedy, action.\nRecords of one person:\n"
        '{"text": "film 0", "answer": "comedy"}\n'
        'Write one more record of this person as JSON with "text" and "answer", and nothing else.'
    )
    (free,) = build_requests("ann", Task(), [Record("{labels} ü", "{records}")], 1, 1, seed=0)
    assert free.prompt.startswith('Records of one person:\n{"text": "{labels} ü", "answer": "{records}"}\nWrite')


@pytest.mark.parametrize(
    ("count", "shown", "num_requests"), [(4, 2, 12), (3, 3, 6), (1, 4, 1), (10, 4, 100), (2, 9, 2)]
)
def test_prompts_differ_while_another_sample_exists(count: int, shown: int, num_requests: int) -> None:
    records = [Record(f"film {i}", "comedy") for i in range(count)]
    requests = build_requests("ann", Task(), records, num_requests, shown, seed=3)
    assert len({r.prompt for r in requests}) == len({r.seed for r in requests}) == num_requests
    assert [r.number for r in requests] == list(range(num_requests))
    for r in requests:
        assert len(set(r.demonstrations)) == len(r.demonstrations) == min(count, shown)
        assert [json.loads(line)["text"] for line in r.prompt.splitlines()[1:-1]] == [
            f"film {i}" for i in r.demonstrations
        ]


def test_equal_prompts_have_different_seeds() -> None:
    requests = build_requests("ann", Task(), MOVIES[:1], 5, 4, seed=0)
    assert len({r.prompt for r in requests}) == 1 and len({r.seed for r in requests}) == 5


def test_the_first_requests_of_many_are_those_of_few_and_differ_by_user() -> None:
    few, many = (build_requests("ann", Task(), MOVIES, count, 2, seed=1) for count in (5, 9))
    assert many[:5] == few
    assert [r.demonstrations for r in build_requests("bob", Task(), MOVIES, 9, 2, seed=1)] != [
        r.demonstrations for r in many
    ]
    with pytest.raises(ValueError):
        build_requests("ann", Task(), [], 1, 1, seed=0)


def test_a_lone_surrogate_in_a_record_is_not_sent() -> None:
    (request,) = build_requests("ann", Task(), [Record("a\ud83d", "b")], 1, 1, seed=0)
    assert '"a?"' in request.prompt


def test_another_template_is_read_and_one_without_a_slot_refused(tmp_path: Path) -> None:
    template = tmp_path / "template.txt"
    template.write_text("{labels}More like\n{records}\nplease\n")
    (request,) = build_requests("ann", Task(), MOVIES[:1], 1, 1, seed=0, prompt=read_prompt(template))
    assert request.prompt == 'More like\n{"text": "film 0", "answer": "comedy"}\nplease'
    template.write_text("{records}")
    with pytest.raises(UserError, match=r"this prompt has no \{labels\}"):
        read_prompt(template)
    template.write_bytes(b"\xff{labels}{records}")
    with pytest.raises(UserError, match="not UTF-8"):
        read_prompt(template)
    with pytest.raises(UserError, match="no such file"):
        read_prompt(tmp_path / "none.txt")


# Responses


@pytest.mark.parametrize(
    "response",
    [
        '{"text": "a {b}", "answer": "Comedy"}',
        '\n{"answer": " comedy ", "text": "a {b}", "why": 1}\n',
        'Sure {here}:\n```json\n{"text": "a {b}",\n "answer": "COMEDY"}\n```\nMore?',
        '<think>{"text": "x", "answer": "y"}</think>{"text": "a {b}", "answer": "comedy"}',
    ],
)
def test_a_record_is_found_among_chatter_and_its_label_gets_the_tasks_case(response: str) -> None:
    assert parse_record(response, Task(labels=("comedy", "action"))) == Record("a {b}", "comedy")


def test_labels_that_differ_only_in_case_match_exactly() -> None:
    task = Task(labels=("US", "us"))
    assert parse_record('{"text": "a", "answer": "us"}', task).answer == "us"
    assert parse_record('{"text": "a", "answer": "Us"}', task).answer == "Us"
    assert parse_record('{"text": "a", "answer": "none"}', task).answer == "none"


def test_a_line_break_inside_a_string_is_accepted() -> None:
    assert parse_record('{"text": "a\nb", "answer": "c"}', Task()) == Record("a\nb", "c")


def test_a_score_may_be_a_number() -> None:
    assert parse_record('{"text": "a", "answer": 5}', Task(labels=("4", "5"))) == Record("a", "5")
    with pytest.raises(ValueError):
        parse_record('{"text": "a", "answer": true}', Task())


@pytest.mark.parametrize(
    "response",
    [
        "",
        "a story",
        '{"text": "a", "answer": "b"',
        '{"text": "a"}',
        '{"text": 5, "answer": "b"}',
        '{"text": "a", "answer": null}',
        '{"text": " ", "answer": "b"}',
        '{"text": "a", "answer": "b"} {"text": "c", "answer": "d"}',
        '["text", "answer"]',
        '{"text": "\\ud83d", "answer": "b"}',
        '{"a":' * 50_000,
        '{"text": ' + "1" * 5000 + ', "answer": "b"}',
    ],
    ids=range(12),
)
def test_a_response_without_a_record_is_refused_with_a_reason(response: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_record(response, Task())
    assert str(error.value)
