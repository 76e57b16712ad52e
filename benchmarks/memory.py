"""Compare the base model, an adapter, memory and both on held-out questions of streams of dialogues.

    python -m benchmarks.memory --model MODEL FILE.jsonl... [--quick] [--stream N] [--kept N] [--held-out N] [--seeds N]
                                [--examples N] [--max-tokens N] [--choices N] [--cells FOLDER [--stored]]
                                [--json] [--out FILE.md]

For each file and seed a part of the file is the stream, of which the buffer keeps some dialogues. These are trained on
and are the memory. The held-out questions come from the rest of the file; none is a near-duplicate of a kept one.
`--cells` keeps the values of each file, seed and method, so that an interrupted comparison goes on where it stopped;
with `--stored` the report is made of what is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from benchmarks.arguments import positive_int, run_command, set_defaults
from benchmarks.report_file import heading, print_result
from mlx_personal import Config, Dialogue, LanguageModel, Personalizer, UserError, load_language_model
from mlx_personal.benchmark.random_weights import public_model_name
from mlx_personal.dialogue import rouge1
from mlx_personal.dialogue.similarity import NearDuplicateIndex
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.evaluation.comparison import typical_answer
from mlx_personal.finetune import Example, LoRAConfig, finetune
from mlx_personal.importers import read_dialogues
from mlx_personal.memory import Memory, MemoryConfig, MemoryEntry
from mlx_personal.reporting import markdown_table
from mlx_personal.research.answer_metrics import answer_metrics
from mlx_personal.research.statistics import mean_interval
from mlx_personal.selection import SelectionConfig
from mlx_personal.storage.files import atomic_write

# How the adapters are trained that are compared, beside `TRAINING`.
ADAPTERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "adapter": {},
    "adapter trained as in chat": {"examples": "as in chat"},
    "adapter trained with negatives": {"objective": "sft+dpo", "negatives": 1},
    "adapter trained as in chat with negatives": {"examples": "as in chat", "objective": "sft+dpo", "negatives": 1},
}
BASE, ADAPTER = "base", "adapter"
# For each method its adapter, None for the base model; and whether it has a memory.
METHODS: Final[Mapping[str, tuple[str | None, bool]]] = {
    BASE: (None, False),
    f"{BASE}, memory": (None, True),
    ADAPTER: (ADAPTER, False),
    f"{ADAPTER}, memory": (ADAPTER, True),
    "adapter trained as in chat, memory": ("adapter trained as in chat", True),
    "adapter trained with negatives": ("adapter trained with negatives", False),
    "adapter trained with negatives, memory": ("adapter trained with negatives", True),
    "adapter trained as in chat with negatives, memory": ("adapter trained as in chat with negatives", True),
}
# The gains that are shown: of the first method over the second.
GAINS: Final = (
    ("adapter, memory", BASE),
    ("adapter, memory", "base, memory"),
    ("adapter, memory", ADAPTER),
    ("adapter trained as in chat, memory", ADAPTER),
    ("adapter trained with negatives", BASE),
    ("adapter trained with negatives", ADAPTER),
    ("adapter trained with negatives, memory", BASE),
    ("adapter trained with negatives, memory", ADAPTER),
    ("adapter trained with negatives, memory", "adapter trained with negatives"),
    ("adapter trained as in chat with negatives, memory", "adapter trained with negatives"),
)
# Values of a method, one for each held-out question.
METRICS: Final = ("rouge1", "reciprocal_rank", "top1", "specificity", "log_likelihood")
# Rank 8 on all layers without dropout, with which common prefixes are computed once.
TRAINING: Final = LoRAConfig(learning_rate=5e-4, epochs=3, dropout=0.0)
# The options of the sizes, with their defaults with and without `--quick`.
SIZES: Final[Mapping[str, tuple[int | None, int | None]]] = {
    **{"stream": (12, 192), "kept": (6, 64), "held_out": (4, 60), "seeds": (1, 3), "examples": (1, 2)},
    **{"max_tokens": (4, 64), "epochs": (1, TRAINING.epochs), "choices": (2, 10)},
}

Cell = dict[str, Any]
"""The values of one file and seed: `methods`, by name a list for each metric; their `seconds`; and references."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; return 2 if the input is wrong."""
    return run_command("benchmarks.memory", run, parse(arguments))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a stream of dialogues as JSON Lines")
    parser.add_argument("--model", default="demo", help="name or folder of a model; default the embedded one")
    parser.add_argument("--quick", action="store_true", help="few dialogues: to check that it works")
    parser.add_argument("--stream", type=positive_int, help="dialogues of which the buffer keeps some; default 192")
    parser.add_argument("--kept", type=positive_int, help="bins of the buffer; default 64")
    parser.add_argument("--held-out", type=positive_int, help="held-out questions; default 60")
    parser.add_argument("--seeds", type=positive_int, help="seeds; default 3")
    parser.add_argument("--examples", type=positive_int, help="examples before a question; default 2")
    parser.add_argument("--max-tokens", type=positive_int, help="tokens of an answer; default 64")
    parser.add_argument("--epochs", type=positive_int, help="epochs of fine-tuning; default 3")
    parser.add_argument("--choices", type=positive_int, help="answers to choose from, at least 2; default 10")
    parser.add_argument("--cells", type=Path, help="folder for the values of each file and seed, which are kept")
    parser.add_argument("--stored", action="store_true", help="report what is in --cells, and compute nothing")
    parser.add_argument("--json", action="store_true", help="print the values as JSON")
    parser.add_argument("--out", type=Path, help="write the report to this file, as Markdown")
    return set_defaults(parser.parse_args(arguments), SIZES)


