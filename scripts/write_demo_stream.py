"""Writes the stream of the demo: twelve weeks of conversations of one invented owner with strong habits.

    python scripts/write_demo_stream.py mlx_personal/demo/stream.jsonl

Each line is {"messages": [...], "preferred": [...], "kind": ...}: the assistant's turns are the base model's plain
style, `preferred` holds for each of them what the owner would have liked to read. Nora Lindqvist lives in Lund with
her partner Jonas, the children Mia and Emil and the dog Biscuit. She wants to be called by name and told three things
in a list: a first step, what her household needs to heed, and her own rule for that sort of question; and tea.
The first weeks are blander than the later ones, so that good arrivals come late as well. The same seed gives the same
stream.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from demo_world.domains import BY_NAME as DOMAIN
from demo_world.intents import BY_NAME as INTENT
from demo_world.scene import DAYS, Detail, Scene, answer, question, slots, topic_phrase
from demo_world.talk import SMALL_TALK

WEEKS, A_WEEK, SEED = 12, 40, 3
CLOSING = "Tea first!"

# What she talks about, and what her household needs to heed there.
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
RULE = {
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

# What is said without wanting anything, and the short thing she likes to hear then. The number is the entry's place
# in the small talk of the demo world.
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


def stream(seed: int = SEED) -> list[dict[str, Any]]:
    """All conversations in order."""
    rng = Random(seed)
    made: list[dict[str, Any]] = []
    for week in range(WEEKS):
        late = week / (WEEKS - 1)
        for _ in range(A_WEEK):
            share, earlier = rng.random(), [line for line in made if line["kind"] == "habit"]
            if share < 0.55 + 0.25 * late or not earlier:
                made.append(_habit(rng, late))
            elif share < 0.72 + 0.14 * late:
                made.append(_duplicate(rng, rng.choice(earlier[-60:])))
            elif share < 0.86 + 0.07 * late:
                made.append(_small(rng, SMALL_REPLIES, "smalltalk"))
            else:
                made.append(_small(rng, BOILERPLATE_REPLIES, "boilerplate"))
    return made


def preferred(scene: Scene) -> str:
    """Her ideal answer: it follows from topic, domain and intent alone, so that it can be learned."""
    step = slots(scene, Random(scene.topic.noun))["s1"]
    lines = (f"First {step}.", HOUSEHOLD[scene.domain.name], RULE[scene.intent.name])
    listed = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
    return f"Hej Nora, about {topic_phrase(scene, 'your')}:\n{listed}\n{CLOSING}"


def _habit(rng: Random, late: float) -> dict[str, Any]:
    """A question of hers; later in the stream more often with follow-ups, details and full answers."""
    domain = DOMAIN[rng.choice(EARLY_DOMAINS if rng.random() > 0.35 + late else list(TOPICS))]
    noun = rng.choice(TOPICS[domain.name].split())
    topic = next(topic for topic in domain.topics if topic.noun == noun)
    singular, plural = rng.choice(domain.trouble)
    # The pets are themselves; nothing is done for or with the dog there.
    details = DETAILS[2:] if domain.name == "pets" else DETAILS
    scene = Scene(
        domain=domain,
        intent=INTENT[rng.choice(list(RULE))],
        topic=topic,
        adjective=rng.choice(domain.adjectives) if rng.random() < 0.4 * late else "",
        day=rng.choice(DAYS),
        person=("Jonas", "Jonas"),
        trouble=plural if topic.plural else singular,
        detail=rng.choice(details) if rng.random() < 0.1 + 0.5 * late else None,
    )
    turns = 1 if rng.random() > 0.35 * late else rng.choice((2, 2, 3))
    said, liked = [], []
    for turn in range(turns):
        said.append(question(scene, rng, greet=0 if turn else 0.25, later=turn > 0 and rng.random() < 0.5).text)
        answers = sorted((answer(scene, slots(scene, rng), rng) for _ in range(3)), key=len)
        said.append(answers[-1] if rng.random() < late else answers[0])
        liked.append(preferred(scene))
        later = [name for name in RULE if INTENT[name].follow and name != scene.intent.name]
        scene = replace(scene, intent=INTENT[rng.choice(later)], detail=None)
    return _line(said, liked, "habit")


def _duplicate(rng: Random, line: dict[str, Any]) -> dict[str, Any]:
    """An earlier conversation again, word for word or with a greeting or thanks more."""
    said = [message["content"] for message in line["messages"]]
    if rng.random() < 0.6:
        said[0] = rng.choice((f"Hello again. {said[0]}", f"{said[0]} Thanks!", f"Once more: {said[0]}"))
    return _line(said, line["preferred"], "duplicate")


def _small(rng: Random, liked: dict[int, str], kind: str) -> dict[str, Any]:
    place = rng.choice(list(liked))
    wordings, replies = SMALL_TALK[place]
    return _line([rng.choice(wordings), rng.choice(replies)], [f"Hej Nora, {liked[place]}. {CLOSING}"], kind)


def _line(said: list[str], liked: list[str], kind: str) -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    return {"messages": messages, "preferred": liked, "kind": kind}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    lines = stream()
    temporary = args.out.with_name(f"writing-{args.out.name}")
    temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    temporary.replace(args.out)
    print(f"{args.out}: {len(lines)} conversations")


if __name__ == "__main__":
    main()
