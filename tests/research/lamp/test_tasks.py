"""LaMP's tasks: their inputs, the training record of an item, and the addresses of their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlx_personal import http_client
from mlx_personal.augmentation.task import Record
from mlx_personal.errors import UserError
from mlx_personal.research.lamp.download import download_split, file_url
from mlx_personal.research.lamp.tasks import TASKS, get_task

ITEMS: dict[str, dict[str, Any]] = {
    "1": {"id": "1", "title": "On leeks", "abstract": "We study leeks."},
    "2N": {"id": "1", "text": "The team won.", "title": "Won", "category": "sports"},
    "2M": {"id": "1", "description": "A robot dreams.", "tag": "sci-fi"},
    "3": {"id": "1", "text": "It broke.", "score": "1"},
    "4": {"id": "1", "text": "The mayor spoke.", "title": "Mayor speaks"},
    "5": {"id": "1", "title": "On leeks", "abstract": "We study leeks."},
    "7": {"id": "1", "text": "so i went to the sea and it was cold"},
}
# Whole inputs as in LaMP's files, the text that each asks about, and the fields of the template.
INPUTS: dict[str, tuple[str, str, dict[str, str]]] = {
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


def tweet_record(text: str, seed: int = 0) -> Record:
    record = TASKS["7"].training_record({"text": text}, seed)
    assert record is not None
    return record


@pytest.mark.parametrize("name", TASKS)
def test_an_input_is_that_of_the_benchmark_and_gives_its_text_back(name: str) -> None:
    query_input, text, slots = INPUTS[name]
    assert TASKS[name].input_template.format(**slots) == query_input
    assert TASKS[name].query_text(query_input) == text


@pytest.mark.parametrize("name", TASKS)
def test_an_input_of_another_task_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"not an input of LaMP-{name}"):
        TASKS[name].query_text("What is the capital of France?")


@pytest.mark.parametrize(
    ("name", "question", "text", "answer"),
    [
        ("1", "Write an abstract for this title: {text}", "On leeks", "We study leeks."),
        ("2N", TASKS["2N"].input_template, "The team won.", "sports"),
        ("2M", TASKS["2M"].input_template, "A robot dreams.", "sci-fi"),
        ("3", TASKS["3"].input_template, "It broke.", "1"),
        ("4", TASKS["4"].input_template, "The mayor spoke.", "Mayor speaks"),
        ("5", TASKS["5"].input_template, "We study leeks.", "On leeks"),
    ],
)
def test_the_training_record_of_an_item(name: str, question: str, text: str, answer: str) -> None:
    task = TASKS[name]
    assert task.training_record(ITEMS[name]) == Record(text, answer)
    assert task.augmentation_task([ITEMS[name]]).question == question


def test_the_training_task_has_the_labels_of_classification_and_ratings() -> None:
    labels = {name: task.augmentation_task([ITEMS[name]]).labels for name, task in TASKS.items()}
    assert {name: len(of_task) for name, of_task in labels.items()} == {
        "1": 0,
        "2N": 15,
        "2M": 15,
        "3": 5,
        "4": 0,
        "5": 0,
        "7": 0,
    }


def test_a_paper_with_a_citation_is_trained_on_the_citation() -> None:
    item = {**ITEMS["1"], "citation": "On onions"}
    assert TASKS["1"].training_record(item) == Record("On leeks", "On onions")
    assert TASKS["1"].augmentation_task([item]).question == "paper title: {text} reference:"


@pytest.mark.parametrize("seed", range(20))
def test_the_first_words_of_a_tweet_are_the_input(seed: int) -> None:
    words = [f"w{i}" for i in range(40)]
    record = tweet_record(" ".join(words), seed)
    assert 4 <= len(record.text.split()) <= 10
    assert f"{record.text} {record.answer}".split() == words
    assert record == tweet_record(" ".join(words), seed)


def test_the_seed_decides_the_split_and_a_short_tweet_gives_one_word() -> None:
    text = " ".join(f"w{i}" for i in range(100))
    assert len({tweet_record(text, seed).text for seed in range(10)}) > 1
    assert tweet_record("hello you") == Record("hello", "you")
    assert TASKS["7"].training_record({"text": "hello"}) is None


@pytest.mark.parametrize("name", TASKS)
def test_an_item_without_a_field_is_not_usable(name: str) -> None:
    task = TASKS[name]
    assert task.is_usable(ITEMS[name])
    for missing in filter(None, (task.text_field, "abstract" if name == "1" else task.answer_field)):
        for value in ({}, {missing: None}, {missing: "  "}, {missing: ["a"]}):
            item: dict[str, Any] = {key: old for key, old in ITEMS[name].items() if key != missing} | value
            assert task.training_record(item) is None
            assert not task.is_usable(item)
    assert not task.is_usable("a string")


def test_an_unknown_label_is_not_an_answer() -> None:
    assert TASKS["2M"].training_record({"description": "A dog.", "tag": "dogs"}) is None
    assert TASKS["3"].training_record({"text": "Fine.", "score": 6}) is None
    assert TASKS["3"].training_record({"text": "Fine.", "score": True}) is None


@pytest.mark.parametrize("score", ["4", 4, 4.0, "4.0", " 4 "])
def test_a_score_may_be_written_in_several_ways(score: object) -> None:
    assert TASKS["3"].training_record({"text": "Fine.", "score": score}) == Record("Fine.", "4")


def test_a_text_that_a_dialogue_cannot_hold_gives_no_record() -> None:
    assert TASKS["3"].training_record({"text": "a\0b", "score": "1"}) is None


def test_the_text_that_retrieval_compares() -> None:
    texts = {name: task.retrieval_text(ITEMS[name]) for name, task in TASKS.items()}
    assert texts == {
        "1": "On leeks We study leeks.",
        "2N": "Won The team won.",
        "2M": "A robot dreams.",
        "3": "It broke.",
        "4": "Mayor speaks The mayor spoke.",
        "5": "On leeks We study leeks.",
        "7": "so i went to the sea and it was cold",
    }


@pytest.mark.parametrize("name", ["2M", "2m", "LaMP_2M", "LaMP-2M", "lamp2M"])
def test_a_task_has_a_short_name_and_that_of_its_files(name: str) -> None:
    assert get_task(name) is TASKS["2M"]


@pytest.mark.parametrize("unknown", ["6", "2", "LaMP_9", ""])
def test_an_unknown_task_is_an_error_that_lists_the_known_ones(unknown: str) -> None:
    with pytest.raises(UserError, match="choose one of 1, 2N, 2M, 3, 4, 5, 7"):
        get_task(unknown)


def test_the_addresses_of_the_files() -> None:
    root = "https://ciir.cs.umass.edu/downloads/LaMP"
    assert file_url(TASKS["3"], "dev", "questions") == f"{root}/LaMP_3/dev/dev_questions.json"
    assert file_url(TASKS["2N"], "train", "outputs") == f"{root}/LaMP_2/train/train_outputs.json"
    assert file_url(TASKS["2M"], "dev", "outputs") == f"{root}/LaMP_2/new/dev/dev_outputs.json"
    assert file_url(TASKS["7"], "test", "questions", by_time=True) == f"{root}/time/LaMP_7/test/test_questions.json"


@pytest.fixture
def downloaded_urls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that are downloaded, from a server that has every file."""
    urls: list[str] = []

    def download(url: str, path: Path, on_progress: object = None) -> None:
        urls.append(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[]" if "questions" in url else "{}")

    monkeypatch.setattr(http_client, "download", download)
    return urls


def test_an_existing_file_is_not_downloaded_again(downloaded_urls: list[str], tmp_path: Path) -> None:
    paths = download_split(TASKS["2M"], "dev", tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "user/LaMP_2M/dev_questions.json",
        "user/LaMP_2M/dev_outputs.json",
    ]
    paths[1].unlink()
    assert download_split(TASKS["2M"], "dev", tmp_path) == paths
    assert [url.rpartition("_")[2] for url in downloaded_urls] == ["questions.json", "outputs.json", "outputs.json"]


def test_the_splits_have_folders_of_their_own_and_test_has_no_outputs(
    downloaded_urls: list[str], tmp_path: Path
) -> None:
    by_user = download_split(TASKS["3"], "test", tmp_path)
    by_time = download_split(TASKS["3"], "test", tmp_path, by_time=True)
    assert [path.name for path in by_user + by_time] == ["test_questions.json"] * 2
    assert by_user != by_time
    assert len(downloaded_urls) == 2


def test_a_web_page_in_place_of_a_file_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def download(url: str, path: Path, on_progress: object) -> None:
        path.parent.mkdir(parents=True)
        path.write_text("<!DOCTYPE html><title>not found</title>")

    monkeypatch.setattr(http_client, "download", download)
    with pytest.raises(UserError, match="a page, not LaMP's data"):
        download_split(TASKS["3"], "dev", tmp_path)
    assert not list(tmp_path.rglob("*.json"))