def run(options: argparse.Namespace) -> int:
    """Run the comparison."""
    if not 2 <= options.choices <= 100:
        raise UserError(f"--choices is {options.choices}", hint="choose a number from 2 to 100")
    streams = {file.stem: read_single_turns(file, options) for file in options.files}
    if options.stored and options.cells is None:
        raise UserError("--stored needs --cells", hint="name the folder of the cells")
    lm = None if options.stored else load_language_model(options.model)
    cells: dict[str, list[Cell]] = {}
    for name, dialogues in streams.items():
        for seed in range(options.seeds):
            cell = stored_cell(name, seed, options)
            if lm is not None:
                compute_cell(lm, name, cell, dialogues, seed, options)
            if cell["methods"]:
                cells.setdefault(name, []).append(cell)
    if not cells:
        raise UserError("has no cell of these sizes", options.cells, "run without --stored")
    values = {name: summarize(of_stream) for name, of_stream in cells.items()}
    print_result(make_report(values, options), values, options)
    return 0


def read_single_turns(file: Path, options: argparse.Namespace) -> list[Dialogue]:
    """Return the first exchange of each dialogue of a file."""
    dialogues = [item for item in read_dialogues(file) if isinstance(item, Dialogue)]
    needed = options.stream + options.held_out
    if len(dialogues) < needed:
        raise UserError(f"has {len(dialogues)} dialogues, and {needed} are needed", file, "lower --stream")
    return [Dialogue.of(dialogue.user_turns[0], dialogue.assistant_turns[0]) for dialogue in dialogues]


def stored_cell(name: str, seed: int, options: argparse.Namespace) -> Cell:
    """Return the values of a file and seed that are in `--cells`; without any methods if there are none."""
    sizes = {size: getattr(options, size) for size in sorted(SIZES) if size != "seeds"}
    key = {"model": public_model_name(options.model), "seed": seed, **sizes}
    file = cell_file(name, seed, options)
    cell: Cell = {} if file is None or not file.exists() else json.loads(file.read_text())
    return cell if cell.get("key") == key else {"key": key, "methods": {}, "seconds": {}}


def cell_file(name: str, seed: int, options: argparse.Namespace) -> Path | None:
    """Return the file of a cell; None without `--cells`."""
    return None if options.cells is None else options.cells / f"{name}-{seed}.json"


