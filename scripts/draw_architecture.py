"""Draw the layers of the package as a picture for the documentation.

python scripts/draw_architecture.py docs/images/architecture.svg
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

# From the top down: a layer's name, and its packages. `tests/test_layering.py` has the exact order.
LAYERS = [
    ("command line", ["cli"]),
    ("research", ["research/study", "research/lamp"]),
    ("applications", ["personalizer", "demo", "benchmark", "augmentation"]),
    ("settings", ["config"]),
    (
        "steps",
        ["embedding", "scoring", "selection", "annotation", "synthesis", "memory", "finetune", "evaluation", "chat"],
    ),
    ("profile", ["profile"]),
    ("services", ["storage", "importers", "models", "kernels", "jobs", "http_client"]),
    ("base", ["dialogue", "runtime", "errors", "progress", "reporting"]),
]
WIDTH, ROW, LABEL, GAP = 1200, 62, 130, 10
COLORS = ["#0072B2", "#56B4E9", "#009E73", "#999999", "#D55E00", "#CC79A7", "#E69F00", "#777777"]


def draw() -> str:
    """Return the picture as SVG text."""
    height = ROW * len(LAYERS) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="15">',
        "<title>Packages in layers; each imports only those below it</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for index, ((layer, packages), color) in enumerate(zip(LAYERS, COLORS, strict=True)):
        top = GAP + index * ROW
        box_height = ROW - GAP
        parts.append(
            f'<text x="{LABEL - 14}" y="{top + box_height / 2 + 5}" text-anchor="end" '
            f'fill="#333333">{escape(layer)}</text>'
        )
        # Steps are joined by arrows, because data flows through them from left to right.
        space = 22 if layer == "steps" else GAP
        box = (WIDTH - LABEL - GAP - space * (len(packages) - 1)) / len(packages)
        for column, package in enumerate(packages):
            left = LABEL + column * (box + space)
            parts.append(
                f'<rect x="{left:.1f}" y="{top}" width="{box:.1f}" height="{box_height}" rx="6" fill="{color}" '
                f'fill-opacity="0.14" stroke="{color}"/>'
            )
            parts.append(
                f'<text x="{left + box / 2:.1f}" y="{top + box_height / 2 + 5}" text-anchor="middle" '
                f'fill="#111111">{escape(package)}</text>'
            )
            if layer == "steps" and column:
                middle = top + box_height / 2
                parts.append(
                    f'<path d="M{left - space + 3:.1f} {middle} h{space - 8} m-6 -5 l6 5 l-6 5" fill="none" '
                    f'stroke="{color}" stroke-width="2"/>'
                )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(), encoding="utf-8")
