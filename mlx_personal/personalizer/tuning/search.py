"""Search settings by successive halving: many candidates on few dialogues, the better third of them on more.

A bracket is a set of candidates of which each rung keeps the better third, until the last rung, which trains on
everything. Brackets follow each other for as long as there is time, so that the search can stop after any trial and be
continued later: the candidates of each bracket depend on the seed and the number of the bracket alone.

References:
    Successive halving: [Jamieson16]. Three as the factor between rungs, the number of training samples as the
    resource, and several brackets: [Li18].
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mlx_personal.config import Config

# One of this number of candidates goes on to the next rung, which has this many times the dialogues.
REDUCTION_FACTOR: Final = 3
# Candidates of a bracket: with three rungs 9, 3 and 1.
BRACKET_SIZE: Final = 9
# A further bracket seldom finds more than the noise of the scores.
MAX_BRACKETS: Final = 9

# The learning rate is drawn within this factor of the present one: the best one depends on the size of the model.
_LEARNING_RATE_FACTOR: Final = 16.0
_EPOCHS: Final = (1, 2, 3, 4, 6, 8)
_RANKS: Final = (4, 8, 16, 32)
_MEMORY_EXAMPLES: Final = (0, 1, 2, 3, 4)
_TRAINED_AFTER: Final = ("none", "as in chat")
# Fewer groups of dialogues than this say too little about a candidate.
_MIN_GROUPS: Final = 8


@dataclass(frozen=True)
class Candidate:
    """The settings that are searched, which are those of the same names in a profile.

    Attributes:
        learning_rate: `finetune.learning_rate`.
        epochs: `finetune.epochs`.
        rank: `finetune.rank`.
        objective: `finetune.objective`.
        trained_after: `finetune.examples`.
        memory_examples: Number of examples before a question: 0 is `memory.use = "never"`, any other number is
            `memory.use = "always"` with this number as `memory.examples`.
        negatives: `finetune.negatives`.
    """

    learning_rate: float
    epochs: int
    rank: int
    objective: str
    trained_after: str
    memory_examples: int
    negatives: int = 0  # what trials of before had that are stored without it

    @classmethod
    def of(cls, config: Config, uses_memory: bool = False) -> Candidate:
        """Return the candidate of a profile's settings.

        Args:
            config: The settings.
            uses_memory: Whether the profile answers with memory, which `memory.use = "auto"` does not say.
        """
        finetune = config.finetune
        return cls(
            finetune.learning_rate,
            finetune.epochs,
            finetune.rank,
            finetune.objective,
            finetune.examples,
            config.memory.examples if uses_memory else 0,
            finetune.negatives,
        )

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return the settings by table and key of `config.toml`."""
        return {
            "finetune": {
                "learning_rate": self.learning_rate,
                "epochs": self.epochs,
                "rank": self.rank,
                "objective": self.objective,
                "examples": self.trained_after,
                "negatives": self.negatives,
            },
            # Together, so that what was measured is what answers.
            "memory": {"use": "always", "examples": self.memory_examples} if self.memory_examples else {"use": "never"},
        }

    def changes_from(self, before: Candidate) -> dict[str, dict[str, Any]]:
        """Return the settings in which this candidate differs from another one, by table and key.

        Args:
            before: The other one.
        """
        old = before.settings()
        return {
            table: {key: value for key, value in values.items() if value != old[table].get(key)}
            for table, values in self.settings().items()
        }

    def apply(self, config: Config) -> Config:
        """Return a profile's settings with those of this candidate."""
        return apply_settings(config, self.settings())


def apply_settings(config: Config, settings: Mapping[str, Mapping[str, Any]]) -> Config:
    """Return a profile's settings with some of them replaced.

    Args:
        config: The settings.
        settings: The new values by table and key.
    """
    tables = {name: dataclasses.replace(getattr(config, name), **values) for name, values in settings.items()}
    return dataclasses.replace(config, **tables)


