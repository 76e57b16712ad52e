"""Fixtures of the command line's tests: a file of dialogues, and a profile on the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import dialogue_line, run_cli


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """A file of 30 dialogues."""
    nouns = ["soup", "bus", "dog", "rent", "lamp", "song", "coat", "train", "bread", "door"]
    file = tmp_path / "chats.jsonl"
    lines = []
    for i in range(30):
        one, two, three = nouns[i % 10], nouns[(i * 3 + i // 10) % 10], nouns[(i * 7 + 1) % 10]
        question, answer = f"Can I have {one}, {two} and {three}?", f"Take the {one} {i} times, then the {three}."
        lines.append(dialogue_line(question, answer))
    file.write_text("\n".join(lines))
    return file


@pytest.fixture
def profile(home: Path, tiny_model_folder: Path) -> Path:
    """The folder of a profile on the tiny model, with settings that take little time."""
    assert run_cli("init", "--model", tiny_model_folder).exit_code == 0
    folder = home / "profiles" / "default"
    (folder / "config.toml").write_text(
        "[selection]\nbins = 8\n[annotation]\nquestions_per_day = 9\n"
        "[synthesis]\nk = 1\nmax_tokens = 8\nmax_attempts = 1\nstyle = 'zero-shot'\n"
        "[finetune]\nepochs = 1\n[evaluation]\nmax_tokens = 4\nholdout_ratio = 0.5\n"
        "[memory]\nuse = 'never'\n[chat]\nmax_tokens = 8\n"
    )
    return folder
