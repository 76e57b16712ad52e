"""Compare embedding, generation and fine-tuning with mlx-lm on a real model: speed, peak memory, equality of results.

    python -m benchmarks.real_model [--model DIR] [--quick] [--rounds N] [--json] [--out FILE.md] [FILE.jsonl...]

Each measurement has a process of its own, and the methods run in turn. The seconds do not include loading the model.

- embedding: the hidden states of each dialogue; mlx-lm's forward pass without output head, one dialogue after the other
- generation: greedy answers to the first turns; a loop of `mlx_lm.generate` runs in the first round only
- fine-tuning: as in `benchmarks.finetune`, on samples of random tokens with the lengths of personal data
- memory: one epoch of fine-tuning on the dialogues in the fastest and in the slowest forward mode, with its estimate
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx_lm
import numpy as np
from mlx_lm.generate import batch_generate

import benchmarks
from benchmarks.arguments import DEMO_STREAM, positive_int, run_command, set_defaults
from benchmarks.mlx_lm_loop import embed_dialogues, generate_text
from benchmarks.report_file import heading, print_result
from mlx_personal import Dialogue, LanguageModel, UserError, load_language_model
from mlx_personal.benchmark import Workload, run_benchmark
from mlx_personal.benchmark.random_weights import public_model_name
from mlx_personal.embedding import EmbeddingConfig, HiddenStateEmbedder, unit_mean
from mlx_personal.finetune import LoRAConfig, TrainingData, train
from mlx_personal.finetune.data.samples import make_samples
from mlx_personal.finetune.plan import plan_for_model
from mlx_personal.importers import read_dialogues
from mlx_personal.progress import ProgressEvent
from mlx_personal.reporting import markdown_table
from mlx_personal.runtime import blas
from mlx_personal.runtime.device import peak_memory_bytes

OURS, PLAIN, BATCH, LOOP = "ours", "mlx-lm, one by one", "mlx_lm.batch_generate", "loop of mlx_lm.generate"
METHODS = {"embedding": (OURS, PLAIN), "generation": (OURS, BATCH, LOOP), "memory": ("packed", "plain")}
# Minimum speedups over the method, as ratios of the times.
TARGETS = {("embedding", PLAIN): 2.0, ("generation", BATCH): 1.0, ("fine-tuning", "mlx-lm"): 3.0}
# The options of the sizes, with their defaults with and without `--quick`.
SIZES: Mapping[str, tuple[int | None, int | None]] = {
    **{"dialogues": (6, 64), "max_tokens": (8, 48), "samples": (8, 32), "epochs": (1, 3)},
    **{"num_layers": (2, 8), "rounds": (1, 3)},
}
FIGURES = (("seconds", 1, 1), ("tokens_per_second", 1, 0), ("peak_memory_bytes", 1e6, 0))  # name, unit, digits

Measurement = dict[str, Any]
"""`seconds`, `tokens` and `peak_memory_bytes` of one run, and its `results`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; return 2 if the input is wrong."""
    return run_command("benchmarks.real_model", run, parse(arguments))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_model", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="dialogues as JSON Lines; default the demo's"
    )
    parser.add_argument("--model", default="demo", help="name or folder of a model; default the embedded one")
    parser.add_argument("--quick", action="store_true", help="few dialogues, one round: to check that it works")
    parser.add_argument("--dialogues", type=positive_int, help="number of dialogues, from all files; default 64")
    parser.add_argument("--max-tokens", type=positive_int, help="tokens of an answer; default 48")
    parser.add_argument("--samples", type=positive_int, help="samples of fine-tuning, a multiple of 4; default 32")
    parser.add_argument("--epochs", type=positive_int, help="epochs of fine-tuning; default 3")
    parser.add_argument("--num-layers", type=int, help="layers to adapt, from the last, -1 for all; default 8")
    parser.add_argument("--rounds", type=positive_int, help="measurements of each method; default 3")
    parser.add_argument("--json", action="store_true", help="print the values as JSON")
    parser.add_argument("--out", type=Path, help="write the report to this file, as Markdown")
    parser.add_argument("--measure", nargs=2, metavar=("TASK", "METHOD"), help=argparse.SUPPRESS)
    return set_defaults(parser.parse_args(arguments), SIZES)


def run(options: argparse.Namespace) -> int:
    """Run the benchmark, or one measurement of it."""
    # Each measurement has the machine to itself, unless the user has set the number of threads.
    if benchmarks.CHOSEN_THREADS is None:
        os.environ.pop("OPENBLAS_NUM_THREADS", None)
    if options.measure:
        task, method = options.measure
        print(json.dumps(measure(task, method, options)))
        return 0
    read_inputs(options)  # so that a wrong input is found first
    values: dict[str, Any] = {"model": public_model_name(options.model), "rounds": options.rounds}
    for task in METHODS:
        values[task] = summarize(task, run_in_turn(task, options))
    values["fine-tuning"] = compare_trainers(options)
    print_result(make_report(values, options), values, options)
    return 0


def measure(task: str, method: str, options: argparse.Namespace) -> Measurement:
    """Measure one method in this process."""
    lm, dialogues = load_language_model(options.model), read_inputs(options)
    if task == "memory":
        return measure_memory(lm, dialogues, method, options)
    run_method = {"embedding": embed, "generation": generate}[task]
    run_method(lm, dialogues[:1], method, options)  # compiles what MLX compiles
    start = time.perf_counter()
    tokens, results = run_method(lm, dialogues, method, options)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "tokens": tokens,
        "peak_memory_bytes": peak_memory_bytes(),
        "blas_threads": blas.thread_count(),
        "results": results,
    }


def embed(
    lm: LanguageModel, dialogues: Sequence[Dialogue], method: str, options: argparse.Namespace
) -> tuple[int, list[Any]]:
    """Return the number of tokens and the vectors."""
    if method == OURS:
        states = [e.states for e in HiddenStateEmbedder(lm).embed([dialogue.text for dialogue in dialogues])]
    else:
        states = embed_dialogues(lm, dialogues, EmbeddingConfig.max_tokens)
    return sum(map(len, states)), [unit_mean(s).tolist() for s in states]


def generate(
    lm: LanguageModel, dialogues: Sequence[Dialogue], method: str, options: argparse.Namespace
) -> tuple[int, list[Any]]:
    """Return the number of tokens and the greedy answers to the first turns."""
    prompts = [lm.tokenize_prompt(list(dialogue.exchanges()[0][0])) for dialogue in dialogues]
    if method == OURS:
        texts = lm.generate(prompts, max_tokens=options.max_tokens)
    elif method == BATCH:
        texts = batch_generate(lm.model, lm.tokenizer, prompts, max_tokens=options.max_tokens).texts
    else:
        texts = [generate_text(lm, prompt, options.max_tokens) for prompt in prompts]
    return sum(len(lm.tokenize(text)) for text in texts), [text.strip() for text in texts]


def measure_memory(
    lm: LanguageModel, dialogues: Sequence[Dialogue], mode: Any, options: argparse.Namespace
) -> Measurement:
    """Fine-tune for one epoch in a forward mode, and return the estimated and the measured peak of MLX's memory."""
    config = LoRAConfig(epochs=1, num_layers=min(options.num_layers, len(lm.model.layers)))
    data = TrainingData(make_samples(lm, dialogues[:16], min(config.max_seq_length, lm.context_length)).samples)
    plan = plan_for_model(lm, data, config)
    if mode != plan.forward_mode:
        assert plan.plan_memory_for is not None
        plan = dataclasses.replace(plan, memory=plan.plan_memory_for(mode), forward_mode=mode)
    report = train(lm, plan)
    if report.forward_mode != mode:
        raise UserError(f"this model is not trained in mode {mode}: {report.fallback_reason}")
    return {
        "seconds": report.elapsed_s,
        "tokens": report.processed_tokens,
        "peak_memory_bytes": report.peak_memory_bytes,
        "results": [report.estimated_memory_bytes],
    }


