"""LaMP's and OPPU's files are read one user at a time, defects are one-line errors, and items are retrieved."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from mlx_personal.errors import UserError
from mlx_personal.research.lamp.lamp_users import (
    FileCounts,
    LampUser,
    Query,
    read_users,
)
from mlx_personal.research.lamp.predictions import Outputs, read_outputs, write_outputs
from mlx_personal.research.lamp.retrieval import ProfileRetriever
from mlx_personal.research.lamp.tasks import TASKS

REVIEW = TASKS["3"].input_template


def item(number: int, text: str = "It works.", score: str = "5") -> dict[str, Any]:
    return {"id": str(number), "text": text, "score": score}


def question(name: str, profile: list[Any], text: str = "Fine.", **fields: Any) -> dict[str, Any]:
    return {"id": name, "input": REVIEW.format(text=text), "profile": profile, **fields}


def golds(pairs: list[tuple[str, str]], task: str = "LaMP_3") -> dict[str, Any]:
    return {"task": task, "golds": [{"id": name, "output": output} for name, output in pairs]}


class LampFiles:
    """A folder of LaMP's files; a string is written as it is, anything else as JSON."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, name: str, content: object) -> Path:
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def read(
        self, questions: object, outputs: object, task: str = "3", counts: FileCounts | None = None
    ) -> list[LampUser]:
        """Write questions and outputs, and read their users."""
        gold_outputs = read_outputs(TASKS[task], self.write("outputs.json", outputs))
        path = self.write("questions.json", questions)
        return list(read_users(TASKS[task], path, gold_outputs, counts if counts is not None else FileCounts()))


@pytest.fixture
def files(tmp_path: Path) -> LampFiles:
    return LampFiles(tmp_path)


def test_every_question_is_a_user_of_its_own(files: LampFiles) -> None:
    counts = FileCounts()
    users = files.read(
        [question("10", [item(1), item(2, score="1")]), question("11", [item(3)])],
        golds([("11", "2"), ("10", "4")]),
        counts=counts,
    )
    assert [(user.id, len(user.profile)) for user in users] == [("10", 2), ("11", 1)]
    assert users[0].queries == (Query("10", REVIEW.format(text="Fine."), "4"),)
    assert users[0].profile[1] == item(2, score="1")
    assert counts == FileCounts(users=2, queries=2, items=3, single_items=1)


def test_adjacent_questions_of_one_user_with_one_profile_are_one_user(files: LampFiles) -> None:
    profile, later = [item(1)], [item(1), item(2)]
    users = files.read(
        [
            question("a", profile, user_id=7),
            question("b", profile, user_id=7),
            question("c", later, user_id=7),
            question("d", profile, user_id=8),
            question("e", profile, user_id=7),
        ],
        golds([(name, "3") for name in "abcde"]),
    )
    assert [(user.id, [query.id for query in user.queries]) for user in users] == [
        ("7", ["a", "b"]),
        ("7/c", ["c"]),
        ("8", ["d"]),
        ("7/e", ["e"]),
    ]


def test_items_without_a_text_or_a_label_are_skipped_and_counted(files: LampFiles) -> None:
    counts = FileCounts()
    unusable: list[Any] = [
        {"id": "x", "text": "no score"},
        {"id": "y", "score": "3"},
        item(4, score="9"),
        item(5, text=" "),
        "z",
        None,
    ]
    users = files.read([question("1", [item(1), *unusable, item(2)])], golds([("1", "1")]), counts=counts)
    assert [entry["id"] for entry in users[0].profile] == ["1", "2"]
    assert (counts.items, counts.skipped_items) == (2, 6)


def test_users_without_items_and_with_one_item_are_read_and_counted(files: LampFiles) -> None:
    counts = FileCounts()
    users = files.read(
        [question("1", []), question("2", [item(1)]), question("3", [{"text": "no score"}])],
        golds([("1", "1"), ("2", "1"), ("3", "1")]),
        counts=counts,
    )
    assert [len(user.profile) for user in users] == [0, 1, 0]
    assert (counts.empty_profiles, counts.single_items) == (2, 1)


def test_outputs_without_a_question_are_counted(files: LampFiles) -> None:
    counts = FileCounts()
    files.read([question("1", [])], golds([("1", "1"), ("2", "1"), ("3", "1")]), counts=counts)
    assert counts.unasked_outputs == 2


def test_the_task_name_of_the_movie_files_is_accepted(files: LampFiles) -> None:
    movie = {"id": "1", "input": TASKS["2M"].input_template.format(text="A dog."), "profile": []}
    assert files.read([movie], golds([("1", "comedy")], "LaMP_2"), task="2M")[0].queries[0].gold == "comedy"
    with pytest.raises(UserError, match="not an input of LaMP-2N"):
        files.read([movie], golds([("1", "comedy")], "LaMP_2"), task="2N")


