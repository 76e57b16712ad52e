"""One user's part: what is asked and learnt in each task, and that nothing comes before its time or unseen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rank_bm25 import BM25Okapi

from mlx_personal import LanguageModel
from mlx_personal.augmentation.task import Record
from mlx_personal.dialogue import Dialogue
from mlx_personal.research.lamp import answering
from mlx_personal.research.lamp.methods import method_named
from mlx_personal.research.lamp.tasks import TASKS
from tests.support.lamp_users import RUN, world_users

LONG = dataclasses.replace(RUN, max_length=4000)
# How an item of each task stands in a prompt, as the benchmark writes it.
WRITTEN = {
    "1": '"{title}"',
    "2N": 'the category for the article: "{text}" is "{category}" ',
    "2M": 'the tag for the movie: "{description}" is "{tag}" ',
    "3": '{score} is the score for "{text}" ',
    "4": '"{title}" is the title for "{text}" ',
    "5": '"{title}" is a title for "{abstract}" ',
    "7": '"{text}" ',
}


@pytest.fixture(scope="module", params=TASKS)
def task_and_user(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each task, and one of its users."""
    return TASKS[request.param], world_users(tmp_path_factory.mktemp("users"), request.param, users=1)[0]


@pytest.fixture(scope="module")
def review_user(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return world_users(tmp_path_factory.mktemp("users"), "3", users=1, records=6)[0]


def question(dialogue: Dialogue) -> str:
    return dialogue.to_messages()[0]["content"]


def answer(dialogue: Dialogue) -> str:
    return dialogue.to_messages()[1]["content"]


def test_without_items_the_input_stands_alone(task_and_user: Any, tiny_model: LanguageModel) -> None:
    task, user = task_and_user
    asked = answering.asked(tiny_model, task, user, method_named("non-personalised"), RUN)
    assert asked.inputs == tuple(query.input for query in user.queries) and not +asked.counts


def test_items_stand_in_an_input_as_the_benchmark_writes_them_the_best_first(
    task_and_user: Any, tiny_model: LanguageModel
) -> None:
    task, user = task_and_user
    asked = answering.asked(tiny_model, task, user, method_named("bm25:2"), LONG)
    assert not +asked.counts
    index = BM25Okapi([" ".join(item[name] for name in task.corpus).split() for item in user.profile])
    for query, text in zip(user.queries, asked.inputs, strict=True):
        scores = index.get_scores(task.query_text(query.input).split())
        best = sorted(range(len(scores)), key=lambda i: (scores[i], i), reverse=True)[:2]
        joined = ", and ".join(WRITTEN[task.name].format(**user.profile[i]) for i in best)
        assert joined in text
        assert text.endswith(query.input) or task.name == "1"
        assert text.count(task.query_text(query.input)) >= 1 or task.name == "1"


def test_a_sentence_about_the_user_comes_first(task_and_user: Any, tiny_model: LanguageModel) -> None:
    task, user = task_and_user
    asked = answering.asked(tiny_model, task, user, method_named("profile"), RUN, about="She is strict.")
    assert asked.inputs == tuple(f"She is strict.\n{query.input}" for query in user.queries)


def test_an_adapter_learns_every_item_as_the_task_asks_it(task_and_user: Any, tiny_model: LanguageModel) -> None:
    task, user = task_and_user
    made = [Record("something new", "an answer")]
    found, own = answering.lessons(tiny_model, task, user, method_named("cdcda"), RUN, made)
    assert own == len(user.profile) and len(found) == own + 1
    wanted = {
        "1": lambda item: (f"paper title: {item['title']} reference:", item["citation"]),
        "2N": lambda item: (task.question.format(text=item["text"]), item["category"]),
        "2M": lambda item: (task.question.format(text=item["description"]), item["tag"]),
        "3": lambda item: (task.question.format(text=item["text"]), item["score"]),
        "4": lambda item: (task.question.format(text=item["text"]), item["title"]),
        "5": lambda item: (task.question.format(text=item["abstract"]), item["title"]),
    }
    for item, lesson in zip(user.profile, found, strict=False):
        if task.name == "7":
            start = question(lesson).removeprefix("Complete the following tweet: ")
            assert f"{start} {answer(lesson)}" == item["text"]
        else:
            assert (question(lesson), answer(lesson)) == wanted[task.name](item)
    asks = {"1": "paper title: {text} reference:", "7": "Complete the following tweet: {text}"}
    assert question(found[-1]) == asks.get(task.name, task.question).replace("{text}", "something new")
    assert answer(found[-1]) == "an answer"


@pytest.mark.parametrize("retriever", ["bm25", "recency", "random"])
def test_an_item_is_learnt_behind_older_ones_alone_and_a_synthetic_one_behind_any(
    retriever: str, review_user: Any, tiny_model: LanguageModel
) -> None:
    task, user = TASKS["3"], review_user
    written = [WRITTEN["3"].format(**item) for item in user.profile]
    made = [Record("I bought this lamp. It came overnight.", "5")]
    found, own = answering.lessons(tiny_model, task, user, method_named(f"oppu+{retriever}:4"), LONG, made)
    for place, lesson in enumerate(found[:own]):
        shown = {i for i, text in enumerate(written) if text in question(lesson)}
        assert len(shown) == min(place, 4) and all(i < place for i in shown)
    assert sum(text in question(found[own]) for text in written) == 4
    if retriever == "recency":
        assert all(text in question(found[own]) for text in written[2:])


def test_dates_and_not_the_files_order_say_what_is_older(review_user: Any, tiny_model: LanguageModel) -> None:
    task, turned = TASKS["3"], dataclasses.replace(review_user, profile=review_user.profile[::-1])
    method = method_named("oppu+recency:2")
    there, _ = answering.lessons(tiny_model, task, review_user, method, LONG)
    back, _ = answering.lessons(tiny_model, task, turned, method, LONG)
    assert [question(lesson) for lesson in back] == [question(lesson) for lesson in there[::-1]]


def test_queries_of_a_user_without_items_are_counted_and_asked_alone(
    review_user: Any, tiny_model: LanguageModel
) -> None:
    empty = dataclasses.replace(review_user, profile=())
    asked = answering.asked(tiny_model, TASKS["3"], empty, method_named("bm25"), RUN)
    assert asked.inputs == tuple(query.input for query in empty.queries)
    assert +asked.counts == {"no items": len(empty.queries)}
    assert answering.lessons(tiny_model, TASKS["3"], empty, method_named("oppu+bm25"), RUN) == ([], 0)


def test_items_that_do_not_fit_are_counted_whole_or_shortened(review_user: Any, tiny_model: LanguageModel) -> None:
    inputs = tuple(query.input for query in review_user.queries)

    def of(max_length: Any) -> Any:
        config = dataclasses.replace(RUN, max_length=max_length)
        return answering.asked(tiny_model, TASKS["3"], review_user, method_named("bm25:4"), config)

    assert of(20).inputs == inputs and +of(20).counts == {"items left out": len(inputs)}
    # Enough for the items' fixed words and a little more.
    short = of(400)
    assert short.counts["items left out"] == 0 < short.counts["items shortened"]
    assert not +of(4000).counts


def test_a_sentence_is_written_of_at_most_ten_items_and_not_without_any(
    review_user: Any, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def generate(prompts: Any, **settings: Any) -> list[str]:
        asked.extend(tiny_model.tokenizer.decode(prompt) for prompt in prompts)
        return ["<think>hm</think> Likes lamps. "]

    monkeypatch.setattr(tiny_model, "generate", generate)
    many = dataclasses.replace(review_user, profile=review_user.profile * 3)
    assert answering.described(tiny_model, TASKS["3"], many, RUN) == "Likes lamps."
    lines = [line for line in asked[0].splitlines() if line.startswith('{"text"')]
    assert len(lines) == 10
    own = [{"text": item["text"], "answer": item["score"]} for item in many.profile]
    assert all(json.loads(line) in own for line in lines)
    nobody = dataclasses.replace(review_user, profile=())
    assert answering.described(tiny_model, TASKS["3"], nobody, RUN) == "" and len(asked) == 1


def test_a_label_is_chosen_by_its_likelihood(review_user: Any, tiny_model: LanguageModel) -> None:
    """The reference: each label's own log-likelihood, one by one."""
    task, config = TASKS["3"], dataclasses.replace(RUN, choose=True)
    inputs, told = [query.input for query in review_user.queries], []
    found = answering.answers(tiny_model, task, inputs, config, lambda *tokens: told.append(tokens))
    for text, label in zip(inputs, found, strict=True):
        prompt = tiny_model.prompt_tokens([{"role": "user", "content": text}])
        scores = [float(tiny_model.log_likelihoods_of_each([prompt], [each])[0, 0]) for each in task.labels]
        assert label == task.labels[int(np.argmax(scores))]
    prompts = [tiny_model.prompt_tokens([{"role": "user", "content": text}]) for text in inputs]
    assert told == [(sum(map(len, prompts)), sum(len(tiny_model.text_tokens(label)) for label in found))]


def test_without_labels_the_choice_is_what_the_model_writes(tmp_path: Path, tiny_model: LanguageModel) -> None:
    task = TASKS["4"]
    inputs = [query.input for query in world_users(tmp_path, "4", users=1)[0].queries]
    chosen = answering.answers(tiny_model, task, inputs, dataclasses.replace(RUN, choose=True))
    assert chosen == answering.answers(tiny_model, task, inputs, RUN)
