"""Pretrain a small Llama on a file of dialogues (see pretraining.py), as a student or a teacher of the LaMP world.

    python scripts/pretrain_model.py corpus.jsonl --out MODEL [--hidden-size 192 --num-layers 6 ...]

The file has {"messages": [...]} per line. Each sample is seen once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from pretraining import PretrainingConfig, pretrain


def main() -> None:
    """Train a model; every field of `PretrainingConfig` is an option."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("corpus", type=Path, help="training samples, as JSON Lines")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--seed", type=int, default=1, help="random seed (default 1)")
    fields = dataclasses.fields(PretrainingConfig)
    for field in fields:
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    config = PretrainingConfig(**{field.name: getattr(arguments, field.name) for field in fields})
    samples = [json.loads(line) for line in arguments.corpus.read_text(encoding="utf-8").splitlines()]
    training = pretrain(samples, config, arguments.seed, arguments.out)
    text = json.dumps({**training, **dataclasses.asdict(config)}, indent=2)
    (arguments.out / "training.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
