"""One user on the device: inputs and training data of each task, with older items only, and answers."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rank_bm25 import BM25Okapi

from mlx_personal import LanguageModel
from mlx_personal.augmentation.task import Record
from mlx_personal.dialogue import Dialogue
from mlx_personal.research.lamp import answering
from mlx_personal.research.lamp.lamp_config import LampConfig
from mlx_personal.research.lamp.lamp_results import Count
from mlx_personal.research.lamp.lamp_users import LampUser
from mlx_personal.research.lamp.methods import Method, parse_method
from mlx_personal.research.lamp.tasks import TASKS, LampTask
from tests.support.lamp_users import SHORT_RUN, read_world_users

LONG = dataclasses.replace(SHORT_RUN, max_length=4000)
# The text of an item in a prompt, as in the benchmark.
ITEM_TEMPLATES = {
    "1": '"{title}"',
    "2N": 'the category for the article: "{text}" is "{category}" ',
    "2M": 'the tag for the movie: "{description}" is "{tag}" ',
    "3": '{score} is the score for "{text}" ',
    "4": '"{title}" is the title for "{text}" ',
    "5": '"{title}" is a title for "{abstract}" ',
    "7": '"{text}" ',
}


TaskAndUser = tuple[LampTask, LampUser]


@pytest.fixture(scope="module", params=TASKS)
def task_and_user(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TaskAndUser:
    """Each task with one of its users."""
    return TASKS[request.param], read_world_users(tmp_path_factory.mktemp("users"), request.param, users=1)[0]


@pytest.fixture(scope="module")
def review_user(tmp_path_factory: pytest.TempPathFactory) -> LampUser:
    return read_world_users(tmp_path_factory.mktemp("users"), "3", users=1, records=6)[0]


def question_of(dialogue: Dialogue) -> str:
    return dialogue.to_messages()[0]["content"]


def answer_of(dialogue: Dialogue) -> str:
    return dialogue.to_messages()[1]["content"]


def build_inputs(
    lm: LanguageModel, task: LampTask, user: LampUser, method: str, config: LampConfig = SHORT_RUN, **summary: str
) -> tuple[list[str], Counter[str]]:
    """Return the inputs of a user's queries, and what was left out."""
    counts: Counter[str] = Counter()
    inputs = answering.build_inputs(lm, task, user, parse_method(method), config, counts, **summary)
    return inputs, +counts


def training_dialogues(
    lm: LanguageModel, user: LampUser, method: Method, synthetic: Sequence[Record] = ()
) -> list[Dialogue]:
    """Return what an adapter is trained on for a user of LaMP-3."""
    examples = answering.training_examples(lm, TASKS["3"], user, method, LONG, synthetic)
    return [example.dialogue for example in examples]


def test_the_input_is_the_official_one_without_items(task_and_user: TaskAndUser, tiny_model: LanguageModel) -> None:
    task, user = task_and_user
    inputs, counts = build_inputs(tiny_model, task, user, "non-personalized")
    assert inputs == [query.input for query in user.queries] and not counts


def test_items_are_written_as_in_the_benchmark_the_best_first(
    task_and_user: TaskAndUser, tiny_model: LanguageModel
) -> None:
    task, user = task_and_user
    inputs, counts = build_inputs(tiny_model, task, user, "bm25:2", LONG)
    assert not counts
    index = BM25Okapi([" ".join(item[name] for name in task.retrieval_fields).split() for item in user.profile])
    for query, text in zip(user.queries, inputs, strict=True):
        scores = index.get_scores(task.query_text(query.input).split())
        best = sorted(range(len(scores)), key=lambda i: (scores[i], i), reverse=True)[:2]
        joined = ", and ".join(ITEM_TEMPLATES[task.name].format(**user.profile[i]) for i in best)
        assert joined in text
        assert text.endswith(query.input) or task.name == "1"
        assert text.count(task.query_text(query.input)) >= 1 or task.name == "1"


def test_the_summary_of_the_user_comes_first(task_and_user: TaskAndUser, tiny_model: LanguageModel) -> None:
    task, user = task_and_user
    inputs, counts = build_inputs(tiny_model, task, user, "profile", summary="She is strict.")
    assert inputs == [f"She is strict.\n{query.input}" for query in user.queries] and not counts


def test_an_adapter_is_trained_on_every_item_in_the_form_of_the_task(
    task_and_user: TaskAndUser, tiny_model: LanguageModel
) -> None:
    task, user = task_and_user
    synthetic = [Record("something new", "an answer")]
    examples = answering.training_examples(tiny_model, task, user, parse_method("cdcda"), SHORT_RUN, synthetic)
    synthetic_weight = SHORT_RUN.augment.synthetic_weight
    assert [example.weight for example in examples] == [1.0] * len(user.profile) + [synthetic_weight]
    dialogues = [example.dialogue for example in examples]
    expected: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {
        "1": lambda item: (f"paper title: {item['title']} reference:", item["citation"]),
        "2N": lambda item: (task.input_template.format(text=item["text"]), item["category"]),
        "2M": lambda item: (task.input_template.format(text=item["description"]), item["tag"]),
        "3": lambda item: (task.input_template.format(text=item["text"]), item["score"]),
        "4": lambda item: (task.input_template.format(text=item["text"]), item["title"]),
        "5": lambda item: (task.input_template.format(text=item["abstract"]), item["title"]),
    }
    for item, dialogue in zip(user.profile, dialogues, strict=False):
        if task.name == "7":
            start = question_of(dialogue).removeprefix("Complete the following tweet: ")
            assert f"{start} {answer_of(dialogue)}" == item["text"]
        else:
            assert (question_of(dialogue), answer_of(dialogue)) == expected[task.name](item)
    templates = {"1": "paper title: {text} reference:", "7": "Complete the following tweet: {text}"}
    template = templates.get(task.name, task.input_template)
    assert question_of(dialogues[-1]) == template.replace("{text}", "something new")
    assert answer_of(dialogues[-1]) == "an answer"


