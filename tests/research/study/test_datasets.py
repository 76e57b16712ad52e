"""Loading the six data sets from small files of their rows, and from invalid files."""

from __future__ import annotations

import csv
import gzip
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal import UserError
from mlx_personal.importers.formats import training_set
from mlx_personal.research.study import datasets
from mlx_personal.research.study.datasets import DATASETS, LoadedDataset, load_dataset

ALPACA = [
    {"instruction": "Name a fruit.", "input": "", "output": "A pear.", "text": "Below is an instruction ..."},
    {"instruction": "Correct this.", "input": "He go home.", "output": "He goes home.", "text": "Below is ..."},
]
DOLLY = [
    {"instruction": "Who won?", "context": "The reds lost.", "response": "Not the reds.", "category": "closed_qa"},
    {"instruction": "Name a river.", "context": "", "response": "The Oder.", "category": "open_qa"},
]


def write_json_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_json(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]], row_group_size: int | None = None) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.Table.from_pylist(rows), path, row_group_size=row_group_size
    )
    return path


def contents(loaded: LoadedDataset) -> list[list[str]]:
    return [[m.content for m in s.dialogue.messages] for s in loaded.dialogues]


def roles(loaded: LoadedDataset) -> list[str]:
    return ["".join(m.role[0] for m in s.dialogue.messages) for s in loaded.dialogues]


def topics(loaded: LoadedDataset) -> list[str | None]:
    return [s.topic for s in loaded.dialogues]


# The six schemas


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.jsonl", write_json_lines), ("a.parquet", write_parquet), ("a.json", write_json)],
)
def test_an_alpaca_question_is_its_instruction_and_input(
    tmp_path: Path, name: str, write: Callable[[Path, list[Any]], Path]
) -> None:
    path = write(tmp_path / name, ALPACA)
    loaded = load_dataset("alpaca", path)
    assert contents(loaded) == [["Name a fruit.", "A pear."], ["Correct this.\n\nHe go home.", "He goes home."]]
    assert topics(loaded) == [None, None]


def test_a_dolly_question_is_its_instruction_and_context_and_its_topic_the_category(tmp_path: Path) -> None:
    loaded = load_dataset("dolly", write_json_lines(tmp_path / "dolly.jsonl", DOLLY))
    assert contents(loaded) == [["Who won?\n\nThe reds lost.", "Not the reds."], ["Name a river.", "The Oder."]]
    assert topics(loaded) == ["closed_qa", "open_qa"]


def prosocial_row(dialogue: int, position: int, label: str = "__casual__") -> dict[str, Any]:
    return {
        "context": f"question {dialogue}.{position}",
        "response": f"answer {dialogue}.{position}",
        "rots": None,
        "safety_label": label,
        "safety_annotations": ["casual"],
        "source": "somewhere",
        "etc": None,
        "dialogue_id": dialogue,
        "response_id": position,
        "episode_done": False,
    }


def test_prosocial_rows_are_grouped_by_dialogue_and_ordered_by_response(tmp_path: Path) -> None:
    rows = [
        prosocial_row(7, 1),
        prosocial_row(3, 0, "__needs_caution__"),
        prosocial_row(7, 0, "__casual__"),
        prosocial_row(3, 1),
    ]
    # On the hub this file is called .json but holds one row per line.
    loaded = load_dataset("prosocial", write_json_lines(tmp_path / "train.json", rows))
    assert contents(loaded) == [
        ["question 7.0", "answer 7.0", "question 7.1", "answer 7.1"],
        ["question 3.0", "answer 3.0", "question 3.1", "answer 3.1"],
    ]
    assert roles(loaded) == ["uaua", "uaua"]
    assert topics(loaded) == ["casual", "needs_caution"]


