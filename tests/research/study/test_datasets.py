"""The six data sets: each read from a small file of its publisher's schema, and when broken."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal import Dialogue, UserError
from mlx_personal.research.study import datasets
from mlx_personal.research.study.datasets import DATASETS, Loaded, load
from mlx_personal.research.study.schemas import _in_turn

ALPACA = [
    {"instruction": "Name a fruit.", "input": "", "output": "A pear.", "text": "Below is an instruction ..."},
    {"instruction": "Correct this.", "input": "He go home.", "output": "He goes home.", "text": "Below is ..."},
]
DOLLY = [
    {"instruction": "Who won?", "context": "The reds lost.", "response": "Not the reds.", "category": "closed_qa"},
    {"instruction": "Name a river.", "context": "", "response": "The Oder.", "category": "open_qa"},
]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path, rows: list[dict[str, Any]], row_group: int | None = None) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=row_group)
    return path


def said(loaded: Loaded) -> list[list[str]]:
    return [[m.content for m in s.dialogue.messages] for s in loaded.samples]


def roles(loaded: Loaded) -> list[str]:
    return ["".join(m.role[0] for m in s.dialogue.messages) for s in loaded.samples]


def topics(loaded: Loaded) -> list[str | None]:
    return [s.topic for s in loaded.samples]


# The six schemas


@pytest.mark.parametrize("write", [lines, parquet, lambda path, rows: path.write_text(json.dumps(rows))])
def test_alpaca_asks_its_instruction_with_the_input_below(tmp_path: Path, write: Callable[[Path, Any], Any]) -> None:
    path = tmp_path / {lines: "a.jsonl", parquet: "a.parquet"}.get(write, "a.json")
    write(path, ALPACA)
    loaded = load("alpaca", path)
    assert said(loaded) == [["Name a fruit.", "A pear."], ["Correct this.\nHe go home.", "He goes home."]]
    assert topics(loaded) == [None, None]


def test_dolly_asks_its_instruction_with_the_context_below_and_has_categories(tmp_path: Path) -> None:
    loaded = load("dolly", lines(tmp_path / "dolly.jsonl", DOLLY))
    assert said(loaded) == [["Who won?\nThe reds lost.", "Not the reds."], ["Name a river.", "The Oder."]]
    assert topics(loaded) == ["closed_qa", "open_qa"]


def prosocial(dialogue: int, place: int, label: str = "__casual__") -> dict[str, Any]:
    return {
        "context": f"question {dialogue}.{place}",
        "response": f"answer {dialogue}.{place}",
        "rots": None,
        "safety_label": label,
        "safety_annotations": ["casual"],
        "source": "somewhere",
        "etc": None,
        "dialogue_id": dialogue,
        "response_id": place,
        "episode_done": False,
    }


def test_prosocial_rows_are_put_together_by_dialogue_in_order_of_their_responses(tmp_path: Path) -> None:
    rows = [prosocial(7, 1), prosocial(3, 0, "__needs_caution__"), prosocial(7, 0, "__casual__"), prosocial(3, 1)]
    # On the hub the file is called .json and holds a row a line.
    loaded = load("prosocial", lines(tmp_path / "train.json", rows))
    assert said(loaded) == [
        ["question 7.0", "answer 7.0", "question 7.1", "answer 7.1"],
        ["question 3.0", "answer 3.0", "question 3.1", "answer 3.1"],
    ]
    assert roles(loaded) == ["uaua", "uaua"]
    assert topics(loaded) == ["casual", "needs_caution"]


def test_prosocial_columns_and_its_converted_form_say_the_same(tmp_path: Path) -> None:
    rows = [prosocial(0, 0, "__needs_caution__"), prosocial(0, 1)]
    columns, converted = tmp_path / "columns.json", tmp_path / "converted.json"
    columns.write_text(json.dumps({key: [row[key] for row in rows] for key in rows[0]}))
    log = [
        {
            "turn id": i + 1,
            "user utterance": row["context"],
            "system response": row["response"],
            "original user side information": {"safety_label": row["safety_label"]},
        }
        for i, row in enumerate(rows)
    ]
    converted.write_text(json.dumps({"Prosocial--train--1": {"dialog index": 1, "log": log}}, indent=1))
    assert load("prosocial", columns).samples == load("prosocial", converted).samples
    assert topics(load("prosocial", columns)) == ["needs_caution"]


def test_a_dialogue_is_cut_where_a_row_is_missing_and_dropped_without_its_beginning(tmp_path: Path) -> None:
    rows = [prosocial(0, 0), prosocial(0, 2), prosocial(1, 1), prosocial(2, 0) | {"response_id": "first"}]
    loaded = load("prosocial", lines(tmp_path / "train.jsonl", rows))
    assert said(loaded) == [["question 0.0", "answer 0.0"]]
    assert sorted(bad.reason for bad in loaded.bad) == [
        "a dialogue without its beginning",
        "its dialogue_id or response_id is no number or name",
    ]


EMPATHETIC_COLUMNS = ["conv_id", "utterance_idx", "context", "prompt", "speaker_idx", "utterance", "selfeval", "tags"]


def test_empathetic_csv_has_the_first_speaker_as_user_and_commas_spelt_out(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    rows = [
        ["hit:0_conv:1", "1", "proud", "p", "12", "My sister won_comma_ at last.", "5|5|5_2|2|5", ""],
        # A bare quote, as the file has them: read as CSV's own it would swallow the lines up to the next one.
        ["hit:0_conv:1", "2", "proud", "p", "4", 'What did she "win?', "5|5|5_2|2|5", ""],
        ["hit:0_conv:1", "3", "proud", "p", "12", "A race.", "5|5|5_2|2|5", ""],
        ["hit:1_conv:2", "1", "afraid", "p", "4", "It is dark.", "5|5|5_2|2|5", ""],
        ["hit:1_conv:2", "2", "afraid", "p", "12", '"Light a lamp.', "5|5|5_2|2|5", "<HI>"],
    ]
    path.write_text("\n".join(",".join(row) for row in [EMPATHETIC_COLUMNS, *rows]) + "\n")
    loaded = load("empathetic", path)
    assert said(loaded) == [["My sister won, at last.", 'What did she "win?'], ["It is dark.", '"Light a lamp.']]
    assert topics(loaded) == ["proud", "afraid"]


def test_empathetic_as_on_the_hub_is_a_row_a_dialogue(tmp_path: Path) -> None:
    turns = [("user", "I lost it_comma_ all."), ("assistant", "Oh no."), ("assistant", "What?"), ("user", "My hat.")]
    said_turns = [{"content": text, "role": role} for role, text in turns]
    row = {"conv_id": "hit:0_conv:0", "situation": "s", "emotion": "sad", "conversations": said_turns}
    loaded = load("empathetic", parquet(tmp_path / "train.parquet", [row]))
    assert said(loaded) == [["I lost it, all.", "Oh no.\nWhat?"]]
    assert topics(loaded) == ["sad"]


def orca(number: int) -> dict[str, str]:
    system = "You are terse." if number % 2 else ""
    return {"id": f"niv.{number}", "system_prompt": system, "question": f"q{number}", "response": f"r{number}"}


def test_openorca_has_system_prompts_and_the_collection_of_its_id_as_topic(tmp_path: Path) -> None:
    rows = [orca(0), orca(1), orca(2) | {"id": "cot.9"}]
    loaded = load("openorca", parquet(tmp_path / "gpt4.parquet", rows))
    assert roles(loaded) == ["ua", "sua", "ua"]
    assert said(loaded)[1] == ["You are terse.", "q1", "r1"]
    assert topics(loaded) == ["niv", "niv", "cot"]


def test_a_large_parquet_file_is_read_no_further_than_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "gpt4.parquet", [orca(i) for i in range(5000)], row_group=100)
    pulled = 0
    rows = datasets.read_rows

    def counted(*given: Any) -> Any:
        nonlocal pulled
        for row in rows(*given):
            pulled += 1
            yield row

    monkeypatch.setattr(datasets, "read_rows", counted)
    loaded = load("openorca", path, most=30)
    assert said(loaded) == [[*(["You are terse."] if i % 2 else []), f"q{i}", f"r{i}"] for i in range(30)]
    assert pulled == 31


@pytest.mark.parametrize(
    "row",
    [
        {"tgt": "About a knee.", "src": "Patient: my knee hurts Doctor: Rest it.", "id": 4},
        {"description": "knee", "utterances": ["patient: my knee hurts", "doctor: Rest it."]},
        {"instruction": "If you are a doctor, answer.", "input": "my knee hurts", "output": "Rest it."},
    ],
)
def test_meddialog_is_read_in_each_of_its_forms(tmp_path: Path, row: Mapping[str, Any]) -> None:
    loaded = load("meddialog", lines(tmp_path / "med.jsonl", [row]))
    assert said(loaded) == [["my knee hurts", "Rest it."]]
    assert topics(loaded) == [None]


def test_meddialog_texts_are_cut_at_the_speakers_only(tmp_path: Path) -> None:
    src = "Patient: Dear Doctor: it is my knee. Doctor: Which? Patient: NoDoctor: the left. Doctor: Rest."
    loaded = load("meddialog", lines(tmp_path / "med.jsonl", [{"src": src}, {"src": "no speakers at all"}]))
    assert said(loaded) == [["Dear Doctor: it is my knee.", "Which?", "NoDoctor: the left.", "Rest."]]
    assert loaded.bad[0].reason == "no question with an answer"


# Local files


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_may_come_as_chats(tmp_path: Path, name: str) -> None:
    chat = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]
    rows = [{"messages": chat, "emotion": "calm"}, {"prompt": "Why?", "completion": "So.", "category": "talk"}]
    rows.append([*chat, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No."}])
    path = tmp_path / "chats.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    loaded = load(name, path)
    assert said(loaded) == [["Hello?", "Yes."], ["Why?", "So."], ["Hello?", "Yes.", "And?", "No."]]
    assert topics(loaded) == ["calm", "talk", None]


def test_a_csv_with_quoted_fields_is_read(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ALPACA[0]))
        writer.writeheader()
        writer.writerows([*ALPACA, {"instruction": 'Say "a, b"\ntwice', "input": "", "output": "a, b, a, b"}])
    assert said(load("alpaca", path))[2] == ['Say "a, b"\ntwice', "a, b, a, b"]


def test_what_is_broken_is_passed_over_and_named(tmp_path: Path) -> None:
    path = tmp_path / "dolly.jsonl"
    broken = [
        "{not json",
        json.dumps(DOLLY[0] | {"response": " "}),
        json.dumps(DOLLY[0] | {"context": ["a list"]}),
        json.dumps({"instruction": "no answer"}),
        json.dumps("text"),
        json.dumps(DOLLY[0] | {"response": "\ud800"}),
    ]
    path.write_text("\n".join([*broken, json.dumps(DOLLY[1])]))
    loaded = load("dolly", path)
    assert said(loaded) == [["Name a river.", "The Oder."]]
    assert [bad.where for bad in loaded.bad] == [f"{path}:{i}" for i in range(1, 7)]
    assert [bad.reason for bad in loaded.bad] == [
        "not JSON (expecting property name enclosed in double quotes at column 2)",
        "no question with an answer",
        "its context is not text",
        "not of the data set's schema",
        "not of the data set's schema",
        "a lone surrogate (half a character) in a assistant message",
    ]


def test_bytes_that_are_not_utf8_cost_one_row_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.csv"
    path.write_bytes(b"instruction,input,output\nName \xff.,,x\nName a tree.,,Oak.\n")
    loaded = load("alpaca", path)
    assert said(loaded) == [["Name a tree.", "Oak."]]
    assert "surrogate" in loaded.bad[0].reason


def test_a_dialogue_that_was_there_before_is_dropped(tmp_path: Path) -> None:
    loaded = load("dolly", lines(tmp_path / "d.jsonl", [DOLLY[0], DOLLY[1], DOLLY[0] | {"category": "other"}]))
    assert topics(loaded) == ["closed_qa", "open_qa"]
    assert loaded.duplicates == 1


def test_the_source_says_which_file_and_how_much_of_it(tmp_path: Path) -> None:
    path = lines(tmp_path / "d.jsonl", DOLLY)
    whole = load("dolly", path)
    assert re.fullmatch("[0-9a-f]{16}", whole.source)
    assert load("dolly", path, most=2).source == whole.source
    assert load("dolly", path, most=1).source == f"{whole.source}:1"
    assert load("dolly", lines(tmp_path / "e.jsonl", DOLLY[:1])).source != whole.source
    with pytest.raises(ValueError, match="at least 1"):
        load("dolly", path, most=0)


def test_another_schema_is_refused_with_the_keys_on_both_sides(tmp_path: Path) -> None:
    path = lines(tmp_path / "d.jsonl", DOLLY)
    with pytest.raises(UserError) as caught:
        load("alpaca", path)
    assert "no rows of ALPACA: they have instruction, context, response, category" in caught.value.line()
    assert "expected instruction, input, output or messages or prompt, completion" in caught.value.line()


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("d.jsonl", b"", "no rows in it"),
        ("d.jsonl", b"{broken", "none of its rows is usable, the first for not JSON"),
        ("d.json", b'[{"instruction": 1},', "none of its rows is usable"),
        ("d.jsonl.gz", b"no gzip", "damaged gzip file"),
        ("d.jsonl.gz", gzip.compress(b"{}" * 999, mtime=0)[:-9], "damaged gzip file"),
        ("d.txt", b"{}", "not a kind of file that can be read"),
        ("d.parquet.gz", b"{}", "not a kind of file that can be read"),
        ("d.parquet", b"PAR1 but not really PAR1", "damaged Parquet file"),
    ],
)
def test_a_file_that_gives_nothing_is_one_line(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=what):
        load("dolly", tmp_path / name)


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.csv", "missing.parquet", "missing.json.gz"])
def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, name: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match="no such file"):
        load("alpaca", tmp_path / name)


def test_a_folder_and_an_unknown_name_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        load("alpaca", tmp_path / "data.jsonl")
    with pytest.raises(UserError, match=r"^\.: is a folder"):
        load("alpaca", "")
    with pytest.raises(UserError, match="name one of alpaca, dolly, prosocial, empathetic, openorca, meddialog"):
        load("squad")


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.sampled_from(["a", "b", " ", "c\n"]))))
def test_turns_in_any_order_make_a_dialogue_or_none(turns: list[tuple[str, str]]) -> None:
    spoken = [(role, text) for role, text in turns if text.strip()]
    places = {role: [i for i, (r, _) in enumerate(spoken) if r == role] for role in ("user", "assistant")}
    answered = places["user"] and places["assistant"] and places["user"][0] < places["assistant"][-1]
    if not answered:
        with pytest.raises(ValueError, match="no question with an answer"):
            _in_turn(turns)
        return
    kept = spoken[places["user"][0] : places["assistant"][-1] + 1]
    dialogue = _in_turn(turns)
    assert isinstance(dialogue, Dialogue)  # which is in turn by construction
    found = "".join(m.content for m in dialogue.messages).replace("\n", "")
    assert found == "".join(text.strip() for _, text in kept)
