"""Compare SFT, DPO, ORPO and SFT + DPO on a set of edits: the stream's answer is preferred to the base model's own.

    python -m benchmarks.preferences --model MODEL FILE.jsonl [--quick] [--pairs N] [--held-out N] [--seeds N]
                                     [--max-tokens N] [--epochs N] [--learning-rate X] [--num-layers N]
                                     [--json] [--out FILE.md]

For each seed the pairs are drawn from the file, and the base model answers their questions greedily. An adapter is
trained for each objective on the same pairs; SFT sees only their preferred answers. No held-out question is a
near-duplicate of one that is trained on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from benchmarks.arguments import add_num_layers_argument, positive_int, run_command, set_defaults
from benchmarks.report_file import heading, print_result
from mlx_personal import Dialogue, LanguageModel, UserError, load_language_model
from mlx_personal.benchmark.random_weights import public_model_name
from mlx_personal.dialogue.similarity import NearDuplicateIndex
from mlx_personal.evaluation import answer_losses, bootstrap_interval, generate_answers
from mlx_personal.finetune import Example, LoRAConfig, finetune
from mlx_personal.finetune.config import OBJECTIVES
from mlx_personal.finetune.data.examples import PreferencePair
from mlx_personal.importers import read_dialogues
from mlx_personal.reporting import counted, markdown_table
from mlx_personal.storage.files import atomic_write

# The log-likelihood of the preferred answers may fall by this many nats a token.
MAX_FALL: Final = 0.1
# Without dropout, with which the two answers of a pair compute their prompt once; dropout is off in trl's DPO too.
TRAINING: Final = LoRAConfig(dropout=0.0)

Measurement = dict[str, Any]
"""Of an objective and seed: for each held-out pair `margins`, `chosen` and `rejected`; and `seconds`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; return 2 if the input is wrong."""
    return run_command("benchmarks.preferences", run, parse(arguments))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preferences", description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, metavar="FILE", help="a stream of dialogues as JSON Lines")
    parser.add_argument("--model", default="demo", help="name or folder of a model; default the embedded one")
    parser.add_argument("--quick", action="store_true", help="few pairs: to check that it works")
    parser.add_argument("--pairs", type=positive_int, help="pairs to train on; default 24")
    parser.add_argument("--held-out", type=positive_int, help="held-out pairs; default 16")
    parser.add_argument("--seeds", type=positive_int, help="seeds; default 3")
    parser.add_argument("--max-tokens", type=positive_int, help="tokens of an answer of the base model; default 48")
    parser.add_argument("--epochs", type=positive_int, help="epochs of fine-tuning; default 3")
    parser.add_argument("--learning-rate", type=float, default=TRAINING.learning_rate, help="default 3e-4")
    add_num_layers_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the values as JSON")
    parser.add_argument("--out", type=Path, help="write the report to this file, as Markdown")
    defaults: dict[str, tuple[int | None, int | None]] = {
        **{"pairs": (4, 24), "held_out": (2, 16), "seeds": (1, 3), "max_tokens": (4, 48)},
        "epochs": (1, TRAINING.epochs),
    }
    return set_defaults(parser.parse_args(arguments), defaults)


def run(options: argparse.Namespace) -> int:
    """Run the comparison."""
    dialogues = read_single_turns(options.file)
    lm = load_language_model(options.model)
    measurements: dict[str, list[Measurement]] = {objective: [] for objective in OBJECTIVES}
    for seed in range(options.seeds):
        trained, held_out = draw_pairs(lm, dialogues, seed, options)
        before = log_probabilities(lm, held_out)
        for objective in OBJECTIVES:
            measurements[objective].append(measure(lm, objective, trained, held_out, before, seed, options))
            seconds = measurements[objective][-1]["seconds"]
            print(f"seed {seed}, {objective}: {seconds:.0f} s", file=sys.stderr)
        values = {objective: summarize(of_seeds) for objective, of_seeds in measurements.items()}
        if options.out is not None:  # so that nothing is lost if a later seed is interrupted
            atomic_write(options.out, make_report(values, options))
    print_result(make_report(values, options), values, options)
    return 0


def read_single_turns(file: Path) -> list[Dialogue]:
    """Return the first exchange of each dialogue of a file."""
    dialogues = [item for item in read_dialogues(file) if isinstance(item, Dialogue)]
    return [Dialogue.of(dialogue.user_turns[0], dialogue.assistant_turns[0]) for dialogue in dialogues]


def draw_pairs(
    lm: LanguageModel, dialogues: list[Dialogue], seed: int, options: argparse.Namespace
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Draw dialogues, let the base model answer their questions, and return the pairs to train on and held-out ones."""
    shuffled = Random(seed).sample(dialogues, len(dialogues))
    drawn, index = shuffled[: options.pairs], NearDuplicateIndex(shuffled[: options.pairs])
    held_out = [dialogue for dialogue in shuffled[options.pairs :] if not index.find(dialogue)][: options.held_out]
    if len(held_out) < options.held_out:
        needed = options.pairs + options.held_out
        raise UserError(f"has not the {needed} different dialogues that are needed", options.file, "lower --pairs")
    answers = generate_answers(lm, [*drawn, *held_out], options.max_tokens)
    pairs = [
        PreferencePair(dialogue, Dialogue.of(dialogue.question, answer)) if answer.strip() else None
        for dialogue, [answer] in zip([*drawn, *held_out], answers, strict=True)
    ]
    trained, tested = pairs[: options.pairs], pairs[options.pairs :]
    return [pair for pair in trained if pair is not None], [pair for pair in tested if pair is not None]


