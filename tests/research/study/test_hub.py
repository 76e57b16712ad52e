"""The six data sets on the hub: pinned, from its cache, and where it or the network refuses."""

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
from mlx_personal.research.study.datasets import DATASETS, load
from tests.research.study.test_datasets import DOLLY, lines, orca


@pytest.fixture
def offline_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache folder, empty, on a machine without a network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_every_data_set_is_pinned_to_a_commit() -> None:
    for name, dataset in DATASETS.items():
        assert name == dataset.name
        assert re.fullmatch("[0-9a-f]{40}", dataset.revision)
        assert re.fullmatch(r"[\w-]+/[\w.-]+", dataset.repo)
        assert len(dataset.files) > 0
    assert [dataset.title for dataset in DATASETS.values()] == [
        *("ALPACA", "DOLLY", "Prosocial-Dialog", "Empathetic-Dialog", "OPENORCA", "MedDialog"),
    ]


def test_what_the_hubs_cache_has_at_the_pinned_commit_needs_no_network(offline_cache: Path) -> None:
    dolly = DATASETS["dolly"]
    folder = offline_cache / f"datasets--{dolly.repo.replace('/', '--')}" / "snapshots" / dolly.revision
    folder.mkdir(parents=True)
    lines(folder / dolly.files[0], DOLLY)
    loaded = load("dolly")
    assert len(loaded.samples) == 2
    assert loaded.source == dolly.revision


def test_without_a_network_the_hub_is_one_line(offline_cache: Path) -> None:
    with pytest.raises(UserError, match=r"databricks-dolly-15k.jsonl: cannot be fetched .*; check the network"):
        load("dolly")


def test_a_network_that_refuses_is_one_line_at_once(tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        place = {"HF_ENDPOINT": f"http://127.0.0.1:{closed.getsockname()[1]}", "HF_HUB_CACHE": str(tmp_path)}
        code = (
            "import logging, time\n"
            "from mlx_personal.errors import UserError\n"
            "from mlx_personal.research.study.datasets import load\n"
            "start, level = time.monotonic(), logging.getLogger('huggingface_hub').level\n"
            "try: load('dolly')\n"
            "except UserError as error: print(error.line())\n"
            "print(time.monotonic() - start < 5, logging.getLogger('huggingface_hub').level == level)\n"
        )
        environment = {**os.environ, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", **place}
        told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    line, quick = told.stdout.splitlines()
    assert "databricks-dolly-15k.jsonl: cannot be fetched from the hub; check the network" in line
    assert quick == "True True"
    assert told.stderr == ""


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (hub_errors.GatedRepoError("x", response=Mock()), "ask for a login; accept their terms"),
        (hub_errors.RepositoryNotFoundError("x", response=Mock()), "not on the hub any more at bdd27f4d"),
        (hub_errors.RevisionNotFoundError("x", response=Mock()), "not on the hub any more"),
        (hub_errors.RemoteEntryNotFoundError("x", response=Mock()), "not on the hub any more"),
        (hub_errors.HfHubHTTPError("x", response=Mock()), "cannot be fetched"),
        (RuntimeError("the HTTP library's own"), "cannot be fetched"),
        (OSError(28, "no space"), "the disk is full"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    offline_cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, what: str
) -> None:
    monkeypatch.setattr(datasets, "get_hf_file_metadata", Mock(side_effect=error))
    with pytest.raises(UserError, match=what):
        load("dolly")
    # It may also do so once it has answered.
    monkeypatch.setattr(datasets, "get_hf_file_metadata", Mock())
    monkeypatch.setattr(datasets, "hf_hub_download", Mock(side_effect=error))
    with pytest.raises(UserError, match=what):
        load("dolly")


def test_without_pyarrow_nothing_is_fetched_in_vain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for name in ("get_hf_file_metadata", "hf_hub_download"):
        monkeypatch.setattr(datasets, name, Mock(side_effect=AssertionError("the network was asked")))
    with pytest.raises(UserError, match=r"need pyarrow; install it \(pip install 'mlx-personal\[study\]'\)"):
        load("openorca")
    assert len(load("openorca", lines(tmp_path / "o.jsonl", [orca(0)])).samples) == 1