def run_in_turn(task: str, options: argparse.Namespace) -> dict[str, list[Measurement]]:
    """Measure the methods of a task in turn, in random order within each round, each in a child process."""
    measurements: dict[str, list[Measurement]] = {method: [] for method in METHODS[task]}
    order, rng = list(measurements), random.Random(0)
    for number in range(1 if task == "memory" else options.rounds):
        rng.shuffle(order)
        for method in order:
            if method == LOOP and number:
                continue
            print(f"{task}, round {number + 1}: {method}", file=sys.stderr)
            measurements[method].append(measure_in_child_process(task, method, options))
    return measurements


def measure_in_child_process(task: str, method: str, options: argparse.Namespace) -> Measurement:
    """Measure one method in a new process, whose peak memory is that of this method only."""
    command = [sys.executable, "-m", "benchmarks.real_model", *map(str, options.files), "--model", options.model]
    for name in SIZES:
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    finished = subprocess.run([*command, "--measure", task, method], capture_output=True, text=True)
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["no message"]
        raise UserError(f"{task} with {method} failed: {lines[-1]}")
    result: Measurement = json.loads(finished.stdout.splitlines()[-1])
    return result


def summarize(task: str, measurements: Mapping[str, Sequence[Measurement]]) -> dict[str, Any]:
    """Return the medians of each method, and its time divided by ours: the median of the ratios within each round."""
    ours = measurements[METHODS[task][0]]
    summary = {}
    for method, runs in measurements.items():
        summary[method] = {
            "seconds": statistics.median(run["seconds"] for run in runs),
            "tokens_per_second": statistics.median(run["tokens"] / run["seconds"] for run in runs),
            "peak_memory_bytes": statistics.median(run["peak_memory_bytes"] for run in runs),
            "blas_threads": [run.get("blas_threads") for run in runs],
            "speedups": [run["seconds"] / our["seconds"] for run, our in zip(runs, ours, strict=False)],
            "difference": difference(task, runs[0]["results"], ours[0]["results"]),
        }
    return summary


