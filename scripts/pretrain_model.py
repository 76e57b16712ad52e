"""Trains a small Llama from nothing on a file of dialogues (see pretraining.py): a student or a teacher of a world.

    python scripts/pretrain_model.py corpus.jsonl --out MODEL [--width 192 --layers 6 ...]

The file has {"messages": [...]} a line, each seen once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from pretraining import Shape, pretrain


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    for size in dataclasses.fields(Shape):
        parser.add_argument(f"--{size.name.replace('_', '-')}", type=type(size.default), default=size.default)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    shape = Shape(**{size.name: getattr(args, size.name) for size in dataclasses.fields(Shape)})
    rows = [json.loads(line) for line in args.corpus.read_text(encoding="utf-8").splitlines()]
    facts = pretrain(rows, shape, args.seed, args.out)
    (args.out / "training.json").write_text(json.dumps({**facts, **dataclasses.asdict(shape)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
