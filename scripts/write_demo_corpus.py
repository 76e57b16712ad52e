"""Write the training corpus of the demo model: conversations and rewrite tasks from the grammar in demo_world/.

    python scripts/write_demo_corpus.py corpus.jsonl --samples 150000 --seed 1

This writes corpus.jsonl and corpus.held-out.jsonl with {"messages": [...]} per line, always the same for a seed. No
pair of topic and intent is in both files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from demo_world.samples import Sample, draw_sample


def draw_corpus(num_samples: int, seed: int, *, held_out: bool = False) -> Iterator[Sample]:
    """Yield the samples of a corpus; a smaller corpus is the beginning of a larger one of the same seed.

    Args:
        num_samples: Number of samples.
        seed: Random seed.
        held_out: Draw from the held-out pairs of topic and intent.
    """
    rng = Random(f"{seed}/{held_out}")
    for _ in range(num_samples):
        yield draw_sample(rng, held_out=held_out)


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--samples", type=int, default=150_000, help="training samples (default 150,000)")
    parser.add_argument("--held-out-samples", type=int, default=2_000, help="held-out samples (default 2,000)")
    parser.add_argument("--seed", type=int, default=1, help="random seed (default 1)")
    arguments = parser.parse_args()
    held_out_path = arguments.out.with_suffix(f".held-out{arguments.out.suffix}")
    for path, num_samples, held_out in (
        (arguments.out, arguments.samples, False),
        (held_out_path, arguments.held_out_samples, True),
    ):
        with path.open("w", encoding="utf-8") as file:
            for sample in draw_corpus(num_samples, arguments.seed, held_out=held_out):
                file.write(json.dumps(sample, ensure_ascii=False) + "\n")
        print(f"{path}: {num_samples} samples")


if __name__ == "__main__":
    main()