def test_papers_without_a_citation_are_skipped_beside_those_with_one(files: LampFiles) -> None:
    slots = {"title": "T", "ref1": "A", "ref2": "B"}
    profile = [{"title": "t", "abstract": "a", "citation": "c"}, {"title": "t", "abstract": "a"}]
    counts = FileCounts()
    paper = {"id": "1", "input": TASKS["1"].input_template.format(**slots), "profile": profile}
    users = files.read([paper], golds([("1", "[2]")], "LaMP_1"), task="1", counts=counts)
    assert users[0].profile == (profile[0],)
    assert counts.skipped_items == 1


QUESTIONS = [question("1", [item(1)])]
GOLDS = golds([("1", "1")])


@pytest.mark.parametrize(
    ("questions", "outputs", "message"),
    [
        ("", GOLDS, "questions.json: an empty file"),
        ("hello", GOLDS, "questions.json: not JSON"),
        (json.dumps(QUESTIONS)[:-20], GOLDS, "questions.json: not JSON, or truncated"),
        (json.dumps(QUESTIONS) + "]", GOLDS, "questions.json: not JSON"),
        ("[]", GOLDS, "no questions in this file"),
        (GOLDS, GOLDS, "no questions in this file"),
        ([5], GOLDS, "entry 1 is not a JSON object"),
        ([{"input": "a", "profile": []}], GOLDS, "question 1 has no 'id'"),
        ([{"id": "1", "profile": []}], GOLDS, "the question '1' has no input"),
        ([{"id": "1", "input": QUESTIONS[0]["input"]}], GOLDS, "question 1 has no list 'profile'"),
        ([{"id": "1", "input": "Hello", "profile": []}], GOLDS, "not an input of LaMP-3"),
        ([*QUESTIONS, *QUESTIONS], GOLDS, "the question '1' occurs twice"),
        (QUESTIONS, golds([("2", "1")]), "the question '1' has no output"),
        ([{"user_id": "1", "profile": [], "query": []}], GOLDS, "history in OPPU's form"),
        (QUESTIONS, golds([("1", "good")]), "the gold 'good' of '1' is not an answer of LaMP-3"),
        (QUESTIONS, "", "outputs.json: an empty file"),
        (QUESTIONS, "[1, 2", "outputs.json: not JSON"),
        (QUESTIONS, QUESTIONS, "no outputs of a LaMP task"),
        (QUESTIONS, {"golds": [{"id": "1"}]}, "no outputs of a LaMP task"),
        (QUESTIONS, {"1": "5"}, "no outputs of a LaMP task"),
        (QUESTIONS, golds([]), "no outputs of a LaMP task"),
        (QUESTIONS, golds([("1", "1")], "LaMP_4"), "these are outputs of 'LaMP_4', not of LaMP_3"),
        (QUESTIONS, golds([("1", "1"), ("1", "2")]), "the id '1' occurs twice"),
        (QUESTIONS, {"task": "LaMP_3", "golds": [{"output": "1"}]}, "output 1 has no id"),
        (QUESTIONS, [{"id": "2", "output": "1"}], "the question '1' has no output"),
        (QUESTIONS, [{"id": "1", "output": "1"}, {"output": "1"}], "output 2 has no id"),
    ],
)
def test_a_defect_is_one_line_that_names_the_file(
    files: LampFiles, questions: object, outputs: object, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        files.read(questions, outputs)
    line = caught.value.line()
    assert message in line
    assert ".json: " in line
    assert caught.value.hint
    assert "\n" not in line


@pytest.mark.parametrize("task_of_file", ["a list", "golds without a task"])
def test_outputs_without_the_name_of_their_task_are_those_of_the_run(files: LampFiles, task_of_file: str) -> None:
    entries = [
        {"id": 7, "output": 4, "input": "more"},
        {"id": "8", "profile": [{"id": "9", "output": "1"}], "output": "2"},
    ]
    path = files.write("outputs.json", entries if task_of_file == "a list" else {"golds": entries})
    assert read_outputs(TASKS["3"], path) == Outputs("LaMP_3", {"7": "4", "8": "2"})
    users = files.read([question("8", [item(1)])], entries)
    assert [query.gold for query in users[0].queries] == ["2"]


def test_questions_that_have_their_outputs_need_no_other_file(files: LampFiles) -> None:
    merged = [question("1", [item(1)], output="4", user_id="u"), question("2", [item(1)], output=2, user_id="u")]
    counts = FileCounts()
    path = files.write("merged.json", merged)
    (user,) = read_users(TASKS["3"], path, None, counts)
    assert [(query.id, query.gold) for query in user.queries] == [("1", "4"), ("2", "2")] and user.id == "u"
    assert (counts.queries, counts.unasked_outputs) == (2, 0)
    # The same file may be named twice, and outputs that are named count.
    assert list(read_users(TASKS["3"], path, read_outputs(TASKS["3"], path), FileCounts())) == [user]
    (other,) = read_users(TASKS["3"], path, Outputs("LaMP_3", {"1": "1", "2": "1"}), FileCounts())
    assert [query.gold for query in other.queries] == ["1", "1"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"output": "good"}, "the gold 'good' of '2' is not an answer of LaMP-3"),
        ({"output": "3", "input": "Hello"}, "not an input of LaMP-3"),
        ({"output": "3", "id": "1"}, "the question '1' occurs twice"),
    ],
)
def test_a_defect_of_a_merged_file_is_a_user_error(files: LampFiles, second: dict[str, Any], message: str) -> None:
    merged = [question("1", [], output="4"), {**question("2", []), **second}]
    with pytest.raises(UserError, match=message):
        list(read_users(TASKS["3"], files.write("merged.json", merged), None, FileCounts()))


