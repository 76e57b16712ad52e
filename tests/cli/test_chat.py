"""`chat`: conversations, and input that is not text."""

from __future__ import annotations

from pathlib import Path

from tests.support.cli import error_line, run_cli, run_json


def test_chat_answers_and_stores_the_conversation(profile: Path) -> None:
    result = run_cli("chat", stdin="How do I fix the lamp?\nAnd the soup?\n\n")
    assert result.exit_code == 0
    dialogue = run_json("buffer", "show", 1)
    assert dialogue["source"] == "chat"
    assert [m["role"] for m in dialogue["messages"]] == ["user", "assistant"] * 2
    assert run_cli("chat", "--json").exit_code == 2
    assert "empty" in error_line("chat", " ")


def test_chat_refuses_input_that_is_not_utf8(profile: Path) -> None:
    line = "mlx-personal: standard input: not UTF-8 text; check the terminal's encoding"
    assert run_cli("chat", stdin=b"caf\xe9\n").stderr.splitlines()[-1] == line
