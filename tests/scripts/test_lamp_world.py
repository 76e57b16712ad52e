"""The LaMP world: tastes decide every answer by rules that a reader can check, and its files are LaMP's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mlx_personal import LanguageModel, load_language_model
from mlx_personal.augmentation.prompting import parse_record, build_requests
from mlx_personal.augmentation.task import Task
from mlx_personal.dialogue import Dialogue
from mlx_personal.research.lamp import answering
from mlx_personal.research.lamp.lamp_config import LampConfig
from mlx_personal.research.lamp.lamp_prompts import build_retrieval_prompt
from mlx_personal.research.lamp.lamp_users import LampUser, Query
from mlx_personal.research.lamp.methods import parse_method
from mlx_personal.research.lamp.tasks import TASKS
from tests.support.lamp_users import import_script, write_lamp_files

words = import_script("lamp_world.words")
PARTS = ("questions", "outputs", "history", "tastes")


def read(folder: Any, task: Any) -> Any:
    """The four files of a task."""
    return {part: json.loads((folder / f"{TASKS[task].file_names[0]}_{part}.json").read_text()) for part in PARTS}


def pairs(folder: Any, task: Any) -> Iterator[Any]:
    """(stated taste, what the answer is of, the answer) of every query and item."""
    found = read(folder, task)
    for user in found["history"]:
        taste = found["tastes"][user["user_id"]]
        for query in user["query"]:
            yield taste, query["input"].replace(TASKS[task].input_template.partition("{")[0], ""), query["gold"]
        for item in user["profile"]:
            if task not in ("1", "7"):
                yield taste, item[TASKS[task].text_field], item[TASKS[task].answer_field]


def of_a_clause(kinds: Any, kind: Any, text: Any) -> Any:
    """The label of the clause of a kind that a text has."""
    (label,) = {label for label, said in kinds[kind].items() if any(s.lower() in text.lower() for s in said)}
    return label


@pytest.mark.parametrize(("task", "kinds"), [("2M", words.MOVIE_CLAUSES), ("2N", words.NEWS_CLAUSES)])
def test_a_tag_and_a_category_are_those_of_the_clause_that_the_user_goes_by(
    tmp_path: Path, task: str, kinds: Any
) -> None:
    seen = set()
    for taste, text, label in pairs(write_lamp_files(tmp_path, task, users=12), task):
        kind = re.fullmatch(r"This person (?:tags movies|files news) by the (\w+)\.", taste)[1]
        assert label == of_a_clause(kinds, kind, text) and label in TASKS[task].labels
        seen.add(kind)
    assert seen == set(kinds)


def test_a_score_is_the_verdict_on_one_aspect_and_a_mood(tmp_path: Path) -> None:
    for taste, text, score in pairs(write_lamp_files(tmp_path, "3", users=20), "3"):
        mood, aspect = re.fullmatch(r"This person is (\w+) and scores products by the (\w+)\.", taste).groups()
        (verdict,) = [v for v, said in enumerate(words.REVIEW_ASPECTS[aspect]) if any(s in text for s in said)]
        points = [1, 3, 5][verdict] + {"strict": -1, "fair": 0, "generous": 1}[mood]
        assert score == str(max(1, min(5, points)))


def test_headlines_and_titles_have_the_users_frame(tmp_path: Path) -> None:
    def matches(frame: Any, title: Any) -> Any:
        pattern = re.sub(r"\\{\w+\\}", "(.+)", re.escape(frame))
        return re.fullmatch(pattern, title, re.IGNORECASE)

    for task, start in (("4", "This person writes headlines like "), ("5", "This person writes titles like ")):
        for taste, text, title in pairs(write_lamp_files(tmp_path, task, users=8), task):
            found = matches(taste.removeprefix(start), title)
            assert found and all(part.lower() in text.lower() for part in found.groups())


def test_a_tweet_begins_and_ends_as_the_user_does(tmp_path: Path) -> None:
    found = read(write_lamp_files(tmp_path, "7", users=8), "7")
    for user in found["history"]:
        taste = found["tastes"][user["user_id"]]
        opener, closer = taste.removeprefix("This person writes tweets like ").split(" ... ", 1)
        for text in [item["text"] for item in user["profile"]] + [query["gold"] for query in user["query"]]:
            assert text.startswith(f"{opener} had ") and text.endswith(f" {closer}")
        for query in user["query"]:
            assert opener not in query["input"].partition("it: ")[2]


def test_an_author_cites_papers_that_share_the_method_or_the_topic(tmp_path: Path) -> None:
    found, kinds = read(write_lamp_files(tmp_path, "1", users=8), "1"), set()
    for user in found["history"]:
        same = re.fullmatch(r"This author cites papers on the same (\w+)\.", found["tastes"][user["user_id"]])[1]
        kinds.add(same)
        part = ["method", "topic"].index(same)

        def shares(title: Any, other: Any, part: Any = part) -> Any:
            own, cited = title.split(" for "), other.split(" for ")
            return own[part] == cited[part] and own[1 - part] != cited[1 - part]

        for item in user["profile"]:
            assert shares(item["title"], item["citation"])
        for query in user["query"]:
            title = re.search(r'with the title "(.*?)"', query["input"])[1]
            references = re.search(r'\[1\]: "(.*)" \[2\]: "(.*)"', query["input"]).groups()
            cited = [f"[{i}]" for i, other in enumerate(references, 1) if shares(title, other)]
            assert cited == [query["gold"]]
    assert kinds == {"method", "topic"}


@pytest.mark.parametrize("task", TASKS)
def test_the_same_arguments_give_the_same_files_and_fewer_records_are_the_first_of_more(
    tmp_path: Path, task: Any
) -> None:
    few, again, many = (
        read(write_lamp_files(tmp_path / name, task, records=count), task) for name, count in (("a", 2), ("b", 2), ("c", 5))
    )
    assert few == again
    other = read(write_lamp_files(tmp_path / "d", task, records=2, seed=2), task)
    assert not set(few["tastes"]) & set(other["tastes"]) and few["outputs"] != other["outputs"]
    for less, more in zip(few["history"], many["history"], strict=True):
        assert less["profile"] == more["profile"][:2] and len(more["profile"]) == 5
        assert less["query"] == more["query"]
    assert few["outputs"] == many["outputs"]


def test_both_layouts_tell_of_the_same_users(tmp_path: Path) -> None:
    found = read(write_lamp_files(tmp_path, "3"), "3")
    golds = {gold["id"]: gold["output"] for gold in found["outputs"]["golds"]}
    flat = [
        {"id": q["id"], "input": q["input"], "user_id": user["user_id"], "profile": user["profile"]}
        for user in found["history"]
        for q in user["query"]
    ]
    assert flat == found["questions"]
    assert golds == {q["id"]: q["gold"] for user in found["history"] for q in user["query"]}


# What its models read


def rows_of(role: Any, count: Any = 400) -> Any:
    draw_row = import_script("lamp_world.corpus").draw_row
    rng = Random(5)
    return [[message["content"] for message in draw_row(rng, role)["messages"]] for _ in range(count)]


def told(asked: Any) -> Any:
    """The records that a prompt shows."""
    return [parse_record(line, Task()) for line in asked.splitlines() if line.startswith('{"text"')]


def test_a_teacher_is_asked_for_records_in_the_products_own_words() -> None:
    seen = 0
    for asked, said in rows_of("teacher"):
        if "Write one more record" not in asked:
            continue
        seen += 1
        (labels,) = {task.labels for task in TASKS.values() if f"one of: {', '.join(task.labels)}.\n" in asked} or {()}
        task, shown = Task(labels=labels), told(asked)
        prompts = [r.prompt for r in build_requests("someone", task, shown, 1, len(shown), 0)]
        # The same but for the order of what is shown.
        assert sorted(prompts[0].splitlines()) == sorted(asked.splitlines())
        record = parse_record(said, task)
        assert record.text and (not labels or record.answer in labels)
    assert seen > 150


def test_inputs_and_descriptions_are_those_of_a_run(tiny_model: LanguageModel) -> None:
    about = plain = context = 0
    starts = {task.input_template.partition("{")[0]: task for task in TASKS.values()}
    for asked, _ in rows_of("student"):
        if told(asked):
            assert asked == answering.summary_prompt(told(asked))
            about += 1
            continue
        (start,) = [start for start in starts if start in asked]
        task, before = starts[start], asked.partition(start)[0]
        query = Query("q", asked[len(before) :], "x")
        assert task.query_text(query.input)
        if not before:
            plain += 1
            user = LampUser("u", (), (query,))
            run_asks = answering.build_inputs(tiny_model, task, user, parse_method("non-personalized"), LampConfig())
            assert run_asks.inputs == (asked,)
        elif before.endswith(". "):
            items = [item_of(task, text) for text in before[:-2].split(", and ")]
            if all(items):
                assert build_retrieval_prompt(task, query.input, items, 10**6, str.split, " ".join).text == asked
                context += 1
    assert about > 30 and plain > 100 and context > 50


def item_of(task: Any, written: Any) -> Any:
    """An item as it stands in an input, read back; None where a text looks like the words between two items."""
    patterns = {
        "2M": r'the tag for the movie: "(?P<description>.*)" is "(?P<tag>.*)" ',
        "3": r'(?P<score>\d) is the score for "(?P<text>.*)" ',
        "4": r'"(?P<title>.*)" is the title for "(?P<text>.*)" ',
    }
    match = re.fullmatch(patterns[task.name], written)
    return match and match.groupdict()


@pytest.mark.slow
def test_a_model_trained_on_the_world_loads_and_answers(tmp_path: Path) -> None:
    pretraining, corpus = import_script("pretraining"), import_script("lamp_world.corpus")
    rng = Random(1)
    rows = [corpus.draw_row(rng, "student") for _ in range(60)]
    shape = pretraining.Shape(width=32, layers=1, mlp=48, heads=4, vocabulary=320, longest=400, batch_tokens=2000)
    facts = pretraining.pretrain(rows, shape, 1, tmp_path)
    assert 0 < facts["rows"] <= 60 and facts["steps"] > 0
    lm = load_language_model(tmp_path)
    question = Dialogue.of(rows[0]["messages"][0]["content"], "x").to_messages()[:1]
    assert len(lm.generate([lm.tokenize_prompt(question)], max_tokens=4)) == 1