@pytest.mark.parametrize("retriever", ["bm25", "recency", "random"])
def test_a_real_item_comes_after_older_items_and_a_synthetic_record_after_any(
    retriever: str, review_user: LampUser, tiny_model: LanguageModel
) -> None:
    user = review_user
    item_texts = [ITEM_TEMPLATES["3"].format(**item) for item in user.profile]
    synthetic = [Record("I bought this lamp. It came overnight.", "5")]
    method = parse_method(f"oppu+{retriever}:4")
    dialogues = training_dialogues(tiny_model, user, method, synthetic)
    for index, dialogue in enumerate(dialogues[:-1]):
        shown = {i for i, text in enumerate(item_texts) if text in question_of(dialogue)}
        assert len(shown) == min(index, 4) and all(i < index for i in shown)
    synthetic_question = question_of(dialogues[-1])
    assert sum(text in synthetic_question for text in item_texts) == 4
    if retriever == "recency":
        assert all(text in synthetic_question for text in item_texts[2:])


def test_dates_decide_which_items_are_older_not_the_order_of_the_file(
    review_user: LampUser, tiny_model: LanguageModel
) -> None:
    reversed_user = dataclasses.replace(review_user, profile=review_user.profile[::-1])
    method = parse_method("oppu+recency:2")
    forward = training_dialogues(tiny_model, review_user, method)
    backward = training_dialogues(tiny_model, reversed_user, method)
    assert list(map(question_of, backward)) == list(map(question_of, forward[::-1]))


def test_queries_of_a_user_without_items_stand_alone_and_are_counted(
    review_user: LampUser, tiny_model: LanguageModel
) -> None:
    empty = dataclasses.replace(review_user, profile=())
    inputs, counts = build_inputs(tiny_model, TASKS["3"], empty, "bm25")
    assert inputs == [query.input for query in empty.queries]
    assert counts == {Count.NO_ITEMS: len(empty.queries)}
    assert answering.training_examples(tiny_model, TASKS["3"], empty, parse_method("oppu+bm25"), SHORT_RUN) == []


def test_items_that_do_not_fit_and_shortened_ones_are_counted(review_user: LampUser, tiny_model: LanguageModel) -> None:
    official = [query.input for query in review_user.queries]

    def build(max_length: int) -> tuple[list[str], Counter[str]]:
        config = dataclasses.replace(SHORT_RUN, max_length=max_length)
        return build_inputs(tiny_model, TASKS["3"], review_user, "bm25:4", config)

    assert build(20) == (official, {Count.ITEMS_LEFT_OUT: len(official)})
    # Enough for the fixed words of the items and a little more.
    counts = build(400)[1]
    assert counts[Count.ITEMS_LEFT_OUT] == 0 < counts[Count.ITEMS_SHORTENED]
    assert not build(4000)[1]


def test_a_summary_is_written_from_at_most_ten_items_and_not_without_any(
    review_user: LampUser, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def generate(prompts: list[list[int]], **settings: Any) -> list[str]:
        decoded.extend(tiny_model.tokenizer.decode(prompt) for prompt in prompts)
        return ["<think>hm</think> Likes lamps. "]

    monkeypatch.setattr(tiny_model, "generate", generate)
    many = dataclasses.replace(review_user, profile=review_user.profile * 3)
    assert answering.summarize_user(tiny_model, TASKS["3"], many, SHORT_RUN) == "Likes lamps."
    lines = [line for line in decoded[0].splitlines() if line.startswith('{"text"')]
    assert len(lines) == 10
    records = [{"text": item["text"], "answer": item["score"]} for item in many.profile]
    assert all(json.loads(line) in records for line in lines)
    empty = dataclasses.replace(review_user, profile=())
    assert answering.summarize_user(tiny_model, TASKS["3"], empty, SHORT_RUN) == "" and len(decoded) == 1


def test_the_most_likely_label_is_chosen(review_user: LampUser, tiny_model: LanguageModel) -> None:
    """The reference is the log-likelihood of each label alone."""
    task, config = TASKS["3"], dataclasses.replace(SHORT_RUN, choose_label=True)
    inputs = [query.input for query in review_user.queries]
    answers = answering.answer_inputs(tiny_model, task, inputs, config)
    for text, label in zip(inputs, answers.texts, strict=True):
        prompt = tiny_model.tokenize_prompt([{"role": "user", "content": text}])
        scores = [float(tiny_model.log_likelihoods([prompt], [each])[0, 0]) for each in task.labels]
        assert label == task.labels[int(np.argmax(scores))]
    prompts = [tiny_model.tokenize_prompt([{"role": "user", "content": text}]) for text in inputs]
    assert answers.tokens_read == sum(map(len, prompts))
    assert answers.tokens_written == sum(len(tiny_model.tokenize(label)) for label in answers.texts)


def test_a_task_without_labels_is_always_answered_with_generated_text(
    tmp_path: Path, tiny_model: LanguageModel
) -> None:
    task = TASKS["4"]
    inputs = [query.input for query in read_world_users(tmp_path, "4", users=1)[0].queries]
    choosing = answering.answer_inputs(tiny_model, task, inputs, dataclasses.replace(SHORT_RUN, choose_label=True))
    assert choosing == answering.answer_inputs(tiny_model, task, inputs, SHORT_RUN)
