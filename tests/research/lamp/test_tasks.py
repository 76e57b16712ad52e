"""LaMP's tasks: their inputs, what is learnt of an item, and where their files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlx_personal import http_client
from mlx_personal.errors import UserError
from mlx_personal.research.lamp import download as downloading
from mlx_personal.research.lamp.download import download, url
from mlx_personal.research.lamp.tasks import TASKS, task_named

ITEMS = {
    "1": {"id": "1", "title": "On leeks", "abstract": "We study leeks."},
    "2N": {"id": "1", "text": "The team won.", "title": "Won", "category": "sports"},
    "2M": {"id": "1", "description": "A robot dreams.", "tag": "sci-fi"},
    "3": {"id": "1", "text": "It broke.", "score": "1"},
    "4": {"id": "1", "text": "The mayor spoke.", "title": "Mayor speaks"},
    "5": {"id": "1", "title": "On leeks", "abstract": "We study leeks."},
    "7": {"id": "1", "text": "so i went to the sea and it was cold"},
}
# Whole inputs as LaMP's files have them, and what each asks about.
INPUTS = {
    "1": (
        'For an author who has written the paper with the title "A {b} c", which reference is related? Just answer '
        'with [1] or [2] without explanation. [1]: "Deep soups" [2]: "Of "wide" pans"',
        'Deep soups Of "wide" pans',
        {"title": "A {b} c", "ref1": "Deep soups", "ref2": 'Of "wide" pans'},
    ),
    "2N": (
        "Which category does this article relate to among the following categories? Just answer with the category "
        "name without further explanation. categories: [women, religion, politics, style & beauty, entertainment, "
        "culture & arts, sports, science & technology, travel, business, crime, education, healthy living, parents, "
        "food & drink] article: The {team} won an article: two.",
        "The {team} won an article: two.",
        {"text": "The {team} won an article: two."},
    ),
    "2M": (
        "Which tag does this movie relate to among the following tags? Just answer with the tag name without further "
        "explanation. tags: [sci-fi, based on a book, comedy, action, twist ending, dystopia, dark comedy, classic, "
        "psychology, fantasy, romance, thought-provoking, social commentary, violence, true story] description: A dog.",
        "A dog.",
        {"text": "A dog."},
    ),
    "3": (
        "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without "
        "further explanation. review: Fine.",
        "Fine.",
        {"text": "Fine."},
    ),
    "4": ("Generate a headline for the following article: It rained.", "It rained.", {"text": "It rained."}),
    "5": (
        "Generate a title for the following abstract of a paper: We model: rain.",
        "We model: rain.",
        {"text": "We model: rain."},
    ),
    "7": (
        "Paraphrase the following tweet without any explanation before or after it: I like it: rain",
        "I like it: rain",
        {"text": "I like it: rain"},
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_asks_as_the_benchmark_does_and_finds_again_what_it_asked_about(name: Any) -> None:
    asked, about, slots = INPUTS[name]
    assert TASKS[name].question.format(**slots) == asked
    assert TASKS[name].query_text(asked) == about


@pytest.mark.parametrize("name", TASKS)
def test_an_input_of_another_task_is_told_apart(name: Any) -> None:
    with pytest.raises(ValueError, match=f"none of LaMP-{name}"):
        TASKS[name].query_text("What is the capital of France?")


@pytest.mark.parametrize(
    ("name", "question", "text", "answer"),
    [
        ("1", "Write an abstract for this title: {text}", "On leeks", "We study leeks."),
        ("2N", TASKS["2N"].question, "The team won.", "sports"),
        ("2M", TASKS["2M"].question, "A robot dreams.", "sci-fi"),
        ("3", TASKS["3"].question, "It broke.", "1"),
        ("4", TASKS["4"].question, "The mayor spoke.", "Mayor speaks"),
        ("5", TASKS["5"].question, "We study leeks.", "On leeks"),
    ],
)
def test_what_an_adapter_learns_of_an_item(name: str, question: Any, text: str, answer: str) -> None:
    task = TASKS[name]
    record = task.record(ITEMS[name])
    assert (record.text, record.answer) == (text, answer)
    assert task.collaboration_task([ITEMS[name]]).question == question


def test_labels_are_known_to_the_learner_where_the_answers_are_labels() -> None:
    labels = {name: task.collaboration_task([ITEMS[name]]).labels for name, task in TASKS.items()}
    assert {name: len(known) for name, known in labels.items()} == {
        "1": 0,
        "2N": 15,
        "2M": 15,
        "3": 5,
        "4": 0,
        "5": 0,
        "7": 0,
    }


def test_a_paper_that_says_what_it_cites_teaches_that() -> None:
    item = {**ITEMS["1"], "citation": "On onions"}
    record = TASKS["1"].record(item)
    assert (record.text, record.answer) == ("On leeks", "On onions")
    assert TASKS["1"].collaboration_task([item]).question == "paper title: {text} reference:"


@pytest.mark.parametrize("seed", range(20))
def test_a_tweet_is_completed_after_its_first_words(seed: Any) -> None:
    words = [f"w{i}" for i in range(40)]
    record = TASKS["7"].record({"text": " ".join(words)}, seed)
    given = len(record.text.split())
    assert 4 <= given <= 10
    assert f"{record.text} {record.answer}".split() == words
    assert record == TASKS["7"].record({"text": " ".join(words)}, seed)


def test_the_seed_moves_where_a_tweet_is_cut_and_a_short_tweet_gives_one_word() -> None:
    text = " ".join(f"w{i}" for i in range(100))
    assert len({TASKS["7"].record({"text": text}, seed).text for seed in range(10)}) > 1
    short = TASKS["7"].record({"text": "hello you"})
    assert (short.text, short.answer) == ("hello", "you")
    assert TASKS["7"].record({"text": "hello"}) is None


@pytest.mark.parametrize("name", TASKS)
def test_an_item_that_lacks_a_field_is_no_record(name: Any) -> None:
    task = TASKS[name]
    assert task.holds(ITEMS[name])
    for lost in {task.text, "abstract" if name == "1" else task.answer} - {None}:
        for value in ({}, {lost: None}, {lost: "  "}, {lost: ["a"]}):
            item = {key: old for key, old in ITEMS[name].items() if key != lost} | value
            assert task.record(item) is None
            assert not task.holds(item)
    assert not task.holds("a string")


def test_a_label_that_nobody_knows_is_no_answer() -> None:
    assert TASKS["2M"].record({"description": "A dog.", "tag": "dogs"}) is None
    assert TASKS["3"].record({"text": "Fine.", "score": 6}) is None
    assert TASKS["3"].record({"text": "Fine.", "score": True}) is None


def test_a_score_is_one_answer_however_it_is_written() -> None:
    assert {TASKS["3"].record({"text": "Fine.", "score": s}).answer for s in ("4", 4, 4.0, "4.0", " 4 ")} == {"4"}


def test_a_text_that_no_dialogue_can_hold_is_no_record() -> None:
    assert TASKS["3"].record({"text": "a\0b", "score": "1"}) is None


def test_what_retrieval_compares() -> None:
    corpus = {name: task.corpus_text(ITEMS[name]) for name, task in TASKS.items()}
    assert corpus == {
        "1": "On leeks We study leeks.",
        "2N": "Won The team won.",
        "2M": "A robot dreams.",
        "3": "It broke.",
        "4": "Mayor speaks The mayor spoke.",
        "5": "On leeks We study leeks.",
        "7": "so i went to the sea and it was cold",
    }


@pytest.mark.parametrize("written", ["2M", "2m", "LaMP_2M", "LaMP-2M", "lamp2M"])
def test_a_task_goes_by_its_short_name_and_by_its_files(written: str) -> None:
    assert task_named(written) is TASKS["2M"]


@pytest.mark.parametrize("unknown", ["6", "2", "LaMP_9", ""])
def test_an_unknown_task_is_one_line_with_the_known_ones(unknown: str) -> None:
    with pytest.raises(UserError, match="take one of 1, 2N, 2M, 3, 4, 5, 7"):
        task_named(unknown)


def test_where_the_files_are() -> None:
    root = "https://ciir.cs.umass.edu/downloads/LaMP"
    assert url(TASKS["3"], "dev", "questions") == f"{root}/LaMP_3/dev/dev_questions.json"
    assert url(TASKS["2N"], "train", "outputs") == f"{root}/LaMP_2/train/train_outputs.json"
    assert url(TASKS["2M"], "dev", "outputs") == f"{root}/LaMP_2/new/dev/dev_outputs.json"
    assert url(TASKS["7"], "test", "questions", by_time=True) == f"{root}/time/LaMP_7/test/test_questions.json"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Any:
    asked = []

    def fake(address: Any, path: Any, on_progress: Any = None) -> None:
        asked.append(address)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[]" if "questions" in address else "{}")

    monkeypatch.setattr(http_client, "download", fake)
    return asked


def test_a_file_that_is_there_is_not_fetched_again(fetched: Any, tmp_path: Path) -> None:
    paths = download(TASKS["2M"], "dev", tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "user/LaMP_2M/dev_questions.json",
        "user/LaMP_2M/dev_outputs.json",
    ]
    paths[1].unlink()
    assert download(TASKS["2M"], "dev", tmp_path) == paths
    assert [address.rpartition("_")[2] for address in fetched] == ["questions.json", "outputs.json", "outputs.json"]


def test_the_splits_do_not_meet_and_a_test_split_has_questions_alone(fetched: Any, tmp_path: Path) -> None:
    by_user = download(TASKS["3"], "test", tmp_path)
    by_time = download(TASKS["3"], "test", tmp_path, by_time=True)
    assert [path.name for path in by_user + by_time] == ["test_questions.json"] * 2
    assert by_user != by_time
    assert len(fetched) == 2


def test_a_page_in_place_of_a_file_is_said_and_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(downloading.http_client, "download", lambda address, path, _: _page(path))
    with pytest.raises(UserError, match="a page, not LaMP's data"):
        download(TASKS["3"], "dev", tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def _page(path: Any) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("<!DOCTYPE html><title>not found</title>")
