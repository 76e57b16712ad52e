"""Zips and compressed files, damaged and hostile ones among them: the rest is read, and nothing outside."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import sqlite3
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal import UserError
from mlx_personal.importers import (
    archives,
    read_imports,
)
from tests.support.exports import write_database
from tests.support.imports import LINE, LINES, counted, error_of, imported, write_zip


def test_members_of_a_zip_are_read(tmp_path: Path) -> None:
    members = {"b/chats.jsonl": LINES, "a.jsonl.gz": gzip.compress(LINE), "__MACOSX/b": LINE, "photo.png": b"x"}
    assert counted(write_zip(tmp_path / "a.zip", members)) == (3, [])


@pytest.mark.parametrize("name", ["../a.jsonl", "/etc/a.jsonl", "a/../../b.jsonl", "C:/a.jsonl", "..\\a.jsonl"])
def test_paths_out_of_a_zip_are_skipped(tmp_path: Path, name: str) -> None:
    read, skipped = counted(write_zip(tmp_path / "a.zip", {name: LINE, "b.jsonl": LINE}))
    assert (read, [reason for _, reason in skipped]) == (1, ["a path that leads out of the zip"])
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["a.zip"]


def test_a_link_in_a_zip_is_skipped(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link.jsonl")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a.jsonl", LINE)
    assert counted(tmp_path / "a.zip") == (1, [(":link.jsonl", "a link")])


def test_a_second_member_of_the_same_name_is_skipped(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a.jsonl", LINE)
        archive.writestr("a.jsonl", LINE)
    assert counted(tmp_path / "a.zip") == (1, [(":a.jsonl", "a second file of the same name")])


def encrypt(path: Path) -> None:
    """Mark all members of a zip as encrypted, in their headers and in the directory."""
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = data.find(magic)
        while position >= 0:
            data[position + offset] |= 1
            position = data.find(magic, position + 4)
    path.write_bytes(data)


def test_a_zip_with_a_password_is_refused_in_one_line(tmp_path: Path) -> None:
    encrypt(write_zip(tmp_path / "a.zip", {"a.jsonl": LINE}))
    assert "nothing in this zip can be read: protected by a password" in error_of(tmp_path / "a.zip")


@pytest.mark.parametrize("kept", [4, 30, 120, -1, -30])
def test_a_zip_that_is_cut_off_is_refused_in_one_line(tmp_path: Path, kept: int) -> None:
    write_zip(tmp_path / "a.zip", {"a.jsonl": LINES * 20, "b.jsonl": LINE})
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:kept])
    assert "a.zip: is a damaged or cut-off zip; export it again" in error_of(tmp_path / "a.zip")


def test_a_damaged_member_does_not_cost_the_others(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"a.jsonl": LINES * 20, "b.jsonl": LINE}, zipfile.ZIP_STORED)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.find(b"pear")] ^= 1  # its checksum is wrong now
    (tmp_path / "a.zip").write_bytes(data)
    assert counted(tmp_path / "a.zip") == (1, [(":a.jsonl", "is cut off or damaged")])


def test_a_member_that_is_compressed_in_an_unknown_way_is_skipped(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"a.jsonl": LINES * 20, "b.jsonl": LINE})
    data = bytearray((tmp_path / "a.zip").read_bytes())
    header, entry = data.find(b"PK\x03\x04"), data.find(b"PK\x01\x02")
    data[header + 8 : header + 10] = data[entry + 10 : entry + 12] = b"\x63\x00"
    (tmp_path / "a.zip").write_bytes(data)
    assert counted(tmp_path / "a.zip") == (1, [(":a.jsonl", "is damaged, or compressed in an unknown way")])


def test_a_member_that_unpacks_to_far_more_than_its_size_is_skipped(tmp_path: Path) -> None:
    bomb = b'{"prompt": "' + b" " * 12_000_000 + b'"}'
    write_zip(tmp_path / "a.zip", {"a.jsonl": bomb, "b.jsonl": LINE})
    assert counted(tmp_path / "a.zip") == (1, [(":a.jsonl", "unpacks to more than 200 times its size")])


def test_a_gzip_file_that_unpacks_to_far_more_than_its_size_is_skipped(tmp_path: Path) -> None:
    packed = gzip.compress(b'{"prompt": "' + b" " * 12_000_000 + b'"}')
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    (tmp_path / "b.jsonl").write_bytes(LINE)
    write_zip(tmp_path / "c.zip", {"a.jsonl.gz": packed, "b.jsonl": LINE})
    expected = (1, [("a.jsonl.gz", "unpacks to more than 200 times its size")])
    assert counted(tmp_path / "c.zip") == (expected[0], [(f":{name}", reason) for name, reason in expected[1]])
    (tmp_path / "c.zip").unlink()
    assert counted(tmp_path) == (expected[0], [(f"/{name}", reason) for name, reason in expected[1]])


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("MAX_MEMBERS", 1, "has 2 files; at most 1 are read; name its files"),
        ("MAX_TOTAL_BYTES", 100, "unpacks to more than 0 GB; unpack it and name its files"),
    ],
)
def test_a_zip_with_too_much_in_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, message: str
) -> None:
    monkeypatch.setattr(archives, limit, value)
    assert message in error_of(write_zip(tmp_path / "a.zip", {"a.jsonl": LINE, "b.jsonl": LINE}))


def test_a_member_of_many_gigabytes_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 100)
    assert counted(write_zip(tmp_path / "a.zip", {"a.jsonl": LINES, "b.jsonl": LINE})) == (
        1,
        [(":a.jsonl", "unpacks to more than 0 GB")],
    )


def test_archives_in_archives_are_not_unpacked_and_say_what_to_do(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner.zip", {"a.jsonl": LINE}).read_bytes()
    twice, tape = gzip.compress(gzip.compress(LINE)), io.BytesIO()
    with tarfile.open(fileobj=tape, mode="w") as archive:
        archive.add(tmp_path / "inner.zip", "a.zip")
    members = {"inner.zip": inner, "tape.tar": tape.getvalue(), "twice.gz": twice}
    reason = "an archive that must be unpacked first"
    skipped = [(f":{name}", reason) for name in members]
    assert counted(write_zip(tmp_path / "a.zip", {**members, "b.jsonl": LINE})) == (1, skipped)
    write_zip(tmp_path / "b.zip", members)
    assert error_of(tmp_path / "b.zip") == f"{tmp_path}/b.zip:inner.zip: is {reason}; unpack it and name its files"
    (tmp_path / "c.tgz").write_bytes(gzip.compress(tape.getvalue()))
    assert error_of(tmp_path / "c.tgz") == f"{tmp_path}/c.tgz: is {reason}; unpack it and name its files"


@pytest.mark.parametrize("start", [b"[", b'{"prompt": "'])
def test_a_gzip_file_that_is_named_and_far_too_large_says_so(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(start + b" " * 12_000_000))
    assert error_of(tmp_path / "a.gz") == (
        f"{tmp_path}/a.gz: unpacks to more than 200 times its size; unpack it and name its files"
    )


CHATS = "CREATE TABLE chats (id); CREATE TABLE messages (id, chat_id, role, content, model_name);"
MESSAGES = [(1, "c", "user", "When is the pear ripe?", ""), (2, "c", "assistant", "In September.", "")]


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_database_in_a_zip_is_read_with_its_log(tmp_path: Path, mode: str) -> None:
    path = write_database(tmp_path / "chats.db", CHATS, {"chats": [("c",)], "messages": MESSAGES})
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as program:
        program.execute(f"PRAGMA journal_mode = {mode}")
        program.execute("PRAGMA cache_size = 2")
        program.execute("BEGIN")
        # In a write-ahead log it is committed, in the other case it is not.
        program.execute("UPDATE messages SET content = 'In August.' WHERE id = 2")
        program.executemany("INSERT INTO chats VALUES (?)", [("x" * 3000,)] * 20)
        if mode == "WAL":
            program.execute("COMMIT")
        logs = [file for file in tmp_path.iterdir() if file.name.endswith(("-wal", "-journal"))]
        members = {f"app/{file.name}": file.read_bytes() for file in (path, *logs)}
    assert len(members) == 2
    archive = write_zip(tmp_path / "a.zip", members)
    [answer] = [item.dialogue.messages[1].content for item in imported(archive)]
    assert answer == ("In August." if mode == "WAL" else "In September.")


def test_a_damaged_database_in_a_zip_does_not_cost_the_others(tmp_path: Path) -> None:
    rows: dict[str, list[tuple[Any, ...]]] = {
        "chats": [("c",)],
        "messages": [*MESSAGES, (3, "d", "user", "pear " * 100_000, "")],
    }
    data = write_database(tmp_path / "chats.db", CHATS, rows).read_bytes()
    path = write_zip(tmp_path / "a.zip", {"chats.db": data, "b.jsonl": LINE}, zipfile.ZIP_STORED)
    archive = bytearray(path.read_bytes())
    archive[archive.rfind(b"pear pear")] ^= 1  # its checksum is wrong now
    path.write_bytes(archive)
    assert counted(path) == (1, [(":chats.db", "is cut off or damaged")])


def test_a_compressed_database_is_read(tmp_path: Path) -> None:
    path = write_database(tmp_path / "chats.db", CHATS, {"chats": [("c",)], "messages": MESSAGES})
    (tmp_path / "chats.db.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert counted(tmp_path / "chats.db.gz") == (1, [])
    assert counted(write_zip(tmp_path / "a.zip", {"chats.db": path.read_bytes()})) == (1, [])


def test_a_gzip_file_that_is_cut_off_gives_what_is_before(tmp_path: Path) -> None:
    row = b'{"prompt": "%d", "completion": "%s"}\n'
    rows = b"".join(row % (number, os.urandom(500).hex().encode()) for number in range(2_000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows)[:-1000])
    read, skipped = counted(tmp_path / "a.jsonl.gz")
    assert 500 < read < 2_000
    assert skipped == [("", "is cut off or damaged")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_zip_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    valid = write_zip(tmp_path / "a.zip", {"a.jsonl": LINES, "b.json.gz": gzip.compress(LINE), "c.md": b"# User\nx"})
    changed = bytearray(valid.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    valid.write_bytes(changed)
    try:
        list(read_imports(valid))
    except UserError as error:
        assert "\n" not in error.line()
