"""The whole loop beside the straight composition that one would write today from mlx-lm's parts: seconds by room.

    python -m benchmarks.loop [--quick] [--model MODEL] [--stream FILE.jsonl] [--dialogues N] [--bins N] [--rewrites K]
                              [--epochs N] [--lora-layers N] [--rounds N] [--json] [--out FILE.md]

Both go through the same stream with the same model and settings, room by room in turn. Each selects for itself; what is
annotated, trained on and set aside is then the same for both, namely what ours selected and wrote. Ours is the
product as its owner uses it, with its store on disk. A speedup is the straight composition's seconds by ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from benchmarks import mlx_lm_loop as straight
from benchmarks.arguments import DEMO_STREAM, ended, fill, positive
from benchmarks.report_file import deliver, heading
from mlx_personal import Dialogue, LanguageModel, UserError, load_language_model
from mlx_personal.benchmark.workloads import public_name
from mlx_personal.config import Config
from mlx_personal.demo.runner import CONFIG
from mlx_personal.dialogue.readers import InvalidLine, read_json_lines
from mlx_personal.personalizer import Personalizer
from mlx_personal.reporting import markdown_table
from mlx_personal.storage.files import atomic_write

LEAST_SPEEDUP = 3
EMBED, SCORE, SYNTHESIZE, TRAIN, EVALUATE = ROOMS = (
    "embed",
    "score and select",
    "synthesize",
    "fine-tune",
    "evaluate",
)
# For each room what the straight composition does, and what ours does.
WORK = {
    EMBED: ("one dialogue at a time through the model, token states averaged", "dialogues in batches"),
    SCORE: (
        "NumPy, every distance in the buffer anew for every dialogue; nothing is stored",
        "sums that are kept up to date; dialogues, scores and decisions go to the store",
    ),
    SYNTHESIZE: (
        "`mlx_lm.generate` for one rewrite at a time",
        "all rewrites in one batch, their prompts computed once; they go to the store",
    ),
    TRAIN: (
        "mlx-lm's trainer with its own loss, on padded batches, the last rows left out if they fill none",
        "this package's trainer on packed rows, with its exactness check, and its state saved as it goes",
    ),
    EVALUATE: (
        "`mlx_lm.generate` for one answer at a time, with the adapter and without",
        "all answers in one batch; the adapter is written before, and read, judged and promoted, and its losses drawn",
    ),
}


@dataclass
class Round:
    """Seconds by room of both sides, and what both did."""

    ours: dict[str, float] = field(default_factory=dict)
    straight: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    gains: dict[str, float | None] = field(default_factory=dict)

    def speedup(self, rooms: Sequence[str] = ROOMS) -> float:
        """How many times as long the straight composition takes."""
        return sum(self.straight[room] for room in rooms) / sum(self.ours[room] for room in rooms)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 where the input is wrong."""
    return ended("benchmarks.loop", run, parse(arguments))


def run(options: argparse.Namespace) -> int:
    config = config_of(options)
    lm = load_language_model(options.model)
    stream = read_stream(options.stream, options.dialogues)
    rounds = [run_round(options.model, lm, stream, config) for _ in range(options.rounds)]
    report = report_of(options, len(stream), config, rounds)
    if options.json:
        print(json.dumps(as_json(options, len(stream), config, rounds)))
        if options.out is not None:
            atomic_write(options.out, report)
    else:
        deliver(report, options.out)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a short stream and one round, to see that it works")
    parser.add_argument("--model", default="demo", help="a name or a folder; default the embedded model")
    parser.add_argument("--stream", type=Path, help="dialogues as JSON Lines; default the demo's")
    parser.add_argument("--dialogues", type=positive, help="how many of them at most; default all")
    parser.add_argument("--bins", type=positive, help="the buffer's size; default 96, as in the demo")
    parser.add_argument("--rewrites", type=positive, help="of each selected dialogue; default 6")
    parser.add_argument("--epochs", type=positive, help="of fine-tuning; default 4, as in the demo")
    parser.add_argument("--lora-layers", type=int, default=-1, help="adapt the last so many blocks; default -1, all")
    parser.add_argument("--rounds", type=positive, help="how often all is measured; default 3")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--out", type=Path, help="keep the report in this file, as Markdown")
    options = parser.parse_args(arguments)
    defaults = {
        "dialogues": (48, None),
        "bins": (16, CONFIG.selection.bins),
        "rewrites": (2, CONFIG.synthesis.k),
        "epochs": (1, CONFIG.finetune.epochs),
        "rounds": (1, 3),
    }
    return fill(options, defaults)