def compute_cell(
    lm: LanguageModel, name: str, cell: Cell, dialogues: list[Dialogue], seed: int, options: argparse.Namespace
) -> None:
    """Compute the methods that a cell lacks, and store it after each of them."""
    if not METHODS.keys() - cell["methods"].keys():
        return
    file = cell_file(name, seed, options)
    shuffled = Random(seed).sample(dialogues, len(dialogues))
    with tempfile.TemporaryDirectory() as folder:
        kept = select(lm, shuffled[: options.stream], Path(folder), options)
        held_out = draw_held_out(kept, shuffled[options.stream :], options.held_out)
        constant = typical_answer(lm, kept, options.max_tokens) or ""
        cell["constant_rouge1"] = [rouge1(constant, dialogue.answer) for dialogue in held_out]
        for method, values, seconds in compute_methods(
            lm, kept, held_out, Path(folder), seed, options, cell["methods"]
        ):
            cell["chance_reciprocal_rank"] = statistics.fmean(values["chance_rank"])
            cell["methods"][method], cell["seconds"][method] = {name: values[name] for name in METRICS}, seconds
            print(f"{name}, seed {seed}, {method}: {seconds:.0f} s", file=sys.stderr, flush=True)
            if file is not None:
                options.cells.mkdir(parents=True, exist_ok=True)
                atomic_write(file, json.dumps(cell))


def compute_methods(
    lm: LanguageModel,
    kept: list[Dialogue],
    held_out: list[Dialogue],
    folder: Path,
    seed: int,
    options: argparse.Namespace,
    known: Container[str],
) -> Iterator[tuple[str, dict[str, list[float]], float]]:
    """Train and measure the methods that are not known; yield each with its values and seconds."""
    memory = Memory(
        [MemoryEntry(i, dialogue, group=i) for i, dialogue in enumerate(kept)],
        MemoryConfig(examples=options.examples),
        lm,
    )
    for method, (adapter, has_memory) in METHODS.items():
        if method in known:
            continue
        start = time.perf_counter()
        if adapter is not None:
            if not (folder / adapter).exists():
                train(lm, memory, ADAPTERS[adapter], folder / adapter, seed, options)
            lm.attach_adapter(folder / adapter)
        prompts = [memory.with_examples(dialogue) if has_memory else dialogue for dialogue in held_out]
        values = measure(lm, prompts, seed, options)
        lm.detach_adapter()
        yield method, values, time.perf_counter() - start


def select(lm: LanguageModel, stream: list[Dialogue], folder: Path, options: argparse.Namespace) -> list[Dialogue]:
    """Return the dialogues of a stream that the buffer keeps, in the order of the stream."""
    config = Config(selection=SelectionConfig(bins=options.kept))
    with Personalizer.create(folder / "profile", options.model, config, lm) as personalizer:
        personalizer.observe(stream)
        return [bin_.dialogue for bin_ in sorted(personalizer.bins(), key=lambda bin_: bin_.dialogue_id)]


def draw_held_out(kept: list[Dialogue], rest: list[Dialogue], count: int) -> list[Dialogue]:
    """Return the first dialogues that are near-duplicates of no kept one."""
    index = NearDuplicateIndex(kept)
    return [dialogue for dialogue in rest if not index.find(dialogue)][:count]


def train(
    lm: LanguageModel,
    memory: Memory,
    changes: Mapping[str, Any],
    adapter: Path,
    seed: int,
    options: argparse.Namespace,
) -> None:
    """Train an adapter on the dialogues of the memory, with settings that differ from `TRAINING`."""
    config = LoRAConfig(**{**vars(TRAINING), **changes, "epochs": options.epochs, "seed": seed})
    dialogues = [entry.dialogue for entry in memory.entries]
    if config.examples == "as in chat":
        # As in a profile, neither the dialogue itself nor a near-duplicate of it is one of its examples.
        index = NearDuplicateIndex(dialogues)
        dialogues = [
            memory.with_examples(
                entry.dialogue,
                {entry.group, *(memory.entries[number].group for number in index.find(entry.dialogue))},
                config.max_seq_length,
            )
            for entry in memory.entries
        ]
    finetune(lm, [Example(dialogue) for dialogue in dialogues], config, adapter)


