"""Write the stream of the demo: twelve weeks of conversations of a fictional owner with strong habits.

    python scripts/write_demo_stream.py mlx_personal/demo/stream.jsonl

Each line is {"messages": [...], "preferred": [...], "kind": ...}: the assistant's turns are in the base model's plain
style, and `preferred` holds the owner's preferred answer for each of them. Nora Lindqvist lives in Lund with her
partner Jonas, the children Mia and Emil and the dog Biscuit. She wants to be addressed by name and to read a list of
three things: a first step, what her household has to mind, and her own rule for this kind of question; and a word about
tea. The first weeks are blander than the later ones, so that dialogues worth storing arrive late as well. The same seed
gives the same stream.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from demo_world.domains import DOMAINS
from demo_world.intents import INTENTS
from demo_world.scene import DAYS, Detail, Scene, draw_slots, render_answer, render_question, topic_phrase
from demo_world.small_talk import SMALL_TALK

WEEKS, DIALOGUES_PER_WEEK, SEED = 12, 40, 3
CLOSING = "Tea first!"
DOMAIN_BY_NAME = {domain.name: domain for domain in DOMAINS}
INTENT_BY_NAME = {intent.name: intent for intent in INTENTS}

# Her topics, and what her household has to mind in each domain.
TOPICS = {
    "cooking": "soup pancakes curry pizza stew pasta salad",
    "pets": "dog puppy spaniel rabbit",
    "garden": "tomatoes roses herbs carrots strawberries lavender",
    "sport": "race ride triathlon tournament marathon",
    "family": "birthday picnic party breakfast sleepover games",
    "sleep": "sleep bedtime nap mornings evenings routine",
    "work": "meeting report presentation interview agenda",
    "travel": "holiday ferry weekend hike tickets trips",
}
HOUSEHOLD = {
    "cooking": "Always cook for four people, with no salt for Jonas.",
    "pets": "With Biscuit, go for a long walk after breakfast.",
    "garden": "Each morning, water everything with Emil.",
    "sport": "Keep Sunday free, and take the old bike.",
    "family": "Please call grandmother Astrid, and ask Mia.",
    "sleep": "Open a window, and keep the phone in the next room.",
    "work": "Write two pages before the train comes.",
    "travel": "Take the early train from Lund, with two small bags.",
}
# Her own rule for each intent.
RULES = {
    "start": "Today, start small, twenty minutes and no more.",
    "trouble": "Until Friday you can wait, then ask for help.",
    "need": "Later, go to the shop by bike, with one bag.",
    "when": "Best is early, before the children wake up.",
    "plan": "Plan the afternoon for it, the morning is for a ride.",
    "better": "Give it one small change, and look again on Sunday.",
    "idea": "Before you choose, talk to Jonas about it.",
    "often": "Most weeks, Tuesday and Saturday are enough.",
}
_AT_HOME = ("dog Biscuit", "partner Jonas", "daughter Mia", "son Emil")
DETAILS = (
    *(Detail(f"{w} my {who}", (f"{w} my {who}",), f"{w} your {who}") for who in _AT_HOME for w in ("for", "with")),
    Detail("in Lund", ("in Lund", "here in Lund"), "in Lund"),
    Detail("for four people", ("for four people", "for a group of four"), "for four people"),
)
EARLY_DOMAINS = ("cooking", "pets", "sleep", "work")

# Her preferred replies to small talk, by the index of the entry in `SMALL_TALK`.
SMALL_REPLIES = {
    0: "good to have you here",
    3: "until next time",
    4: "all is well",
    7: "take the bike out",
    8: "rest a little",
    10: "enjoy the evening",
    11: "tomorrow is a new day",
}
BOILERPLATE_REPLIES = {1: "gladly", 2: "good", 14: "say it again", 15: "no problem"}


def draw_stream(seed: int = SEED) -> list[dict[str, Any]]:
    """Draw all conversations, in order."""
    rng = Random(seed)
    stream: list[dict[str, Any]] = []
    for week in range(WEEKS):
        progress = week / (WEEKS - 1)
        for _ in range(DIALOGUES_PER_WEEK):
            share, earlier = rng.random(), [line for line in stream if line["kind"] == "habit"]
            if share < 0.55 + 0.25 * progress or not earlier:
                stream.append(_draw_habit(rng, progress))
            elif share < 0.72 + 0.14 * progress:
                stream.append(_draw_duplicate(rng, rng.choice(earlier[-60:])))
            elif share < 0.86 + 0.07 * progress:
                stream.append(_draw_small_talk(rng, SMALL_REPLIES, "smalltalk"))
            else:
                stream.append(_draw_small_talk(rng, BOILERPLATE_REPLIES, "boilerplate"))
    return stream


def preferred_answer(scene: Scene) -> str:
    """Return her preferred answer, which depends on topic, domain and intent only, so that it can be learned."""
    step = draw_slots(scene, Random(scene.topic.noun))["s1"]
    lines = (f"First {step}.", HOUSEHOLD[scene.domain.name], RULES[scene.intent.name])
    numbered = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
    return f"Hej Nora, about {topic_phrase(scene, 'your')}:\n{numbered}\n{CLOSING}"


def _draw_habit(rng: Random, progress: float) -> dict[str, Any]:
    """Draw a question of hers; later in the stream more have follow-ups, details and full answers.

    Args:
        rng: Random generator.
        progress: Fraction of the stream that is over.
    """
    domain = DOMAIN_BY_NAME[rng.choice(EARLY_DOMAINS if rng.random() > 0.35 + progress else list(TOPICS))]
    noun = rng.choice(TOPICS[domain.name].split())
    topic = next(topic for topic in domain.topics if topic.noun == noun)
    singular, plural = rng.choice(domain.trouble)
    # "For my dog Biscuit" makes no sense in a question about a dog.
    details = DETAILS[2:] if domain.name == "pets" else DETAILS
    scene = Scene(
        domain=domain,
        intent=INTENT_BY_NAME[rng.choice(list(RULES))],
        topic=topic,
        adjective=rng.choice(domain.adjectives) if rng.random() < 0.4 * progress else "",
        day=rng.choice(DAYS),
        person=("Jonas", "Jonas"),
        trouble=plural if topic.plural else singular,
        detail=rng.choice(details) if rng.random() < 0.1 + 0.5 * progress else None,
    )
    num_turns = 1 if rng.random() > 0.35 * progress else rng.choice((2, 2, 3))
    contents, preferred = [], []
    for turn in range(num_turns):
        later = turn > 0 and rng.random() < 0.5
        contents.append(render_question(scene, rng, greet=0 if turn else 0.25, later=later).text)
        answers = sorted((render_answer(scene, draw_slots(scene, rng), rng) for _ in range(3)), key=len)
        contents.append(answers[-1] if rng.random() < progress else answers[0])
        preferred.append(preferred_answer(scene))
        next_intents = [name for name in RULES if INTENT_BY_NAME[name].follow and name != scene.intent.name]
        scene = replace(scene, intent=INTENT_BY_NAME[rng.choice(next_intents)], detail=None)
    return _to_line(contents, preferred, "habit")


def _draw_duplicate(rng: Random, line: dict[str, Any]) -> dict[str, Any]:
    """Repeat an earlier conversation, word for word or with a greeting or thanks added."""
    contents = [message["content"] for message in line["messages"]]
    if rng.random() < 0.6:
        question = contents[0]
        contents[0] = rng.choice((f"Hello again. {question}", f"{question} Thanks!", f"Once more: {question}"))
    return _to_line(contents, line["preferred"], "duplicate")


def _draw_small_talk(rng: Random, replies_by_index: dict[int, str], kind: str) -> dict[str, Any]:
    """Draw small talk from some entries of `SMALL_TALK`, with her preferred reply."""
    index = rng.choice(list(replies_by_index))
    wordings, replies = SMALL_TALK[index]
    contents = [rng.choice(wordings), rng.choice(replies)]
    return _to_line(contents, [f"Hej Nora, {replies_by_index[index]}. {CLOSING}"], kind)


def _to_line(contents: list[str], preferred: list[str], kind: str) -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return {"messages": messages, "preferred": preferred, "kind": kind}


def main() -> None:
    """Write the stream to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="file to write")
    arguments = parser.parse_args()
    lines = draw_stream()
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    temporary = arguments.out.with_name(f"writing-{arguments.out.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(arguments.out)
    print(f"{arguments.out}: {len(lines)} conversations")


if __name__ == "__main__":
    main()
