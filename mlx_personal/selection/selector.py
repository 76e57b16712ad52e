"""Offer dialogues to the buffer: near-duplicates are rejected, free bins are filled, otherwise the policy decides.

A decision depends on the bins, the seed and the dialogue's position in the stream only, so it survives a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np

from mlx_personal.dialogue import rouge1
from mlx_personal.scoring import Scores
from mlx_personal.selection.buffer import Bin, Buffer
from mlx_personal.selection.config import SelectionConfig
from mlx_personal.selection.policies import Policy, PolicyDecision, SelectionCandidate

SelectionAction = Literal["stored", "replaced", "kept-out", "duplicate"]


@dataclass(frozen=True)
class Decision:
    """The decision on a dialogue.

    Attributes:
        dialogue_id: Id of the dialogue.
        action: `stored` in a free bin, `replaced` another dialogue, `kept-out`, or rejected as a `duplicate`.
        domain: Its dominant domain.
        scores: Its scores.
        slot: Its bin; None if it was not selected.
        replaced_id: Dialogue that was replaced, if any.
        detail: Explanation of the decision as plain JSON: `reason` and, if they apply, `bins` (the number of compared
            bins), `beaten`, `missed`, `nearest_miss`, `replaced` and `duplicate_of`. Bins in it have the scores at the
            time of the decision.
    """

    dialogue_id: int
    action: SelectionAction
    domain: str
    scores: Scores
    slot: int | None
    replaced_id: int | None
    detail: dict[str, Any]

    @property
    def reason(self) -> str:
        """The reason, in a few words."""
        return str(self.detail["reason"])

    @property
    def beaten_slots(self) -> tuple[int, ...]:
        """The bins that could have been replaced."""
        return tuple(self.detail.get("beaten", ()))

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Return the decision of a stored row.

        Args:
            row: Values by column: the fields of this class, with `eoe`, `dss` and `idd` instead of the scores.
        """
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
    """Selects dialogues from one stream.

    Args:
        buffer: The buffer, which `offer` changes.
        policy: Decides which bin is replaced when the buffer is full.
        near_duplicate: ROUGE-1 between the texts of two dialogues, 0..1, from which the later one is rejected.
        seed: Random seed of the policy's draws.

    Attributes:
        buffer: The buffer.
        policy: The policy.
        near_duplicate: ROUGE-1 from which a dialogue is rejected.
        seed: Random seed of the policy's draws.
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

    def offer(self, candidate: SelectionCandidate) -> Decision:
        """Decide on the next dialogue of the stream, and put it into its bin if it is selected.

        Args:
            candidate: The dialogue.
        """
        idd = self.buffer.idd_of(candidate.vector, candidate.domain)
        scores = Scores(candidate.eoe, candidate.dss, idd)
        duplicate = self._near_duplicate_of(candidate)
        if duplicate is not None:
            return _decision(candidate, scores, "duplicate", None, None, duplicate)
        slot = self.buffer.free_slot
        if slot is not None:
            self._put(candidate, slot, idd)
            return _decision(candidate, scores, "stored", slot, None, {"reason": "a bin was free"})
        rng = np.random.default_rng([self.seed, candidate.position])
        policy_decision = self.policy.choose(candidate, self.buffer, rng)
        detail = self._detail(policy_decision)
        if policy_decision.slot is None:
            return _decision(candidate, scores, "kept-out", None, None, detail)
        replaced_id = self.buffer[policy_decision.slot].dialogue_id
        self._put(candidate, policy_decision.slot, idd)
        return _decision(candidate, scores, "replaced", policy_decision.slot, replaced_id, detail)

    def _near_duplicate_of(self, candidate: SelectionCandidate) -> dict[str, Any] | None:
        """Return the explanation if the candidate is a near-duplicate of the closest bin, else None."""
        nearest = self.buffer.nearest(candidate.vector)
        if nearest is None:
            return None
        slot, cosine = nearest
        selected = self.buffer[slot]
        # By words, because cosines differ too much between models. Texts without words, such as emoji, have no ROUGE
        # but can be equal.
        overlap = 1.0 if selected.text == candidate.text else rouge1(candidate.text, selected.text)
        if overlap < self.near_duplicate:
            return None
        return {
            "reason": f"it repeats dialogue {selected.dialogue_id} in bin {slot} (ROUGE-1 {overlap:.2f})",
            "duplicate_of": {"slot": slot, "dialogue_id": selected.dialogue_id, "cosine": cosine, "rouge1": overlap},
        }

    def _put(self, candidate: SelectionCandidate, slot: int, idd: float) -> None:
        self.buffer.put(
            Bin(
                slot=slot,
                dialogue_id=candidate.dialogue_id,
                domain=candidate.domain,
                text=candidate.text,
                vector=candidate.vector,
                eoe=candidate.eoe,
                dss=candidate.dss,
                idd_on_arrival=idd,
            )
        )

    def _detail(self, decision: PolicyDecision) -> dict[str, Any]:
        """Return a policy's decision as JSON with the stored keys, and with the bins before any change."""
        detail: dict[str, Any] = {
            "reason": decision.reason,
            "bins": len(self.buffer),
            "beaten": list(decision.beaten_slots),
            "missed": dict(decision.unbeaten_counts),
        }
        if decision.nearest_miss is not None:
            slot, unbeaten_scores = decision.nearest_miss
            detail["nearest_miss"] = {**self._bin_detail(slot), "held": list(unbeaten_scores)}
        if decision.slot is not None:
            detail["replaced"] = self._bin_detail(decision.slot)
        return detail

    def _bin_detail(self, slot: int) -> dict[str, Any]:
        bins = self.buffer.bins
        row = next(i for i, b in enumerate(bins) if b.slot == slot)
        scores = Scores(*self.buffer.scores()[row].tolist())
        return {"slot": slot, "dialogue_id": bins[row].dialogue_id, "domain": bins[row].domain, **asdict(scores)}


def _decision(
    candidate: SelectionCandidate,
    scores: Scores,
    action: SelectionAction,
    slot: int | None,
    replaced_id: int | None,
    detail: dict[str, Any],
) -> Decision:
    return Decision(candidate.dialogue_id, action, candidate.domain, scores, slot, replaced_id, detail)