@pytest.mark.parametrize("empty", ["", " \n", None])
def test_a_question_with_an_empty_gold_is_read_and_counted(files: LampFiles, empty: str | None) -> None:
    counts = FileCounts()
    pairs = {"task": "LaMP_3", "golds": [{"id": "1", "output": "5"}, {"id": "2", "output": empty}, {"id": "3"}]}
    users = files.read([question(name, [item(1)]) for name in "123"], pairs, counts=counts)
    assert [query.gold for user in users for query in user.queries] == ["5", "", ""]
    assert (counts.queries, counts.unscorable_queries) == (3, 2)
    history = [{"user_id": 1, "profile": [], "query": [{"id": "1", "input": REVIEW.format(text="a"), "gold": empty}]}]
    (user,) = read_users(TASKS["3"], files.write("history.json", history), None, counts)
    assert user.queries[0].gold == "" and counts.unscorable_queries == 3


def test_a_missing_file_and_one_that_is_not_text_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_outputs(TASKS["3"], tmp_path / "nothing.json")
    (tmp_path / "latin.json").write_bytes(b'{"task": "LaMP_3", "golds": [{"id": "1", "output": "caf\xe9"}]}')
    with pytest.raises(UserError, match="not JSON"):
        read_outputs(TASKS["3"], tmp_path / "latin.json")


def test_a_missing_extra_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rank_bm25", None)
    with pytest.raises(UserError, match=r"pip install 'mlx-personal\[lamp\]'"):
        ProfileRetriever(TASKS["3"], "bm25", [item(1)])


def test_oppu_histories_are_users_with_several_questions(files: LampFiles) -> None:
    queries = [{"id": n, "input": REVIEW.format(text="Fine."), "gold": gold} for n, gold in ((1, "5"), (2, 4))]
    history = [
        {"user_id": 31, "profile": [item(1), {"text": "no score"}], "query": queries},
        {"user_id": 32, "profile": [item(1)], "query": []},
    ]
    counts = FileCounts()
    users = list(read_users(TASKS["3"], files.write("history.json", history), None, counts))
    assert [(user.id, [(q.id, q.gold) for q in user.queries]) for user in users] == [("31", [("1", "5"), ("2", "4")])]
    assert counts == FileCounts(users=1, queries=2, items=1, skipped_items=1, single_items=1, users_without_queries=1)


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (QUESTIONS, "LaMP's questions, without their answers"),
        ([{"profile": [], "query": []}], "user 1 has no 'user_id'"),
        ([{"user_id": "1", "profile": []}], "user 1 has no list of queries"),
        ([{"user_id": "1", "profile": [], "query": [4]}], "user 1 has no list of queries"),
        ([{"user_id": "1", "profile": [], "query": []}] * 2, "the user '1' occurs twice"),
        (
            [{"user_id": "1", "profile": [], "query": [{"id": "1", "input": REVIEW.format(text="a"), "gold": [1]}]}],
            "the gold '[1]' of '1' is not an answer",
        ),
        (
            [{"user_id": u, "profile": [], "query": [{"id": "1", "input": "review: a", "gold": "1"}]} for u in "ab"],
            "the question '1' occurs twice",
        ),
    ],
)
def test_a_defect_of_a_history_is_a_user_error(files: LampFiles, history: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        list(read_users(TASKS["3"], files.write("history.json", history), None, FileCounts()))
    assert message in caught.value.line()


def test_a_large_file_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    with path.open("w") as file:
        for number in range(400):
            file.write("[" if not number else ",")
            json.dump(question(str(number), [item(i, text="long " * 200) for i in range(50)]), file)
        file.write("]")
    size = path.stat().st_size
    assert size > 20e6
    outputs = Outputs("LaMP_3", {str(number): "1" for number in range(400)})
    tracemalloc.start()
    try:
        counts = FileCounts()
        for _ in read_users(TASKS["3"], path, outputs, counts):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (counts.users, counts.items) == (400, 20_000)
    assert peak < size / 20


def test_written_predictions_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "predictions.json"
    outputs = Outputs("LaMP_4", {"2": 'A "quoted" line\nand Привет', "1": ""})
    write_outputs(path, outputs)
    assert json.loads(path.read_text()) == {
        "task": "LaMP_4",
        "golds": [{"id": "2", "output": 'A "quoted" line\nand Привет'}, {"id": "1", "output": ""}],
    }
    assert read_outputs(TASKS["4"], path) == outputs


WORDS = st.lists(st.sampled_from(["soup", "leek", "bread", "cat", "vet", "rain", "sun"]), min_size=1, max_size=8).map(
    " ".join
)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(WORDS, min_size=1, max_size=30), query=WORDS, k=st.integers(1, 6), data=st.data())
def test_bm25_ranks_like_rank_bm25(texts: list[str], query: str, k: int, data: st.DataObject) -> None:
    profile = [item(number, text) for number, text in enumerate(texts)]
    older_than = data.draw(st.sampled_from([None, *range(len(texts))]))
    candidates = profile[:older_than]
    items = ProfileRetriever(TASKS["3"], "bm25", profile).retrieve(query, k, older_than=older_than)
    assert len(items) == min(k, len(candidates))
    if not candidates:
        return
    scores = BM25Okapi([entry["text"].split() for entry in candidates]).get_scores(query.split())
    retrieved = [scores[int(entry["id"])] for entry in items]
    np.testing.assert_array_equal(retrieved, np.sort(scores)[::-1][:k])
    # Among equal scores, the later item of the file comes first.
    order = [(-scores[int(entry["id"])], -int(entry["id"])) for entry in items]
    assert order == sorted(order)


