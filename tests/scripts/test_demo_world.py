"""The demo world, the stream of its fictional owner, and the embedded model."""

from __future__ import annotations

import json
from itertools import islice
from random import Random
from typing import Any

import pytest

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.dialogue import words
from mlx_personal.synthesis import prompts
from tests.support.paths import ROOT
from tests.support.scripts import import_script

FOLDER = ROOT / "mlx_personal" / "demo" / "model"
STREAM = ROOT / "mlx_personal" / "demo" / "stream.jsonl"
KINDS = {"habit", "smalltalk", "duplicate", "boilerplate"}

corpus_script = import_script("write_demo_corpus")
stream_script = import_script("write_demo_stream")
domains = import_script("demo_world.domains")
measure = import_script("demo_world.measure")
samples = import_script("demo_world.samples")
scene_module = import_script("demo_world.scene")


@pytest.fixture(scope="module")
def stream() -> list[dict[str, Any]]:
    return [json.loads(line) for line in STREAM.read_text(encoding="utf-8").splitlines()]


def test_the_corpus_depends_on_the_seed_only() -> None:
    first = list(corpus_script.draw_corpus(200, seed=5))
    assert first == list(corpus_script.draw_corpus(200, seed=5))
    assert first == list(islice(corpus_script.draw_corpus(400, seed=5), 200))
    assert first != list(corpus_script.draw_corpus(200, seed=6))


def test_every_sample_is_a_valid_dialogue() -> None:
    for held_out in (False, True):
        for sample in corpus_script.draw_corpus(1000, seed=2, held_out=held_out):
            text = Dialogue.from_messages(sample["messages"]).text
            assert "{" not in text and "}" not in text and "  " not in text


def test_there_are_at_least_twelve_domains_without_common_topics() -> None:
    nouns = [topic.noun for domain in domains.DOMAINS for topic in domain.topics]
    assert len(domains.DOMAINS) >= 12
    assert len(set(nouns)) == len(nouns)
    assert all(len(set(domain.steps)) >= 10 for domain in domains.DOMAINS)


def test_training_and_held_out_pairs_of_topic_and_intent_are_disjoint() -> None:
    def pairs(held_out: bool) -> set[tuple[str, str]]:
        rng = Random(3)
        scenes = (samples.draw_split_scene(rng, held_out, invented=0.0) for _ in range(1500))
        return {(scene.topic.noun, scene.intent.name) for scene in scenes}

    training, held_out = pairs(False), pairs(True)
    assert len(training) > 500 and len(held_out) > 200
    assert not training & held_out


def test_another_wording_differs_and_keeps_topic_and_detail() -> None:
    rng = Random(4)
    for _ in range(500):
        scene = samples.draw_split_scene(rng, held_out=False, invented=0.3)
        question = scene_module.render_question(scene, rng)
        reworded = scene_module.render_question(scene, rng, avoid=question)
        assert question.text != reworded.text
        for wording in (question, reworded):
            assert set(words(scene.topic.noun)) <= set(words(wording.text))
            if scene.detail is not None:
                assert set(words(scene.detail.noun)[-1:]) <= set(words(wording.text)) | {"people", "euros", "of"}


def test_the_rewrite_prompts_are_those_of_synthesis() -> None:
    assert samples.REWRITE_QUESTION == prompts.REWRITE_QUESTION
    assert samples.REWRITE_DIALOGUE == prompts.REWRITE_DIALOGUE


def test_the_script_reproduces_the_embedded_stream(stream: list[dict[str, Any]]) -> None:
    assert stream == stream_script.draw_stream()


def test_every_turn_of_the_stream_has_a_preferred_answer(stream: list[dict[str, Any]]) -> None:
    assert len(stream) >= 400
    for line in stream:
        dialogue = Dialogue.from_messages(line["messages"])
        assert len(line["preferred"]) == len(dialogue.assistant_turns)
        assert all(answer.startswith("Hej Nora, ") for answer in line["preferred"])
        assert line["kind"] in KINDS
    assert {line["kind"] for line in stream} == KINDS
    assert sum(len(line["preferred"]) > 1 for line in stream) >= 24


def test_later_dialogues_of_the_stream_are_longer(stream: list[dict[str, Any]]) -> None:
    def mean_words(lines: list[dict[str, Any]]) -> float:
        return sum(len(words(m["content"])) for line in lines for m in line["messages"]) / len(lines)

    third = len(stream) // 3
    assert mean_words(stream[-third:]) > 1.3 * mean_words(stream[:third])


def test_the_model_is_at_most_eight_megabytes_and_its_card_has_the_metrics() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8_000_000
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for phrase in ("perplexity", "keep the topic", "name the topic", "--seed", "MIT", "million tokens"):
        assert phrase in card


def test_the_model_rewrites_held_out_questions(demo_model: LanguageModel) -> None:
    metrics = measure.measure_question_rewrites(demo_model, 60, invented=0.0)
    assert metrics.faithful >= 0.85
    assert metrics.changed >= 0.8
    assert metrics.distinct_of_six >= 2


@pytest.mark.slow
def test_nine_in_ten_rewrites_and_answers_keep_the_topic(demo_model: LanguageModel) -> None:
    assert measure.measure_question_rewrites(demo_model, 300, invented=0.0).faithful >= 0.90
    assert measure.measure_plain_answers(demo_model, 200)[0] >= 0.90
