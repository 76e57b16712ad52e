"""Adapters of many users of a few records each, on one base in one process, beside a loop over mlx-lm.

    python -m benchmarks.many_users [--quick] [--model MODEL] [--stream FILE.jsonl] [--users N] [--records N]
                                    [--epochs N] [--batch-size N] [--lora-layers N] [--as-stored N] [--json]
                                    [--out FILE.md]

Both train the same users in turn. mlx-lm's side loads the base for each of them with `mlx_lm.load` and calls mlx-lm's
trainer; ours loads it once and calls `finetune`. mlx-lm's side has been given what makes its comparison fair: its
weights are made float32 after loading, which on a CPU is many times as fast as the float16 that is stored, and matrix
products go to the same BLAS. The first `--as-stored` users are trained by mlx-lm without the former, too: that is what
the two calls alone come to. With `--out`, the figures go to FILE.json as well.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np

from benchmarks.arguments import ended, fill, positive
from benchmarks.loop import read_stream
from benchmarks.report_file import deliver, heading
from mlx_personal import Dialogue, LanguageModel, UserError, load_language_model
from mlx_personal.benchmark.mlx_lm_trainer import exact_loss, train_plain
from mlx_personal.benchmark.workloads import public_name
from mlx_personal.demo.runner import CONFIG
from mlx_personal.finetune import Example, LoRAConfig, finetune
from mlx_personal.finetune.data.samples import make_samples
from mlx_personal.finetune.trainer_state import make_optimizer
from mlx_personal.models.loading import resolve_model
from mlx_personal.reporting import markdown_table
from mlx_personal.storage.files import atomic_write

LEAST_SPEEDUP = 3
OURS, FLOAT32, AS_STORED = SIDES = ("ours", "mlx-lm, float32", "mlx-lm, as stored")
WORK = {
    OURS: "`load_language_model` once; `finetune` for each user, with its checks and its adapter forced to the disk",
    FLOAT32: "`mlx_lm.load` for each user, weights made float32, then mlx-lm's compiled trainer without its screen",
    AS_STORED: "the same in the float type that the weights are stored in, for the first users only",
}


@dataclass(frozen=True)
class Trained:
    """One user's training by one side: rows an epoch, steps in all, and the last epoch's mean loss."""

    seconds: float
    rows: int
    steps: int
    loss: float


@dataclass(frozen=True)
class Measured:
    """What each side trained, in order of the users; and the seconds of our one load."""

    trained: Mapping[str, list[Trained]]
    load_seconds: float

    def seconds(self, side: str) -> list[float]:
        return [user.seconds for user in self.trained[side]]

    def speedup(self, side: str) -> float:
        """How many times as long the other side takes for the users that it trained; our load counts in full."""
        theirs = self.seconds(side)
        return sum(theirs) / (self.load_seconds + sum(self.seconds(OURS)[: len(theirs)]))


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 where the input is wrong."""
    return ended("benchmarks.many_users", run, parse(arguments))


def run(options: argparse.Namespace) -> int:
    config = config_of(options)
    stream = list(read_stream(options.stream, None).values())
    if len(stream) < options.records:
        raise UserError(f"there are {len(stream)} dialogues, and a user is to have {options.records}", options.stream)
    measured = measure(options, stream, config)
    figures, report = as_json(options, config, measured), report_of(options, config, measured)
    if options.out is not None:
        atomic_write(options.out.with_suffix(".json"), json.dumps(figures, indent=1) + "\n")
    if options.json:
        print(json.dumps(figures))
        if options.out is not None:
            atomic_write(options.out, report)
    else:
        deliver(report, options.out)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_users", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two users, to see that it works")
    parser.add_argument("--model", default="demo", help="a name or a folder; default the embedded model")
    parser.add_argument(
        "--stream", type=Path, help="dialogues as JSON Lines, from which users draw; default the demo's"
    )
    parser.add_argument("--users", type=positive, help="default 100")
    parser.add_argument("--records", type=positive, default=20, help="of each user; default 20")
    parser.add_argument("--epochs", type=positive, help="times every record is trained on; default 3")
    parser.add_argument("--batch-size", type=positive, help="records a step; default all of a user's")
    parser.add_argument("--lora-layers", type=int, default=-1, help="adapt the last so many blocks; default -1, all")
    parser.add_argument("--as-stored", type=int, help="users that mlx-lm trains in the stored float type; default 10")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--out", type=Path, help="keep the report in this file, as Markdown, and FILE.json beside it")
    options = parser.parse_args(arguments)
    sizes = {"users": (2, 100), "epochs": (1, 3), "as_stored": (0, 10), "batch_size": (options.records,) * 2}
    return fill(options, sizes)


def config_of(options: argparse.Namespace) -> LoRAConfig:
    """The demo's settings with the sizes asked for; UserError for one that makes no sense."""
    sizes = {"epochs": options.epochs, "batch_size": options.batch_size, "num_layers": options.lora_layers}
    try:
        return dataclasses.replace(CONFIG.finetune, **sizes)
    except ValueError as error:
        raise UserError(str(error)) from error


