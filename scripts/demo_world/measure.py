"""Measures the demo model on the held-out side of its world: perplexity, rewrites and plain answers.

The figures of the model card come from here, and so does the test that holds the model to them.
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
from demo_world.rows import draw_row, next_scene, plain_dialogue, rewrite_dialogue_prompt, rewrite_prompt, scene_of
from demo_world.scene import Scene, answer, question, slots
from mlx_personal.dialogue import Dialogue, rouge1, words
from mlx_personal.models import LanguageModel, load_language_model

BRACKETED = re.compile(r"\s*\[(.+)\]\s*", re.DOTALL)
SEED = 7


@dataclass(frozen=True)
class RewriteRates:
    """Shares of one set of rewrites; `faithful` ones parse and keep the topic; `rouge1` is a mean of the parsed."""

    prompts: int
    parsed: float
    faithful: float
    changed: float
    rouge1: float
    distinct_of_six: float


def measure(folder: Path, prompts: int = 300) -> dict[str, float]:
    """All figures of the model card."""
    model = load_language_model(str(folder))
    known = question_rewrites(model, prompts, invented=0.0)
    invented = question_rewrites(model, prompts // 3, invented=1.0)
    on_topic, repeating = plain_answers(model, prompts)
    return {
        "prompts": prompts,
        "perplexity": perplexity(model, rows=500),
        "rewrites_parsed": known.parsed,
        "rewrites_faithful": known.faithful,
        "rewrites_changed": known.changed,
        "rewrites_rouge1": known.rouge1,
        "rewrites_distinct_of_six": known.distinct_of_six,
        "invented_faithful": invented.faithful,
        "later_turns_faithful": later_turn_rewrites(model, prompts // 3, same_topic=True),
        "other_topic_faithful": later_turn_rewrites(model, prompts // 3, same_topic=False),
        "dialogues_faithful": dialogue_rewrites(model, prompts // 3),
        "answers_on_topic": on_topic,
        "answers_repeating": repeating,
    }


def question_rewrites(model: LanguageModel, count: int, invented: float) -> RewriteRates:
    """Rewrites of `count` held-out questions at temperature 0.5, some of them six times."""
    rng = Random(SEED)
    scenes = [scene_of(rng, held_out=True, invented=invented) for _ in range(count)]
    asked = [question(scene, rng).text for scene in scenes]
    repeated = asked[: max(1, count // 10)]
    texts = _say(model, [[_user(rewrite_prompt(text))] for text in asked + repeated * 6], temperature=0.5)
    rewrites = [_inside(text) for text in texts[:count]]
    again = [_inside(text) for text in texts[count:]]
    parsed = [(old, new) for old, new in zip(asked, rewrites, strict=True) if new]
    kept = sum(_keeps(scene, new) for scene, new in zip(scenes, rewrites, strict=True))
    distinct = [len({*again[i :: len(repeated)]}) for i in range(len(repeated))]
    return RewriteRates(
        prompts=count,
        parsed=len(parsed) / count,
        faithful=kept / count,
        changed=sum(words(old) != words(new) for old, new in parsed) / count,
        rouge1=float(np.mean([rouge1(new, old) for old, new in parsed])) if parsed else 0.0,
        distinct_of_six=float(np.mean(distinct)),
    )


def later_turn_rewrites(model: LanguageModel, count: int, same_topic: bool) -> float:
    """Share of second questions of a dialogue whose rewrite parses and keeps the topic that it names.

    `same_topic`: the question goes on about the first one's topic, as most do in the corpus; else it turns to another.
    """
    rng = Random(SEED)
    scenes, prompts = [], []
    for _ in range(count):
        first, scene = scene_of(rng, held_out=True), scene_of(rng, held_out=True)
        if same_topic:
            scene = next_scene(first, rng, held_out=True)
        answered = {"role": "assistant", "content": answer(first, slots(first, rng), rng)}
        asked = rewrite_prompt(question(scene, rng, greet=0).text)
        prompts.append([_user(question(first, rng).text), answered, _user(asked)])
        scenes.append(scene)
    rewrites = [_inside(text) for text in _say(model, prompts, temperature=0.5)]
    return sum(_keeps(scene, new) for scene, new in zip(scenes, rewrites, strict=True)) / count


def dialogue_rewrites(model: LanguageModel, count: int) -> float:
    """Share of rewritten one-turn dialogues that parse, with both speakers and the topic in them."""
    rng = Random(SEED)
    good, prompts, nouns = 0, [], []
    for _ in range(count):
        state = rng.getstate()
        noun = scene_of(rng, held_out=True).topic.noun
        rng.setstate(state)  # the dialogue is drawn from the same scene
        asked, answered = plain_dialogue(rng, held_out=True, turns=1)
        prompts.append([_user(rewrite_dialogue_prompt(f"User: {asked}\nAssistant: {answered}"))])
        nouns.append(noun)
    for noun, text in zip(nouns, _say(model, prompts, temperature=0.5), strict=True):
        turns = re.fullmatch(r"User: (.+)\nAssistant: (.+)", _inside(text))
        good += turns is not None and set(words(noun)) <= set(words(turns[1]))
    return good / count


def plain_answers(model: LanguageModel, count: int) -> tuple[float, float]:
    """Of plain answers to held-out questions, at temperature 0: the share that names the topic, and the share that
    names the same step or thing twice."""
    rng = Random(SEED)
    scenes = [scene_of(rng, held_out=True, invented=0.0) for _ in range(count)]
    texts = _say(model, [[_user(question(scene, rng).text)] for scene in scenes], temperature=0.0)
    named = sum(_keeps(scene, text) for scene, text in zip(scenes, texts, strict=True))
    phrases = {phrase for domain in DOMAINS for phrase in (*domain.steps, *domain.needs)}
    twice = sum(any(text.lower().count(phrase) > 1 for phrase in phrases) for text in texts)
    return named / count, twice / count


def perplexity(model: LanguageModel, rows: int) -> float:
    """Per token of the assistant's words, on the held-out corpus."""
    rng = Random(SEED)
    total, count = 0.0, 0
    for _ in range(rows):
        dialogue = Dialogue.from_messages(draw_row(rng, held_out=True)["messages"])
        for tokens, is_target in model.training_tokens(dialogue)[-1:]:
            logits = model.model(mx.array([tokens[:-1]]))[0].astype(mx.float32)
            losses = nn.losses.cross_entropy(logits, mx.array(tokens[1:]))
            chosen = np.array(is_target[1:])
            total += float(np.array(losses)[chosen].sum())
            count += int(chosen.sum())
    return math.exp(total / count)


def _say(model: LanguageModel, prompts: list[list[dict[str, str]]], temperature: float) -> list[str]:
    return model.generate([model.prompt_tokens(p) for p in prompts], max_tokens=160, temperature=temperature, seed=SEED)


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _inside(text: str) -> str:
    match = BRACKETED.fullmatch(text)
    return match[1] if match else ""


def _keeps(scene: Scene, text: str) -> bool:
    return set(words(scene.topic.noun)) <= set(words(text))
