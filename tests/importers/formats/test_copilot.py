"""The activity history of Copilot: the order of rows, conversations by title, and what is left out."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal.errors import UserError
from mlx_personal.importers import Conversation, read_imports
from mlx_personal.importers.formats.copilot import CopilotImporter
from tests.support.exports import conversations, dialogues, skipped

QUESTION, ANSWER = 'When do I sow "peas", and how?', "In March:\n\n- under fleece, 5 cm apart"
EXCHANGE = [("user", QUESTION), ("assistant", ANSWER)]
START = 1762300800.0  # 2025-11-05
HEADER = ["Conversation", "Time", "Author", "Message"]
# The latest message comes first, and an answer has the time of its question.
PEAS = [["Peas", "2025-11-05T00:00:00", "AI", ANSWER], ["Peas", "2025-11-05T00:00:00", "Human", QUESTION]]


def history(tmp_path: Path, *rows: list[str], encoding: str = "utf-8-sig") -> Path:
    path = tmp_path / "copilot-activity-history.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([HEADER, *rows])
    return path


def read(path: Path) -> list[Conversation]:
    return conversations(path, CopilotImporter())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8", "utf-16"])
def test_rows_are_turned_around(tmp_path: Path, encoding: str) -> None:
    thanks = [
        ["Peas", "2025-11-05T00:01:00", "AI", "Welcome."],
        ["Peas", "2025-11-05T00:01:00", "Human", "Thanks, Zoë"],
    ]
    path = history(tmp_path, *thanks, *PEAS, encoding=encoding)
    assert dialogues(path) == [[*EXCHANGE, ("user", "Thanks, Zoë"), ("assistant", "Welcome.")]]
    (found,) = read(path)
    assert (found.app, found.id, found.title, found.time) == ("copilot", "", "Peas", START)


def test_rows_with_the_same_title_in_a_row_are_a_conversation(tmp_path: Path) -> None:
    beans = [["Beans", "2025-11-05T00:02:00", "AI", "In May."], ["Beans", "2025-11-05T00:02:00", "Human", "And beans?"]]
    path = history(tmp_path, *PEAS, *beans, *PEAS)
    assert dialogues(path) == [EXCHANGE, [("user", "And beans?"), ("assistant", "In May.")], EXCHANGE]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    long = ["Peas", "2025-11-05T00:03:00", "AI", "x" * 200_000]
    rows = [long, ["Peas", "now", "System", "a"], ["Peas"], [], *PEAS]
    path = history(tmp_path, *rows)
    assert dialogues(path) == [EXCHANGE]
    assert skipped(path) == ["a message that is too long", *["a row without a known author"] * 3]


def test_another_table_is_not_recognized(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Date,Author,Amount\n2025-11-05,Human,3\n")
    with pytest.raises(UserError, match="no format that can be read"):
        dialogues(tmp_path / "a.csv")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    text=st.lists(st.sampled_from(('"', ",", "\n", "\r\n", "Human", "AI", "\0", "Peas", "2025-11-05T00:00:00", "ä")))
)
def test_a_damaged_history_never_raises_another_error(text: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.csv"
        path.write_bytes(f"{','.join(HEADER)}\n{''.join(text)}".encode())
        try:
            list(read_imports(path, "copilot"))
        except UserError:
            return
