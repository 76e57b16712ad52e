"""The demo world, the stream of its owner and the model that was trained on it."""

from __future__ import annotations

import json
import sys
from itertools import islice
from random import Random
from types import ModuleType
from typing import Any

import pytest

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.dialogue import words
from mlx_personal.synthesis import prompts
from tests.support.paths import ROOT

FOLDER = ROOT / "mlx_personal" / "demo" / "model"
STREAM = ROOT / "mlx_personal" / "demo" / "stream.jsonl"
KINDS = {"habit", "smalltalk", "duplicate", "boilerplate"}


@pytest.fixture(scope="module", autouse=True)
def scripts_on_path() -> Any:
    """The scripts import one another as a script's own folder lets them."""
    sys.path.insert(0, str(ROOT / "scripts"))
    yield
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    from demo_world import measure

    return measure


@pytest.fixture(scope="module")
def stream() -> list[dict[str, Any]]:
    return [json.loads(line) for line in STREAM.read_text(encoding="utf-8").splitlines()]


def test_the_same_seed_gives_the_same_corpus_and_another_seed_another() -> None:
    from write_demo_corpus import corpus

    first = list(corpus(200, seed=5))
    assert first == list(corpus(200, seed=5))
    assert first == list(islice(corpus(400, seed=5), 200))
    assert first != list(corpus(200, seed=6))


def test_every_row_is_a_valid_dialogue() -> None:
    from write_demo_corpus import corpus

    for held_out in (False, True):
        for row in corpus(1000, seed=2, held_out=held_out):
            text = Dialogue.from_messages(row["messages"]).text
            assert "{" not in text and "}" not in text and "  " not in text


def test_there_are_twelve_domains_or_more_and_no_topic_is_in_two() -> None:
    from demo_world.domains import DOMAINS

    nouns = [topic.noun for domain in DOMAINS for topic in domain.topics]
    assert len(DOMAINS) >= 12
    assert len(set(nouns)) == len(nouns)
    assert all(len(set(domain.steps)) >= 10 for domain in DOMAINS)


def test_no_pair_of_topic_and_intent_is_on_both_sides_of_the_split() -> None:
    from demo_world.rows import scene_of

    def pairs(held_out: bool) -> set[tuple[str, str]]:
        rng = Random(3)
        scenes = (scene_of(rng, held_out, invented=0.0) for _ in range(1500))
        return {(scene.topic.noun, scene.intent.name) for scene in scenes}

    training, held_out = pairs(False), pairs(True)
    assert len(training) > 500 and len(held_out) > 200
    assert not training & held_out


def test_another_wording_keeps_topic_and_detail_and_differs() -> None:
    from demo_world.rows import scene_of
    from demo_world.scene import question

    rng = Random(4)
    for _ in range(500):
        scene = scene_of(rng, held_out=False, invented=0.3)
        asked = question(scene, rng)
        again = question(scene, rng, avoid=asked)
        assert asked.text != again.text
        for wording in (asked, again):
            assert set(words(scene.topic.noun)) <= set(words(wording.text))
            if scene.detail is not None:
                assert set(words(scene.detail.noun)[-1:]) <= set(words(wording.text)) | {"people", "euros", "of"}


def test_the_rewrite_prompts_are_those_that_synthesis_sends() -> None:
    from demo_world import rows

    assert rows.REWRITE_QUESTION == prompts.REWRITE_QUESTION
    assert rows.REWRITE_DIALOGUE == prompts.REWRITE_DIALOGUE


def test_the_shipped_stream_is_what_its_script_writes(stream: list[dict[str, Any]]) -> None:
    from write_demo_stream import stream as written

    assert stream == written()


def test_the_stream_has_four_hundred_conversations_with_a_preferred_answer_a_turn(stream: list[dict[str, Any]]) -> None:
    assert len(stream) >= 400
    for line in stream:
        dialogue = Dialogue.from_messages(line["messages"])
        assert len(line["preferred"]) == len(dialogue.assistant_turns)
        assert all(answer.startswith("Hej Nora, ") for answer in line["preferred"])
        assert line["kind"] in KINDS
    assert {line["kind"] for line in stream} == KINDS
    assert sum(len(line["preferred"]) > 1 for line in stream) >= 24


def test_the_first_weeks_are_blander_than_the_last(stream: list[dict[str, Any]]) -> None:
    def mean_words(lines: list[dict[str, Any]]) -> float:
        return sum(len(words(m["content"])) for line in lines for m in line["messages"]) / len(lines)

    third = len(stream) // 3
    assert mean_words(stream[-third:]) > 1.3 * mean_words(stream[:third])


def test_the_model_folder_is_at_most_eight_megabytes_and_its_card_has_the_figures() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8_000_000
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for needed in ("perplexity", "keep the topic", "name the topic", "--seed", "MIT", "million tokens"):
        assert needed in card


def test_the_model_rewrites_held_out_questions(demo_model: LanguageModel, measure: ModuleType) -> None:
    rates = measure.question_rewrites(demo_model, 60, invented=0.0)
    assert rates.faithful >= 0.85
    assert rates.changed >= 0.8
    assert rates.distinct_of_six >= 2


@pytest.mark.slow
def test_nine_rewrites_in_ten_parse_and_keep_the_topic(demo_model: LanguageModel, measure: ModuleType) -> None:
    assert measure.question_rewrites(demo_model, 300, invented=0.0).faithful >= 0.90
    assert measure.plain_answers(demo_model, 200)[0] >= 0.90