def measure(options: argparse.Namespace, stream: Sequence[Dialogue], config: LoRAConfig) -> Measured:
    """All sides, user by user in turn; one more user is trained before, who is not counted."""
    path, start = resolve_model(options.model), time.perf_counter()
    lm = load_language_model(options.model)
    measured = Measured({side: [] for side in SIDES}, time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        for user in range(options.users + 1):
            picked = np.random.default_rng([config.seed, user]).permutation(len(stream))[: options.records]
            records = [stream[i] for i in picked]
            found = {OURS: train_ours(lm, records, config, Path(folder) / f"{user}")}
            found[FLOAT32] = train_mlx_lm(path, records, config, in_float32=True)
            if user <= options.as_stored and options.as_stored > 0:
                found[AS_STORED] = train_mlx_lm(path, records, config, in_float32=False)
            if user == 0:
                continue
            for side, trained in found.items():
                measured.trained[side].append(trained)
            print(f"user {user} of {options.users}: speedup {measured.speedup(FLOAT32):.2f}", file=sys.stderr)
    return measured


def train_ours(lm: LanguageModel, records: Sequence[Dialogue], config: LoRAConfig, folder: Path) -> Trained:
    start = time.perf_counter()
    report = finetune(lm, list(map(Example, records)), config, folder)
    return Trained(time.perf_counter() - start, report.samples, report.steps, report.epoch_losses[-1])


def train_mlx_lm(path: Path, records: Sequence[Dialogue], config: LoRAConfig, in_float32: bool) -> Trained:
    """With the same first adapter, optimizer and rates as ours; mlx-lm leaves out a last partial batch."""
    start = time.perf_counter()
    model, tokenizer = mlx_lm.load(str(path))[:2]
    if in_float32:
        model.set_dtype(mx.float32)
        mx.eval(model.parameters())
    lm = LanguageModel(model, tokenizer)
    rows = make_samples(lm, records, min(config.max_seq_length, lm.context_length)).samples
    batch = min(config.batch_size, len(rows))
    steps = len(rows) // batch
    lm.attach_new_adapter(config.num_layers, config.lora_parameters, config.seed)
    optimizer, losses = make_optimizer(config.learning_rate_schedule(config.epochs * steps)), list[float]()
    train_plain(lm.model, optimizer, rows, batch, config.epochs, config.seed, exact_loss, losses.append)
    return Trained(time.perf_counter() - start, steps * batch, len(losses), statistics.fmean(losses[-steps:]))


def as_json(options: argparse.Namespace, config: LoRAConfig, measured: Measured) -> dict[str, Any]:
    """The figures by name. `speedup` is over mlx-lm in float32; medians and users are by side."""
    sides = {side: trained for side, trained in measured.trained.items() if trained}
    return {
        "model": public_name(options.model),
        "records": options.records,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "rank": config.rank,
        "lora_layers": config.num_layers,
        "speedup": measured.speedup(FLOAT32),
        "speedup_as_stored": measured.speedup(AS_STORED) if AS_STORED in sides else None,
        "median_seconds": {side: statistics.median(measured.seconds(side)) for side in sides},
        "median_loss": {side: statistics.median(user.loss for user in trained) for side, trained in sides.items()},
        "load_seconds": measured.load_seconds,
        "users": {side: [dataclasses.asdict(user) for user in trained] for side, trained in sides.items()},
    }


def report_of(options: argparse.Namespace, config: LoRAConfig, measured: Measured) -> str:
    rows = []
    for side, trained in measured.trained.items():
        if trained:
            seconds = measured.seconds(side)
            rows.append(
                (
                    side,
                    len(trained),
                    f"{sum(seconds) + (measured.load_seconds if side == OURS else 0):.1f}",
                    f"{statistics.median(seconds):.2f}",
                    f"{statistics.fmean(user.rows for user in trained):.1f}",
                    f"{statistics.fmean(user.steps for user in trained):.1f}",
                    f"{statistics.median(user.loss for user in trained):.3f}",
                    None if side == OURS else f"{measured.speedup(side):.1f}",
                )
            )
    layers = "all" if config.num_layers == -1 else f"the last {config.num_layers}"
    return "\n".join(
        [
            heading("Adapters of many users beside a loop over mlx-lm", command(options)),
            f"{options.users} users of {options.records} records each, {config.epochs} epochs, {config.batch_size} "
            f"records a step, adapters of rank {config.rank} on {layers} blocks, dropout {config.dropout}; model: "
            f"{public_name(options.model)}. Seconds a user and losses are medians, rows and steps means.\n",
            markdown_table(["side", "users", "all, s", "a user, s", "rows", "steps", "last loss", "speedup"], rows),
            "## What each side does\n",
            "".join(f"- {side}: {work}\n" for side, work in WORK.items()),
            "Users are trained by all sides in turn, after one more who is not counted. All have the same rows, first "
            "adapter, optimizer, learning rates and BLAS, and a loss that learns no padding; the order of the rows and "
            "the dropout differ. Our one load is in our seconds. mlx-lm leaves out the rows that fill no batch.\n",
            "## Against the target\n",
            f"- mlx-lm takes {measured.speedup(FLOAT32):.1f} times as long as ours where its weights are made float32 "
            f"first (target at least {LEAST_SPEEDUP})\n",
        ]
    )


def command(options: argparse.Namespace) -> str:
    """The command that repeats this report; paths are left out, since they are of one machine."""
    model = " --model MODEL" if options.model != "demo" else ""
    stream = " --stream FILE.jsonl" if options.stream else ""
    sizes = f" --users {options.users} --records {options.records} --epochs {options.epochs}"
    sizes += f" --batch-size {options.batch_size} --lora-layers {options.lora_layers} --as-stored {options.as_stored}"
    return f"python -m benchmarks.many_users{model}{stream}{sizes}"


if __name__ == "__main__":
    sys.exit(main())
