"""Pretrain the small Llama that the package ships, on the demo world (see pretraining.py).

    python scripts/pretrain_demo_model.py --out mlx_personal/demo/model
    python scripts/pretrain_demo_model.py --out mlx_personal/demo/model --evaluate-only

Trains for one epoch on a corpus drawn from the grammar in demo_world/, then measures the metrics of the model card. The
same arguments give the same corpus.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from demo_world.card import write_card
from demo_world.measure import measure
from pretraining import PretrainingConfig, pretrain
from write_demo_corpus import draw_corpus


def main() -> None:
    """Train and measure the model, and write its card."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--samples", type=int, default=70_000, help="samples of the corpus, each seen once")
    parser.add_argument("--seed", type=int, default=1, help="random seed (default 1)")
    parser.add_argument("--evaluate-only", action="store_true", help="measure the model in --out and rewrite its card")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    training_file = arguments.out / "training.json"
    if not arguments.evaluate_only:
        corpus = list(draw_corpus(arguments.samples, arguments.seed))
        training = pretrain(corpus, PretrainingConfig(), arguments.seed, arguments.out)
        training_file.write_text(json.dumps({**training, "rows_argument": arguments.samples}, indent=2) + "\n")
    metrics = measure(arguments.out)
    print(json.dumps(metrics, indent=2))
    training = json.loads(training_file.read_text())
    write_card(arguments.out, training, PretrainingConfig().model_config(), metrics)


if __name__ == "__main__":
    main()
