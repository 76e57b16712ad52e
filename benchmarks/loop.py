"""Compare the whole loop with a composition of mlx-lm's own functions: seconds of each stage.

    python -m benchmarks.loop [--quick] [--model MODEL] [--stream FILE.jsonl] [--dialogues N] [--bins N] [--rewrites K]
                              [--epochs N] [--num-layers N] [--rounds N] [--json] [--out FILE.md]

Both process the same stream with the same model and settings, stage by stage in turn. Each makes its own
selection; what is annotated, trained on and held out is then the same for both: what ours selected and wrote. Ours is
the product as users run it, with its store on disk. A speedup is the baseline's time divided by ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx

from benchmarks import mlx_lm_loop
from benchmarks.arguments import (
    DEMO_STREAM,
    add_input_arguments,
    add_num_layers_argument,
    positive_int,
    run_command,
    set_defaults,
)
from benchmarks.report_file import heading, print_result
from mlx_personal import Dialogue, LanguageModel, UserError, load_language_model
from mlx_personal.benchmark.random_weights import public_model_name
from mlx_personal.config import Config
from mlx_personal.demo.settings import EMBEDDED_MODEL_CONFIG
from mlx_personal.importers import Skipped
from mlx_personal.importers.json_records import read_json_lines
from mlx_personal.personalizer import Personalizer
from mlx_personal.reporting import markdown_table

MIN_SPEEDUP = 3
EMBED, SCORE, SYNTHESIZE, TRAIN, EVALUATE = STAGES = (
    "embed",
    "score and select",
    "synthesize",
    "fine-tune",
    "evaluate",
)
# For each stage what the baseline does, and what ours does.
DESCRIPTIONS = {
    EMBED: ("one dialogue at a time through the model, token states averaged", "dialogues in batches"),
    SCORE: (
        "NumPy, every distance in the buffer computed again for every dialogue; nothing is stored",
        "running sums; dialogues, scores and decisions are stored",
    ),
    SYNTHESIZE: (
        "`mlx_lm.generate` for one rewrite at a time",
        "all rewrites in one batch, each prompt computed once; rewrites are stored",
    ),
    TRAIN: (
        "mlx-lm's trainer with its own loss, on padded batches, without the last incomplete batch",
        "this package's trainer on packed samples, with its verification and its checkpoints",
    ),
    EVALUATE: (
        "`mlx_lm.generate` for one answer at a time, with the adapter and without",
        "all answers in one batch; the adapter is also written, read, checked and promoted, and its losses are plotted",
    ),
}


@dataclass
class Round:
    """One measurement of both loops.

    Attributes:
        ours: Seconds of each stage of ours.
        baseline: Seconds of each stage of the baseline.
        counts: What both processed.
        gains: ROUGE-1 gain of each adapter.
    """

    ours: dict[str, float] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    gains: dict[str, float | None] = field(default_factory=dict)

    def speedup(self, stages: Sequence[str] = STAGES) -> float:
        """Return the baseline's time for some stages divided by ours."""
        return sum(self.baseline[stage] for stage in stages) / sum(self.ours[stage] for stage in stages)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 2 if the input is wrong."""
    return run_command("benchmarks.loop", run, parse(arguments))


def run(options: argparse.Namespace) -> int:
    """Measure all rounds and print the report."""
    config = make_config(options)
    lm = load_language_model(options.model)
    stream = read_stream(options.stream, options.dialogues)
    rounds = [run_round(options.model, lm, stream, config) for _ in range(options.rounds)]
    report = make_report(options, len(stream), config, rounds)
    print_result(report, to_json(options, len(stream), config, rounds), options)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a short stream and one round, to check that it works")
    add_input_arguments(parser)
    parser.add_argument("--dialogues", type=positive_int, help="maximum number of dialogues; default all")
    parser.add_argument("--bins", type=positive_int, help="size of the buffer; default 96, as in the demo")
    parser.add_argument("--rewrites", type=positive_int, help="rewrites of each selected dialogue; default 6")
    parser.add_argument("--epochs", type=positive_int, help="epochs of fine-tuning; default 4, as in the demo")
    add_num_layers_argument(parser)
    parser.add_argument("--rounds", type=positive_int, help="number of measurements; default 3")
    parser.add_argument("--json", action="store_true", help="print the values as JSON")
    parser.add_argument("--out", type=Path, help="write the report to this file, as Markdown")
    options = parser.parse_args(arguments)
    defaults = {
        "dialogues": (48, None),
        "bins": (16, EMBEDDED_MODEL_CONFIG.selection.bins),
        "rewrites": (2, EMBEDDED_MODEL_CONFIG.synthesis.k),
        "epochs": (1, EMBEDDED_MODEL_CONFIG.finetune.epochs),
        "rounds": (1, 3),
    }
    return set_defaults(options, defaults)


def make_config(options: argparse.Namespace) -> Config:
    """Return the demo's settings with the sizes of the options.

    Raises:
        UserError: If a size is out of its range.
    """
    try:
        return dataclasses.replace(
            EMBEDDED_MODEL_CONFIG,
            selection=dataclasses.replace(EMBEDDED_MODEL_CONFIG.selection, bins=options.bins),
            synthesis=dataclasses.replace(EMBEDDED_MODEL_CONFIG.synthesis, k=options.rewrites),
            finetune=dataclasses.replace(
                EMBEDDED_MODEL_CONFIG.finetune, epochs=options.epochs, num_layers=options.num_layers
            ),
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def read_stream(stream: Path | None, max_count: int | None) -> dict[Dialogue, Dialogue]:
    """Read the distinct dialogues of a stream, each with its preferred form.

    Args:
        stream: JSON Lines file; None for the demo's. A line may have the preferred answers under `preferred`.
        max_count: Maximum number of dialogues; None for all.

    Returns:
        The preferred form of each dialogue, which is the dialogue itself where the line has no preferred answers.

    Raises:
        UserError: If the file cannot be read or a line is not a dialogue.
    """
    path = stream or DEMO_STREAM
    preferred: dict[Dialogue, Dialogue] = {}
    for record in read_json_lines(path):
        if isinstance(record, Skipped):
            raise UserError(record.reason, record.where)
        where, value = record.where, record.value
        try:
            dialogue = Dialogue.from_messages(value["messages"])
            answers = value.get("preferred", dialogue.assistant_turns)
            preferred[dialogue] = dialogue.with_turns("assistant", answers)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError("no dialogue in this line", where, 'a line is {"messages": [...]}') from error
        if len(preferred) == max_count:
            break
    if not preferred:
        raise UserError("no dialogues in this file", path)
    return preferred


def run_round(model: str, lm: LanguageModel, stream: Mapping[Dialogue, Dialogue], config: Config) -> Round:
    """Run all stages of both loops once, in a new profile.

    Args:
        model: Name of the base model.
        lm: The base model.
        stream: Dialogues with their preferred forms.
        config: Settings of both.
    """
    mx.random.seed(0)  # mlx-lm draws from MLX's global generator, whose state differs between processes
    round_ = Round()
    with (
        tempfile.TemporaryDirectory() as folder,
        Personalizer.create(Path(folder) / "p", model, config, lm) as personalizer,
    ):
        observe(personalizer, lm, stream, round_)
        annotate(personalizer, stream)
        improve(personalizer, lm, round_)
    return round_


def observe(personalizer: Personalizer, lm: LanguageModel, stream: Mapping[Dialogue, Dialogue], round_: Round) -> None:
    """Embed, score and select with both."""
    with measure(round_.ours, SCORE):
        personalizer.observe(stream, source="benchmark")
    # Our stages alternate between chunks; what is not embedding counts as selection, storing included.
    round_.ours[EMBED] = personalizer.stage_seconds["embedding"]
    round_.ours[SCORE] -= round_.ours[EMBED]
    with measure(round_.baseline, EMBED):
        states = mlx_lm_loop.embed_dialogues(lm, stream, personalizer.config.embedding.max_tokens)
    with measure(round_.baseline, SCORE):
        buffer = mlx_lm_loop.BaselineBuffer(dict(personalizer.lexicons()), personalizer.config.selection)
        for number, (dialogue, dialogue_states) in enumerate(zip(stream, states, strict=True), 1):
            buffer.offer(number, dialogue, dialogue_states)
    selected = {bin_.dialogue for bin_ in personalizer.bins()}
    round_.counts["selected"] = len(selected)
    round_.counts["selected by both"] = len(selected & {bin_.dialogue for bin_ in buffer.bins})


def annotate(personalizer: Personalizer, stream: Mapping[Dialogue, Dialogue]) -> None:
    """Answer the questions with the preferred forms; the time of a user is not measured."""
    for question in personalizer.annotations.questions():
        preferred = stream[question.dialogue]
        verdict: Literal["accept", "rewrite"] = "accept" if preferred == question.dialogue else "rewrite"
        personalizer.annotations.record(question.dialogue_id, verdict, preferred.assistant_turns)


def improve(personalizer: Personalizer, lm: LanguageModel, round_: Round) -> None:
    """Synthesize, train and evaluate with both."""
    originals = [dialogue for annotation in personalizer.training_annotations() if (dialogue := annotation.preferred)]
    held_out = personalizer.held_out_dialogues()
    if not originals or not held_out:
        raise UserError("nothing to train on, or nothing held out", hint="use a longer stream or more bins")
    with measure(round_.ours, SYNTHESIZE):
        written = personalizer.synthesize()
    with measure(round_.baseline, SYNTHESIZE):
        baseline_rewrites = mlx_lm_loop.synthesize(lm, originals, personalizer.config.synthesis)
    with measure(round_.ours, EVALUATE):
        trained = personalizer.train()
    round_.ours[TRAIN] = personalizer.stage_seconds["finetune"]
    round_.ours[EVALUATE] -= round_.ours[TRAIN]
    lm.detach_adapter()
    lm.reload_weights()  # those that our training has released, outside of the measurements
    rewrites = [dialogue for record in personalizer.synthetic() if record.kept and (dialogue := record.dialogue)]
    with measure(round_.baseline, TRAIN):
        num_baseline_samples = mlx_lm_loop.train(lm, [*originals, *rewrites], personalizer.config.finetune)
    with measure(round_.baseline, EVALUATE):
        baseline = mlx_lm_loop.evaluate(lm, held_out, personalizer.config.evaluation.max_tokens)
    round_.counts |= {
        "rewritten": len(originals),
        "held out": len(held_out),
        "kept rewrites": written.kept,
        "kept rewrites of the baseline": len(baseline_rewrites),
        "samples": trained.report.samples,
        "samples of the baseline": num_baseline_samples,
    }
    round_.gains = {
        "ours": trained.evaluation.rouge1.gain if trained.evaluation else None,
        "baseline": baseline.rouge1.gain,
    }


@contextmanager
def measure(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Store the seconds of a block under the name of a stage."""
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def to_json(options: argparse.Namespace, dialogues: int, config: Config, rounds: Sequence[Round]) -> dict[str, Any]:
    """Return the values by name."""
    return {
        "model": public_model_name(options.model),
        "dialogues": dialogues,
        "bins": config.selection.bins,
        "rewrites": config.synthesis.k,
        "epochs": config.finetune.epochs,
        "num_layers": config.finetune.num_layers,
        "speedup": statistics.median(round_.speedup() for round_ in rounds),
        "stage_speedups": {stage: statistics.median(round_.speedup([stage]) for round_ in rounds) for stage in STAGES},
        "rounds": [dataclasses.asdict(round_) for round_ in rounds],
    }


