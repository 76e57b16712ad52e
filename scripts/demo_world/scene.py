"""A scene is what one exchange is about: topic, intent and personal details. It renders to questions and answers.

The same scene renders to many wordings of one question, which is the supervision of the rewrite task. What the user
says of "my dog" the assistant says of "your dog".
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from random import Random

from demo_world.answers import ANSWERS
from demo_world.domains import DOMAINS, Domain, Topic
from demo_world.intents import INTENTS, Intent
from demo_world.names import TOWNS, a_name, a_relation, invented_word

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
HELLOS = (
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
TAILS = (" Thanks!", " Thank you.", " Any help is welcome.", " I am curious.", " Please help.", " It matters to me.")
HELD_OUT_SHARE = 12  # one topic and intent pair in this many is never trained on


@dataclass(frozen=True)
class Detail:
    """A personal circumstance. `noun` goes behind the topic, `front` opens a question, `reply` is the answer's form."""

    noun: str
    front: tuple[str, ...]
    reply: str


@dataclass(frozen=True)
class Scene:
    """One thing to ask. `person` is (as the user names them, bare name)."""

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
        """Whether this topic and intent belong to the held-out part; fixed for ever by a hash."""
        key = f"{self.domain.name}/{self.topic.noun}/{self.intent.name}"
        return hashlib.sha256(key.encode()).digest()[0] % HELD_OUT_SHARE == 0

    def with_intent(self, intent: Intent, rng: Random) -> Scene:
        """The same topic with another intent, for a later turn of a dialogue."""
        return replace(self, intent=intent, day=rng.choice(DAYS))


def draw_scene(rng: Random, invented: float = 0.1) -> Scene:
    """A random scene; `invented` is the probability that the topic is a word that exists nowhere else."""
    domain, intent = rng.choice(DOMAINS), rng.choice(INTENTS)
    topic = rng.choice(domain.topics)
    if rng.random() < invented:
        topic = Topic(invented_word(rng))
    adjective = ""
    if rng.random() < 0.3:
        adjective = rng.choice(domain.adjectives if rng.random() < 0.85 else rng.choice(DOMAINS).adjectives)
        if rng.random() < invented:
            adjective = a_name(rng, TOWNS, 0.7)
    singular, plural = rng.choice(domain.trouble)
    relation, name = a_relation(rng, invented * 2, human=True)
    called = f"my {relation} {name}" if rng.random() < 0.4 else name
    detail = _draw_detail(rng, invented * 2) if rng.random() < 0.3 else None
    trouble = plural if topic.plural else singular
    return Scene(domain, intent, topic, adjective, rng.choice(DAYS), (called, name), trouble, detail)


def _draw_detail(rng: Random, invented: float) -> Detail:
    kind = rng.randrange(6)
    if kind <= 2:
        relation, name = a_relation(rng, invented)
        word = rng.choice(("for", "with"))
        fronts = (f"{word} my {relation} {name}", f"{word} {name}, my {relation}")
        return Detail(f"{word} my {relation} {name}", fronts, f"{word} your {relation} {name}")
    if kind == 3:
        town = a_name(rng, TOWNS, invented)
        return Detail(f"in {town}", (f"in {town}", f"here in {town}"), f"in {town}")
    if kind == 4:
        number = rng.choice(("two", "three", "four", "five", "six", "eight", "ten", "twelve"))
        counted = f"for {number} people"
        return Detail(counted, (counted, f"for a group of {number}"), counted)
    sum_ = rng.choice((5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200))
    return Detail(f"for {sum_} euros", (f"for {sum_} euros", f"with {sum_} euros"), f"for {sum_} euros")


@dataclass(frozen=True)
class Wording:
    """A question as it is put, and the pattern that it was made from."""

    text: str
    pattern: str


def question(
    scene: Scene, rng: Random, *, avoid: Wording | None = None, greet: float = 0.3, later: bool = False
) -> Wording:
    """One wording of the scene's question, from another pattern than `avoid`.

    `greet` is the probability of a greeting or a tail; `later` takes the wordings that lean on earlier turns.
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
        text = f"{_capital(front)}, {_lower(text)}"
    if rng.random() < greet:
        if rng.random() < 0.6:
            hello = rng.choice(HELLOS)
            text = hello + (text if hello.endswith(". ") else _lower(text))
        else:
            text += rng.choice(TAILS)
    return Wording(text, pattern)


def slots(scene: Scene, rng: Random) -> dict[str, str]:
    """The phrases an answer is built from. A topic has its own favourites, so that answers say something of it."""
    domain = scene.domain
    own = Random(f"{domain.name}/{scene.topic.noun}" if scene.topic in domain.topics else domain.name)
    # In one order always: in any order, a small model writes "first this, then this" without noticing.
    steps = sorted(rng.sample(own.sample(domain.steps, 5), 3), key=domain.steps.index)
    things = sorted(rng.sample(own.sample(domain.needs, 4), 3), key=domain.needs.index)
    chosen = {f"s{i}": step for i, step in enumerate(steps, 1)} | {f"n{i}": thing for i, thing in enumerate(things, 1)}
    for slot, phrases in (
        ("tip", domain.tips),
        ("cause", domain.causes),
        ("time", domain.times),
        ("helper", domain.helpers),
        ("when", WHENS),
        ("often", OFTENS),
    ):
        chosen[slot] = rng.choice(own.sample(phrases, 2))
    return chosen | {"day": scene.day, "person": scene.person[1]}


def answer(scene: Scene, chosen: dict[str, str], rng: Random, *, avoid: str = "") -> str:
    """One wording of the plain answer that says what `chosen` holds."""
    detail = " " + scene.detail.reply if scene.detail else ""
    wordings = [_fill(pattern, scene, "your", detail, chosen) for pattern in ANSWERS[scene.intent.name]]
    return rng.choice([text for text in wordings if text != avoid])


def topic_phrase(scene: Scene, owner: str) -> str:
    """ "my red lamp", or "the heavy storm" where nobody owns such a thing."""
    phrase = f"{scene.adjective} {scene.topic.noun}".strip()
    return f"{owner if scene.domain.owned else 'the'} {phrase}"


def _fill(pattern: str, scene: Scene, owner: str, detail: str, values: dict[str, str]) -> str:
    phrase, plural = topic_phrase(scene, owner) + detail, scene.topic.plural
    values = values | {
        "x": phrase,
        "mine": topic_phrase(scene, "my"),
        "v": scene.domain.verb,
        "g": scene.domain.gerund,
        "is": "are" if plural else "is",
        "it": "them" if plural else "it",
        "trouble": _turned(scene.trouble, owner),
    }

    def slot(match: re.Match[str]) -> str:
        value = values[match[1]]
        return _capital(value) if match[2] else value

    text = re.sub(r"\{(\w+)(\^?)\}", slot, pattern)
    return _capital(text)


def _turned(trouble: str, owner: str) -> str:
    """The user's words about themselves as the assistant says them."""
    if owner == "my":
        return trouble
    turned = re.sub(r"\bmy\b", "your", trouble)
    return re.sub(r"\b(me|us)\b", "you", turned)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    """The first letter made small, unless the sentence opens with "I" or a name."""
    first = text.split(" ", 1)[0].rstrip(",")
    keep = first == "I" or first not in _OPENERS
    return text if keep else text[:1].lower() + text[1:]


_OPENERS = {p.split(" ", 1)[0] for i in INTENTS for p in (*i.ask, *i.follow)} | {
    _capital(word) for word in ("my", "the", "for", "with", "in", "here", *{d.split(" ", 1)[0] for d in DAYS})
}
