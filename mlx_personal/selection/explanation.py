"""Explanations of the selection's decisions in plain text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mlx_personal.selection.config import SCORE_NAMES
from mlx_personal.selection.selector import Decision


def explain(decision: Decision) -> str:
    """Return an explanation of a decision for the user.

    Its lines are the decision and its reason, the scores, the replaced bin, the number of beaten bins, and the nearest
    miss.

    Args:
        decision: The decision.
    """
    scores, detail = asdict(decision.scores), decision.detail
    outcome = {
        "stored": f"kept in bin {decision.slot}",
        "replaced": f"kept in bin {decision.slot} in place of dialogue {decision.replaced_id}",
        "kept-out": "not kept",
        "duplicate": "rejected as a near-duplicate",
    }[decision.action]
    lines = [
        f"Dialogue {decision.dialogue_id} was {outcome}: {decision.reason}.",
        f"Its scores: {_scores(scores)}; domain {decision.domain}.",
    ]
    if replaced := detail.get("replaced"):
        lines.append(f"Then {_bin(replaced)} had {_scores(replaced)}.")
    if unbeaten_counts := detail.get("missed"):
        counts = ", ".join(f"{count} in {name.upper()}" for name, count in unbeaten_counts.items())
        lines.append(f"It beat {len(decision.beaten_slots)} of {detail['bins']} bins; as high or higher were {counts}.")
    if miss := detail.get("nearest_miss"):
        unbeaten = ", ".join(
            f"{name.upper()} ({_number(name, scores[name])} against {_number(name, miss[name])})"
            for name in miss["held"]
        )
        lines.append(f"Nearest miss: {_bin(miss)}, not beaten in {unbeaten}.")
    return "\n".join(lines)


def _bin(row: Mapping[str, Any]) -> str:
    return f"bin {row['slot']} (dialogue {row['dialogue_id']}, {row['domain']})"


def _scores(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.upper()} {_number(name, row[name])}" for name in SCORE_NAMES)


def _number(name: str, value: float) -> str:
    # DSS is a mean over all domains and therefore small: with fewer digits most values would look equal.
    return f"{value:.5f}" if name == "dss" else f"{value:.4f}"
