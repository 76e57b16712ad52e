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
from benchmarks.arguments import ended, positive
from mlx_personal.benchmark import WORKLOADS, benchmark
from mlx_personal.benchmark.report import markdown, read_folder, results_table, write_report
from mlx_personal.benchmark.workloads import quick
from mlx_personal.storage.files import atomic_write


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a report, or with `--json` the result; 2 and a line on standard error where the input is wrong."""
    options = parse(arguments)
    return ended("benchmarks.finetune", tables if options.table else run, options)


def run(options: argparse.Namespace) -> int:
    # The other benchmarks' single thread is for libraries that share a process. Here a side has its process to itself.
    if benchmarks.CHOSEN_THREADS is None:
        os.environ.pop("OPENBLAS_NUM_THREADS", None)
    sizes = {name: getattr(options, name) for name in ("rows", "epochs", "lora_layers", "seed")}
    workload = quick(options.shape, say, **sizes) if options.quick else WORKLOADS[options.shape].changed(**sizes)
    result = benchmark(workload, progress, options.against, options.rounds, brief=options.quick)
    print(json.dumps(result) if options.json else results_table([result]))
    if options.out is not None:
        atomic_write(options.out, json.dumps(result, indent=1) + "\n")
    return 0


def tables(options: argparse.Namespace) -> int:
    """The Markdown tables of a folder of results; 1 if a file in it is none."""
    skipped: list[str] = []

    def skip(line: str) -> None:
        skipped.append(line)
        say(f"skipped {line}")

    results = read_folder(options.table, skip)
    if options.out is None:
        print(markdown(results))
    else:
        print(*write_report(results, options.out), sep="\n")
    return 1 if skipped else 0


def say(line: str) -> None:
    print(f"benchmarks.finetune: {line}", file=sys.stderr)


def progress(done: int, total: int, what: str) -> None:
    print(f"{done}/{total} {what}", file=sys.stderr)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=list(WORKLOADS), default="small", help="the workload; default small")
    parser.add_argument("--rows", type=int, help="training rows, in whole batches of 4")
    parser.add_argument("--epochs", type=int, help="times every row is trained on")
    parser.add_argument("--lora-layers", type=int, help="adapt the last so many layers; -1 is all")
    parser.add_argument("--rounds", type=positive, help="trainings of each side; default 2")
    parser.add_argument("--seed", type=int, help="of the rows, their order and the adapter; default 0")
    parser.add_argument("--against", choices=["mlx-lm"], help="train with plain mlx-lm too, in turn with ours")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quick", action="store_true", help="the embedded model; within a minute by default")
    parser.add_argument("--table", type=Path, metavar="FOLDER", help="no run: the table of the results in a folder")
    parser.add_argument("--out", type=Path, help="keep the result in this file; with --table, the Markdown and plots")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