def test_a_dialogue_ends_at_a_missing_row_and_is_dropped_without_its_first_row(tmp_path: Path) -> None:
    rows = [
        prosocial_row(0, 0),
        prosocial_row(0, 2),
        prosocial_row(1, 1),
        prosocial_row(2, 0) | {"response_id": "first"},
        prosocial_row(2, 0) | {"dialogue_id": None},
    ]
    loaded = load_dataset("prosocial", write_json_lines(tmp_path / "train.jsonl", rows))
    assert contents(loaded) == [["question 0.0", "answer 0.0"]]
    assert sorted(line.reason for line in loaded.invalid_lines) == [
        "a dialogue without its beginning",
        *["a row without its dialogue_id or response_id"] * 2,
    ]


EMPATHETIC_COLUMNS = ["conv_id", "utterance_idx", "context", "prompt", "speaker_idx", "utterance", "selfeval", "tags"]


def test_in_an_empathetic_csv_the_first_speaker_is_the_user(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    rows = [
        ["hit:0_conv:1", "1", "proud", "p", "12", "My sister won_comma_ at last.", "5|5|5_2|2|5", ""],
        # A bare quote, as in the original file. Read as CSV quoting it would join the lines up to the next one.
        ["hit:0_conv:1", "2", "proud", "p", "4", 'What did she "win?', "5|5|5_2|2|5", ""],
        ["hit:0_conv:1", "3", "proud", "p", "12", "A race.", "5|5|5_2|2|5", ""],
        ["hit:1_conv:2", "1", "afraid", "p", "4", "It is dark.", "5|5|5_2|2|5", ""],
        ["hit:1_conv:2", "2", "afraid", "p", "12", '"Light a lamp.', "5|5|5_2|2|5", "<HI>"],
    ]
    path.write_text("\n".join(",".join(row) for row in [EMPATHETIC_COLUMNS, *rows]) + "\n")
    loaded = load_dataset("empathetic", path)
    assert contents(loaded) == [["My sister won, at last.", 'What did she "win?'], ["It is dark.", '"Light a lamp.']]
    assert topics(loaded) == ["proud", "afraid"]


def test_in_the_hubs_empathetic_file_a_row_is_a_dialogue(tmp_path: Path) -> None:
    turns = [("user", "I lost it_comma_ all."), ("assistant", "Oh no."), ("assistant", "What?"), ("user", "My hat.")]
    conversation = [{"content": text, "role": role} for role, text in turns]
    row = {"conv_id": "hit:0_conv:0", "situation": "s", "emotion": "sad", "conversations": conversation}
    loaded = load_dataset("empathetic", write_parquet(tmp_path / "train.parquet", [row]))
    assert contents(loaded) == [["I lost it, all.", "Oh no.\n\nWhat?"]]
    assert topics(loaded) == ["sad"]


def orca_row(number: int) -> dict[str, str]:
    system = "You are terse." if number % 2 else ""
    return {"id": f"niv.{number}", "system_prompt": system, "question": f"q{number}", "response": f"r{number}"}


def test_openorca_has_system_prompts_and_the_prefix_of_the_id_as_topic(tmp_path: Path) -> None:
    rows = [orca_row(0), orca_row(1), orca_row(2) | {"id": "cot.9"}]
    loaded = load_dataset("openorca", write_parquet(tmp_path / "gpt4.parquet", rows))
    assert roles(loaded) == ["ua", "sua", "ua"]
    assert contents(loaded)[1] == ["You are terse.", "q1", "r1"]
    assert topics(loaded) == ["niv", "niv", "cot"]


def test_a_parquet_file_is_read_only_as_far_as_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "gpt4.parquet", [orca_row(i) for i in range(5000)], row_group_size=100)
    num_read = 0

    def counting_read_rows(*arguments: Any) -> Iterator[object]:
        nonlocal num_read
        for row in training_set.read_rows(*arguments):
            num_read += 1
            yield row

    monkeypatch.setattr(datasets, "read_rows", counting_read_rows)
    loaded = load_dataset("openorca", path, max_dialogues=30)
    assert contents(loaded) == [[*(["You are terse."] if i % 2 else []), f"q{i}", f"r{i}"] for i in range(30)]
    assert num_read == 31


