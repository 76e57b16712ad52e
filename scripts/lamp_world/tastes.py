"""The tastes of a person of the world, which determine every answer, and their statement in words.

There are few tastes and each is a simple rule, so a reader can check any answer, and a model can infer from a few
records what other records would contain.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from lamp_world.words import (
    HEADLINE_FRAMES,
    HEADLINE_TAILS,
    MOVIE_CLAUSES,
    NEWS_CLAUSES,
    REVIEW_ASPECTS,
    TITLE_FRAMES,
    TWEET_CLOSERS,
    TWEET_OPENERS,
)

CITES = ("method", "topic")
MOODS = {-1: "strict", 0: "fair", 1: "generous"}


@dataclass(frozen=True)
class Taste:
    """The rules behind one person's answers.

    Attributes:
        movies: Clause of a movie's description that determines its tag, a key of `MOVIE_CLAUSES`.
        news: Clause of an article that determines its category, a key of `NEWS_CLAUSES`.
        reviews: Aspect of a review that determines the score, a key of `REVIEW_ASPECTS`.
        offset: What a strict or generous person subtracts from or adds to a score, -1..1.
        headline: Indices of a headline's frame and of its tail.
        title: Index of a title's frame.
        cites: What cited papers share: `method` or `topic`.
        tweet: Indices of a tweet's opener and closer.
    """

    movies: str
    news: str
    reviews: str
    offset: int
    headline: tuple[int, int]
    title: int
    cites: str
    tweet: tuple[int, int]

    def statement(self, task: str) -> str:
        """Return the taste that determines a task's answers as a sentence."""
        frame, tail = self.headline
        opener, closer = self.tweet
        return {
            "1": f"This author cites papers on the same {self.cites}.",
            "2N": f"This person files news by the {self.news}.",
            "2M": f"This person tags movies by the {self.movies}.",
            "3": f"This person is {MOODS[self.offset]} and scores products by the {self.reviews}.",
            "4": f"This person writes headlines like {HEADLINE_FRAMES[frame]}{HEADLINE_TAILS[tail]}",
            "5": f"This person writes titles like {TITLE_FRAMES[self.title]}",
            "7": f"This person writes tweets like {TWEET_OPENERS[opener]} ... {TWEET_CLOSERS[closer]}",
        }[task]


def draw_taste(rng: Random) -> Taste:
    """Draw a random person, each taste independently."""
    return Taste(
        movies=rng.choice(list(MOVIE_CLAUSES)),
        news=rng.choice(list(NEWS_CLAUSES)),
        reviews=rng.choice(list(REVIEW_ASPECTS)),
        offset=rng.choice(list(MOODS)),
        headline=(rng.randrange(len(HEADLINE_FRAMES)), rng.randrange(len(HEADLINE_TAILS))),
        title=rng.randrange(len(TITLE_FRAMES)),
        cites=rng.choice(CITES),
        tweet=(rng.randrange(len(TWEET_OPENERS)), rng.randrange(len(TWEET_CLOSERS))),
    )
