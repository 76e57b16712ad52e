"""Consent and ledger: the newest decision counts, and neither a crash nor a full disk loses a line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from mlx_personal.augmentation import ledger as ledger_module
from mlx_personal.augmentation.consent import Consent
from mlx_personal.augmentation.ledger import Ledger, LedgerTotals
from mlx_personal.errors import Action, Remedy, UserError

URL = "https://example.org/v1"


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Consent


@pytest.mark.parametrize("out", [None, Path("my folder")])
def test_missing_consent_names_the_remedy(tmp_path: Path, out: Path | None) -> None:
    with pytest.raises(UserError, match=r"nothing is sent to https://example\.org/v1 without your consent") as error:
        Consent(tmp_path).require(URL, "my model", out)
    arguments = {"server": URL, "model": "my model", **({} if out is None else {"out": "my folder"})}
    assert error.value.remedy == Remedy(Action.GRANT_CONSENT, arguments)
    assert not list(tmp_path.iterdir())


def test_the_newest_decision_counts_for_its_server_and_model_alone(tmp_path: Path) -> None:
    Consent(tmp_path / "new").grant(URL, "m")
    consent = Consent(tmp_path / "new")
    consent.require(URL, "m")
    consent.require(URL + "/", "m")
    assert not consent.is_granted(URL, "n") and not consent.is_granted("https://example.com/v1", "m")
    consent.withdraw(URL + "/", "m")
    with pytest.raises(UserError, match="consent"):
        consent.require(URL, "m")
    consent.grant(URL, "m")
    assert consent.is_granted(URL, "m")
    assert [line["granted"] for line in read_lines(consent.path)] == [True, False, True]
    assert all(line["time"] and line["server"] == URL for line in read_lines(consent.path))
    assert consent.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "damage", ['{"server"', "[]", "{}", "5", "", '{"server": "s", "model": "m", "granted": "yes"}', "\ufffe"]
)
def test_a_damaged_line_is_named_and_the_file_stays(tmp_path: Path, damage: str) -> None:
    consent = Consent(tmp_path)
    consent.grant(URL, "m")
    with consent.path.open("a") as file:
        file.write(f"{damage}\n")
    before = consent.path.read_bytes()
    for method in (consent.require, consent.grant, consent.withdraw):
        with pytest.raises(UserError, match="line 2 is damaged") as error:
            method(URL, "m")
        assert "\n" not in str(error.value)
    assert consent.path.read_bytes() == before


def test_an_unreadable_file_is_a_user_error(tmp_path: Path) -> None:
    consent = Consent(tmp_path)
    consent.path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        consent.require(URL, "m")
    consent.path.unlink()
    consent.path.mkdir()
    with pytest.raises(UserError, match="directory"):
        consent.require(URL, "m")


# Ledger


def test_every_attempt_has_a_line_before_and_after(tmp_path: Path) -> None:
    body = '{"a": "Grüße\\n"}'.encode()
    with Ledger(tmp_path / "new") as ledger:
        assert ledger.begin_attempt("ann", URL, body) == 1
        assert ledger.begin_attempt("bob\udcff", URL, b"b") == 2
        ledger.end_attempt(2, 200, 30, 12)
        ledger.end_attempt(1, None, 0, failure="no reply")
    first, second, *ends = read_lines(ledger.path)
    assert first.pop("time") and second.pop("time")
    assert first == {
        "attempt": 1,
        "user": "ann",
        "url": URL,
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "body": body.decode(),
    }
    assert second["user"] == "bob\\udcff"
    assert [{k: v for k, v in end.items() if k != "time"} for end in ends] == [
        {"ended": 2, "status": 200, "received": 30, "tokens": 12},
        {"ended": 1, "status": None, "received": 0, "tokens": None, "failure": "no reply"},
    ]
    assert ledger.path.stat().st_mode & 0o777 == 0o600
    assert ledger.totals() == LedgerTotals(2, len(body) + 1, 1)


def test_the_line_is_on_the_disk_when_begin_attempt_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin_attempt("ann", URL, b"a")
        synced = []
        monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(len(ledger.path.read_bytes())))
        ledger.begin_attempt("ann", URL, b"b")
        assert synced == [len(ledger.path.read_bytes())]


def test_the_next_run_continues_the_numbers(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin_attempt("ann", URL, b"a")
        ledger.end_attempt(1, 200, 3)
    with Ledger(tmp_path) as ledger:
        assert ledger.begin_attempt("ann", URL, b"bc") == 2
        assert ledger.totals() == LedgerTotals(2, 3, 1)
    assert len(read_lines(ledger.path)) == 3


@pytest.mark.parametrize("incomplete", [b'{"attempt": 2, "ti', b"\0\0\0", b'{"attempt": 2, "bytes": 5}', b"\xff"])
def test_an_incomplete_last_line_is_ignored_and_replaced(tmp_path: Path, incomplete: bytes) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin_attempt("ann", URL, b"abc")
    complete = ledger.path.read_bytes()
    ledger.path.write_bytes(complete + incomplete)
    assert Ledger(tmp_path).totals() == LedgerTotals(1, 3, 1)
    with Ledger(tmp_path) as ledger:
        assert ledger.begin_attempt("ann", URL, b"d") == 2
    assert ledger.path.read_bytes().startswith(complete + b'{"attempt": 2')
    assert ledger.totals() == LedgerTotals(2, 4, 2)


@pytest.mark.parametrize(
    "damage", [b"{", b"[]", b"{}", b"\xff", b'{"attempt": 1}', b"5", b'{"attempt": 1, "bytes": "x"}']
)
def test_a_damaged_line_before_the_last_is_named_and_stays(tmp_path: Path, damage: bytes) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin_attempt("ann", URL, b"abc")
    ledger.path.write_bytes(damage + b"\n" + ledger.path.read_bytes())
    before = ledger.path.read_bytes()
    with pytest.raises(UserError, match="line 1 is damaged"):
        Ledger(tmp_path).totals()
    with pytest.raises(UserError, match="line 1 is damaged"):
        Ledger(tmp_path).begin_attempt("ann", URL, b"d")
    assert ledger.path.read_bytes() == before


def test_a_full_disk_loses_no_other_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullFile(FileIO):
        is_full = False

        def write(self, data: Any) -> int:
            if not FullFile.is_full:
                return super().write(data)
            super().write(bytes(data)[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ledger_module, "FileIO", FullFile)
    with Ledger(tmp_path) as ledger:
        ledger.begin_attempt("ann", URL, b"a")
        FullFile.is_full = True
        with pytest.raises(UserError, match="the disk is full"):
            ledger.begin_attempt("ann", URL, b"b")
        assert ledger.totals() == LedgerTotals(1, 1, 1)
        FullFile.is_full = False
        ledger.begin_attempt("ann", URL, b"c")
        assert [line["body"] for line in read_lines(ledger.path)] == ["a", "c"]


def test_totals_are_zero_without_a_file(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "none").totals() == LedgerTotals(0, 0, 0)
    assert not list(tmp_path.iterdir())
