"""LaMP's and OPPU's files: read one user at a time, retrieved from, and what is wrong with them said in one line."""

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
from mlx_personal.research.lamp.predictions import Outputs, read_outputs, write_outputs
from mlx_personal.research.lamp.retrieval import Retrieval
from mlx_personal.research.lamp.tasks import TASKS
from mlx_personal.research.lamp.user_profiles import Counts, Query, official_users, oppu_users

REVIEW = TASKS["3"].question


def item(number: Any, text: Any = "It works.", score: Any = "5") -> Any:
    return {"id": str(number), "text": text, "score": score}


def question(name: Any, profile: Any, text: Any = "Fine.", **more: Any) -> Any:
    return {"id": name, "input": REVIEW.format(text=text), "profile": profile, **more}


def golds(pairs: Any, task: Any = "LaMP_3") -> Any:
    return {"task": task, "golds": [{"id": name, "output": output} for name, output in pairs]}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Reads official files of what is given: strings as they are, anything else as JSON."""

    def write(name: Any, content: Any) -> Any:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def users(questions: Any, outputs: Any, task: Any = "3", counts: Any = None) -> Any:
        found = read_outputs(TASKS[task], write("outputs.json", outputs))
        path = write("questions.json", questions)
        return list(official_users(TASKS[task], path, found, counts if counts is not None else Counts()))

    users.write = write
    return users


def test_every_question_is_a_user_of_its_own(read: Any) -> None:
    counts = Counts()
    users = read(
        [question("10", [item(1), item(2, score="1")]), question("11", [item(3)])],
        golds([("11", "2"), ("10", "4")]),
        counts=counts,
    )
    assert [(user.id, len(user.profile)) for user in users] == [("10", 2), ("11", 1)]
    assert users[0].queries == (Query("10", REVIEW.format(text="Fine."), "4"),)
    assert users[0].profile[1] == item(2, score="1")
    assert counts == Counts(users=2, queries=2, items=3, single_items=1)


def test_neighbours_of_one_user_and_one_profile_are_one_user(read: Any) -> None:
    same, later = [item(1)], [item(1), item(2)]
    users = read(
        [
            question("a", same, user_id=7),
            question("b", same, user_id=7),
            question("c", later, user_id=7),
            question("d", same, user_id=8),
            question("e", same, user_id=7),
        ],
        golds([(name, "3") for name in "abcde"]),
    )
    assert [(user.id, [query.id for query in user.queries]) for user in users] == [
        ("7", ["a", "b"]),
        ("7/c", ["c"]),
        ("8", ["d"]),
        ("7/e", ["e"]),
    ]


def test_items_without_a_text_or_a_label_are_left_out_and_counted(read: Any) -> None:
    counts = Counts()
    bad = [{"id": "x", "text": "no score"}, {"id": "y", "score": "3"}, item(4, score="9"), item(5, text=" "), "z", None]
    users = read([question("1", [item(1), *bad, item(2)])], golds([("1", "1")]), counts=counts)
    assert [entry["id"] for entry in users[0].profile] == ["1", "2"]
    assert (counts.items, counts.skipped_items) == (2, 6)


def test_an_empty_profile_and_one_item_are_users_and_counted(read: Any) -> None:
    counts = Counts()
    users = read(
        [question("1", []), question("2", [item(1)]), question("3", [{"text": "no score"}])],
        golds([("1", "1"), ("2", "1"), ("3", "1")]),
        counts=counts,
    )
    assert [len(user.profile) for user in users] == [0, 1, 0]
    assert (counts.empty_profiles, counts.single_items) == (2, 1)


def test_outputs_without_a_question_are_counted(read: Any) -> None:
    counts = Counts()
    read([question("1", [])], golds([("1", "1"), ("2", "1"), ("3", "1")]), counts=counts)
    assert counts.unasked_outputs == 2


def test_movies_are_read_under_the_name_that_their_files_have(read: Any) -> None:
    asked = {"id": "1", "input": TASKS["2M"].question.format(text="A dog."), "profile": []}
    assert read([asked], golds([("1", "comedy")], "LaMP_2"), task="2M")[0].queries[0].gold == "comedy"
    with pytest.raises(UserError, match="none of LaMP-2N"):
        read([asked], golds([("1", "comedy")], "LaMP_2"), task="2N")


def test_papers_that_cite_leave_out_those_that_do_not(read: Any) -> None:
    slots = {"title": "T", "ref1": "A", "ref2": "B"}
    profile = [{"title": "t", "abstract": "a", "citation": "c"}, {"title": "t", "abstract": "a"}]
    counts = Counts()
    asked = {"id": "1", "input": TASKS["1"].question.format(**slots), "profile": profile}
    users = read([asked], golds([("1", "[2]")], "LaMP_1"), task="1", counts=counts)
    assert users[0].profile == (profile[0],)
    assert counts.skipped_items == 1


ONE = [question("1", [item(1)])]
GOLD = golds([("1", "1")])


@pytest.mark.parametrize(
    ("questions", "outputs", "said"),
    [
        ("", GOLD, "questions.json: an empty file"),
        ("hello", GOLD, "questions.json: not JSON"),
        (json.dumps(ONE)[:-20], GOLD, "questions.json: not JSON, or cut off"),
        (json.dumps(ONE) + "]", GOLD, "questions.json: not JSON"),
        ("[]", GOLD, "no questions in this file"),
        (GOLD, GOLD, "no questions in this file"),
        ([5], GOLD, "entry 1 is no JSON object"),
        ([{"input": "a", "profile": []}], GOLD, "question 1 has no 'id'"),
        ([{"id": "1", "profile": []}], GOLD, "the question '1' has no input"),
        ([{"id": "1", "input": ONE[0]["input"]}], GOLD, "question 1 has no list 'profile'"),
        ([{"id": "1", "input": "Hello", "profile": []}], GOLD, "none of LaMP-3"),
        ([*ONE, *ONE], GOLD, "the question '1' is there twice"),
        (ONE, golds([("2", "1")]), "the question '1' has no output"),
        ([{"user_id": "1", "profile": [], "query": []}], GOLD, "history in OPPU's form"),
        (ONE, golds([("1", "good")]), "the gold 'good' of '1' is no answer of LaMP-3"),
        (ONE, "", "outputs.json: an empty file"),
        (ONE, "[1, 2", "outputs.json: not JSON"),
        (ONE, ONE, "no outputs of a LaMP task"),
        (ONE, {"golds": GOLD["golds"]}, "no outputs of a LaMP task"),
        (ONE, golds([]), "no outputs of a LaMP task"),
        (ONE, golds([("1", "1")], "LaMP_4"), "these are outputs of 'LaMP_4', not of LaMP_3"),
        (ONE, golds([("1", "1"), ("1", "2")]), "the id '1' is there twice"),
        (ONE, {"task": "LaMP_3", "golds": [{"id": "1"}]}, "output 1 lacks its id or its text"),
    ],
)
def test_bad_input_is_one_line_that_names_the_file(read: Any, questions: Any, outputs: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read(questions, outputs)
    line = caught.value.line()
    assert said in line
    assert ".json: " in line
    assert caught.value.hint
    assert "\n" not in line


def test_a_file_that_is_not_there_or_not_text_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_outputs(TASKS["3"], tmp_path / "nothing.json")
    (tmp_path / "latin.json").write_bytes(b'{"task": "LaMP_3", "golds": [{"id": "1", "output": "caf\xe9"}]}')
    with pytest.raises(UserError, match="not JSON"):
        read_outputs(TASKS["3"], tmp_path / "latin.json")


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ijson", None)
    with pytest.raises(UserError, match=r"pip install 'mlx-personal\[lamp\]'"):
        read_outputs(TASKS["3"], tmp_path / "outputs.json")
    monkeypatch.setitem(sys.modules, "rank_bm25", None)
    with pytest.raises(UserError, match=r"pip install 'mlx-personal\[lamp\]'"):
        Retrieval(TASKS["3"], "bm25", [item(1)])


def test_oppu_histories_are_users_with_several_questions(read: Any) -> None:
    asks = [{"id": n, "input": REVIEW.format(text="Fine."), "gold": gold} for n, gold in ((1, "5"), (2, 4))]
    history = [
        {"user_id": 31, "profile": [item(1), {"text": "no score"}], "query": asks},
        {"user_id": 32, "profile": [item(1)], "query": []},
    ]
    counts = Counts()
    users = list(oppu_users(TASKS["3"], read.write("history.json", history), counts))
    assert [(user.id, [(q.id, q.gold) for q in user.queries]) for user in users] == [("31", [("1", "5"), ("2", "4")])]
    assert counts == Counts(users=1, queries=2, items=1, skipped_items=1, single_items=1, users_without_queries=1)


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (ONE, "LaMP's questions, without their answers"),
        ([{"profile": [], "query": []}], "user 1 has no 'user_id'"),
        ([{"user_id": "1", "profile": []}], "user 1 has no list of queries"),
        ([{"user_id": "1", "profile": [], "query": [4]}], "user 1 has no list of queries"),
        ([{"user_id": "1", "profile": [], "query": []}] * 2, "the user '1' is there twice"),
        (
            [{"user_id": "1", "profile": [], "query": [{"id": "1", "input": REVIEW.format(text="a")}]}],
            "the gold 'None' of '1' is no answer",
        ),
        (
            [{"user_id": u, "profile": [], "query": [{"id": "1", "input": "review: a", "gold": "1"}]} for u in "ab"],
            "the question '1' is there twice",
        ),
    ],
)
def test_a_bad_history_is_one_line(read: Any, history: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        list(oppu_users(TASKS["3"], read.write("history.json", history), Counts()))
    assert said in caught.value.line()


def test_a_large_file_is_read_in_the_memory_of_a_user(tmp_path: Path) -> None:
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
        counts = Counts()
        for _ in official_users(TASKS["3"], path, outputs, counts):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (counts.users, counts.items) == (400, 20_000)
    assert peak < size / 20


def test_predictions_come_back_as_they_were_written(tmp_path: Path) -> None:
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
def test_bm25_ranks_as_the_library_does(texts: Any, query: Any, k: Any, data: Any) -> None:
    profile = [item(number, text) for number, text in enumerate(texts)]
    before = data.draw(st.sampled_from([None, *range(len(texts))]))
    pool = profile[:before]
    found = Retrieval(TASKS["3"], "bm25", profile).best(query, k, before=before)
    assert len(found) == min(k, len(pool))
    if not pool:
        return
    scores = BM25Okapi([entry["text"].split() for entry in pool]).get_scores(query.split())
    got = [scores[int(entry["id"])] for entry in found]
    np.testing.assert_array_equal(got, np.sort(scores)[::-1][:k])
    # Among equals, the later of the file.
    places = [(-scores[int(entry["id"])], -int(entry["id"])) for entry in found]
    assert places == sorted(places)


def test_bm25_finds_what_the_library_finds() -> None:
    texts = ["leek soup with bread", "the cat went out", "bread and bread", "rain all day", "a soup of leek and leek"]
    profile = [item(number, text) for number, text in enumerate(texts)]
    expected = BM25Okapi([text.split() for text in texts]).get_top_n(["leek", "soup"], profile, n=2)
    assert Retrieval(TASKS["3"], "bm25", profile).best("leek soup", 2) == expected


def test_recency_takes_the_newest_first_and_undated_items_are_the_oldest() -> None:
    dates = ["2014-05-12", None, "2014-11-02", "2013", "yesterday", "2014-05-12"]
    profile = [item(n) | ({"date": date} if date else {}) for n, date in enumerate(dates)]
    found = Retrieval(TASKS["3"], "recency", profile).best("", 10)
    assert [entry["id"] for entry in found] == ["2", "5", "0", "3", "4", "1"]


def test_recency_without_dates_takes_the_last_of_the_file() -> None:
    found = Retrieval(TASKS["3"], "recency", [item(n) for n in range(5)]).best("", 2)
    assert [entry["id"] for entry in found] == ["4", "3"]


@pytest.mark.parametrize("retriever", ["random", "recency", "bm25"])
def test_history_before_an_item_has_only_older_ones(retriever: str) -> None:
    dates = [5, 1, 4, 2, 3]
    profile = [item(n, text=f"soup number {n}") | {"date": f"2014-01-{date:02}"} for n, date in enumerate(dates)]
    retrieval = Retrieval(TASKS["3"], retriever, profile)
    for place, date in enumerate(dates):
        found = retrieval.best("soup number 2", 10, seed="u", before=place)
        assert sorted(dates[int(entry["id"])] for entry in found) == list(range(1, date))


def test_random_is_drawn_by_its_seed_and_no_item_twice() -> None:
    retrieval = Retrieval(TASKS["3"], "random", [item(n) for n in range(20)])
    draws = [tuple(entry["id"] for entry in retrieval.best("", 4, seed=f"user/{n}")) for n in range(10)]
    assert draws == [tuple(entry["id"] for entry in retrieval.best("", 4, seed=f"user/{n}")) for n in range(10)]
    assert len(set(draws)) > 5
    assert all(len(set(draw)) == 4 for draw in draws)


@pytest.mark.parametrize("retriever", ["random", "recency", "bm25"])
def test_an_empty_profile_gives_no_items(retriever: str) -> None:
    assert Retrieval(TASKS["3"], retriever, []).best("soup", 4) == []
