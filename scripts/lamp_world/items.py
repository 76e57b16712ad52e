"""Random items of the world in LaMP's fields: for each task a profile item, and the input and answer of a query.

A profile item contains the person's answer. A query is made of the same kind of item, with the answer apart.
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
class DrawnItem:
    """A random item.

    Attributes:
        item: Fields of the profile item except `id` and `date`.
        slots: Values for the task's input template.
        gold: The person's answer.
    """

    item: dict[str, str]
    slots: dict[str, str]
    gold: str


def draw_item(task: str, taste: Taste, rng: Random) -> DrawnItem:
    """Draw a random item of a task with the answer of a person of this taste.

    Args:
        task: Name of the task, such as `2M`.
        taste: The person's taste.
        rng: Source of the random draws.
    """
    return _DRAW_FUNCTIONS[task](taste, rng)


def _draw_movie(taste: Taste, rng: Random) -> DrawnItem:
    tags, clauses = _draw_clauses(MOVIE_CLAUSES, rng)
    hero = f"A {rng.choice(HEROES)} from {rng.choice(TOWNS)}"
    text = f"{hero} {clauses['plot']}, {clauses['mood']}, {clauses['setting']}."
    tag = tags[taste.movies]
    return DrawnItem({"description": text, "tag": tag}, {"text": text}, tag)


def _draw_news(taste: Taste, rng: Random) -> DrawnItem:
    categories, clauses = _draw_clauses(NEWS_CLAUSES, rng)
    people = clauses["people"]
    title = f"{_capitalize(clauses['matter'])} in {rng.choice(TOWNS)}"
    text = f"{_capitalize(people)} {rng.choice(NEWS_VERBS)} {clauses['matter']} {clauses['place']} {rng.choice(WHENS)}."
    category = categories[taste.news]
    return DrawnItem({"text": text, "title": title, "category": category}, {"text": text}, category)


def _draw_review(taste: Taste, rng: Random) -> DrawnItem:
    verdicts = {aspect: rng.randrange(3) for aspect in REVIEW_ASPECTS}
    sentences = [rng.choice(REVIEW_ASPECTS[aspect][verdict]) for aspect, verdict in verdicts.items()]
    rng.shuffle(sentences)
    text = f"I bought this {rng.choice(PRODUCTS)}. {'. '.join(sentences)}."
    score = str(min(5, max(1, 1 + 2 * verdicts[taste.reviews] + taste.offset)))
    return DrawnItem({"text": text, "score": score}, {"text": text}, score)


def _draw_headline(taste: Taste, rng: Random) -> DrawnItem:
    thing, town, group = rng.choice(THINGS), rng.choice(TOWNS), rng.choice(GROUPS)
    request = f"The {group} of {town} have asked for {thing} {rng.choice(WHENS)}."
    text = f"{request} The mayor has {rng.choice(_MAYOR_RESPONSES)}."
    frame, tail = taste.headline
    title = _capitalize(HEADLINE_FRAMES[frame].format(town=town, thing=thing, who=group) + HEADLINE_TAILS[tail])
    return DrawnItem({"text": text, "title": title}, {"text": text}, title)


_MAYOR_RESPONSES: Final = ("agreed", "said no", "said nothing yet", "promised money", "called it a dream")


def _draw_paper(taste: Taste, rng: Random) -> DrawnItem:
    method, topic = rng.choice(METHODS), rng.choice(TOPICS)
    abstract = (
        f"We study {topic} in {rng.choice(TOWNS)}. Our work applies {method}. We find that {rng.choice(FINDINGS)}."
    )
    title = _title(taste, method, topic)
    return DrawnItem({"title": title, "abstract": abstract}, {"text": abstract}, title)


def _draw_citation(taste: Taste, rng: Random) -> DrawnItem:
    method, topic = rng.choice(METHODS), rng.choice(TOPICS)
    title = f"{_capitalize(method)} for {topic}"
    by_method = f"{_capitalize(method)} for {_choose_other(TOPICS, topic, rng)}"
    by_topic = f"{_capitalize(_choose_other(METHODS, method, rng))} for {topic}"
    cited = by_method if taste.cites == "method" else by_topic
    references = [by_method, by_topic]
    rng.shuffle(references)
    abstract = f"We study {topic}. Our work applies {method}. We find that {rng.choice(FINDINGS)}."
    slots = {"title": title, "ref1": references[0], "ref2": references[1]}
    return DrawnItem(
        {"title": title, "abstract": abstract, "citation": cited}, slots, f"[{references.index(cited) + 1}]"
    )


def _draw_tweet(taste: Taste, rng: Random) -> DrawnItem:
    food, friend, town, when = rng.choice(FOODS), rng.choice(FRIENDS), rng.choice(TOWNS), rng.choice(WHENS)
    opener, closer = taste.tweet
    tweet = f"{TWEET_OPENERS[opener]} had {food} with {friend} in {town} {when} {TWEET_CLOSERS[closer]}"
    paraphrase = f"I ate {food} together with {friend} {when}, in {town}."
    return DrawnItem({"text": tweet}, {"text": paraphrase}, tweet)


_DRAW_FUNCTIONS: Final[Mapping[str, Callable[[Taste, Random], DrawnItem]]] = {
    "1": _draw_citation,
    "2N": _draw_news,
    "2M": _draw_movie,
    "3": _draw_review,
    "4": _draw_headline,
    "5": _draw_paper,
    "7": _draw_tweet,
}


def _draw_clauses(
    kinds: Mapping[str, Mapping[str, tuple[str, ...]]], rng: Random
) -> tuple[dict[str, str], dict[str, str]]:
    """Draw a clause of each kind and return their labels and their texts, both by kind."""
    labels = {kind: rng.choice(list(clauses)) for kind, clauses in kinds.items()}
    return labels, {kind: rng.choice(kinds[kind][label]) for kind, label in labels.items()}


def _title(taste: Taste, method: str, topic: str) -> str:
    frame = TITLE_FRAMES[taste.title]
    return frame.format(method=method, topic=topic, Method=_capitalize(method), Topic=_capitalize(topic))


def _capitalize(text: str) -> str:
    return text[0].upper() + text[1:]


def _choose_other(options: Sequence[str], excluded: str, rng: Random) -> str:
    return rng.choice([option for option in options if option != excluded])