def measure(
    lm: LanguageModel, prompts: list[Dialogue], seed: int, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Return each metric of the held-out dialogues."""
    return answer_metrics(
        lm, prompts, EvaluationConfig(max_tokens=options.max_tokens, seed=seed, choices=options.choices)
    )


def summarize(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the means of all metrics over the questions of all seeds, and the gains with their intervals.

    Methods that a seed lacks are left out.
    """
    methods = [method for method in METHODS if all(method in cell["methods"] for cell in cells)]
    pooled = {
        method: {metric: [value for cell in cells for value in cell["methods"][method][metric]] for metric in METRICS}
        for method in methods
    }
    compared = [pair for pair in GAINS if set(pair) <= set(methods)]
    gains = {}
    for (method, other), metric in itertools.product(compared, METRICS):
        by_seed = [
            [a - b for a, b in zip(*(cell["methods"][m][metric] for m in (method, other)), strict=True)]
            for cell in cells
        ]
        mean, low, high = mean_interval([difference for of_seed in by_seed for difference in of_seed])
        gains[f"{method} - {other}: {metric}"] = {
            "mean": mean,
            "interval": [low, high],
            "seeds": [statistics.fmean(of_seed) for of_seed in by_seed],
        }
    return {
        "seeds": len(cells),
        "questions": len(pooled[BASE]["rouge1"]),
        "choices": len(pooled[BASE]["top1"]),
        "means": {
            method: {metric: statistics.fmean(values) for metric, values in metrics.items()}
            for method, metrics in pooled.items()
        },
        "constant_rouge1": statistics.fmean(value for cell in cells for value in cell["constant_rouge1"]),
        "chance_reciprocal_rank": statistics.fmean(cell["chance_reciprocal_rank"] for cell in cells),
        "gains": gains,
        "seconds": {method: statistics.median(cell["seconds"][method] for cell in cells) for method in methods},
    }


def make_report(values: Mapping[str, Any], options: argparse.Namespace) -> str:
    """Return the report as Markdown."""
    sizes = " ".join(f"--{name.replace('_', '-')} {getattr(options, name)}" for name in SIZES)
    model = public_model_name(options.model)
    lines = [
        heading(f"Adapter and memory: {model}", f"python -m benchmarks.memory --model {model} {sizes} FILE.jsonl..."),
        f"Each stream of {options.stream} dialogues is reduced to {options.kept} kept ones, which are trained on and "
        f"are the memory; up to {options.examples} of them are put before a question. `MRR` and `top 1` are of the "
        f"choice among up to {options.choices} answers of like length, `specificity` is log p(answer | its "
        "question) - log p(answer | another question), and both likelihoods are in nats a token.\n",
    ]
    for name, of_stream in values.items():
        lines.append(
            f"## {name}: {of_stream['questions']} held-out questions, seeds: {of_stream['seeds']}; choice and "
            f"specificity on {of_stream['choices']} of them\n"
        )
        rows = [
            [method, *(f"{means[metric]:.3f}" for metric in METRICS), f"{of_stream['seconds'][method]:.0f}"]
            for method, means in of_stream["means"].items()
        ]
        rows.append(["one answer for all", f"{of_stream['constant_rouge1']:.3f}", "", "", "", "", ""])
        rows.append(["no question read", "", f"{of_stream['chance_reciprocal_rank']:.3f}", "", "0", "", ""])
        columns = ["method", "ROUGE-1", "MRR", "top 1", "specificity", "log-likelihood", "seconds"]
        lines.append(markdown_table(columns, rows))
        rows = []
        for name_of_gain, gain in gains_of(of_stream):
            low, high = gain["interval"]
            seeds = ", ".join(f"{mean:+.3f}" for mean in gain["seeds"])
            rows.append([name_of_gain, f"{gain['mean']:+.3f}", f"{low:+.3f} to {high:+.3f}", seeds])
        lines.append(markdown_table(["gain", "mean", "95 % interval", "mean of each seed"], rows))
    lines.append(
        "Intervals are bootstrapped over the questions of all seeds as if they were independent, though those of a "
        "seed share an adapter: compare them with the means of the seeds. The seconds are those of training, where a "
        "method is the first to use an adapter, and of answering and computing likelihoods; median over the seeds.\n"
    )
    return "\n".join(lines)


def gains_of(of_stream: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the gains in ROUGE-1 and in the reciprocal rank, and those in the other metrics over the base."""
    for gain, values in of_stream["gains"].items():
        if gain.endswith((": rouge1", ": reciprocal_rank")) or f"- {BASE}:" in gain:
            yield gain, values


if __name__ == "__main__":
    raise SystemExit(main())
