"""Data sets on the hub: from the cache without a connection, and downloaded only where it is allowed."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from mlx_personal import UserError
from mlx_personal.importers import hub_dataset
from mlx_personal.importers.hub_dataset import dataset_files, is_dataset_name
from tests.support.imports import conversations

REVISION = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "data/train-00000-of-00001.jsonl": b'{"prompt": "When is the pear ripe?", "completion": "In September."}',
    "data/test-00000-of-00001.jsonl": b'{"prompt": "When is the plum ripe?", "completion": "In August."}',
    "README.md": b"# Fruit",
    ".gitattributes": b"",
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub; every connection is an error."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path / "cache"


def write_snapshot(cache: Path, name: str) -> Path:
    """Write a data set as the hub's client does, with links to the contents, and return its folder."""
    repository = cache / f"datasets--{name.replace('/', '--')}"
    for number, (file, data) in enumerate(FILES.items()):
        blob, link = repository / "blobs" / str(number), repository / "snapshots" / REVISION / file
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(blob)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    return repository / "snapshots" / REVISION


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/fruit", True),
        ("owner/fruit-1.0_x", True),
        ("fruit", False),
        ("a/b/c", False),
        ("../fruit", False),
        ("/owner/fruit", False),
        ("owner/", False),
        ("owner/chats.jsonl", False),
        ("owner/export.zip", False),
        ("here/fruit", False),
        ("owner/a b", False),
        ("-", False),
    ],
)
def test_names_of_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: bool) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert is_dataset_name(name) is expected


def test_a_data_set_in_the_cache_needs_no_connection(cache: Path) -> None:
    folder = write_snapshot(cache, "owner/fruit")
    files = dataset_files("owner/fruit", allow_download=False)
    assert files == [folder / "data/train-00000-of-00001.jsonl"]
    assert conversations(files[0]) == [[("user", "When is the pear ripe?"), ("assistant", "In September.")]]


def test_without_permission_nothing_is_downloaded(cache: Path) -> None:
    with pytest.raises(UserError, match=r"owner/fruit: this data set .* is not on this machine; allow the download"):
        dataset_files("owner/fruit", allow_download=False)
    with pytest.raises(UserError) as raised:
        dataset_files("owner/a--b..c", allow_download=False)
    assert "\n" not in raised.value.line()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> list[str]:
    """A hub with one data set; the files that are downloaded from it."""
    folder = write_snapshot(cache, "owner/other")
    downloaded: list[str] = []
    siblings = [SimpleNamespace(rfilename=file, size=len(data)) for file, data in FILES.items()]

    def download(name: str, file: str, repo_type: str, revision: str) -> str:
        assert (name, repo_type, revision) == ("owner/fruit", "dataset", REVISION)
        downloaded.append(file)
        return str(folder / file)

    def information(api: huggingface_hub.HfApi, name: str, **options: Any) -> Any:
        assert options == {"files_metadata": True, "timeout": 10}
        return SimpleNamespace(sha=REVISION, siblings=siblings)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", information)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return downloaded


def test_only_files_with_dialogues_are_downloaded(hub: list[str]) -> None:
    (file,) = dataset_files("owner/fruit", allow_download=True)
    assert hub == ["data/train-00000-of-00001.jsonl"]
    assert conversations(file) == [[("user", "When is the pear ripe?"), ("assistant", "In September.")]]


def test_a_data_set_that_is_too_large_is_refused(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_dataset, "MAX_DOWNLOAD_BYTES", 10)
    with pytest.raises(UserError, match=r"has files of 0\.0 GB; at most 0 GB are downloaded; download it yourself"):
        dataset_files("owner/fruit", allow_download=True)
    assert hub == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("Name resolution failed"), "cannot be fetched from the hub; check the network"),
        (ValueError("a\nb"), "cannot be fetched from the hub; check the network"),
        (OSError(28, "No space left on device"), "the disk is full"),
    ],
)
def test_a_failed_download_is_one_line(
    hub: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UserError, match=f"owner/fruit: {message}"):
        dataset_files("owner/fruit", allow_download=True)