def test_bm25_retrieves_what_rank_bm25_retrieves() -> None:
    texts = ["leek soup with bread", "the cat went out", "bread and bread", "rain all day", "a soup of leek and leek"]
    profile = [item(number, text) for number, text in enumerate(texts)]
    expected = BM25Okapi([text.split() for text in texts]).get_top_n(["leek", "soup"], profile, n=2)
    assert ProfileRetriever(TASKS["3"], "bm25", profile).retrieve("leek soup", 2) == expected


def test_recency_retrieves_the_newest_first_and_undated_items_last() -> None:
    dates = ["2014-05-12", None, "2014-11-02", "2013", "yesterday", "2014-05-12"]
    profile = [item(n) | ({"date": date} if date else {}) for n, date in enumerate(dates)]
    items = ProfileRetriever(TASKS["3"], "recency", profile).retrieve("", 10)
    assert [entry["id"] for entry in items] == ["2", "5", "0", "3", "4", "1"]


def test_recency_without_dates_retrieves_the_last_items_of_the_file() -> None:
    items = ProfileRetriever(TASKS["3"], "recency", [item(n) for n in range(5)]).retrieve("", 2)
    assert [entry["id"] for entry in items] == ["4", "3"]


@pytest.mark.parametrize("retriever", ["random", "recency", "bm25"])
def test_only_older_items_are_retrieved_for_an_item(retriever: str) -> None:
    dates = [5, 1, 4, 2, 3]
    profile = [item(n, text=f"soup number {n}") | {"date": f"2014-01-{date:02}"} for n, date in enumerate(dates)]
    profile_retriever = ProfileRetriever(TASKS["3"], retriever, profile)
    for index, date in enumerate(dates):
        items = profile_retriever.retrieve("soup number 2", 10, seed="u", older_than=index)
        assert sorted(dates[int(entry["id"])] for entry in items) == list(range(1, date))


def test_random_retrieval_is_seeded_and_draws_no_item_twice() -> None:
    retriever = ProfileRetriever(TASKS["3"], "random", [item(n) for n in range(20)])

    def draw_ids(number: int) -> tuple[str, ...]:
        return tuple(entry["id"] for entry in retriever.retrieve("", 4, seed=f"user/{number}"))

    draws = [draw_ids(number) for number in range(10)]
    assert draws == [draw_ids(number) for number in range(10)]
    assert len(set(draws)) > 5
    assert all(len(set(draw)) == 4 for draw in draws)


@pytest.mark.parametrize("retriever", ["random", "recency", "bm25"])
def test_nothing_is_retrieved_from_an_empty_profile(retriever: str) -> None:
    assert ProfileRetriever(TASKS["3"], retriever, []).retrieve("soup", 4) == []