@pytest.mark.parametrize(
    "row",
    [
        {"tgt": "About a knee.", "src": "Patient: my knee hurts Doctor: Rest it.", "id": 4},
        {"description": "knee", "utterances": ["patient: my knee hurts", "doctor: Rest it."]},
        {"instruction": "If you are a doctor, answer.", "input": "my knee hurts", "output": "Rest it."},
    ],
)
def test_all_forms_of_meddialog_are_read(tmp_path: Path, row: dict[str, Any]) -> None:
    loaded = load_dataset("meddialog", write_json_lines(tmp_path / "med.jsonl", [row]))
    assert contents(loaded) == [["my knee hurts", "Rest it."]]
    assert topics(loaded) == [None]


def test_meddialog_texts_are_split_at_speaker_labels_only(tmp_path: Path) -> None:
    src = "Patient: Dear Doctor: it is my knee. Doctor: Which? Patient: NoDoctor: the left. Doctor: Rest."
    loaded = load_dataset(
        "meddialog", write_json_lines(tmp_path / "med.jsonl", [{"src": src}, {"src": "no speakers at all"}])
    )
    assert contents(loaded) == [["Dear Doctor: it is my knee.", "Which?", "NoDoctor: the left.", "Rest."]]
    assert loaded.invalid_lines[0].reason == "a conversation without text"


# Local files


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_can_be_read_from_chats(tmp_path: Path, name: str) -> None:
    chat = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]
    rows: list[Any] = [
        {"messages": [{"role": "system", "content": "Be brief."}, *chat], "emotion": "calm", "row": 3},
        {"conversations": [{"from": "human", "value": "How?"}, {"from": "gpt", "value": "Thus."}], "topic": " "},
        {"prompt": "Why?", "completion": "So.", "category": "talk"},
        {"messages": [*chat, {"role": "user", "content": "And?"}], "source": "a forum"},
        [*chat, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No."}],
    ]
    path = tmp_path / "chats.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    loaded = load_dataset(name, path)
    assert contents(loaded) == [
        ["Be brief.", "Hello?", "Yes."],
        ["How?", "Thus."],
        ["Why?", "So."],
        ["Hello?", "Yes."],
        ["Hello?", "Yes.", "And?", "No."],
    ]
    assert topics(loaded) == ["calm", None, "talk", None, None]
    assert loaded.invalid_lines == ()


def test_a_csv_with_quoted_fields_is_read(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ALPACA[0]))
        writer.writeheader()
        writer.writerows([*ALPACA, {"instruction": 'Say "a, b"\ntwice', "input": "", "output": "a, b, a, b"}])
    assert contents(load_dataset("alpaca", path))[2] == ['Say "a, b"\ntwice', "a, b, a, b"]


def test_invalid_rows_are_skipped_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "dolly.jsonl"
    invalid = [
        "{not json",
        json.dumps(DOLLY[0] | {"response": " "}),
        json.dumps(DOLLY[0] | {"response": ["a list"]}),
        json.dumps({"instruction": "no answer"}),
        json.dumps("text"),
        json.dumps(DOLLY[0] | {"response": "\ud800"}),
    ]
    path.write_text("\n".join([*invalid, json.dumps(DOLLY[1])]))
    loaded = load_dataset("dolly", path)
    assert contents(loaded) == [["Name a river.", "The Oder."]]
    assert [line.where for line in loaded.invalid_lines] == [f"{path}:{i}" for i in range(1, 7)]
    assert [line.reason for line in loaded.invalid_lines] == [
        "not JSON (expecting property name enclosed in double quotes)",
        "an empty assistant message",
        "a turn without a role",
        "a row without a conversation",
        "a row that is not an object",
        "a lone surrogate (half a character, or a byte that is not UTF-8) in an assistant message",
    ]


def test_bytes_that_are_not_utf8_invalidate_one_row_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.csv"
    path.write_bytes(b"instruction,input,output\nName \xff.,,x\nName a tree.,,Oak.\n")
    loaded = load_dataset("alpaca", path)
    assert contents(loaded) == [["Name a tree.", "Oak."]]
    assert "surrogate" in loaded.invalid_lines[0].reason