def difference(task: str, results: list[Any], ours: list[Any]) -> str:
    """Say how much the results of a method differ from ours, or an estimate from the measured memory."""
    if task == "embedding":
        return f"largest difference {np.abs(np.array(results) - np.array(ours)).max():.1e}"
    if task == "generation":
        return f"{sum(a == b for a, b in zip(results, ours, strict=True))} of {len(ours)} texts equal"
    return f"{results[0] / 1e6:.0f} MB estimated"


def compare_trainers(options: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune with our trainer and mlx-lm's."""
    workload = Workload("real", options.model, options.samples, options.epochs, options.num_layers).with_settings()

    def on_progress(event: ProgressEvent, /) -> None:
        print(f"fine-tuning: {event.stage}", file=sys.stderr)

    rounds = 1 if options.quick else max(1, options.rounds - 1)
    return run_benchmark(workload, on_progress, "mlx-lm", rounds, brief=True)


def read_inputs(options: argparse.Namespace) -> list[Dialogue]:
    """Return the first dialogues, equally many of each file.

    Raises:
        UserError: If a file has fewer.
    """
    files = options.files or [DEMO_STREAM]
    dialogues: list[Dialogue] = []
    for number, file in enumerate(files):
        count = (options.dialogues * (number + 1)) // len(files) - len(dialogues)
        found = [item for item in read_dialogues(file) if isinstance(item, Dialogue) and item.exchanges()][:count]
        if len(found) < count:
            raise UserError(f"has {len(found)} dialogues, not {count}", file, "choose fewer with --dialogues")
        dialogues += found
    return dialogues


def make_report(values: Mapping[str, Any], options: argparse.Namespace) -> str:
    """Return the report as Markdown."""
    rows: list[Sequence[object]] = []
    for task in ("embedding", "generation"):
        for method, of in values[task].items():
            speedups = of["speedups"]
            target = f"at least {TARGETS[task, method]}" if (task, method) in TARGETS else "-"
            ratio = f"{statistics.median(speedups):.2f} ({min(speedups):.2f} to {max(speedups):.2f})"
            figures = [f"{of[name] / unit:.{digits}f}" for name, unit, digits in FIGURES]
            rows.append(
                [task, method, *figures, *(("-", "-", "-") if method == OURS else (ratio, target, of["difference"]))]
            )
    tuned = values["fine-tuning"]
    loss = f"largest difference of a loss {tuned['max_loss_difference']:.1e}"
    compared = (f"{1 / tuned['time_ratio']:.2f}", f"at least {TARGETS['fine-tuning', 'mlx-lm']}", loss)
    for trainer, side in tuned["sides"].items():
        medians = [side[name]["median"] for name in ("seconds_to_loss", "processed_tokens_per_second")]
        figures = [f"{medians[0]:.1f}", f"{medians[1]:.0f}", f"{side['peak_memory_bytes']['median'] / 1e6:.0f}"]
        rows.append(["fine-tuning", trainer, *figures, *(("-", "-", side["way"]) if trainer == OURS else compared)])
    columns = ["task", "method", "seconds", "tokens/s", "peak MB", "its time / ours", "target", "results"]
    memory = [[mode, f"{of['peak_memory_bytes'] / 1e6:.0f}", of["difference"]] for mode, of in values["memory"].items()]
    model = public_model_name(options.model)
    sizes = " ".join(f"--{name.replace('_', '-')} {getattr(options, name)}" for name in SIZES)
    command = f"python -m benchmarks.real_model --model {model} {sizes}{' FILE.jsonl...' if options.files else ''}"
    counts = [n for task in ("embedding", "generation") for of in values[task].values() for n in of["blas_threads"]]
    threads = ", ".join(map(str, sorted(set(counts), key=str)))
    return "\n".join(
        [
            heading(f"{model} with this package and with mlx-lm {mlx_lm.__version__}", command, threads),
            markdown_table(columns, rows),
            f"Medians of {options.rounds} rounds; ratios within each round. `peak MB` of fine-tuning is MLX's count, "
            "of the others the process's; its seconds are those to the same loss.\n",
            "## Memory of fine-tuning, estimated before it starts\n",
            markdown_table(["forward mode", "peak MB of MLX", "estimate"], memory),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
