"""Offers dialogues to the buffer one by one: refuse a near-duplicate, fill a free bin, else ask the policy.

A decision depends on the bins, the seed and the dialogue's place in the stream, on nothing that a restart would lose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np

from mlx_personal.dialogue import rouge1
from mlx_personal.scoring import Scores
from mlx_personal.selection.buffer import IDD_MODES, Bin, Buffer
from mlx_personal.selection.policies import SCORE_NAMES, Candidate, Choice, Policy
from mlx_personal.selection.registry import POLICIES

Action = Literal["stored", "replaced", "kept-out", "duplicate"]


@dataclass(frozen=True)
class SelectionConfig:
    """`bins`: the buffer's size. `policy`: says who gives way, a name in `POLICIES`. `near_duplicate`: the ROUGE-1 from
    which two dialogues count as one. `idd`: see `Buffer`. `seed`: of what a policy draws."""

    bins: int = 128
    policy: str = "quality"
    near_duplicate: float = 0.9
    idd: str = "fresh"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.bins <= 65536:
            raise ValueError("bins must be at least 1 and at most 65536")
        if self.policy not in POLICIES:
            raise ValueError(f"policy is {self.policy!r}; it must be one of {', '.join(POLICIES)}")
        if not 0 < self.near_duplicate <= 1:
            raise ValueError("near_duplicate must be above 0 and at most 1")
        if self.idd not in IDD_MODES:
            raise ValueError(f"idd must be one of {', '.join(IDD_MODES)}")
        if not 0 <= self.seed < 2**63:
            raise ValueError("seed must be at least 0 and below 2**63")


@dataclass(frozen=True)
class Decision:
    """What became of a dialogue. `slot`: its bin, if it was kept; `replaced_id`: the dialogue that gave way.

    `detail` is plain JSON and holds what explains the decision: `reason`, and where they apply `bins` (how many were
    compared), `beaten`, `missed`, `nearest_miss`, `replaced` and `duplicate_of`; a bin in it has the scores of that
    moment.
    """

    dialogue_id: int
    action: Action
    domain: str
    scores: Scores
    slot: int | None
    replaced_id: int | None
    detail: dict[str, Any]

    @property
    def reason(self) -> str:
        """Why, in a few words."""
        return str(self.detail["reason"])

    @property
    def beaten(self) -> tuple[int, ...]:
        """The slots that could have given way."""
        return tuple(self.detail.get("beaten", ()))

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """From stored columns: those of this class, with the scores as `eoe`, `dss`, `idd`, and `detail` parsed."""
        return cls(
            dialogue_id=row["dialogue_id"],
            action=row["action"],
            domain=row["domain"],
            scores=Scores(row["eoe"], row["dss"], row["idd"]),
            slot=row["slot"],
            replaced_id=row["replaced_id"],
            detail=row["detail"],
        )


class Selector:
    """One stream's selection.

    Args:
        buffer: what is kept; changed by `offer`.
        policy: who gives way when the buffer is full.
        near_duplicate: ROUGE-1 of whole dialogues, 0..1, from which the later one is refused.
        seed: of the policy's random draws.
    """

    def __init__(
        self,
        buffer: Buffer,
        policy: Policy,
        near_duplicate: float = SelectionConfig.near_duplicate,
        seed: int = SelectionConfig.seed,
    ):
        self.buffer = buffer
        self.policy = policy
        self.near_duplicate = near_duplicate
        self.seed = seed

    def offer(self, candidate: Candidate) -> Decision:
        """Decides on the next dialogue of the stream, and puts it into its bin if it gets one."""
        idd = self.buffer.idd_of(candidate.vector, candidate.domain)
        scores = Scores(candidate.eoe, candidate.dss, idd)
        repeated = self._near_duplicate_of(candidate)
        if repeated is not None:
            return _decision(candidate, scores, "duplicate", None, None, repeated)
        slot = self.buffer.free_slot
        if slot is not None:
            self._put(candidate, slot, idd)
            return _decision(candidate, scores, "stored", slot, None, {"reason": "a bin was free"})
        rng = np.random.default_rng([self.seed, candidate.position])
        choice = self.policy.choose(candidate, self.buffer, rng)
        detail = self._detail(choice)
        if choice.slot is None:
            return _decision(candidate, scores, "kept-out", None, None, detail)
        replaced_id = self.buffer[choice.slot].dialogue_id
        self._put(candidate, choice.slot, idd)
        return _decision(candidate, scores, "replaced", choice.slot, replaced_id, detail)

    def _near_duplicate_of(self, candidate: Candidate) -> dict[str, Any] | None:
        """The nearest bin by cosine proposes, the words of both dialogues decide: cosines differ too much by model."""
        nearest = self.buffer.nearest(candidate.vector)
        if nearest is None:
            return None
        slot, cosine = nearest
        kept = self.buffer[slot]
        # Texts without words (emoji alone) have no ROUGE, but may well be equal.
        overlap = 1.0 if kept.text == candidate.text else rouge1(candidate.text, kept.text)
        if overlap < self.near_duplicate:
            return None
        return {
            "reason": f"it repeats dialogue {kept.dialogue_id} in bin {slot} (ROUGE-1 {overlap:.2f})",
            "duplicate_of": {"slot": slot, "dialogue_id": kept.dialogue_id, "cosine": cosine, "rouge1": overlap},
        }

    def _put(self, candidate: Candidate, slot: int, idd: float) -> None:
        self.buffer.put(
            Bin(
                slot=slot,
                dialogue_id=candidate.dialogue_id,
                domain=candidate.domain,
                text=candidate.text,
                vector=candidate.vector,
                eoe=candidate.eoe,
                dss=candidate.dss,
                arrived_idd=idd,
            )
        )

    def _detail(self, choice: Choice) -> dict[str, Any]:
        """A policy's choice as plain JSON, with the bins it speaks of as they are before anything is replaced."""
        detail: dict[str, Any] = {
            "reason": choice.reason,
            "bins": len(self.buffer),
            "beaten": list(choice.beaten),
            "missed": dict(choice.missed),
        }
        if choice.nearest_miss is not None:
            slot, held = choice.nearest_miss
            detail["nearest_miss"] = {**self._bin_detail(slot), "held": list(held)}
        if choice.slot is not None:
            detail["replaced"] = self._bin_detail(choice.slot)
        return detail

    def _bin_detail(self, slot: int) -> dict[str, Any]:
        bins = self.buffer.bins
        row = next(i for i, b in enumerate(bins) if b.slot == slot)
        scores = Scores(*self.buffer.scores()[row].tolist())
        return {"slot": slot, "dialogue_id": bins[row].dialogue_id, "domain": bins[row].domain, **asdict(scores)}


