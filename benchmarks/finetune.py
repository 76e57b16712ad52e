"""Our trainer beside plain mlx-lm: time to the same loss, peak memory, energy, and how far the losses differ.

    python -m benchmarks.finetune [--shape 135m] [--lora-layers 8] [--against mlx-lm] [--json] [--quick]

What is measured, and how, is in `mlx_personal/benchmark`; this is its developers' entrance.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import benchmarks
from mlx_personal.benchmark import WORKLOADS, benchmark
from mlx_personal.benchmark.report import markdown, read_folder, write_report
from mlx_personal.errors import UserError
from mlx_personal.store.files import atomic_write


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a report, or with `--json` the result; 2 and a line on standard error where the input is wrong."""
    options = parse(arguments)
    try:
        return table(options.table, options.out) if options.table else run(options)
    except UserError as error:
        print(f"benchmarks.finetune: {error.line()}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    # The other benchmarks' single thread is for libraries that share a process. Here a side has its process to itself.
    if benchmarks.CHOSEN_THREADS is None:
        os.environ.pop("OPENBLAS_NUM_THREADS", None)
    workload = WORKLOADS[options.shape].changed(
        rows=options.rows, epochs=options.epochs, lora_layers=options.lora_layers, seed=options.seed
    )
    result = benchmark(workload, progress, options.against, options.rounds, brief=options.quick)
    if options.out is not None:
        atomic_write(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result) if options.json else markdown([result]).partition("\nPublished")[0])
    return 0


def table(folder: Path, out: Path | None) -> int:
    """The Markdown table of a folder of results; 1 if a file in it is none."""
    read = read_folder(folder)
    for line in read.skipped:
        print(f"benchmarks.finetune: skipped {line}", file=sys.stderr)
    if out is None:
        print(markdown(read.results))
    else:
        print(*write_report(read.results, out), sep="\n")
    return 1 if read.skipped else 0


def progress(done: int, total: int, what: str) -> None:
    print(f"{done}/{total} {what}", file=sys.stderr)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=list(WORKLOADS), default="small", help="the workload; default small")
    parser.add_argument("--rows", type=int, help="training rows, in whole batches of 4")
    parser.add_argument("--epochs", type=int, help="times every row is trained on")
    parser.add_argument("--lora-layers", type=int, help="adapt the last so many layers; -1 is all")
    parser.add_argument("--rounds", type=int, help="trainings of each side; default 2")
    parser.add_argument("--seed", type=int, help="of the rows, their order and the adapter; default 0")
    parser.add_argument("--against", choices=["mlx-lm"], help="train with plain mlx-lm too, in turn with ours")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quick", action="store_true", help="within a minute, whatever the shape: the embedded model")
    parser.add_argument("--table", type=Path, metavar="FOLDER", help="no run: the table of the results in a folder")
    parser.add_argument("--out", type=Path, help="keep the result in this file; with --table, the Markdown and plots")
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
