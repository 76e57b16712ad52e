"""A person of the world: tastes that decide every answer, and their statement in words.

Tastes are few and each is a plain rule, so that a reader can check any answer, and a model can learn from a handful of
records what another handful would say.
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
    """What one person goes by.

    Args:
        movies: the clause of a movie's description that decides its tag, a key of `MOVIE_CLAUSES`.
        news: the same of an article's category, in `NEWS_CLAUSES`.
        reviews: the aspect that decides a score; `offset`: what a strict or generous person takes off or adds, -1..1.
        headline: number of a frame, and of the tail behind it.
        title: number of a frame.
        cites: papers of the same `method` or `topic`.
        tweet: numbers of what it begins and ends with.
    """

    movies: str
    news: str
    reviews: str
    offset: int
    headline: tuple[int, int]
    title: int
    cites: str
    tweet: tuple[int, int]

    def stated(self, task: str) -> str:
        """The taste that decides a task's answers, in a sentence."""
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
    """One of all people, each taste drawn for itself."""
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