def _decision(
    candidate: Candidate,
    scores: Scores,
    action: Action,
    slot: int | None,
    replaced_id: int | None,
    detail: dict[str, Any],
) -> Decision:
    return Decision(candidate.dialogue_id, action, candidate.domain, scores, slot, replaced_id, detail)


def explain(decision: Decision) -> str:
    """Lines for the owner: the decision, its reason, the scores, what was beaten, what was not and by which score."""
    own, detail = asdict(decision.scores), decision.detail
    outcome = {
        "stored": f"kept in bin {decision.slot}",
        "replaced": f"kept in bin {decision.slot} in place of dialogue {decision.replaced_id}",
        "kept-out": "not kept",
        "duplicate": "refused as a near-duplicate",
    }[decision.action]
    lines = [
        f"Dialogue {decision.dialogue_id} was {outcome}: {decision.reason}.",
        f"Its scores: {_scores(own)}; domain {decision.domain}.",
    ]
    if replaced := detail.get("replaced"):
        lines.append(f"Then {_bin(replaced)} had {_scores(replaced)}.")
    if missed := detail.get("missed"):
        counts = ", ".join(f"{count} in {name.upper()}" for name, count in missed.items())
        lines.append(f"It beat {len(decision.beaten)} of {detail['bins']} bins; as high or higher were {counts}.")
    if miss := detail.get("nearest_miss"):
        held = ", ".join(f"{n.upper()} ({_number(n, own[n])} against {_number(n, miss[n])})" for n in miss["held"])
        lines.append(f"Nearest miss: {_bin(miss)}, not beaten in {held}.")
    return "\n".join(lines)


def _bin(row: Mapping[str, Any]) -> str:
    return f"bin {row['slot']} (dialogue {row['dialogue_id']}, {row['domain']})"


def _scores(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.upper()} {_number(name, row[name])}" for name in SCORE_NAMES)


def _number(name: str, value: float) -> str:
    # DSS is a mean over all domains and small; three digits would show most as equal.
    return f"{value:.5f}" if name == "dss" else f"{value:.4f}"
