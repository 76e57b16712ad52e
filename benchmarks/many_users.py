"""Train adapters of many users on one base model, and compare with a loop over mlx-lm.

    python -m benchmarks.many_users [--quick] [--model MODEL] [--stream FILE.jsonl] [--users N] [--records N]
                                    [--epochs N] [--batch-size N] [--num-layers N] [--as-stored N] [--json]
                                    [--out FILE.md]

Both train the same users in turn. The loop loads the base model for each of them with `mlx_lm.load` and calls mlx-lm's
trainer; ours loads it once and calls `finetune`. The loop has two advantages that plain mlx-lm lacks: its weights are
converted to float32 after loading, which on a CPU is many times as fast as the stored float16, and matrix products use
the same BLAS. The first `--as-stored` users are also trained by mlx-lm without the conversion, which is what the two
calls alone give. With `--out` the values are written to FILE.json too.
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

from benchmarks.arguments import (
    add_input_arguments,
    add_num_layers_argument,
    positive_int,
    run_command,
    set_defaults,
)
from benchmarks.loop import read_stream
from benchmarks.report_file import heading, print_result
from mlx_personal import Dialogue, LanguageModel, UserError, load_language_model
from mlx_personal.benchmark.mlx_lm_trainer import exact_loss, train_with_mlx_lm
from mlx_personal.benchmark.random_weights import public_model_name
from mlx_personal.demo.settings import EMBEDDED_MODEL_CONFIG
from mlx_personal.finetune import Example, LoRAConfig, finetune
from mlx_personal.finetune.data.samples import make_samples
from mlx_personal.finetune.trainer_state import make_optimizer
from mlx_personal.models.loading import resolve_model
from mlx_personal.reporting import markdown_table
from mlx_personal.storage.files import atomic_write

MIN_SPEEDUP = 3
OURS, FLOAT32, AS_STORED = TRAINERS = ("ours", "mlx-lm, float32", "mlx-lm, as stored")
DESCRIPTIONS = {
    OURS: "`load_language_model` once; `finetune` for each user, with its checks and its adapter flushed to the disk",
    FLOAT32: "`mlx_lm.load` for each user, weights converted to float32, mlx-lm's compiled trainer without its display",
    AS_STORED: "the same in the dtype that the weights are stored in, for the first users only",
}


@dataclass(frozen=True)
class UserRun:
    """One user's training run by one trainer.

    Attributes:
        elapsed_s: Seconds of the run.
        samples: Samples of an epoch.
        steps: Steps of all epochs.
        loss: Mean loss of the last epoch.
    """

    elapsed_s: float
    samples: int
    steps: int
    loss: float

    def to_json(self) -> dict[str, float]:
        """Return the values under the keys of the stored results."""
        return {"seconds": self.elapsed_s, "rows": self.samples, "steps": self.steps, "loss": self.loss}


@dataclass(frozen=True)
class UserTimings:
    """The training runs of all users.

    Attributes:
        runs: Training run of each user, by the name of the trainer.
        load_s: Seconds of our one load of the model.
    """

    runs: Mapping[str, list[UserRun]]
    load_s: float

    def seconds(self, trainer: str) -> list[float]:
        """Return the seconds of each user."""
        return [user_run.elapsed_s for user_run in self.runs[trainer]]

    def speedup(self, trainer: str) -> float:
        """Return another trainer's time for its users divided by ours, with our load of the model in full."""
        theirs = self.seconds(trainer)
        return sum(theirs) / (self.load_s + sum(self.seconds(OURS)[: len(theirs)]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 2 if the input is wrong."""
    return run_command("benchmarks.many_users", run, parse(arguments))


def run(options: argparse.Namespace) -> int:
    """Train all users and print the report."""
    config = make_config(options)
    stream = list(read_stream(options.stream, None).values())
    if len(stream) < options.records:
        what = f"there are {len(stream)} dialogues, too few for {options.records} records of a user"
        raise UserError(what, options.stream)
    timings = train_users(options, stream, config)
    data, report = to_json(options, config, timings), make_report(options, config, timings)
    if options.out is not None:
        atomic_write(options.out.with_suffix(".json"), json.dumps(data, indent=1) + "\n")
    print_result(report, data, options)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_users", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two users, to check that it works")
    add_input_arguments(parser)
    parser.add_argument("--users", type=positive_int, help="number of users; default 100")
    parser.add_argument("--records", type=positive_int, default=20, help="records of each user; default 20")
    parser.add_argument("--epochs", type=positive_int, help="number of epochs; default 3")
    parser.add_argument("--batch-size", type=positive_int, help="records of a step; default all of a user's")
    add_num_layers_argument(parser)
    parser.add_argument("--as-stored", type=int, help="users that mlx-lm trains in the stored dtype; default 10")
    parser.add_argument("--json", action="store_true", help="print the values as JSON")
    parser.add_argument("--out", type=Path, help="write the report to this file, as Markdown, and FILE.json beside it")
    options = parser.parse_args(arguments)
    sizes = {"users": (2, 100), "epochs": (1, 3), "as_stored": (0, 10), "batch_size": (options.records,) * 2}
    return set_defaults(options, sizes)


def make_config(options: argparse.Namespace) -> LoRAConfig:
    """Return the demo's settings with the sizes of the options.

    Raises:
        UserError: If a size is out of its range.
    """
    sizes = {"epochs": options.epochs, "batch_size": options.batch_size, "num_layers": options.num_layers}
    try:
        return dataclasses.replace(EMBEDDED_MODEL_CONFIG.finetune, **sizes)
    except ValueError as error:
        raise UserError(str(error)) from error


def train_users(options: argparse.Namespace, stream: Sequence[Dialogue], config: LoRAConfig) -> UserTimings:
    """Train the users with all trainers in turn, after one more user who is not counted."""
    path, start = resolve_model(options.model), time.perf_counter()
    lm = load_language_model(options.model)
    timings = UserTimings({trainer: [] for trainer in TRAINERS}, time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        for user in range(options.users + 1):
            indices = np.random.default_rng([config.seed, user]).permutation(len(stream))[: options.records]
            records = [stream[i] for i in indices]
            runs = {OURS: train_with_ours(lm, records, config, Path(folder) / f"{user}")}
            runs[FLOAT32] = load_and_train_with_mlx_lm(path, records, config, in_float32=True)
            if user <= options.as_stored and options.as_stored > 0:
                runs[AS_STORED] = load_and_train_with_mlx_lm(path, records, config, in_float32=False)
            if user == 0:
                continue
            for trainer, user_run in runs.items():
                timings.runs[trainer].append(user_run)
            print(f"user {user} of {options.users}: speedup {timings.speedup(FLOAT32):.2f}", file=sys.stderr)
    return timings


def train_with_ours(lm: LanguageModel, records: Sequence[Dialogue], config: LoRAConfig, folder: Path) -> UserRun:
    """Train one user's adapter with our trainer."""
    start = time.perf_counter()
    report = finetune(lm, list(map(Example, records)), config, folder)
    return UserRun(time.perf_counter() - start, report.samples, report.steps, report.epoch_losses[-1])


def load_and_train_with_mlx_lm(
    path: Path, records: Sequence[Dialogue], config: LoRAConfig, in_float32: bool
) -> UserRun:
    """Load the model and train one user's adapter with mlx-lm, which leaves out a last incomplete batch.

    The initial adapter, the optimizer and the learning rates are the same as ours.
    """
    start = time.perf_counter()
    model, tokenizer = mlx_lm.load(str(path), tokenizer_config={"trust_remote_code": False})[:2]
    if in_float32:
        model.set_dtype(mx.float32)
        mx.eval(model.parameters())
    lm = LanguageModel(model, tokenizer)
    samples = make_samples(lm, records, min(config.max_seq_length, lm.context_length)).samples
    batch_size = min(config.batch_size, len(samples))
    steps = len(samples) // batch_size
    lm.attach_new_adapter(config.num_layers, config.lora_parameters, config.seed)
    losses: list[float] = []
    train_with_mlx_lm(
        lm.model,
        make_optimizer(config.learning_rate_schedule(config.epochs * steps)),
        samples,
        batch_size=batch_size,
        epochs=config.epochs,
        seed=config.seed,
        loss=exact_loss,
        on_loss=losses.append,
    )
    elapsed_s = time.perf_counter() - start
    return UserRun(elapsed_s, steps * batch_size, len(losses), statistics.fmean(losses[-steps:]))


def to_json(options: argparse.Namespace, config: LoRAConfig, timings: UserTimings) -> dict[str, Any]:
    """Return the values by name; `speedup` is relative to mlx-lm in float32."""
    runs = {trainer: users for trainer, users in timings.runs.items() if users}
    return {
        "model": public_model_name(options.model),
        "records": options.records,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "rank": config.rank,
        "lora_layers": config.num_layers,
        "speedup": timings.speedup(FLOAT32),
        "speedup_as_stored": timings.speedup(AS_STORED) if AS_STORED in runs else None,
        "median_seconds": {trainer: statistics.median(timings.seconds(trainer)) for trainer in runs},
        "median_loss": {trainer: statistics.median(user.loss for user in users) for trainer, users in runs.items()},
        "load_seconds": timings.load_s,
        "users": {trainer: [user.to_json() for user in users] for trainer, users in runs.items()},
    }


def make_report(options: argparse.Namespace, config: LoRAConfig, timings: UserTimings) -> str:
    """Return the report as Markdown."""
    rows = []
    for trainer, users in timings.runs.items():
        if users:
            seconds = timings.seconds(trainer)
            rows.append(
                (
                    trainer,
                    len(users),
                    f"{sum(seconds) + (timings.load_s if trainer == OURS else 0):.1f}",
                    f"{statistics.median(seconds):.2f}",
                    f"{statistics.fmean(user.samples for user in users):.1f}",
                    f"{statistics.fmean(user.steps for user in users):.1f}",
                    f"{statistics.median(user.loss for user in users):.3f}",
                    None if trainer == OURS else f"{timings.speedup(trainer):.1f}",
                )
            )
    columns = ["trainer", "users", "all, s", "per user, s", "samples", "steps", "last loss", "speedup"]
    layers = "all" if config.num_layers == -1 else f"the last {config.num_layers}"
    return "\n".join(
        [
            heading("Adapters of many users and a loop over mlx-lm", command_line(options)),
            f"{options.users} users of {options.records} records each, {config.epochs} epochs, {config.batch_size} "
            f"records a step, adapters of rank {config.rank} on {layers} layers, dropout {config.dropout}; model: "
            f"{public_model_name(options.model)}. Seconds per user and losses are medians, samples and steps means.\n",
            markdown_table(columns, rows),
            "## What each does\n",
            "".join(f"- {trainer}: {description}\n" for trainer, description in DESCRIPTIONS.items()),
            "All trainers train each user in turn, after one more user who is not counted. All have the same samples, "
            "initial adapter, optimizer, learning rates and BLAS, and a loss without padding; the order of the samples "
            "and the dropout differ. Our one load is in our seconds. mlx-lm leaves out an incomplete batch.\n",
            "## Comparison with the target\n",
            f"- mlx-lm with float32 weights takes {timings.speedup(FLOAT32):.1f} times as long as ours "
            f"(target at least {MIN_SPEEDUP})\n",
        ]
    )


def command_line(options: argparse.Namespace) -> str:
    """Return the command that repeats this report, without paths."""
    model = " --model MODEL" if options.model != "demo" else ""
    stream = " --stream FILE.jsonl" if options.stream else ""
    sizes = f" --users {options.users} --records {options.records} --epochs {options.epochs}"
    sizes += f" --batch-size {options.batch_size} --num-layers {options.num_layers} --as-stored {options.as_stored}"
    return f"python -m benchmarks.many_users{model}{stream}{sizes}"


if __name__ == "__main__":
    sys.exit(main())
