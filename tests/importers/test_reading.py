"""Files of any quality, of one or several dialogues, in folders and alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_personal import Dialogue, UserError, load_dialogues, read_dialogues
from mlx_personal.dialogue.types import MAX_MESSAGE_CHARS
from mlx_personal.importers import Skipped, read_imports
from tests.support.imports import conversations, skip_reasons, write_lines

USER, ASSISTANT = {"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}
VALID_LINE = json.dumps({"messages": [USER, ASSISTANT]}).encode()
DIALOGUE = Dialogue.of("x", "x")
EXCHANGE = [("user", "x"), ("assistant", "x")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"messages": [', "not JSON"),
        (b"hello", "not JSON"),
        (b"[" * 100_000, "nested too deeply|not JSON"),
        (b'{"messages": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}", "nested too deeply|without a role"),
        (json.dumps([ASSISTANT, USER]).encode(), "no question with an answer"),
        (json.dumps([USER]).encode(), "a question without an answer"),
        (json.dumps([USER, {"role": "assistant", "content": "x" * 1_000_000}]).encode(), "over 100,000 characters"),
        (rb'[{"role": "user", "content": "a\ud800b"}, {"role": "assistant", "content": "x"}]', "lone surrogate"),
        (rb'[{"role": "user", "content": "a\u0000b"}, {"role": "assistant", "content": "x"}]', "NUL"),
        (b'[{"role": "user", "content": "a\x00b"}]', "not JSON"),
        (b'[{"role": "user", "content": "caf\xe9"}]', "not UTF-8 text"),
        (VALID_LINE.decode().encode("utf-16"), "not UTF-8"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'[{"role": "user\\nx", "content": "a"}]', r"unknown role 'user\\nx'"),
        (b'[{"role": "user", "content": 1e999}]', "an empty user message"),
    ],
)
def test_an_invalid_line_is_reported_and_the_others_are_read(tmp_path: Path, line: bytes, reason: str) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_bytes(VALID_LINE + b"\n" + line.replace(b"\n", b"") + b"\n\n" + VALID_LINE)
    first, invalid, last = read_dialogues(file)
    assert first == last == DIALOGUE
    assert isinstance(invalid, Skipped)
    assert invalid.where == f"{file}:2"
    assert re.search(reason, invalid.reason), invalid.reason
    assert "\n" not in invalid.reason


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_every_encoding_of_unicode_is_read(tmp_path: Path, encoding: str) -> None:
    message = {"role": "user", "content": "Grüße 👋"}
    text = f"{json.dumps([message, ASSISTANT], ensure_ascii=False)}\n" * 2
    (tmp_path / "a.jsonl").write_bytes(text.encode(encoding))
    assert list(read_dialogues(tmp_path / "a.jsonl")) == [Dialogue.of("Grüße 👋", "x")] * 2


def test_a_file_name_that_is_not_utf8_can_be_printed(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    try:
        file.write_bytes(b"hello\n")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (invalid,) = read_dialogues(file)
    assert isinstance(invalid, Skipped)
    assert invalid.where.encode().endswith(rb"caf\udce9.jsonl:1")
    file.unlink()
    with pytest.raises(UserError) as raised:
        list(read_dialogues(file))
    assert raised.value.line().encode().endswith(b"no such file or folder; check the name")


def test_an_empty_file_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "blank.json").write_text(" \n\n")
    assert skip_reasons(tmp_path) == ["an empty file"] * 2
    assert skip_reasons(tmp_path / "empty.jsonl") == ["an empty file"]


@pytest.mark.parametrize("name", ["none.jsonl", "folder", "notes.xyz", "numbers.json"])
def test_a_path_without_anything_to_read_is_a_user_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.xyz").write_bytes(b"\x00\x01\x02" * 100)
    (tmp_path / "numbers.json").write_text('{"a": [1, 2, 3]}')
    with pytest.raises(UserError, match=r"no such file|no file in a format|in no format") as raised:
        list(read_imports(tmp_path / name))
    assert raised.value.where == str(tmp_path / name)
    assert raised.value.hint


def test_a_file_in_which_every_record_must_be_valid(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_bytes(VALID_LINE + b"\n" + VALID_LINE)
    assert load_dialogues(file, min_count=2) == [DIALOGUE] * 2
    with pytest.raises(UserError, match="2 dialogues; at least 3 are needed; name a file with more"):
        load_dialogues(file, min_count=3)
    file.write_bytes(VALID_LINE + b"\nhello")
    with pytest.raises(UserError, match=r"chats\.jsonl:2: not a dialogue \(not JSON .*; fix that record"):
        load_dialogues(file)


def test_a_turn_that_is_left_out_does_not_cost_the_file(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "chats.jsonl", [{"messages": [ASSISTANT, USER, ASSISTANT]}])
    assert load_dialogues(file) == [DIALOGUE]


def test_the_test_split_of_a_data_set_is_left_out(tmp_path: Path) -> None:
    for name in ("train.jsonl", "valid.jsonl", "test.jsonl", "test-notes.jsonl"):
        (tmp_path / name).write_bytes(VALID_LINE)
    items = list(read_imports(tmp_path))
    assert [(item.where, item.reason) for item in items if isinstance(item, Skipped)] == [
        (str(tmp_path / "test.jsonl"), "the test split of a data set")
    ]
    assert conversations(tmp_path) == [EXCHANGE] * 3
    assert conversations(tmp_path / "test.jsonl") == [EXCHANGE]


def test_a_test_file_without_a_training_file_beside_it_is_read(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / "train-00000-of-00001.jsonl").write_bytes(VALID_LINE)
    (tmp_path / "b" / "test.jsonl").write_bytes(VALID_LINE)
    assert conversations(tmp_path) == [EXCHANGE] * 2
    (tmp_path / "a" / "test-00000-of-00001.jsonl").write_bytes(VALID_LINE)
    assert conversations(tmp_path) == [EXCHANGE] * 2


def test_a_format_can_be_forced(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(VALID_LINE)
    assert list(read_imports(tmp_path / "a.json", "chatgpt")) == [
        Skipped(str(tmp_path / "a.json"), "a conversation without messages", "chatgpt")
    ]
    with pytest.raises(UserError, match="'chatgtp' is not a format; did you mean chatgpt"):
        list(read_imports(tmp_path / "a.json", "chatgtp"))


def test_the_progress_counts_all_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes((VALID_LINE + b"\n") * 1000)
    (tmp_path / "b.jsonl").write_bytes(VALID_LINE)
    seen: list[tuple[int, int]] = []
    assert len(list(read_imports(tmp_path, on_bytes=lambda done, total: seen.append((done, total))))) == 1001
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)


def test_a_message_at_the_limit_is_read_and_one_above_is_counted(tmp_path: Path) -> None:
    rows = [[USER, {**ASSISTANT, "content": "x" * length}] for length in (MAX_MESSAGE_CHARS, MAX_MESSAGE_CHARS + 1)]
    dialogue, skipped = read_dialogues(write_lines(tmp_path / "a.jsonl", rows))
    assert isinstance(dialogue, Dialogue)
    assert isinstance(skipped, Skipped)
    assert skipped.reason == "an assistant message of over 100,000 characters"


def test_the_facade_imports_no_importer_until_it_reads() -> None:
    code = "import sys, mlx_personal; assert not {m for m in sys.modules if 'importers' in m or m == 'ijson'}; "
    code += (
        "mlx_personal.read_dialogues; assert not {'mlx.core', 'numpy', 'pyarrow', 'huggingface_hub'} & set(sys.modules)"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
