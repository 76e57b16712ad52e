"""Compare our trainer with plain mlx-lm: time to the same loss, peak memory, energy, and difference of the losses.

    python -m benchmarks.finetune [--shape 135m] [--num-layers 8] [--against mlx-lm] [--json] [--quick]

What is measured, and how, is in `mlx_personal/benchmark`; this command has more options than `mlx-personal benchmark`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import benchmarks
from benchmarks.arguments import positive_int, run_command
from mlx_personal.benchmark import WORKLOADS, run_benchmark
from mlx_personal.benchmark.report import all_tables, read_folder, results_table, write_report
from mlx_personal.benchmark.workloads import quick_workload
from mlx_personal.progress import ProgressEvent
from mlx_personal.storage.files import atomic_write


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, or the result with `--json`; return 2 if the input is wrong."""
    options = parse(arguments)
    return run_command("benchmarks.finetune", make_tables if options.table else run, options)


def run(options: argparse.Namespace) -> int:
    """Run the benchmark."""
    # One thread is for libraries that share a process. Here each trainer has a process to itself.
    if benchmarks.CHOSEN_THREADS is None:
        os.environ.pop("OPENBLAS_NUM_THREADS", None)
    settings = {name: getattr(options, name) for name in ("samples", "epochs", "num_layers", "seed")}
    if options.quick:
        workload, notices = quick_workload(options.shape, **settings)
        for notice in notices:
            print_notice(notice)
    else:
        workload = WORKLOADS[options.shape].with_settings(**settings)
    result = run_benchmark(workload, print_progress, options.against, options.rounds, brief=options.quick)
    print(json.dumps(result) if options.json else results_table([result]))
    if options.out is not None:
        atomic_write(options.out, json.dumps(result, indent=1) + "\n")
    return 0


def make_tables(options: argparse.Namespace) -> int:
    """Print or write the tables of a folder of results; return 1 if a file in it is not a result."""
    skipped: list[str] = []

    def skip(line: str) -> None:
        skipped.append(line)
        print_notice(f"skipped {line}")

    results = read_folder(options.table, skip)
    if options.out is None:
        print(all_tables(results))
    else:
        print(*write_report(results, options.out), sep="\n")
    return 1 if skipped else 0


def print_notice(line: str) -> None:
    """Print a line for the user on standard error."""
    print(f"benchmarks.finetune: {line}", file=sys.stderr)


def print_progress(event: ProgressEvent, /) -> None:
    """Print what runs next on standard error."""
    print(f"{event.done}/{event.total} {event.stage}", file=sys.stderr)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=list(WORKLOADS), default="small", help="the workload; default small")
    parser.add_argument("--samples", "--rows", type=int, help="training samples, a multiple of 4")
    parser.add_argument("--epochs", type=int, help="number of epochs")
    parser.add_argument("--num-layers", "--lora-layers", type=int, help="layers to adapt, from the last; -1 for all")
    parser.add_argument("--rounds", type=positive_int, help="training runs of each trainer; default 2")
    parser.add_argument("--seed", type=int, help="random seed of the samples, their order and the adapter; default 0")
    parser.add_argument("--against", choices=["mlx-lm"], help="train with plain mlx-lm too, in turn with ours")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quick", action="store_true", help="the embedded model; within a minute by default")
    parser.add_argument("--table", type=Path, metavar="FOLDER", help="run nothing; make a table of a folder of results")
    parser.add_argument("--out", type=Path, help="write the result to this file; with --table, the tables and plots")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
