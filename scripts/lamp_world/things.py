"""What the world's people make records of, in LaMP's fields: for each task an item of a profile, and a question.

An item is drawn with the person's answer in it; a question is the same kind of item with the answer kept apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from lamp_world.tastes import Taste
from lamp_world.words import (
    FINDINGS,
    FOODS,
    FRIENDS,
    GROUPS,
    HEADLINE_FRAMES,
    HEADLINE_TAILS,
    HEROES,
    METHODS,
    MOVIE_CLAUSES,
    NEWS_CLAUSES,
    NEWS_VERBS,
    PRODUCTS,
    REVIEW_ASPECTS,
    THINGS,
    TITLE_FRAMES,
    TOPICS,
    TOWNS,
    TWEET_CLOSERS,
    TWEET_OPENERS,
    WHENS,
)


@dataclass(frozen=True)
class Thing:
    """An item of a profile, its fields but `id`; `slots`, which go into the task's question; and `gold`."""

    item: dict[str, str]
    slots: dict[str, str]
    gold: str


def draw(task: str, taste: Taste, rng: Random) -> Thing:
    """Something new of a task, and what a person of this taste makes of it."""
    return _DRAWN[task](taste, rng)


def _movie(taste: Taste, rng: Random) -> Thing:
    tags, clauses = _clauses(MOVIE_CLAUSES, rng)
    hero = f"A {rng.choice(HEROES)} from {rng.choice(TOWNS)}"
    text = f"{hero} {clauses['plot']}, {clauses['mood']}, {clauses['setting']}."
    tag = tags[taste.movies]
    return Thing({"description": text, "tag": tag}, {"text": text}, tag)


def _filed_news(taste: Taste, rng: Random) -> Thing:
    categories, clauses = _clauses(NEWS_CLAUSES, rng)
    people = clauses["people"]
    title = f"{_capital(clauses['matter'])} in {rng.choice(TOWNS)}"
    text = f"{_capital(people)} {rng.choice(NEWS_VERBS)} {clauses['matter']} {clauses['place']} {rng.choice(WHENS)}."
    category = categories[taste.news]
    return Thing({"text": text, "title": title, "category": category}, {"text": text}, category)


def _review(taste: Taste, rng: Random) -> Thing:
    verdicts = {aspect: rng.randrange(3) for aspect in REVIEW_ASPECTS}
    said = [rng.choice(REVIEW_ASPECTS[aspect][verdict]) for aspect, verdict in verdicts.items()]
    rng.shuffle(said)
    text = f"I bought this {rng.choice(PRODUCTS)}. {'. '.join(said)}."
    score = str(min(5, max(1, 1 + 2 * verdicts[taste.reviews] + taste.offset)))
    return Thing({"text": text, "score": score}, {"text": text}, score)


def _headline(taste: Taste, rng: Random) -> Thing:
    thing, town, group = rng.choice(THINGS), rng.choice(TOWNS), rng.choice(GROUPS)
    text = f"The {group} of {town} have asked for {thing} {rng.choice(WHENS)}. The mayor has {rng.choice(_SAID)}."
    frame, tail = taste.headline
    title = _capital(HEADLINE_FRAMES[frame].format(town=town, thing=thing, who=group) + HEADLINE_TAILS[tail])
    return Thing({"text": text, "title": title}, {"text": text}, title)


_SAID: Final = ("agreed", "said no", "said nothing yet", "promised money", "called it a dream")


def _paper(taste: Taste, rng: Random) -> Thing:
    method, topic = rng.choice(METHODS), rng.choice(TOPICS)
    abstract = (
        f"We study {topic} in {rng.choice(TOWNS)}. Our work applies {method}. We find that {rng.choice(FINDINGS)}."
    )
    title = _title(taste, method, topic)
    return Thing({"title": title, "abstract": abstract}, {"text": abstract}, title)


def _citation(taste: Taste, rng: Random) -> Thing:
    method, topic = rng.choice(METHODS), rng.choice(TOPICS)
    title = f"{_capital(method)} for {topic}"
    by_method = f"{_capital(method)} for {_other(TOPICS, topic, rng)}"
    by_topic = f"{_capital(_other(METHODS, method, rng))} for {topic}"
    cited = by_method if taste.cites == "method" else by_topic
    references = [by_method, by_topic]
    rng.shuffle(references)
    abstract = f"We study {topic}. Our work applies {method}. We find that {rng.choice(FINDINGS)}."
    slots = {"title": title, "ref1": references[0], "ref2": references[1]}
    return Thing({"title": title, "abstract": abstract, "citation": cited}, slots, f"[{references.index(cited) + 1}]")


def _tweet(taste: Taste, rng: Random) -> Thing:
    food, friend, town, when = rng.choice(FOODS), rng.choice(FRIENDS), rng.choice(TOWNS), rng.choice(WHENS)
    opener, closer = taste.tweet
    own = f"{TWEET_OPENERS[opener]} had {food} with {friend} in {town} {when} {TWEET_CLOSERS[closer]}"
    plain = f"I ate {food} together with {friend} {when}, in {town}."
    return Thing({"text": own}, {"text": plain}, own)


_DRAWN: Final[Mapping[str, Callable[[Taste, Random], Thing]]] = {
    "1": _citation,
    "2N": _filed_news,
    "2M": _movie,
    "3": _review,
    "4": _headline,
    "5": _paper,
    "7": _tweet,
}


def _clauses(kinds: Mapping[str, Mapping[str, tuple[str, ...]]], rng: Random) -> tuple[dict[str, str], dict[str, str]]:
    """For each kind of clause the label that it carries, and its words."""
    labels = {kind: rng.choice(list(of)) for kind, of in kinds.items()}
    return labels, {kind: rng.choice(kinds[kind][label]) for kind, label in labels.items()}


def _title(taste: Taste, method: str, topic: str) -> str:
    frame = TITLE_FRAMES[taste.title]
    return frame.format(method=method, topic=topic, Method=_capital(method), Topic=_capital(topic))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _other(among: Sequence[str], one: str, rng: Random) -> str:
    return rng.choice([other for other in among if other != one])