@dataclass(frozen=True)
class SearchSpace:
    """The settings that candidates are drawn from.

    Attributes:
        learning_rate: The present learning rate, in the middle of the range on a logarithmic scale.
        objectives: The objectives, each with the number of negatives.
    """

    learning_rate: float
    objectives: tuple[tuple[str, int], ...]

    def draw(self, rng: np.random.Generator) -> Candidate:
        """Draw a candidate.

        Args:
            rng: The random generator.
        """
        factor = _LEARNING_RATE_FACTOR ** rng.uniform(-1, 1)
        memory_examples = int(rng.choice(_MEMORY_EXAMPLES))
        trained_after = str(rng.choice(_TRAINED_AFTER))
        learning_rate = self.learning_rate * factor
        epochs, rank = int(rng.choice(_EPOCHS)), int(rng.choice(_RANKS))
        objective, negatives = self.objectives[int(rng.integers(len(self.objectives)))]
        return Candidate(
            # Two digits, so that the settings file stays readable.
            learning_rate=float(f"{learning_rate:.2g}"),
            epochs=epochs,
            rank=rank,
            objective=objective,
            # Without examples in the prompt there are none in training.
            trained_after=trained_after if memory_examples else "none",
            memory_examples=memory_examples,
            negatives=negatives,
        )


@dataclass(frozen=True)
class Trial:
    """A candidate that was trained and scored in one rung.

    Attributes:
        candidate: The candidate.
        rung: Number of the rung, from 0.
        score: Mean of the rule's metric on the validation part, see `score`; None if the training failed.
        tokens: Number of tokens that were computed, see `trials`.
        elapsed_s: Its duration.
        problem: Why the training failed; empty if it did not.
    """

    candidate: Candidate
    rung: int
    score: float | None
    tokens: int
    elapsed_s: float
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the trial as a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Trial:
        """Return the trial of a JSON object.

        Args:
            values: The result of `to_json`.
        """
        return cls(**{**values, "candidate": Candidate(**values["candidate"])})


def rung_sizes(groups: int) -> list[int]:
    """Return the number of groups of near-duplicates that each rung trains on: a ninth, a third, then all.

    Rungs of less than eight groups are left out.

    Args:
        groups: Number of groups of the training part.
    """
    shares = (math.ceil(groups / REDUCTION_FACTOR**power) for power in (2, 1, 0))
    return sorted({min(groups, max(size, _MIN_GROUPS)) for size in shares})


def draw_brackets(space: SearchSpace, first: Sequence[Candidate], seed: int) -> Iterator[list[Candidate]]:
    """Yield the candidates of each bracket; none is drawn twice.

    Args:
        space: What they are drawn from.
        first: Candidates that the first bracket begins with.
        seed: Random seed.
    """
    seen = dict.fromkeys(first)
    bracket = list(seen)
    for number in range(MAX_BRACKETS):
        rng = np.random.default_rng([seed, number])
        while len(bracket) < BRACKET_SIZE:
            candidate = space.draw(rng)
            if candidate not in seen:
                seen[candidate] = None
                bracket.append(candidate)
        yield bracket
        bracket = []


def run_bracket(
    candidates: Sequence[Candidate], rungs: int, run_trial: Callable[[Candidate, int], Trial | None]
) -> bool:
    """Run a bracket of successive halving.

    Args:
        candidates: The candidates.
        rungs: Number of rungs.
        run_trial: Trains and scores a candidate in a rung; returns None if there is no time for it, which drops it.

    Returns:
        Whether there was time for any candidate.
    """
    has_time = False
    for rung in range(rungs):
        trials = [trial for candidate in candidates if (trial := run_trial(candidate, rung)) is not None]
        has_time = has_time or bool(trials)
        kept = max(1, len(candidates) // REDUCTION_FACTOR)
        candidates = [trial.candidate for trial in _ranked(trials)[:kept]]
    return has_time


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """Return the best trial of the highest rung that was reached, or None without a scored one.

    Args:
        trials: The trials.
    """
    scored = [trial for trial in trials if trial.score is not None]
    highest = max((trial.rung for trial in scored), default=0)
    return next(iter(_ranked([trial for trial in scored if trial.rung == highest])), None)


def _ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that were scored, the best first; of equal ones the earlier first."""
    return sorted((t for t in trials if t.score is not None), key=lambda trial: -(trial.score or 0.0))
