"""The benchmark of synthesis' quality: what it counts, what it writes, and that it shows no text of a data set."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.synthesis import RewriteCandidate
from tests.support.paths import ROOT

DIALOGUES = [Dialogue.of(f"What is thing {n} made of?", "Sand.") for n in range(3)]
REWRITE = Dialogue.of("Do you know what thing 0 is made of?", "Sand.")


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    yield importlib.import_module("benchmarks.synthesis_quality")


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    path = tmp_path / "things.jsonl"
    path.write_text("".join(json.dumps({"messages": d.to_messages()}) + "\n" for d in [*DIALOGUES, *DIALOGUES]))
    return path


@pytest.fixture
def synthesized(quality: ModuleType, monkeypatch: pytest.MonkeyPatch, tiny_model: LanguageModel) -> None:
    """Two of the six wanted rewrites are kept, of three drawn."""

    def synthesize(lm: LanguageModel, dialogues: Any, config: Any, style: Any) -> list[RewriteCandidate]:
        index = dialogues.index(DIALOGUES[0])
        kept = RewriteCandidate(index, REWRITE, "", 0.8, "kept")
        return [kept, kept, RewriteCandidate(index, None, "", None, "unparsable")]

    monkeypatch.setattr(quality, "synthesize", synthesize)
    monkeypatch.setattr(quality, "load_language_model", lambda _: tiny_model)


@pytest.mark.usefixtures("synthesized")
def test_the_report_has_the_shares_and_the_verdicts_but_no_text(
    quality: ModuleType, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, texts, verdicts = tmp_path / "report.md", tmp_path / "texts.jsonl", tmp_path / "verdicts.json"
    common = [str(stream), "--model", "demo", "--dialogues", "3", "--rewrites", "2", "--style", "zero-shot"]
    assert quality.main([*common, "--texts", str(texts), "--out", str(out)]) == 1  # the target is missed
    kept = [json.loads(line) for line in texts.read_text().splitlines()]
    assert [text["rewrite"] for text in kept] == [REWRITE.question] * 2
    verdicts.write_text(json.dumps({kept[0]["id"]: "same meaning", kept[1]["id"]: "drifted"}))
    capsys.readouterr()
    quality.main([*common, "--verdicts", str(verdicts), "--out", str(out), "--json"])
    values = json.loads(capsys.readouterr().out)["streams"][0]
    assert (values["wanted"], values["got"], values["drawn"]) == (6, 2, 3)
    assert (values["share_got"], values["kept_rate"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (values["content_kept"], values["dropped"], values["rouge1_between"]) == (1.0, {"unparsable": 1}, 1.0)
    report = out.read_text()
    assert "| things | zero-shot | 33% of 6 | 67% of 3 |" in report
    assert "2 kept rewrites, read by eye" in report
    assert f"- drifted: {kept[1]['id']}" in report
    assert "made of" not in report


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [("[]", "not a JSON object"), ('{"a/1/1": "fine"}', "a verdict is one of"), ("{", "not JSON"), (None, "")],
)
def test_bad_input_is_one_line(
    quality: ModuleType,
    stream: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    verdicts: str | None,
    message: str,
) -> None:
    file = tmp_path / "verdicts.json"
    if verdicts is not None:
        file.write_text(verdicts)
    assert quality.main([str(stream), "--model", "demo", "--verdicts", str(file)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_too_few_dialogues_are_refused(quality: ModuleType, stream: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quality.main([str(stream), "--model", "demo", "--dialogues", "4"]) == 2
    assert "has 3 different dialogues, not 4" in capsys.readouterr().err
