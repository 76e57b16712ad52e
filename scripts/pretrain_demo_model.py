"""Trains the small Llama that the package ships, on the demo world, from nothing (see pretraining.py).

    python scripts/pretrain_demo_model.py --out mlx_personal/demo/model
    python scripts/pretrain_demo_model.py --out mlx_personal/demo/model --evaluate-only

One pass over a corpus drawn from the grammar in demo_world/, then the measurements that go into the model card. The
same arguments give the same corpus.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from demo_world.card import write_card
from demo_world.measure import measure
from pretraining import Shape, pretrain
from write_demo_corpus import corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=70_000, help="rows of the corpus, each seen once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evaluate-only", action="store_true", help="measure the model in --out and rewrite its card")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    facts_file = args.out / "training.json"
    if not args.evaluate_only:
        facts = pretrain(list(corpus(args.rows, args.seed)), Shape(), args.seed, args.out)
        facts_file.write_text(json.dumps({**facts, "rows_argument": args.rows}, indent=2) + "\n")
    figures = measure(args.out)
    print(json.dumps(figures, indent=2))
    write_card(args.out, json.loads(facts_file.read_text()), Shape().config(), figures)


if __name__ == "__main__":
    main()
