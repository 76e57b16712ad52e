"""Scenes: the topic, intent and personal details of one exchange, which render to a question and an answer.

A scene renders to many wordings of the same question, which supervise the rewrite task. The user's "my dog" is the
assistant's "your dog".
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from random import Random

from demo_world.answers import ANSWERS
from demo_world.domains import DOMAINS, Domain, Topic
from demo_world.intents import INTENTS, Intent
from demo_world.names import TOWNS, draw_name, draw_relation, invent_word

DAYS = """on Monday; on Tuesday; on Wednesday; on Thursday; on Friday; on Saturday; on Sunday; tomorrow; tonight; this
evening; this weekend; next week; in the morning; after lunch; on the 14th; on the 3rd; at 18:30; at 7 o'clock; next
Monday; on Friday evening; on Saturday morning""".replace("\n", " ").split("; ")
WHENS = (
    "early in the morning",
    "after breakfast",
    "in the late morning",
    "in the afternoon",
    "after work",
    "in the early evening",
)
OFTENS = ("twice a week", "once a week", "every other day", "three times a week", "every Sunday", "once a month")
GREETINGS = (
    "Hi, ",
    "Hello, ",
    "Hey, ",
    "Quick question: ",
    "One question: ",
    "Please tell me: ",
    "Good morning. ",
    "I was thinking: ",
    "A question: ",
    "Hi there. ",
)
CLOSINGS = (" Thanks!", " Thank you.", " Any help is welcome.", " I am curious.", " Please help.", " It matters to me.")
# One in this many pairs of topic and intent is held out.
HELD_OUT_EVERY = 12


@dataclass(frozen=True)
class Detail:
    """A personal circumstance of the user.

    Attributes:
        noun: The phrase after the topic of a question.
        front: The phrases that can open a question instead.
        reply: The phrase after the topic of an answer.
    """

    noun: str
    front: tuple[str, ...]
    reply: str


@dataclass(frozen=True)
class Scene:
    """What one exchange is about.

    Attributes:
        domain: The domain.
        intent: The reason to ask.
        topic: The topic.
        adjective: Adjective of the topic, or nothing.
        day: When something is to be done.
        person: A person as the user calls them, and the name alone.
        trouble: What is wrong with the topic.
        detail: A personal circumstance, if any.
    """

    domain: Domain
    intent: Intent
    topic: Topic
    adjective: str
    day: str
    person: tuple[str, str]
    trouble: str
    detail: Detail | None

    @property
    def held_out(self) -> bool:
        """Whether this pair of topic and intent is held out, which a hash decides once and for all."""
        key = f"{self.domain.name}/{self.topic.noun}/{self.intent.name}"
        return hashlib.sha256(key.encode()).digest()[0] % HELD_OUT_EVERY == 0

    def with_intent(self, intent: Intent, rng: Random) -> Scene:
        """Return the scene with another intent, for a later turn of a dialogue."""
        return replace(self, intent=intent, day=rng.choice(DAYS))


def draw_scene(rng: Random, invented: float = 0.1) -> Scene:
    """Draw a scene.

    Args:
        rng: Random generator.
        invented: Probability that the topic is an invented word.
    """
    domain, intent = rng.choice(DOMAINS), rng.choice(INTENTS)
    topic = rng.choice(domain.topics)
    if rng.random() < invented:
        topic = Topic(invent_word(rng))
    adjective = ""
    if rng.random() < 0.3:
        adjective = rng.choice(domain.adjectives if rng.random() < 0.85 else rng.choice(DOMAINS).adjectives)
        if rng.random() < invented:
            adjective = draw_name(rng, TOWNS, 0.7)
    singular, plural = rng.choice(domain.trouble)
    relation, name = draw_relation(rng, invented * 2, human=True)
    called = f"my {relation} {name}" if rng.random() < 0.4 else name
    detail = _draw_detail(rng, invented * 2) if rng.random() < 0.3 else None
    trouble = plural if topic.plural else singular
    return Scene(domain, intent, topic, adjective, rng.choice(DAYS), (called, name), trouble, detail)


def _draw_detail(rng: Random, invented: float) -> Detail:
    """Draw a personal circumstance; `invented` is the probability of an invented name."""
    kind = rng.randrange(6)
    if kind <= 2:
        relation, name = draw_relation(rng, invented)
        word = rng.choice(("for", "with"))
        fronts = (f"{word} my {relation} {name}", f"{word} {name}, my {relation}")
        return Detail(f"{word} my {relation} {name}", fronts, f"{word} your {relation} {name}")
    if kind == 3:
        town = draw_name(rng, TOWNS, invented)
        return Detail(f"in {town}", (f"in {town}", f"here in {town}"), f"in {town}")
    if kind == 4:
        number = rng.choice(("two", "three", "four", "five", "six", "eight", "ten", "twelve"))
        counted = f"for {number} people"
        return Detail(counted, (counted, f"for a group of {number}"), counted)
    sum_ = rng.choice((5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200))
    return Detail(f"for {sum_} euros", (f"for {sum_} euros", f"with {sum_} euros"), f"for {sum_} euros")


@dataclass(frozen=True)
class Wording:
    """A question and the pattern that it was rendered from."""

    text: str
    pattern: str


def render_question(
    scene: Scene, rng: Random, *, avoid: Wording | None = None, greet: float = 0.3, later: bool = False
) -> Wording:
    """Render one wording of the scene's question.

    Args:
        scene: The scene.
        rng: Random generator.
        avoid: A wording whose pattern is not used again.
        greet: Probability of a greeting or a closing.
        later: Use the wordings for a later turn, which do not name the topic.
    """
    patterns = scene.intent.follow if later else scene.intent.ask
    pattern = rng.choice([p for p in patterns if avoid is None or p != avoid.pattern])
    detail, front = "", ""
    if scene.detail and "{x" in pattern:
        if rng.random() < 0.5:
            detail = " " + scene.detail.noun
        else:
            front = rng.choice(scene.detail.front)
    text = _fill(pattern, scene, "my", detail, {"day": scene.day, "person": scene.person[0]})
    if front:
        text = f"{_capitalize(front)}, {_lowercase_first(text)}"
    if rng.random() < greet:
        if rng.random() < 0.6:
            greeting = rng.choice(GREETINGS)
            text = greeting + (text if greeting.endswith(". ") else _lowercase_first(text))
        else:
            text += rng.choice(CLOSINGS)
    return Wording(text, pattern)


def draw_slots(scene: Scene, rng: Random) -> dict[str, str]:
    """Draw the phrases that an answer is built from.

    Each topic draws from a few phrases of its domain, which its name decides, so that answers depend on the topic.
    """
    domain = scene.domain
    topic_rng = Random(f"{domain.name}/{scene.topic.noun}" if scene.topic in domain.topics else domain.name)
    # Always in the order of the domain: with any order, a small model names the same step twice.
    steps = sorted(rng.sample(topic_rng.sample(domain.steps, 5), 3), key=domain.steps.index)
    things = sorted(rng.sample(topic_rng.sample(domain.needs, 4), 3), key=domain.needs.index)
    slots = {f"s{i}": step for i, step in enumerate(steps, 1)} | {f"n{i}": thing for i, thing in enumerate(things, 1)}
    for slot, phrases in (
        ("tip", domain.tips),
        ("cause", domain.causes),
        ("time", domain.times),
        ("helper", domain.helpers),
        ("when", WHENS),
        ("often", OFTENS),
    ):
        slots[slot] = rng.choice(topic_rng.sample(phrases, 2))
    return slots | {"day": scene.day, "person": scene.person[1]}


def render_answer(scene: Scene, slots: dict[str, str], rng: Random, *, avoid: str = "") -> str:
    """Render one wording of the plain answer.

    Args:
        scene: The scene.
        slots: The phrases of the answer, from `draw_slots`.
        rng: Random generator.
        avoid: A wording that is not returned.
    """
    detail = " " + scene.detail.reply if scene.detail else ""
    wordings = [_fill(pattern, scene, "your", detail, slots) for pattern in ANSWERS[scene.intent.name]]
    return rng.choice([text for text in wordings if text != avoid])


def topic_phrase(scene: Scene, owner: str) -> str:
    """Return "my red lamp" with `owner` in the place of "my", or "the heavy storm" in a domain that is not owned."""
    phrase = f"{scene.adjective} {scene.topic.noun}".strip()
    return f"{owner if scene.domain.owned else 'the'} {phrase}"


def _fill(pattern: str, scene: Scene, owner: str, detail: str, values: dict[str, str]) -> str:
    """Fill the slots of a pattern; `owner` is "my" in a question and "your" in an answer."""
    phrase, plural = topic_phrase(scene, owner) + detail, scene.topic.plural
    values = values | {
        "x": phrase,
        "mine": topic_phrase(scene, "my"),
        "v": scene.domain.verb,
        "g": scene.domain.gerund,
        "is": "are" if plural else "is",
        "it": "them" if plural else "it",
        "trouble": scene.trouble if owner == "my" else _in_second_person(scene.trouble),
    }

    def fill_slot(match: re.Match[str]) -> str:
        value = values[match[1]]
        return _capitalize(value) if match[2] else value

    text = re.sub(r"\{(\w+)(\^?)\}", fill_slot, pattern)
    return _capitalize(text)


def _in_second_person(text: str) -> str:
    """Replace "my", "me" and "us" by "your" and "you"."""
    return re.sub(r"\b(me|us)\b", "you", re.sub(r"\bmy\b", "your", text))


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lowercase_first(text: str) -> str:
    """Return the sentence with a small first letter, unless it begins with "I" or a name."""
    first = text.split(" ", 1)[0].rstrip(",")
    keep = first == "I" or first not in _FIRST_WORDS
    return text if keep else text[:1].lower() + text[1:]


# The first words of patterns and phrases. All others are names.
_FIRST_WORDS = {p.split(" ", 1)[0] for i in INTENTS for p in (*i.ask, *i.follow)} | {
    _capitalize(word) for word in ("my", "the", "for", "with", "in", "here", *{d.split(" ", 1)[0] for d in DAYS})
}