def config_of(options: argparse.Namespace) -> Config:
    """The demo's settings with the sizes asked for; UserError for one that makes no sense."""
    try:
        return dataclasses.replace(
            CONFIG,
            selection=dataclasses.replace(CONFIG.selection, bins=options.bins),
            synthesis=dataclasses.replace(CONFIG.synthesis, k=options.rewrites),
            finetune=dataclasses.replace(CONFIG.finetune, epochs=options.epochs, num_layers=options.lora_layers),
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def read_stream(stream: Path | None, most: int | None) -> dict[Dialogue, Dialogue]:
    """Different dialogues in order, each with its preferred form: with the answers under `preferred` where the line has
    them, as the demo's have, else as it is."""
    path = stream or DEMO_STREAM
    found: dict[Dialogue, Dialogue] = {}
    for line in read_json_lines(path):
        if isinstance(line, InvalidLine):
            raise UserError(line.reason, line.where)
        where, row = line
        try:
            dialogue = Dialogue.from_messages(row["messages"])
            found[dialogue] = dialogue.with_turns("assistant", row.get("preferred", dialogue.assistant_turns))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError("no dialogue in this line", where, 'a line is {"messages": [...]}') from error
        if len(found) == most:
            break
    if not found:
        raise UserError("no dialogues in this file", path)
    return found


def run_round(model: str, lm: LanguageModel, stream: Mapping[Dialogue, Dialogue], config: Config) -> Round:
    """Both sides once through all rooms, in a profile of its own."""
    mx.random.seed(0)  # mlx-lm draws from MLX's one generator, which would begin elsewhere in every process
    done = Round()
    with tempfile.TemporaryDirectory() as folder, Personalizer.create(Path(folder) / "p", model, config, lm) as me:
        observe(me, lm, stream, done)
        annotate(me, stream)
        learn(me, lm, done)
    return done


def observe(me: Personalizer, lm: LanguageModel, stream: Mapping[Dialogue, Dialogue], done: Round) -> None:
    """Embeds, scores and selects."""
    with timed(done.ours, SCORE):
        me.observe(stream, source="benchmark")
    # Our rooms take turns, chunk by chunk; what is not embedding is counted as selection, the store with it.
    done.ours[EMBED] = me.stage_seconds["embedding"]
    done.ours[SCORE] -= done.ours[EMBED]
    with timed(done.straight, EMBED):
        states = straight.embed(lm, stream, me.config.embedding.max_tokens)
    with timed(done.straight, SCORE):
        buffer = straight.Buffer(dict(me.lexicons()), me.config.selection)
        for number, (dialogue, of_tokens) in enumerate(zip(stream, states, strict=True), 1):
            buffer.offer(number, dialogue, of_tokens)
    selected = {b.dialogue for b in me.bins()}
    done.counts["selected"] = len(selected)
    done.counts["selected by both"] = len(selected & {b.dialogue for b in buffer.bins})


def annotate(me: Personalizer, stream: Mapping[Dialogue, Dialogue]) -> None:
    """Gives the owner's answers; a person's time is nobody's to measure."""
    for question in me.annotations.questions():
        ideal = stream[question.dialogue]
        verdict: Any = "accept" if ideal == question.dialogue else "rewrite"
        me.annotations.record(question.dialogue_id, verdict, ideal.assistant_turns)


def learn(me: Personalizer, lm: LanguageModel, done: Round) -> None:
    """Synthesizes, trains and evaluates."""
    originals = [d for a in me.training_annotations() if (d := a.preferred)]
    held_out = me.held_out_dialogues()
    if not originals or not held_out:
        raise UserError("nothing to train on, or nothing set aside", hint="take a longer stream or more bins")
    with timed(done.ours, SYNTHESIZE):
        written = me.synthesize()
    with timed(done.straight, SYNTHESIZE):
        rewrites = straight.synthesize(lm, originals, me.config.synthesis)
    with timed(done.ours, EVALUATE):
        trained = me.train()
    done.ours[TRAIN] = me.stage_seconds["finetune"]
    done.ours[EVALUATE] -= done.ours[TRAIN]
    lm.detach_adapter()
    lm.reload_weights()  # what our training has let go of, at nobody's cost
    kept = [d for s in me.synthetic() if s.kept and (d := s.dialogue)]
    with timed(done.straight, TRAIN):
        rows = straight.train(lm, [*originals, *kept], me.config.finetune)
    with timed(done.straight, EVALUATE):
        gain = straight.evaluate(lm, held_out, me.config.evaluation.max_tokens).rouge1.gain
    done.counts |= {
        "rewritten": len(originals),
        "set aside": len(held_out),
        "kept rewrites": written.kept,
        "kept rewrites of the straight one": len(rewrites),
        "rows": trained.report.samples,
        "rows of the straight one": rows,
    }
    done.gains = {"ours": trained.evaluation.rouge1.gain if trained.evaluation else None, "straight": gain}


@contextmanager
def timed(seconds: dict[str, float], room: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[room] = time.perf_counter() - start


def as_json(options: argparse.Namespace, dialogues: int, config: Config, rounds: Sequence[Round]) -> dict[str, Any]:
    """The figures by name."""
    return {
        "model": public_name(options.model),
        "dialogues": dialogues,
        "bins": config.selection.bins,
        "rewrites": config.synthesis.k,
        "epochs": config.finetune.epochs,
        "lora_layers": config.finetune.num_layers,
        "speedup": statistics.median(r.speedup() for r in rounds),
        "room_speedups": {room: statistics.median(r.speedup([room]) for r in rounds) for room in ROOMS},
        "rounds": [dataclasses.asdict(r) for r in rounds],
    }


def report_of(options: argparse.Namespace, dialogues: int, config: Config, rounds: Sequence[Round]) -> str:
    rows = []
    for name, rooms in [*((room, [room]) for room in ROOMS), ("all", list(ROOMS))]:
        straightly = statistics.median(sum(r.straight[room] for room in rooms) for r in rounds)
        ours = statistics.median(sum(r.ours[room] for room in rooms) for r in rounds)
        speedup = statistics.median(r.speedup(rooms) for r in rounds)
        rows.append((name, f"{straightly:.2f}", f"{ours:.2f}", f"{speedup:.1f}"))
    speedups = [r.speedup() for r in rounds]
    last = rounds[-1]
    gains = ((name, None if gain is None else f"{gain:+.3f}") for name, gain in last.gains.items())
    layers = "all" if options.lora_layers == -1 else f"the last {options.lora_layers}"
    return "\n".join(
        [
            heading("The whole loop beside a straight composition", command(options)),
            f"{dialogues} dialogues, {config.selection.bins} bins, {config.synthesis.k} rewrites, "
            f"{config.finetune.epochs} epochs, adapters on {layers} blocks; model: {public_name(options.model)}. "
            f"Seconds are medians of {len(rounds)}.\n",
            markdown_table(["room", "straight, s", "ours, s", "speedup"], rows),
            "## What each side does\n",
            "".join(f"- {room}\n  - straight: {theirs}\n  - ours: {ours}\n" for room, (theirs, ours) in WORK.items()),
            "Both have the same model, settings, first adapter, optimizer and learning rates; the straight composition "
            "trains on the dialogues that ours selected and wrote. Loading the model and what the owner does are "
            "nobody's seconds.\n",
            "## What came of it\n",
            markdown_table(["last round", ""], last.counts.items()),
            markdown_table(["ROUGE-1 gain, last round", ""], gains),
            "## Against the target\n",
            f"- The straight composition takes {statistics.median(speedups):.1f} times as long as ours "
            f"(rounds: {min(speedups):.1f} to {max(speedups):.1f}; target at least {LEAST_SPEEDUP})\n",
        ]
    )


def command(options: argparse.Namespace) -> str:
    """The command that repeats this report; paths are left out, since they are of one machine."""
    model = " --model MODEL" if options.model != "demo" else ""
    stream = " --stream FILE.jsonl" if options.stream else ""
    most = f" --dialogues {options.dialogues}" if options.dialogues else ""
    sizes = f" --bins {options.bins} --rewrites {options.rewrites} --epochs {options.epochs}"
    layers = f" --lora-layers {options.lora_layers}" if options.lora_layers != -1 else ""
    return f"python -m benchmarks.loop{model}{stream}{most}{sizes}{layers} --rounds {options.rounds}"


if __name__ == "__main__":
    sys.exit(main())
