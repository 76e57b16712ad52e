"""Folders, zips and compressed files, damaged and hostile ones among them: the rest is read, and nothing outside."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal import UserError
from mlx_personal.importers import ImportedDialogue, Skipped, archives, document, paths, read_imports
from mlx_personal.importers.paths import file_document, open_documents

LINE = json.dumps({"prompt": "When is the pear ripe?", "completion": "In September."}).encode()
LINES = LINE + b"\n" + LINE + b"\n"


def write_zip(path: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip, and return its path."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def counted(path: Path) -> tuple[int, list[tuple[str, str]]]:
    """Return the number of dialogues of a path, and for each skipped part its name and the reason."""
    items = list(read_imports(path))
    skipped = [(item.where.removeprefix(str(path)), item.reason) for item in items if isinstance(item, Skipped)]
    return sum(isinstance(item, ImportedDialogue) for item in items), skipped


def error_of(path: Path) -> str:
    """Return the line of the error that reading a path raises."""
    with pytest.raises(UserError) as raised:
        list(read_imports(path))
    assert raised.value.hint
    return raised.value.line()


# Folders


def test_files_of_a_folder_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/c.jsonl", "a/b.jsonl", ".hidden.jsonl", ".git/x.jsonl", "picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(LINE)
    documents = list(open_documents(tmp_path))
    assert all(isinstance(found, document.Document) for found in documents)
    assert [found.where for found in documents] == [str(tmp_path / n) for n in ("b.jsonl", "a/b.jsonl", "a/c.jsonl")]


def test_a_folder_knows_the_files_beside_each_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/one.json", "a/two.json", "two.json"):
        (tmp_path / name).write_bytes(LINE)
    (one,) = [
        found for found in open_documents(tmp_path) if isinstance(found, document.Document) and "one" in found.name
    ]
    sibling = one.sibling("two.json")
    assert sibling is not None and sibling.where == str(tmp_path / "a/two.json")
    assert one.sibling("three.json") is None


def test_zips_in_a_folder_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    write_zip(tmp_path / "downloads/b.zip", {"x/a.jsonl": LINE, "x/b.txt": b"-"})
    write_zip(tmp_path / "a.zip", {"x/a.jsonl": LINE})
    (tmp_path / "c.jsonl").write_bytes(LINE)
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04broken")
    items = list(open_documents(tmp_path))
    found = {item.name: item for item in items if isinstance(item, document.Document)}
    assert list(found) == ["c.jsonl", "a.zip/x/a.jsonl", "downloads/b.zip/x/a.jsonl", "downloads/b.zip/x/b.txt"]
    assert found["downloads/b.zip/x/a.jsonl"].sibling("b.txt") is found["downloads/b.zip/x/b.txt"]
    assert found["downloads/b.zip/x/a.jsonl"].archive == tmp_path / "downloads/b.zip"
    skipped = [(item.where, item.reason) for item in items if isinstance(item, Skipped)]
    assert skipped == [(str(tmp_path / "broken.zip"), "is a damaged or cut-off zip")]
    assert counted(tmp_path)[0] == 3


def test_links_and_special_files_of_a_folder_are_not_opened(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    (outside / "secret.jsonl").write_bytes(LINE)
    (folder / "a.jsonl").write_bytes(LINE)
    (folder / "link.jsonl").symlink_to(outside / "secret.jsonl")
    (folder / "up").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "broken.jsonl").symlink_to(tmp_path / "nothing")
    os.mkfifo(folder / "pipe.jsonl")
    read, skipped = counted(folder)
    assert read == 1
    assert sorted(skipped) == [
        ("/broken.jsonl", "a link"),
        ("/link.jsonl", "a link"),
        ("/loop", "a link"),
        ("/pipe.jsonl", "neither a file nor a folder"),
        ("/up", "a link"),
    ]


def test_a_link_that_is_named_itself_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE)
    (tmp_path / "link").symlink_to(tmp_path / "a.jsonl")
    assert counted(tmp_path / "link") == (1, [])


def test_a_file_that_cannot_be_read_does_not_cost_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE)
    (tmp_path / "b.jsonl").write_bytes(LINE)
    begins_with = paths._begins_with

    def refuse(path: Path, *magic: bytes) -> bool:
        if path.name == "a.jsonl":
            raise UserError("cannot write or read here", path)
        return begins_with(path, *magic)

    monkeypatch.setattr(paths, "_begins_with", refuse)
    assert counted(tmp_path) == (1, [("/a.jsonl", "cannot be read")])


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.jsonl")).write_bytes(LINE)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (item,) = read_imports(tmp_path)
    assert isinstance(item, ImportedDialogue)
    assert item.conversation.where.endswith(r"caf\udce9.jsonl:1")


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero"])
def test_a_device_is_refused(path: str) -> None:
    assert error_of(Path(path)) == f"{path}: is neither a file nor a folder; name a file"
    with pytest.raises(UserError, match="is neither a file nor a folder"):
        file_document(Path(path))


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is neither a file nor a folder" in error_of(tmp_path / "pipe")


# Zips


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


def test_nested_zips_and_doubly_compressed_files_are_not_unpacked(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner.zip", {"a.jsonl": LINE}).read_bytes()
    twice = gzip.compress(gzip.compress(LINE))
    write_zip(tmp_path / "a.zip", {"inner.zip": inner, "twice.gz": twice, "b.jsonl": LINE})
    reason = "a file in no known format"
    assert counted(tmp_path / "a.zip") == (1, [(":inner.zip", reason), (":twice.gz", reason)])


# Compressed files and standard input


def test_a_gzip_file_that_is_cut_off_gives_what_is_before(tmp_path: Path) -> None:
    row = b'{"prompt": "%d", "completion": "%s"}\n'
    rows = b"".join(row % (number, os.urandom(500).hex().encode()) for number in range(2_000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows)[:-1000])
    read, skipped = counted(tmp_path / "a.jsonl.gz")
    assert 500 < read < 2_000
    assert skipped == [("", "is cut off or damaged")]


@pytest.mark.parametrize(
    "data", [LINES, gzip.compress(LINES), LINES.decode().encode("utf-16")], ids=["plain", "gzip", "UTF-16"]
)
def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert counted(Path("-")) == (2, [])


def test_a_zip_from_standard_input_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_zip(tmp_path / "a.zip", {"a.jsonl": LINES, "b.jsonl": LINE}).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert counted(Path("-")) == (3, [])


# Any bytes


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


PIECES = st.sampled_from(
    [
        *(
            b"{",
            b"}",
            b"[",
            b"]",
            b'"',
            b":",
            b",",
            b"\n",
            b"\r",
            b"\0",
            b"\\",
            b"\\ud800",
            b"1e999",
            b"null",
            b"\xff",
            b"x",
        ),
        *(
            b"SQLite format 3\0",
            b"PAR1",
            b"PK\x03\x04",
            b"\x1f\x8b",
            b"\xff\xfe",
            b"\xef\xbb\xbf",
            b"# User\n",
            b"User: ",
        ),
        *(
            LINE,
            b'{"messages": [',
            b'{"role": "user", "content": "x"}',
            b'[{"mapping": {"a": {"message": ',
            b"conversations",
        ),
    ]
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60) | st.lists(PIECES, max_size=12).map(b"".join),
    st.sampled_from(["a.json", "a.jsonl", "a.md", "a.gz", "a.zip", "a.parquet", "a.db", "a"]),
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(data)
    try:
        list(read_imports(tmp_path / name))
    except UserError as error:
        assert "\n" not in error.line()
    (tmp_path / name).unlink()
