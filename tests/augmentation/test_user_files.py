"""Reading a folder of users."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_personal import Dialogue
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.augmentation.user_files import UserRecords, read_users, record_from_dialogue
from mlx_personal.errors import UserError


def write_lines(file: Path, *lines: object) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


def pair(prompt: str, completion: str) -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_lines(tmp_path / "users" / "bob.jsonl", pair("one", "comedy"), pair("two", "drama"))
    return tmp_path / "users"


def test_every_file_is_a_user_and_every_single_turn_dialogue_a_record(folder: Path) -> None:
    write_lines(
        folder / "ann.jsonl", pair("a", "b"), {"messages": Dialogue.of("c", "<think>hm</think>d").to_messages()}
    )
    write_lines(folder / ".hidden.jsonl", pair("e", "f"))
    (folder / "notes.txt").write_text("no user")
    read = read_users(folder)
    assert read.task == Task() and not read.invalid_lines and not read.excluded
    assert read.users == {
        "ann": UserRecords((Record("a", "b"), Record("c", "d")), {}),
        "bob": UserRecords((Record("one", "comedy"), Record("two", "drama")), {}),
    }


def test_skipped_dialogues_are_counted_by_reason_and_invalid_lines_are_named(folder: Path) -> None:
    (folder / "task.json").write_text('{"question": "Which? {text}", "labels": ["comedy", "drama"]}')
    turns = Dialogue.of("one", "comedy").to_messages()
    several = [turns[0], {"role": "assistant", "content": "well"}, *turns]
    system = [{"role": "system", "content": "Be brief."}, *turns]
    thoughts = [turns[0], {"role": "assistant", "content": "<think>comedy</think>"}]
    lines = [
        pair("one", "comedy"),
        pair("one", "comedy"),
        "{",
        pair("two", "farce"),
        several,
        system,
        thoughts,
        several,
    ]
    write_lines(folder / "ann.jsonl", *lines, pair("two", "comedy"))
    read = read_users(folder)
    assert read.users["ann"].records == (Record("one", "comedy"), Record("two", "comedy"))
    assert read.users["ann"].skipped == {
        "duplicate": 1,
        read.invalid_lines[0].reason: 1,
        "the answer is not a label": 1,
        "has several turns": 2,
        "has a system message": 1,
        "an assistant turn that consists of thoughts only": 1,
    }
    invalid, without_answer = read.invalid_lines
    assert invalid.where.endswith("ann.jsonl:3") and invalid.reason.startswith("not JSON")
    assert without_answer.where.endswith("ann.jsonl:7")
    assert read.task == Task("Which? {text}", ("comedy", "drama"))


def test_a_user_with_fewer_than_two_records_is_excluded_with_a_reason(folder: Path) -> None:
    write_lines(folder / "one.jsonl", pair("a", "b"), "no JSON")
    write_lines(folder / "none.jsonl", "no JSON")
    write_lines(folder / "empty.jsonl")
    read = read_users(folder)
    assert list(read.users) == ["bob"]
    assert read.excluded == {
        "empty": "no record, 1 skipped: an empty file",
        "none": "no record, 1 skipped: not JSON (expecting value)",
        "one": "one record, 1 skipped: not JSON (expecting value)",
    }


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ('{"lables": []}', "task.json: unknown key 'lables'; did you mean 'labels'?"),  # codespell:ignore lables
        ('{"question": "Which?"}', "task.json: the question has no {text}"),
        ('{"question": 1}', "task.json: the question is not a string"),
        ('{"labels": "comedy"}', "task.json: the labels are not a list of strings"),
        ('{"labels": ["comedy", 2]}', "task.json: the labels are not a list of strings"),
        ('{"labels": ["comedy", "comedy"]}', "task.json: a label is empty, or there twice"),
        ("[]", "task.json: not a JSON object"),
        ('{"labels": ', "task.json: not a JSON object"),
    ],
)
def test_an_invalid_task_is_refused(task: str, message: str, folder: Path) -> None:
    (folder / "task.json").write_text(task)
    with pytest.raises(UserError) as error:
        read_users(folder)
    assert message in error.value.line()


def test_a_folder_without_users_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        read_users(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no user in this folder"):
        read_users(tmp_path)
    write_lines(tmp_path / "ann.jsonl", pair("a", "b"))
    with pytest.raises(UserError, match=r"no user has 2 records or more \(ann has one record\)"):
        read_users(tmp_path)


def test_a_label_must_match_exactly() -> None:
    task = Task(labels=("US", "us"))
    assert record_from_dialogue(Dialogue.of("a", "us"), task) == Record("a", "us")
    with pytest.raises(ValueError, match="not a label"):
        record_from_dialogue(Dialogue.of("a", "Us"), task)
