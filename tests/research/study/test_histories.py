"""Long personal histories: the files of the data sets, the run of a user, and the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import Dialogue, UserError, jobs
from mlx_personal.research.study import StudyFolder, StudySpec, run_study
from mlx_personal.research.study.cell import HISTORY, Cell
from mlx_personal.research.study.histories import HISTORIES, read_histories
from mlx_personal.research.study.history_report import history_section
from mlx_personal.research.study.history_run import OPTION_ACCURACY
from mlx_personal.research.study.profile_run import LONG_CONTEXT, MODES
from mlx_personal.research.study.report import write_report
from tests.support.study_runs import InProcessJobs


def session(user: str, number: int, *texts: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(texts)
    return {
        "user": user,
        "session": number,
        "messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)],
    }


MSC = [
    session("a", 1, "Hello?", "Hi, I like cars.", "Me too.", "Good."),
    session("a", 2, "I have a dog.", "Its name?"),
    session("a", 3, "The dog is ill.", "Oh no.", "It is old.", "How old?", "Nine.", "I see.", "And"),
    session("b", 1, "Nothing else?", "No."),
]
LOCOMO = [
    {
        "sample_id": "conv-1",
        "conversation": {
            "speaker_a": "Ann",
            "speaker_b": "Ben",
            "session_1_date_time": "1 May",
            "session_1": [
                {"speaker": "Ben", "dia_id": "D1:1", "text": "Hey Ann!"},
                {"speaker": "Ann", "dia_id": "D1:2", "text": "Hey."},
                {"speaker": "Ann", "dia_id": "D1:3", "text": "I bought a kayak."},
                {"speaker": "Ben", "dia_id": "D1:4", "text": "Nice."},
                {"speaker": "Ann", "dia_id": "D1:5", "text": "Bye."},
            ],
        },
        "qa": [
            {"question": "What did Ann buy?", "answer": "a kayak", "evidence": ["D1:3"], "category": 4},
            {"question": "When?", "answer": 2023, "evidence": ["D1:3", "D1:4"], "category": 2},
            {"question": "What did Ben say first?", "answer": "Hey", "evidence": ["D1:1"], "category": 4},
            {"question": "What did Ben buy?", "answer": "", "evidence": ["D1:3"], "category": 5},
            {"question": "Who?", "answer": "Ann", "evidence": [], "category": 4},
        ],
    }
]
PREFEVAL = [
    {
        "preference": f"I avoid thing {i}.",
        "question": f"What shall I take on trip {i}?",
        "classification_task_options": [f"Anything but thing {i}.", f"Take thing {i}.", "Both."],
    }
    for i in range(12)
]


def write(path: Path, name: str) -> Path:
    rows: dict[str, Any] = {"msc": MSC, "prefeval": PREFEVAL}
    text = json.dumps(LOCOMO) if name == "locomo" else "".join(json.dumps(row) + "\n" for row in rows[name])
    path.write_text(text)
    return path


def test_two_sessions_are_learned_and_the_third_is_asked_with_what_precedes(tmp_path: Path) -> None:
    (history,) = read_histories("msc", write(tmp_path / "f", "msc"), 9)  # user b has no third session
    assert history.user == "a" and not history.options
    assert history.learned == (
        Dialogue.of("Hello?", "Hi, I like cars."),
        Dialogue.of("Me too.", "Good."),
        Dialogue.of("I have a dog.", "Its name?"),
    )
    first, second, third = history.asked
    assert first == Dialogue.of("The dog is ill.", "Oh no.")
    assert second.question == "It is old." and [m.weight for m in second.messages] == [1, 0, 1, 1]
    assert third.exchanges()[0][0][0]["content"] == "The dog is ill." and third.assistant_turns == ("I see.",)


def test_exchanges_of_two_persons_are_dated_and_known_facts_are_asked(tmp_path: Path) -> None:
    (history,) = read_histories("locomo", write(tmp_path / "f", "locomo"), 9)
    assert history.learned == (Dialogue.of("[1 May] Hey. I bought a kayak.", "Nice."),)
    assert history.asked == (Dialogue.of("What did Ann buy?", "a kayak"), Dialogue.of("When?", "2023"))


def test_ten_stated_preferences_are_a_user_whose_questions_have_options(tmp_path: Path) -> None:
    first, second = read_histories("prefeval", write(tmp_path / "f", "prefeval"), 9)
    assert (len(first.learned), len(second.learned)) == (10, 2)
    assert first.learned[3].question == "I avoid thing 3."
    assert first.asked[3] == Dialogue.of("What shall I take on trip 3?", "Anything but thing 3.")
    assert first.options[3] == ("Anything but thing 3.", "Take thing 3.", "Both.")
    assert len(read_histories("prefeval", tmp_path / "f", 1)) == 1


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize("text", ["", "{}", "[]", "no json", '{"user": 1}', "[1]", '[{"conversation": {}}]', "\x00"])
def test_another_file_is_one_line_that_names_it(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match=r"other\.jsonl") as raised:
        read_histories(name, file, 9)
    assert "\n" not in raised.value.line()
    with pytest.raises(UserError, match="no such file"):
        read_histories(name, tmp_path / "nowhere", 9)


@pytest.mark.slow
def test_each_user_is_asked_in_each_mode_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_process = InProcessJobs()
    monkeypatch.setattr(jobs, "run_jobs", in_process)
    files = {name: write(tmp_path / name, name) for name in HISTORIES}
    spec = StudySpec(
        model="demo",
        data={},
        histories=files,
        max_users=1,
        cell_settings={"answer_tokens": 4, "choices": 2},
        training_settings={"epochs": 1, "rank": 2},
    )
    result = run_study(tmp_path / "study", spec)
    assert (result.num_computed, result.num_stored, result.failed) == (3, 0, [])
    again = run_study(tmp_path / "study", spec)
    assert (again.num_computed, again.num_stored) == (0, 3)
    cells = StudyFolder(tmp_path / "study").finished_cells()
    for cell, stored in cells:
        assert set(stored["modes"]) == {*MODES, LONG_CONTEXT} and stored["default"] in MODES
        if cell.data == "prefeval":
            assert all(set(values) == {OPTION_ACCURACY} for values in stored["modes"].values())
            assert set(stored["modes"]["base"][OPTION_ACCURACY]) <= {0.0, 1.0}
    # What was said before changes the likelihoods in each mode.
    (msc,) = [stored["modes"] for cell, stored in cells if cell.data == "msc"]
    assert len({tuple(values["log_likelihood"]) for values in msc.values()}) == len(msc)
    write_report(cells, tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| prefeval | 1 | accuracy |" in page and "| msc | 1 | log-likelihood |" in page


def history_cell(user: str, accuracies: dict[str, list[float]]) -> tuple[Cell, dict[str, Any]]:
    cell = Cell("prefeval", "f", "tiny", "m", 0, HISTORY, user=user)
    return cell, {
        "modes": {mode: {OPTION_ACCURACY: accuracies.get(mode, [0.0, 0.0])} for mode in (*MODES, LONG_CONTEXT)}
    }


def test_the_table_has_the_means_over_all_questions_and_gains_over_users() -> None:
    cells = [history_cell("a", {"memory": [1.0, 1.0]}), history_cell("b", {"memory": [1.0, 0.0], "base": [1.0, 0.0]})]
    section = history_section(cells)
    (row,) = [line for line in section.splitlines() if line.startswith("| prefeval")]
    assert row.startswith(
        "| prefeval | 2 | accuracy | 0.250 | 0.750 | 0.000 | 0.000 | 0.000 | +0.500 (+0.000 to +1.000)"
    )
    assert history_section([]) == ""


def test_a_user_is_part_of_the_key_and_sizes_of_streams_are_not() -> None:
    cell = Cell("msc", "f", "tiny", "m", 0, HISTORY, user="a")
    assert cell.key != Cell("msc", "f", "tiny", "m", 0, HISTORY, user="b").key
    assert cell.key == Cell("msc", "f", "tiny", "m", 0, HISTORY, user="a", bins=9, received=9, order="shuffled").key
    assert Cell.from_json(json.loads(json.dumps(cell.to_json()))).key == cell.key
    assert cell.text() == "msc, user a, seed 0"
