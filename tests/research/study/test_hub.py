"""Loading the six data sets from the hub: pinned revisions, the cache, and errors of the hub and the network."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors

from mlx_personal import UserError
from mlx_personal.research.study import datasets
from mlx_personal.research.study.datasets import DATASETS, load_dataset
from tests.research.study.test_datasets import DOLLY, orca_row, write_json_lines


@pytest.fixture
def offline_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the hub, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_every_data_set_is_pinned_to_a_commit() -> None:
    for dataset in DATASETS.values():
        assert re.fullmatch("[0-9a-f]{40}", dataset.revision)
        assert re.fullmatch(r"[\w-]+/[\w.-]+", dataset.repo)
        assert dataset.file.endswith((".parquet", ".jsonl", ".json"))
    assert [dataset.title for dataset in DATASETS.values()] == [
        *("ALPACA", "DOLLY", "Prosocial-Dialog", "Empathetic-Dialog", "OPENORCA", "MedDialog"),
    ]


def test_files_in_the_hubs_cache_need_no_network(offline_cache: Path) -> None:
    dolly = DATASETS["dolly"]
    folder = offline_cache / f"datasets--{dolly.repo.replace('/', '--')}" / "snapshots" / dolly.revision
    folder.mkdir(parents=True)
    write_json_lines(folder / dolly.file, DOLLY)
    loaded = load_dataset("dolly")
    assert len(loaded.dialogues) == 2
    assert loaded.source == dolly.revision


def test_without_a_network_the_error_is_one_line(offline_cache: Path) -> None:
    with pytest.raises(UserError, match=r"databricks-dolly-15k.jsonl: cannot be fetched .*; check the network"):
        load_dataset("dolly")


@pytest.mark.slow
def test_a_refused_connection_fails_at_once_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound, but not listening
        closed.bind(("127.0.0.1", 0))
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{closed.getsockname()[1]}", "HF_HUB_CACHE": str(tmp_path)}
        code = (
            "import logging, time\n"
            "from mlx_personal.errors import UserError\n"
            "from mlx_personal.research.study.datasets import load_dataset\n"
            "start, level = time.monotonic(), logging.getLogger('huggingface_hub').level\n"
            "try: load_dataset('dolly')\n"
            "except UserError as error: print(error.line())\n"
            "print(time.monotonic() - start < 5, logging.getLogger('huggingface_hub').level == level)\n"
        )
        environment = {**os.environ, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", **hub}
        completed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    line, checks = completed.stdout.splitlines()
    assert "databricks-dolly-15k.jsonl: cannot be fetched from the hub; check the network" in line
    assert checks == "True True"
    assert completed.stderr == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (hub_errors.GatedRepoError("x", response=Mock()), "require a login; accept their terms"),
        (hub_errors.RepositoryNotFoundError("x", response=Mock()), "revision bdd27f4d is no longer on the hub"),
        (hub_errors.RevisionNotFoundError("x", response=Mock()), "no longer on the hub"),
        (hub_errors.RemoteEntryNotFoundError("x", response=Mock()), "no longer on the hub"),
        (hub_errors.HfHubHTTPError("x", response=Mock()), "cannot be fetched"),
        (RuntimeError("the HTTP library's own"), "cannot be fetched"),
        (OSError(28, "no space"), "the disk is full"),
    ],
)
def test_errors_of_the_hub_are_one_line(
    offline_cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    monkeypatch.setattr(datasets, "get_hf_file_metadata", Mock(side_effect=error))
    with pytest.raises(UserError, match=message):
        load_dataset("dolly")
    # The download itself can fail too.
    monkeypatch.setattr(datasets, "get_hf_file_metadata", Mock())
    monkeypatch.setattr(datasets, "hf_hub_download", Mock(side_effect=error))
    with pytest.raises(UserError, match=message):
        load_dataset("dolly")


def test_without_pyarrow_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for name in ("get_hf_file_metadata", "hf_hub_download"):
        monkeypatch.setattr(datasets, name, Mock(side_effect=AssertionError("the network was used")))
    with pytest.raises(UserError, match=r"need pyarrow, which is not installed; pip install 'mlx-personal\[study\]'"):
        load_dataset("openorca")
    assert len(load_dataset("openorca", write_json_lines(tmp_path / "o.jsonl", [orca_row(0)])).dialogues) == 1