def make_report(options: argparse.Namespace, dialogues: int, config: Config, rounds: Sequence[Round]) -> str:
    """Return the report as Markdown."""
    rows = []
    for name, stages in [*((stage, [stage]) for stage in STAGES), ("all", list(STAGES))]:
        baseline_s = statistics.median(sum(round_.baseline[stage] for stage in stages) for round_ in rounds)
        our_s = statistics.median(sum(round_.ours[stage] for stage in stages) for round_ in rounds)
        speedup = statistics.median(round_.speedup(stages) for round_ in rounds)
        rows.append((name, f"{baseline_s:.2f}", f"{our_s:.2f}", f"{speedup:.1f}"))
    speedups = [round_.speedup() for round_ in rounds]
    last = rounds[-1]
    gains = ((name, None if gain is None else f"{gain:+.3f}") for name, gain in last.gains.items())
    layers = "all" if options.num_layers == -1 else f"the last {options.num_layers}"
    descriptions = (
        f"- {stage}\n  - baseline: {baseline}\n  - ours: {ours}\n" for stage, (baseline, ours) in DESCRIPTIONS.items()
    )
    return "\n".join(
        [
            heading("The whole loop and a composition of mlx-lm's functions", command_line(options)),
            f"{dialogues} dialogues, {config.selection.bins} bins, {config.synthesis.k} rewrites, "
            f"{config.finetune.epochs} epochs, adapters on {layers} layers; model: {public_model_name(options.model)}. "
            f"Seconds are medians of {len(rounds)}.\n",
            markdown_table(["stage", "baseline, s", "ours, s", "speedup"], rows),
            "## What each does\n",
            "".join(descriptions),
            "Both have the same model, settings, initial adapter, optimizer and learning rates; the baseline trains on "
            "the dialogues that ours selected and wrote. Loading the model and the user's work are not measured.\n",
            "## Counts and gains\n",
            markdown_table(["last round", ""], last.counts.items()),
            markdown_table(["ROUGE-1 gain, last round", ""], gains),
            "## Comparison with the target\n",
            f"- The baseline takes {statistics.median(speedups):.1f} times as long as ours "
            f"(rounds: {min(speedups):.1f} to {max(speedups):.1f}; target at least {MIN_SPEEDUP})\n",
        ]
    )


def command_line(options: argparse.Namespace) -> str:
    """Return the command that repeats this report, without paths."""
    model = " --model MODEL" if options.model != "demo" else ""
    stream = " --stream FILE.jsonl" if options.stream else ""
    dialogues = f" --dialogues {options.dialogues}" if options.dialogues else ""
    sizes = f" --bins {options.bins} --rewrites {options.rewrites} --epochs {options.epochs}"
    layers = f" --num-layers {options.num_layers}" if options.num_layers != -1 else ""
    return f"python -m benchmarks.loop{model}{stream}{dialogues}{sizes}{layers} --rounds {options.rounds}"


if __name__ == "__main__":
    sys.exit(main())
