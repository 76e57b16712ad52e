"""The selection paper's own figures, from `published.json`: facts, each printed there or digitised from a picture."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Published:
    """A figure of the paper's. `printed`: as a number; otherwise read from a picture, to within `digitised_error`."""

    value: float
    printed: bool

    @property
    def text(self) -> str:
        """As many digits as are known, and how it is known where that is by eye."""
        return f"{self.value:.4f}" if self.printed else f"{self.value:.3f} (digitised)"


@functools.cache
def published() -> dict[str, Any]:
    """The whole file."""
    figures: dict[str, Any] = json.loads(
        (files("mlx_personal.research.study.report") / "published.json").read_text("utf-8")
    )
    return figures


def curve(data: str, policy: str) -> dict[int, Published]:
    """ROUGE-1 by how many sets were received; empty where the paper shows none."""
    curves = published()["curves"]
    values = curves["data"].get(data, {}).get(policy, {})
    found = {}
    for how in ("digitised", "printed"):
        for received, value in zip(curves["received"], values.get(how, ()), strict=False):
            if value is not None:
                found[received] = Published(value, how == "printed")
    return dict(sorted(found.items()))


def final(data: str, policy: str) -> Published | None:
    """ROUGE-1 at the end of the stream: of the main curves, and of Table 4 for the single scores."""
    if points := curve(data, policy):
        return points[max(points)]
    value = published()["ablation"]["data"].get(data, {}).get("printed", {}).get(policy)
    return None if value is None else Published(value, True)


def names() -> list[str]:
    """The paper's data sets, in its order."""
    return list(published()["curves"]["data"])
