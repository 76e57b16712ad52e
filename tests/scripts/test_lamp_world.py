"""The LaMP world: its tastes determine every answer by simple rules, and its files have LaMP's formats."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mlx_personal import LanguageModel, load_language_model
from mlx_personal.augmentation.prompting import build_requests, parse_record
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.dialogue import Dialogue
from mlx_personal.research.lamp import answering
from mlx_personal.research.lamp.lamp_config import LampConfig
from mlx_personal.research.lamp.lamp_prompts import build_retrieval_prompt
from mlx_personal.research.lamp.lamp_users import LampUser, Query
from mlx_personal.research.lamp.methods import parse_method
from mlx_personal.research.lamp.tasks import TASKS, LampTask
from tests.support.lamp_users import write_lamp_files
from tests.support.scripts import import_script

words = import_script("lamp_world.words")
SUFFIXES = ("questions", "outputs", "history", "tastes")
Clauses = Mapping[str, Mapping[str, tuple[str, ...]]]


def read_files(folder: Path, task: str) -> dict[str, Any]:
    """Return the contents of a task's four files."""
    name = TASKS[task].file_names[0]
    return {suffix: json.loads((folder / f"{name}_{suffix}.json").read_text()) for suffix in SUFFIXES}


def read_answers(folder: Path, task: str) -> Iterator[tuple[str, str, str]]:
    """Yield (stated taste, text, answer) of every query and item."""
    files = read_files(folder, task)
    text_field, answer_field = TASKS[task].text_field, TASKS[task].answer_field
    for user in files["history"]:
        taste = files["tastes"][user["user_id"]]
        for query in user["query"]:
            yield taste, query["input"].replace(TASKS[task].input_template.partition("{")[0], ""), query["gold"]
        for item in user["profile"]:
            if task not in ("1", "7"):
                yield taste, item[text_field], item[answer_field]


def match_groups(pattern: str, text: str) -> tuple[str, ...]:
    """Return the groups of the first match of a pattern, which must exist."""
    match = re.search(pattern, text)
    assert match is not None
    return match.groups()


def clause_label(kinds: Clauses, kind: str, text: str) -> str:
    """Return the label of the only clause of a kind that a text contains."""
    (label,) = {
        label for label, clauses in kinds[kind].items() if any(clause.lower() in text.lower() for clause in clauses)
    }
    return label


@pytest.mark.parametrize(("task", "kinds"), [("2M", words.MOVIE_CLAUSES), ("2N", words.NEWS_CLAUSES)])
def test_tags_and_categories_follow_the_users_kind_of_clause(tmp_path: Path, task: str, kinds: Clauses) -> None:
    seen = set()
    for taste, text, label in read_answers(write_lamp_files(tmp_path, task, users=12), task):
        (kind,) = match_groups(r"^This person (?:tags movies|files news) by the (\w+)\.$", taste)
        assert label == clause_label(kinds, kind, text) and label in TASKS[task].labels
        seen.add(kind)
    assert seen == set(kinds)


def test_scores_follow_the_verdict_on_one_aspect_and_a_mood(tmp_path: Path) -> None:
    for taste, text, score in read_answers(write_lamp_files(tmp_path, "3", users=20), "3"):
        mood, aspect = match_groups(r"^This person is (\w+) and scores products by the (\w+)\.$", taste)
        (verdict,) = [
            verdict
            for verdict, sentences in enumerate(words.REVIEW_ASPECTS[aspect])
            if any(sentence in text for sentence in sentences)
        ]
        points = [1, 3, 5][verdict] + {"strict": -1, "fair": 0, "generous": 1}[mood]
        assert score == str(max(1, min(5, points)))


def test_headlines_and_titles_have_the_users_frame(tmp_path: Path) -> None:
    for task, start in (("4", "This person writes headlines like "), ("5", "This person writes titles like ")):
        for taste, text, title in read_answers(write_lamp_files(tmp_path, task, users=8), task):
            pattern = re.sub(r"\\{\w+\\}", "(.+)", re.escape(taste.removeprefix(start)))
            match = re.fullmatch(pattern, title, re.IGNORECASE)
            assert match is not None and all(group.lower() in text.lower() for group in match.groups())


def test_tweets_have_the_users_opener_and_closer(tmp_path: Path) -> None:
    files = read_files(write_lamp_files(tmp_path, "7", users=8), "7")
    for user in files["history"]:
        taste = files["tastes"][user["user_id"]]
        opener, closer = taste.removeprefix("This person writes tweets like ").split(" ... ", 1)
        for text in [item["text"] for item in user["profile"]] + [query["gold"] for query in user["query"]]:
            assert text.startswith(f"{opener} had ") and text.endswith(f" {closer}")
        for query in user["query"]:
            assert opener not in query["input"].partition("it: ")[2]


def test_cited_papers_share_the_method_or_the_topic(tmp_path: Path) -> None:
    files, seen = read_files(write_lamp_files(tmp_path, "1", users=8), "1"), set()
    for user in files["history"]:
        statement = files["tastes"][user["user_id"]]
        (shared,) = match_groups(r"^This author cites papers on the same (\w+)\.$", statement)
        seen.add(shared)
        index = ["method", "topic"].index(shared)

        def shares_it_alone(title: str, other: str, index: int = index) -> bool:
            parts, other_parts = title.split(" for "), other.split(" for ")
            return parts[index] == other_parts[index] and parts[1 - index] != other_parts[1 - index]

        for item in user["profile"]:
            assert shares_it_alone(item["title"], item["citation"])
        for query in user["query"]:
            (title,) = match_groups(r'with the title "(.*?)"', query["input"])
            references = match_groups(r'\[1\]: "(.*)" \[2\]: "(.*)"', query["input"])
            cited = [f"[{i}]" for i, other in enumerate(references, 1) if shares_it_alone(title, other)]
            assert cited == [query["gold"]]
    assert seen == {"method", "topic"}