def log_probabilities(lm: LanguageModel, pairs: Sequence[PreferencePair]) -> tuple[list[float], list[float], list[int]]:
    """Return the log-probabilities of the chosen and of the rejected answers, and the tokens of the chosen ones."""
    chosen = answer_losses(lm, [pair.chosen for pair in pairs])
    rejected = answer_losses(lm, [pair.rejected for pair in pairs])
    return [-loss.nats for loss in chosen], [-loss.nats for loss in rejected], [loss.tokens for loss in chosen]


def measure(
    lm: LanguageModel,
    objective: str,
    trained: Sequence[PreferencePair],
    held_out: Sequence[PreferencePair],
    before: tuple[list[float], list[float], list[int]],
    seed: int,
    options: argparse.Namespace,
) -> Measurement:
    """Train an adapter for an objective, and compare the held-out answers' likelihoods with the base model's."""
    config = LoRAConfig(
        **{
            **vars(TRAINING),
            "objective": objective,
            "seed": seed,
            "epochs": options.epochs,
            "learning_rate": options.learning_rate,
            "num_layers": options.num_layers,
        }
    )
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter"
        finetune(lm, [Example(pair.chosen) for pair in trained], config, adapter, pairs=trained)
        seconds = time.perf_counter() - start
        lm.attach_adapter(adapter)
        after = log_probabilities(lm, held_out)
        lm.detach_adapter()
    gains = [[b - a for a, b in zip(before[side], after[side], strict=True)] for side in (0, 1)]
    return {
        "margins": [config.beta * (chosen - rejected) for chosen, rejected in zip(*gains, strict=True)],
        "chosen_before": [value / tokens for value, tokens in zip(before[0], before[2], strict=True)],
        "chosen_after": [value / tokens for value, tokens in zip(after[0], before[2], strict=True)],
        "seconds": seconds,
    }


def summarize(measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Return the means over the held-out pairs of all seeds, with intervals of the margin and of the change."""
    pooled = {
        name: [value for measurement in measurements for value in measurement[name]]
        for name in ("margins", "chosen_before", "chosen_after")
    }
    changes = [after - before for before, after in zip(pooled["chosen_before"], pooled["chosen_after"], strict=True)]
    return {
        "seeds": len(measurements),
        "pairs": len(changes),
        "margin": [statistics.fmean(pooled["margins"]), *bootstrap_interval(pooled["margins"])],
        "accuracy": statistics.fmean(margin > 0 for margin in pooled["margins"]),
        "chosen_before": statistics.fmean(pooled["chosen_before"]),
        "chosen_after": statistics.fmean(pooled["chosen_after"]),
        "change": [statistics.fmean(changes), *bootstrap_interval(changes)],
        "seconds": statistics.median(measurement["seconds"] for measurement in measurements),
    }


def make_report(values: Mapping[str, Any], options: argparse.Namespace) -> str:
    """Return the report as Markdown."""
    names = ("pairs", "held_out", "seeds", "max_tokens", "epochs", "learning_rate", "num_layers")
    sizes = " ".join(f"--{name.replace('_', '-')} {getattr(options, name)}" for name in names)
    model, first = public_model_name(options.model), values[OBJECTIVES[0]]
    rows = [
        [
            f"`{objective}`",
            _with_interval(of_objective["margin"]),
            f"{of_objective['accuracy']:.2f}",
            f"{of_objective['chosen_before']:.3f}",
            f"{of_objective['chosen_after']:.3f}",
            _with_interval(of_objective["change"]),
            "yes" if of_objective["change"][0] >= -MAX_FALL else "no",
            f"{of_objective['seconds']:.0f}",
        ]
        for objective, of_objective in values.items()
    ]
    columns = ["objective", "rewards/margins", "rewards/accuracies", "before", "after", "change", "within", "seconds"]
    return "\n".join(
        [
            heading(
                f"Learning from corrections: {model}, {options.file.stem}",
                f"python -m benchmarks.preferences --model {model} {sizes} {options.file.name}",
            ),
            f"In {options.pairs} pairs of a question of {options.file.stem} the stream's answer is preferred to the "
            f"base model's own greedy one of at most {options.max_tokens} tokens. All values are of {first['pairs']} "
            f"held-out pairs of {counted(first['seeds'], 'seed')}. Margins are those of trl with beta {TRAINING.beta}, "
            "against the base model; `before` and `after` are the log-likelihoods of the preferred answers in nats a "
            f"token; `within` says whether they fell by at most {MAX_FALL}. In brackets: 95 % bootstrap intervals over "
            "all pairs. The seconds are those of training, median over the seeds.\n",
            markdown_table(columns, rows),
        ]
    )


def _with_interval(values: Sequence[float]) -> str:
    mean, low, high = values
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    raise SystemExit(main())
