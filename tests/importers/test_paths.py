"""Files and folders, special ones among them: what can be read is read, and nothing outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal import UserError
from mlx_personal.importers import (
    ImportedDialogue,
    Skipped,
    document,
    paths,
    read_imports,
)
from mlx_personal.importers.paths import file_document, open_documents
from tests.support.imports import LINE, counted, error_of, write_zip


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


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