@pytest.mark.parametrize("task", TASKS)
def test_the_same_arguments_give_the_same_files_and_more_records_extend_fewer(tmp_path: Path, task: str) -> None:
    few, again, many = (
        read_files(write_lamp_files(tmp_path / name, task, records=count), task)
        for name, count in (("a", 2), ("b", 2), ("c", 5))
    )
    assert few == again
    other = read_files(write_lamp_files(tmp_path / "d", task, records=2, seed=2), task)
    assert not set(few["tastes"]) & set(other["tastes"]) and few["outputs"] != other["outputs"]
    for less, more in zip(few["history"], many["history"], strict=True):
        assert less["profile"] == more["profile"][:2] and len(more["profile"]) == 5
        assert less["query"] == more["query"]
    assert few["outputs"] == many["outputs"]


def test_both_formats_contain_the_same_users(tmp_path: Path) -> None:
    files = read_files(write_lamp_files(tmp_path, "3"), "3")
    golds = {gold["id"]: gold["output"] for gold in files["outputs"]["golds"]}
    questions = [
        {"id": query["id"], "input": query["input"], "user_id": user["user_id"], "profile": user["profile"]}
        for user in files["history"]
        for query in user["query"]
    ]
    assert questions == files["questions"]
    assert golds == {query["id"]: query["gold"] for user in files["history"] for query in user["query"]}


# Training samples of the models


def draw_samples(role: str, count: int = 400) -> list[list[str]]:
    """Return the question and the answer of random samples."""
    draw_sample = import_script("lamp_world.corpus").draw_sample
    rng = Random(5)
    return [[message["content"] for message in draw_sample(rng, role)["messages"]] for _ in range(count)]


def shown_records(prompt: str) -> list[Record]:
    """Return the records that a prompt shows."""
    return [parse_record(line, Task()) for line in prompt.splitlines() if line.startswith('{"text"')]


def test_the_teacher_is_trained_on_the_prompts_of_augmentation() -> None:
    num_prompts = 0
    for prompt, response in draw_samples("teacher"):
        if "Write one more record" not in prompt:
            continue
        num_prompts += 1
        (labels,) = {task.labels for task in TASKS.values() if f"one of: {', '.join(task.labels)}.\n" in prompt} or {()}
        task, records = Task(labels=labels), shown_records(prompt)
        (request,) = build_requests("someone", task, records, 1, len(records), 0)
        # Equal except for the order of the records.
        assert sorted(request.prompt.splitlines()) == sorted(prompt.splitlines())
        record = parse_record(response, task)
        assert record.text and (not labels or record.answer in labels)
    assert num_prompts > 150


def test_the_student_is_trained_on_the_inputs_of_a_run(tiny_model: LanguageModel) -> None:
    num_descriptions = num_plain = num_with_items = 0
    tasks_by_start = {task.input_template.partition("{")[0]: task for task in TASKS.values()}
    for prompt, _ in draw_samples("student"):
        if records := shown_records(prompt):
            assert prompt == answering.summary_prompt(records)
            num_descriptions += 1
            continue
        (start,) = [start for start in tasks_by_start if start in prompt]
        task, before = tasks_by_start[start], prompt.partition(start)[0]
        query = Query("q", prompt[len(before) :], "x")
        assert task.query_text(query.input)
        if not before:
            num_plain += 1
            user = LampUser("u", (), (query,))
            method = parse_method("non-personalized")
            assert answering.build_inputs(tiny_model, task, user, method, LampConfig(), Counter()) == [prompt]
        elif before.endswith(". "):
            items = [parse_item(task, text) for text in before[:-2].split(", and ")]
            complete_items = [item for item in items if item is not None]
            if len(complete_items) == len(items):
                expected = build_retrieval_prompt(task, query.input, complete_items, 10**6, str.split, " ".join)
                assert prompt == expected.text
                num_with_items += 1
    assert num_descriptions > 30 and num_plain > 100 and num_with_items > 50


def parse_item(task: LampTask, text: str) -> dict[str, str] | None:
    """Return the item in an input; None where its text contains the words that separate two items."""
    patterns = {
        "2M": r'the tag for the movie: "(?P<description>.*)" is "(?P<tag>.*)" ',
        "3": r'(?P<score>\d) is the score for "(?P<text>.*)" ',
        "4": r'"(?P<title>.*)" is the title for "(?P<text>.*)" ',
    }
    match = re.fullmatch(patterns[task.name], text)
    return None if match is None else match.groupdict()


@pytest.mark.slow
def test_a_model_trained_on_the_world_loads_and_answers(tmp_path: Path) -> None:
    pretraining, corpus = import_script("pretraining"), import_script("lamp_world.corpus")
    rng = Random(1)
    samples = [corpus.draw_sample(rng, "student") for _ in range(60)]
    config = pretraining.PretrainingConfig(
        hidden_size=32,
        num_layers=1,
        intermediate_size=48,
        num_heads=4,
        vocab_size=320,
        max_seq_length=400,
        batch_tokens=2000,
    )
    training = pretraining.pretrain(samples, config, 1, tmp_path)
    assert 0 < training["rows"] <= 60 and training["steps"] > 0
    lm = load_language_model(tmp_path)
    question = Dialogue.of(samples[0]["messages"][0]["content"], "x").to_messages()[:1]
    assert len(lm.generate([lm.tokenize_prompt(question)], max_tokens=4)) == 1
