"""Runs the loop on real streams of dialogues and reports ROUGE-1 before and after, with intervals.

    python scripts/personalize_streams.py --model MODEL --out benchmarks/results/streams.md STREAM.jsonl...

The data set's own answer plays the owner: every selected dialogue is accepted as it is. Two comparisons are made:
on the annotated dialogues that the loop sets aside, and, as the paper evaluates, on dialogues of the stream that were
never selected. The report holds figures only, none of the data.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from mlx_personal import Dialogue, Personalizer
from mlx_personal.annotation import AnnotationConfig
from mlx_personal.config import Config
from mlx_personal.dialogue import InvalidLine, read_dialogues, rouge1
from mlx_personal.dialogue.similarity import NEAR_DUPLICATE_THRESHOLD
from mlx_personal.evaluation import Evaluation, EvaluationConfig, MetricChange, compare_answers, generate_answers
from mlx_personal.finetune import LoRAConfig
from mlx_personal.personalizer import TrainResult
from mlx_personal.runtime import blas, device
from mlx_personal.selection import SelectionConfig
from mlx_personal.storage.files import atomic_write

# Replacements are counted for each stretch of the stream: a buffer that froze shows as zeros.
STRETCH = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("streams", nargs="+", type=Path)
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--out", type=Path, required=True, help="the report, in Markdown")
    parser.add_argument("--bins", type=int, default=SelectionConfig.bins)
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="for a model of a few million parameters")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--unselected", type=int, default=200, help="dialogues of the second comparison")
    arguments = parser.parse_args()
    config = Config(
        selection=SelectionConfig(bins=arguments.bins),
        annotation=AnnotationConfig(questions_per_day=100_000),
        finetune=LoRAConfig(learning_rate=arguments.learning_rate, epochs=arguments.epochs),
        evaluation=EvaluationConfig(max_tokens=64),
    )
    sections = [personalize(stream, arguments.model, config, arguments.unselected) for stream in arguments.streams]
    command = (
        f"python scripts/personalize_streams.py --model {Path(arguments.model).name} --out {arguments.out.name} "
        + " ".join(stream.name for stream in arguments.streams)
        + f" --bins {arguments.bins} --learning-rate {arguments.learning_rate} --epochs {arguments.epochs}"
        + f" --unselected {arguments.unselected}"
    )
    head = (
        "# The loop on real streams\n\n"
        f"`{command}`\n\n"
        f"{device.device_name()} ({blas.preload().name}), greedy answers of at most 64 tokens, "
        "LoRA rank 8, alpha 16, dropout 0.05. Intervals: 95 %, paired bootstrap over dialogues.\n"
    )
    atomic_write(arguments.out, head + "".join(sections))


def personalize(stream: Path, model: str, config: Config, unselected: int) -> str:
    """One stream through the loop; its section of the report."""
    start = time.perf_counter()
    dialogues = [d for d in read_dialogues(stream) if not isinstance(d, InvalidLine)]
    with tempfile.TemporaryDirectory() as folder, Personalizer.create(Path(folder, "profile"), model, config) as me:
        stretches = [
            me.observe(dialogues[i : i + STRETCH], stream.name).decisions for i in range(0, len(dialogues), STRETCH)
        ]
        print(f"{stream.name}: selected", flush=True)
        for question in me.annotations.questions():
            me.annotations.record(question.dialogue_id, "accept")
        written = me.synthesize()
        print(f"{stream.name}: {written}", flush=True)
        trained = me.train()
        print(f"{stream.name}: trained", flush=True)
        rest = never_selected(me, unselected)
        lengths = config.evaluation.max_tokens
        before = generate_answers(me.base(), rest, lengths)
        after = generate_answers(me.adapted(trained.adapter), rest, lengths)
        on_rest = compare_answers(before, after, rest)
        seconds = {**me.stage_seconds, "total": time.perf_counter() - start}
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(written.dropped.items())) or "none"
        synthesis = f"{written.kept} of {written.generated} rewrites kept (dropped: {dropped})"
        return section(
            stream.stem, len(dialogues), me.dialogue_count(), stretches, synthesis, trained, on_rest, seconds
        )


def never_selected(me: Personalizer, count: int) -> list[Dialogue]:
    """Dialogues that never were in the buffer, drawn by seed, without near-duplicates of an annotated question."""
    annotated = ["\n".join(dialogue.user_turns) for dialogue in me.annotated_dialogues()]
    rows = [r for r in me.dialogues() if (d := me.decision(r.id)) and d.action == "kept-out"]
    found: list[Dialogue] = []
    for i in np.random.default_rng(0).permutation(len(rows)):
        question = "\n".join(rows[i].dialogue.user_turns)
        if all(rouge1(question, other) < NEAR_DUPLICATE_THRESHOLD for other in annotated):
            found.append(rows[i].dialogue)
        if len(found) == count:
            break
    return found


def section(
    name: str,
    read: int,
    received: int,
    stretches: list[dict[str, int]],
    synthesis: str,
    trained: TrainResult,
    on_rest: Evaluation,
    seconds: dict[str, float],
) -> str:
    actions = ("stored", "replaced", "kept-out", "duplicate")
    rows = "".join(
        f"| {i * STRETCH + 1}-{min((i + 1) * STRETCH, read)} | {' | '.join(str(s.get(a, 0)) for a in actions)} |\n"
        for i, s in enumerate(stretches)
    )
    report = trained.report
    compared = [("never selected", on_rest)]
    if trained.evaluation is not None:
        compared.insert(0, ("annotated, set aside", trained.evaluation))
    gains = "".join(
        f"| {which} | {e.n} | {score} | {_gain(gain)} |\n"
        for which, e in compared
        for score, gain in (("ROUGE-1", e.rouge1), ("ROUGE-L", e.rougeL))
    )
    return (
        f"\n## {name}\n\n{read} dialogues read, {received} different ones.\n\n"
        f"| dialogues | {' | '.join(actions)} |\n|---|---|---|---|---|\n{rows}\n"
        f"Synthesis: {synthesis}. Training: {report.samples} rows, {report.steps} steps, "
        f"mean loss by epoch {', '.join(f'{loss:.3f}' for loss in report.epoch_losses)}.\n\n"
        f"| dialogues | n | score | before | after | gain | 95 % interval |\n|---|---|---|---|---|---|---|\n{gains}\n"
        f"Seconds: {', '.join(f'{room} {s:.0f}' for room, s in seconds.items())}.\n"
    )


def _gain(gain: MetricChange) -> str:
    return f"{gain.before:.4f} | {gain.after:.4f} | {gain.gain:+.4f} | {gain.low:+.4f} to {gain.high:+.4f}"


if __name__ == "__main__":
    main()