def test_repeated_dialogues_are_dropped(tmp_path: Path) -> None:
    loaded = load_dataset(
        "dolly", write_json_lines(tmp_path / "d.jsonl", [DOLLY[0], DOLLY[1], DOLLY[0] | {"category": "other"}])
    )
    assert topics(loaded) == ["closed_qa", "open_qa"]
    assert loaded.num_duplicates == 1


def test_the_source_identifies_the_file_and_the_limit(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path / "d.jsonl", DOLLY)
    whole = load_dataset("dolly", path)
    assert re.fullmatch("[0-9a-f]{16}", whole.source)
    assert load_dataset("dolly", path, max_dialogues=2).source == whole.source
    assert load_dataset("dolly", path, max_dialogues=1).source == f"{whole.source}:1"
    assert load_dataset("dolly", write_json_lines(tmp_path / "e.jsonl", DOLLY[:1])).source != whole.source
    with pytest.raises(ValueError, match="at least 1"):
        load_dataset("dolly", path, max_dialogues=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", b"", "it has no rows"),
        ("d.jsonl", b" \n", "it has no rows"),
        ("d.csv", b"instruction,response\n", "it has no rows"),
        ("d.jsonl", b"{broken", "none of its rows is usable .first: not JSON"),
        ("d.jsonl", b'{"score": 1}', "first: a row without a conversation.; name a file with rows of DOLLY, or of"),
        ("d.json", b'[{"instruction": 1},', "none of its rows is usable"),
        ("d.txt", b"instruction", "none of its rows is usable"),
        ("d.jsonl.gz", gzip.compress(b"{}" * 999, mtime=0)[:-9], "is cut off or damaged"),
        ("d.parquet", b"PAR1 but not really PAR1", "damaged Parquet file"),
    ],
)
def test_a_file_without_usable_rows_gives_a_one_line_error(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        load_dataset("dolly", tmp_path / name)
    assert "\n" not in raised.value.line()


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.csv", "missing.parquet", "missing.json.gz"])
def test_a_missing_file_gives_a_one_line_error(tmp_path: Path, name: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match="no such file"):
        load_dataset("alpaca", tmp_path / name)


def test_a_folder_and_an_unknown_name_give_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        load_dataset("alpaca", tmp_path / "data.jsonl")
    with pytest.raises(UserError, match=r"^\.: is a folder"):
        load_dataset("alpaca", "")
    with pytest.raises(UserError, match="name one of alpaca, dolly, prosocial, empathetic, openorca, meddialog"):
        load_dataset("squad")


# Columns of the six data sets, and values that they may have.
COLUMNS = [
    *("instruction", "input", "output", "context", "response", "category", "question", "id", "system_prompt"),
    *("safety_label", "dialogue_id", "response_id", "conv_id", "utterance_idx", "utterance", "speaker_idx"),
    *("conversations", "messages", "emotion", "src", "utterances", "role", "content"),
]
VALUES = st.recursive(
    st.sampled_from([None, True, 0, 1, 10**30, 0.5, "", "1", "user", "Patient: a Doctor: b", "doctor: x", "\ud800"]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(COLUMNS), values, max_size=6),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(DATASETS)), st.lists(VALUES, min_size=1, max_size=6))
def test_rows_of_any_shape_are_read_or_reported(name: str, rows: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_json_lines(Path(folder) / "rows.jsonl", [{"prompt": "Why?", "completion": "So."}, *rows])
        loaded = load_dataset(name, path)
    assert contents(loaded)[0] == ["Why?", "So."]
    assert all(dialogue.topic is None or dialogue.topic.strip() for dialogue in loaded.dialogues)
    lines = [int(line.where.rpartition(":")[2]) for line in loaded.invalid_lines]
    assert all(1 < line <= len(rows) + 1 for line in lines)
