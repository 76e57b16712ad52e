"""Consent on record, and the ledger of what left: the newest word counts, and no crash or full disk loses a line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from mlx_personal.augmentation import ledger as ledger_module
from mlx_personal.augmentation.consent import Consent
from mlx_personal.augmentation.ledger import Ledger, Totals
from mlx_personal.errors import UserError

URL = "https://example.org/v1"


def lines(path: Any) -> Any:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Consent


def test_without_consent_the_command_that_gives_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        Consent(tmp_path).require(URL, "my model")
    command = str(error.value).partition("`")[2].rstrip("`")
    wanted = ["mlx-personal", "augment", "consent", "--server", URL, "--server-model", "my model"]
    assert shlex.split(command) == wanted
    assert not list(tmp_path.iterdir())


def test_the_newest_word_counts_for_its_server_and_model_alone(tmp_path: Path) -> None:
    Consent(tmp_path / "new").grant(URL, "m")
    consent = Consent(tmp_path / "new")
    consent.require(URL, "m")
    consent.require(URL + "/", "m")
    assert not consent.granted(URL, "n") and not consent.granted("https://example.com/v1", "m")
    consent.withdraw(URL + "/", "m")
    with pytest.raises(UserError, match="consent"):
        consent.require(URL, "m")
    consent.grant(URL, "m")
    assert consent.granted(URL, "m")
    assert [line["granted"] for line in lines(consent.path)] == [True, False, True]
    assert all(line["time"] and line["server"] == URL for line in lines(consent.path))
    assert consent.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "damage", ['{"server"', "[]", "{}", "5", "", '{"server": "s", "model": "m", "granted": "yes"}', "\ufffe"]
)
def test_a_damaged_line_is_named_and_nothing_is_lost(tmp_path: Path, damage: str) -> None:
    consent = Consent(tmp_path)
    consent.grant(URL, "m")
    with consent.path.open("a") as file:
        file.write(f"{damage}\n")
    before = consent.path.read_bytes()
    for step in (consent.require, consent.grant, consent.withdraw):
        with pytest.raises(UserError, match="line 2 is damaged") as error:
            step(URL, "m")
        assert "\n" not in str(error.value)
    assert consent.path.read_bytes() == before


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    consent = Consent(tmp_path)
    consent.path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        consent.require(URL, "m")
    consent.path.unlink()
    consent.path.mkdir()
    with pytest.raises(UserError, match="directory"):
        consent.require(URL, "m")


# Ledger


def test_a_line_before_and_a_line_after_every_attempt(tmp_path: Path) -> None:
    body = '{"a": "Grüße\\n"}'.encode()
    with Ledger(tmp_path / "new") as ledger:
        assert ledger.sending("ann", URL, body) == 1
        assert ledger.sending("bob\udcff", URL, b"b") == 2
        ledger.ended(2, 200, 30, 12)
        ledger.ended(1, None, 0, failure="no reply")
    first, second, *ends = lines(ledger.path)
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
    assert ledger.totals() == Totals(2, len(body) + 1, 1)


def test_the_line_is_on_the_disk_before_sending_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    ledger.sending("ann", URL, b"a")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(len(ledger.path.read_bytes())))
    ledger.sending("ann", URL, b"b")
    assert synced == [len(ledger.path.read_bytes())]


def test_the_next_run_goes_on_counting(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.sending("ann", URL, b"a")
        ledger.ended(1, 200, 3)
    with Ledger(tmp_path) as ledger:
        assert ledger.sending("ann", URL, b"bc") == 2
        assert ledger.totals() == Totals(2, 3, 1)
    assert len(lines(ledger.path)) == 3


@pytest.mark.parametrize("torn", [b'{"attempt": 2, "ti', b"\0\0\0", b'{"attempt": 2, "bytes": 5}', b"\xff"])
def test_a_torn_last_line_is_passed_over_and_then_replaced(tmp_path: Path, torn: bytes) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.sending("ann", URL, b"abc")
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole + torn)
    assert Ledger(tmp_path).totals() == Totals(1, 3, 1)
    with Ledger(tmp_path) as ledger:
        assert ledger.sending("ann", URL, b"d") == 2
    assert ledger.path.read_bytes().startswith(whole + b'{"attempt": 2')
    assert ledger.totals() == Totals(2, 4, 2)


@pytest.mark.parametrize(
    "damage", [b"{", b"[]", b"{}", b"\xff", b'{"attempt": 1}', b"5", b'{"attempt": 1, "bytes": "x"}']
)
def test_a_damaged_line_inside_is_named_and_stays(tmp_path: Path, damage: bytes) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.sending("ann", URL, b"abc")
    ledger.path.write_bytes(damage + b"\n" + ledger.path.read_bytes())
    before = ledger.path.read_bytes()
    with pytest.raises(UserError, match="line 1 is damaged"):
        Ledger(tmp_path).totals()
    with pytest.raises(UserError, match="line 1 is damaged"):
        Ledger(tmp_path).sending("ann", URL, b"d")
    assert ledger.path.read_bytes() == before


def test_a_full_disk_in_the_middle_of_a_line_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(ledger_module.FileIO):
        full = False

        def write(self, data: Any) -> Any:
            if not Full.full:
                return super().write(data)
            super().write(bytes(data)[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ledger_module, "FileIO", Full)
    with Ledger(tmp_path) as ledger:
        ledger.sending("ann", URL, b"a")
        Full.full = True
        with pytest.raises(UserError, match="the disk is full"):
            ledger.sending("ann", URL, b"b")
        assert ledger.totals() == Totals(1, 1, 1)
        Full.full = False
        ledger.sending("ann", URL, b"c")
        assert [line["body"] for line in lines(ledger.path)] == ["a", "c"]


def test_nothing_sent_is_nothing(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "none").totals() == Totals(0, 0, 0)
    assert not list(tmp_path.iterdir())
