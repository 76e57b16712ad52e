"""The scores that [Qin24] reports, from `published.json`; each is printed in the paper or digitized from a figure."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

CITATION: Final = "Qin et al. 2024"
# Key of the digitized values in `published.json`.
_DIGITIZED: Final = "digitised"  # codespell:ignore digitised


@dataclass(frozen=True)
class PublishedScore:
    """A score of the paper.

    Attributes:
        value: The score.
        printed: Whether it is printed as a number; otherwise it was digitized from a figure.
    """

    value: float
    printed: bool

    @property
    def text(self) -> str:
        """The score with its known digits, marked if it was digitized."""
        return f"{self.value:.4f}" if self.printed else f"{self.value:.3f} (digitized)"


@dataclass(frozen=True)
class PublishedSynthesisSweep:
    """The paper's sweep of the number of synthetic dialogues [Qin24 Fig. 3], digitized.

    Attributes:
        data: Name of the data set.
        rouge1: ROUGE-1 by the number of synthetic dialogues per selected one.
        seconds_per_epoch: Training time per epoch by the same number.
    """

    data: str
    rouge1: dict[int, float]
    seconds_per_epoch: dict[int, float]


@functools.cache
def published_results() -> dict[str, Any]:
    """Return the contents of `published.json`."""
    path = files("mlx_personal.research.study.report") / "published.json"
    results: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return results


def published_curve(data: str, policy: str) -> dict[int, PublishedScore]:
    """Return ROUGE-1 by the number of received dialogues; empty where the paper shows no curve."""
    curves = published_results()["curves"]
    values = curves["data"].get(data, {}).get(policy, {})
    scores = {}
    for source in (_DIGITIZED, "printed"):
        for received, value in zip(curves["received"], values.get(source, ()), strict=False):
            if value is not None:
                scores[received] = PublishedScore(value, source == "printed")
    return dict(sorted(scores.items()))


def published_final_score(data: str, policy: str) -> PublishedScore | None:
    """Return ROUGE-1 at the end of the stream, from the main curves or from Table 4; None where there is none."""
    if curve := published_curve(data, policy):
        return curve[max(curve)]
    value = published_results()["ablation"]["data"].get(data, {}).get("printed", {}).get(policy)
    return None if value is None else PublishedScore(value, True)


def published_synthesis_sweep() -> PublishedSynthesisSweep:
    """Return the paper's sweep of the number of synthetic dialogues."""
    sweep = published_results()["synthetic"]
    rouge1, seconds = (
        dict(zip(sweep["sets"], sweep[key][_DIGITIZED], strict=True)) for key in ("rouge1", "seconds_an_epoch")
    )
    return PublishedSynthesisSweep(sweep["data"], rouge1, seconds)


def digitization_error() -> float:
    """Return the error bound of digitized scores."""
    return float(published_results()["digitised_error"])  # codespell:ignore digitised


def published_datasets() -> list[str]:
    """Return the names of the paper's data sets in its order."""
    return list(published_results()["curves"]["data"])
