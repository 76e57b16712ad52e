"""Measure the demo model on held-out pairs of topic and intent: perplexity, rewrites and plain answers.

The model card and the test of the demo model use these metrics.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from random import Random

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from demo_world.domains import DOMAINS
from demo_world.samples import (
    draw_next_scene,
    draw_plain_dialogue,
    draw_sample,
    draw_split_scene,
    rewrite_dialogue_prompt,
    rewrite_prompt,
)
from demo_world.scene import Scene, draw_slots, render_answer, render_question
from mlx_personal.dialogue import Dialogue, rouge1, words
from mlx_personal.models import LanguageModel, load_language_model
from mlx_personal.models.sampling import SamplingParams

BRACKETED = re.compile(r"\s*\[(.+)\]\s*", re.DOTALL)
SEED = 7


@dataclass(frozen=True)
class RewriteMetrics:
    """Metrics of a set of rewritten questions.

    Attributes:
        prompts: Number of prompts.
        parsed: Fraction that parses.
        faithful: Fraction that parses and keeps the topic.
        changed: Fraction that parses and differs from the original.
        rouge1: Mean ROUGE-1 of a parsed rewrite against its original.
        distinct_of_six: Mean number of different rewrites among six of a question.
    """

    prompts: int
    parsed: float
    faithful: float
    changed: float
    rouge1: float
    distinct_of_six: float


def measure(folder: Path, prompts: int = 300) -> dict[str, float]:
    """Return the metrics of the model card.

    Args:
        folder: Folder of the model.
        prompts: Number of prompts of the largest measurements.
    """
    model = load_language_model(str(folder))
    known = measure_question_rewrites(model, prompts, invented=0.0)
    invented = measure_question_rewrites(model, prompts // 3, invented=1.0)
    on_topic, repeating = measure_plain_answers(model, prompts)
    return {
        "prompts": prompts,
        "perplexity": measure_perplexity(model, samples=500),
        "rewrites_parsed": known.parsed,
        "rewrites_faithful": known.faithful,
        "rewrites_changed": known.changed,
        "rewrites_rouge1": known.rouge1,
        "rewrites_distinct_of_six": known.distinct_of_six,
        "invented_faithful": invented.faithful,
        "later_turns_faithful": measure_later_turn_rewrites(model, prompts // 3, same_topic=True),
        "other_topic_faithful": measure_later_turn_rewrites(model, prompts // 3, same_topic=False),
        "dialogues_faithful": measure_dialogue_rewrites(model, prompts // 3),
        "answers_on_topic": on_topic,
        "answers_repeating": repeating,
    }


def measure_question_rewrites(model: LanguageModel, count: int, invented: float) -> RewriteMetrics:
    """Measure rewrites of held-out questions at temperature 0.5.

    Args:
        model: The model.
        count: Number of questions; a tenth of them is rewritten six times more.
        invented: Probability that a topic is an invented word.
    """
    rng = Random(SEED)
    scenes = [draw_split_scene(rng, held_out=True, invented=invented) for _ in range(count)]
    questions = [render_question(scene, rng).text for scene in scenes]
    repeated = questions[: max(1, count // 10)]
    prompts = [[_user_message(rewrite_prompt(text))] for text in questions + repeated * 6]
    texts = _generate(model, prompts, temperature=0.5)
    rewrites = [_bracketed_text(text) for text in texts[:count]]
    repeated_rewrites = [_bracketed_text(text) for text in texts[count:]]
    parsed = [(old, new) for old, new in zip(questions, rewrites, strict=True) if new]
    num_faithful = sum(_names_topic(scene, new) for scene, new in zip(scenes, rewrites, strict=True))
    distinct = [len({*repeated_rewrites[i :: len(repeated)]}) for i in range(len(repeated))]
    return RewriteMetrics(
        prompts=count,
        parsed=len(parsed) / count,
        faithful=num_faithful / count,
        changed=sum(words(old) != words(new) for old, new in parsed) / count,
        rouge1=float(np.mean([rouge1(new, old) for old, new in parsed])) if parsed else 0.0,
        distinct_of_six=float(np.mean(distinct)),
    )


def measure_later_turn_rewrites(model: LanguageModel, count: int, same_topic: bool) -> float:
    """Return the fraction of rewritten second questions that parse and keep the topic they name.

    Args:
        model: The model.
        count: Number of dialogues.
        same_topic: Whether the second question stays with the first one's topic, as most do in the corpus.
    """
    rng = Random(SEED)
    scenes, prompts = [], []
    for _ in range(count):
        first, scene = draw_split_scene(rng, held_out=True), draw_split_scene(rng, held_out=True)
        if same_topic:
            scene = draw_next_scene(first, rng, held_out=True)
        answer = {"role": "assistant", "content": render_answer(first, draw_slots(first, rng), rng)}
        request = rewrite_prompt(render_question(scene, rng, greet=0).text)
        prompts.append([_user_message(render_question(first, rng).text), answer, _user_message(request)])
        scenes.append(scene)
    rewrites = [_bracketed_text(text) for text in _generate(model, prompts, temperature=0.5)]
    return sum(_names_topic(scene, new) for scene, new in zip(scenes, rewrites, strict=True)) / count


def measure_dialogue_rewrites(model: LanguageModel, count: int) -> float:
    """Return the fraction of rewritten one-turn dialogues that parse, with both speakers and the topic."""
    rng = Random(SEED)
    num_faithful, prompts, nouns = 0, [], []
    for _ in range(count):
        state = rng.getstate()
        noun = draw_split_scene(rng, held_out=True).topic.noun
        rng.setstate(state)  # The dialogue is drawn from the same scene.
        question, answer = draw_plain_dialogue(rng, held_out=True, turns=1)
        prompts.append([_user_message(rewrite_dialogue_prompt(f"User: {question}\nAssistant: {answer}"))])
        nouns.append(noun)
    for noun, text in zip(nouns, _generate(model, prompts, temperature=0.5), strict=True):
        turns = re.fullmatch(r"User: (.+)\nAssistant: (.+)", _bracketed_text(text))
        num_faithful += turns is not None and set(words(noun)) <= set(words(turns[1]))
    return num_faithful / count


def measure_plain_answers(model: LanguageModel, count: int) -> tuple[float, float]:
    """Measure greedy answers to held-out questions.

    Returns:
        The fraction that names the topic, and the fraction that names the same step or thing twice.
    """
    rng = Random(SEED)
    scenes = [draw_split_scene(rng, held_out=True, invented=0.0) for _ in range(count)]
    prompts = [[_user_message(render_question(scene, rng).text)] for scene in scenes]
    texts = _generate(model, prompts, temperature=0.0)
    num_on_topic = sum(_names_topic(scene, text) for scene, text in zip(scenes, texts, strict=True))
    phrases = {phrase for domain in DOMAINS for phrase in (*domain.steps, *domain.needs)}
    num_repeating = sum(any(text.lower().count(phrase) > 1 for phrase in phrases) for text in texts)
    return num_on_topic / count, num_repeating / count


def measure_perplexity(model: LanguageModel, samples: int) -> float:
    """Return the perplexity per token of the assistant's turns, on the held-out corpus."""
    rng = Random(SEED)
    total, count = 0.0, 0
    for _ in range(samples):
        dialogue = Dialogue.from_messages(draw_sample(rng, held_out=True)["messages"])
        for tokens, is_target in model.tokenize_dialogue(dialogue)[-1:]:
            logits = model.model(mx.array([tokens[:-1]]))[0].astype(mx.float32)
            losses = nn.losses.cross_entropy(logits, mx.array(tokens[1:]))
            mask = np.array(is_target[1:])
            total += float(np.array(losses)[mask].sum())
            count += int(mask.sum())
    return math.exp(total / count)


def _generate(model: LanguageModel, prompts: list[list[dict[str, str]]], temperature: float) -> list[str]:
    return model.generate(
        [model.tokenize_prompt(prompt) for prompt in prompts],
        max_tokens=160,
        sampling=SamplingParams(temperature=temperature),
        seed=SEED,
    )


def _user_message(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _bracketed_text(text: str) -> str:
    """Return what stands in the brackets of a rewrite, or nothing if it does not parse."""
    match = BRACKETED.fullmatch(text)
    return match[1] if match else ""


def _names_topic(scene: Scene, text: str) -> bool:
    return set(words(scene.topic.noun)) <= set(words(text))
