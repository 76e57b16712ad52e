"""Writes the corpus of the demo model: everyday conversations and rewrite tasks from the grammar in demo_world/.

    python scripts/write_demo_corpus.py corpus.jsonl --rows 150000 --seed 1

gives corpus.jsonl and corpus.held-out.jsonl with {"messages": [...]} lines, the same for the same seed. No topic and
intent pair of the held-out file occurs in the other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from demo_world.rows import Row, draw_row


def corpus(rows: int, seed: int, *, held_out: bool = False) -> Iterator[Row]:
    """`rows` rows from one side of the split; a shorter corpus of the same seed is the beginning of a longer one."""
    rng = Random(f"{seed}/{held_out}")
    for _ in range(rows):
        yield draw_row(rng, held_out=held_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=150_000)
    parser.add_argument("--held-out-rows", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    held_out = args.out.with_suffix(f".held-out{args.out.suffix}")
    for path, rows, side in ((args.out, args.rows, False), (held_out, args.held_out_rows, True)):
        with path.open("w", encoding="utf-8") as file:
            for row in corpus(rows, args.seed, held_out=side):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(f"{path}: {rows} rows")


if __name__ == "__main__":
    main()
