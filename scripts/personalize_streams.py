"""Run the loop on real streams of dialogues, and report ROUGE before and after with confidence intervals.

    python scripts/personalize_streams.py --model MODEL --out benchmarks/results/streams.md STREAM.jsonl...

The data set's answers stand for the owner's: every selected dialogue is accepted as it is. The adapter is evaluated on
the annotated dialogues that the loop holds out, and, as in [Qin24 §4.1], on dialogues of the stream that were never
selected. The report holds metrics only, no data.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_personal import Dialogue, Personalizer
from mlx_personal.annotation import AnnotationConfig
from mlx_personal.config import Config
from mlx_personal.dialogue import rouge1
from mlx_personal.dialogue.similarity import NEAR_DUPLICATE_THRESHOLD
from mlx_personal.evaluation import Evaluation, EvaluationConfig, MetricChange, compare_answers, generate_answers
from mlx_personal.finetune import LoRAConfig
from mlx_personal.importers import read_dialogues
from mlx_personal.personalizer import SynthesisResult, TrainResult
from mlx_personal.runtime import blas, device
from mlx_personal.selection import SelectionConfig
from mlx_personal.storage.files import atomic_write

# Decisions are counted per segment of the stream: a buffer that no longer changes shows as zeros.
SEGMENT = 500
ACTIONS = ("stored", "replaced", "kept-out", "duplicate")


@dataclass(frozen=True)
class StreamResult:
    """What the loop did with a stream.

    Attributes:
        name: Name of the stream.
        num_read: Number of dialogues that were read.
        num_distinct: Number of distinct ones.
        segments: Number of decisions by action, for each segment.
        synthesis: What synthesis did.
        training: What training did.
        unselected: Evaluation on dialogues that were never selected.
        stage_seconds: Seconds by stage.
    """

    name: str
    num_read: int
    num_distinct: int
    segments: list[dict[str, int]]
    synthesis: SynthesisResult
    training: TrainResult
    unselected: Evaluation
    stage_seconds: dict[str, float]


def main() -> None:
    """Run the loop on each stream and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("streams", nargs="+", type=Path, help="dialogues, as JSONL")
    parser.add_argument("--model", required=True, help="model folder or name")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--bins", type=int, default=SelectionConfig.bins, help="size of the buffer")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="for a model of a few million parameters")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--unselected", type=int, default=200, help="number of dialogues that were never selected")
    arguments = parser.parse_args()
    config = Config(
        selection=SelectionConfig(bins=arguments.bins),
        annotation=AnnotationConfig(questions_per_day=100_000),
        finetune=LoRAConfig(learning_rate=arguments.learning_rate, epochs=arguments.epochs),
        evaluation=EvaluationConfig(max_tokens=64),
    )
    results = [personalize(stream, arguments.model, config, arguments.unselected) for stream in arguments.streams]
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
    atomic_write(arguments.out, head + "".join(map(make_section, results)))


def personalize(stream: Path, model: str, config: Config, num_unselected: int) -> StreamResult:
    """Run the loop on one stream.

    Args:
        stream: File of the dialogues.
        model: Folder or name of the model.
        config: Settings of the loop.
        num_unselected: Number of dialogues to evaluate on that were never selected.
    """
    start = time.perf_counter()
    dialogues = [item for item in read_dialogues(stream) if isinstance(item, Dialogue)]
    with (
        tempfile.TemporaryDirectory() as folder,
        Personalizer.create(Path(folder, "profile"), model, config) as personalizer,
    ):
        segments = [
            personalizer.observe(dialogues[i : i + SEGMENT], stream.name).decisions
            for i in range(0, len(dialogues), SEGMENT)
        ]
        print(f"{stream.name}: selected", flush=True)
        for question in personalizer.annotations.questions():
            personalizer.annotations.record(question.dialogue_id, "accept")
        synthesis = personalizer.synthesize()
        print(f"{stream.name}: {synthesis}", flush=True)
        training = personalizer.train()
        print(f"{stream.name}: trained", flush=True)
        unselected = draw_unselected(personalizer, num_unselected)
        max_tokens = config.evaluation.max_tokens
        before = generate_answers(personalizer.base_model(), unselected, max_tokens)
        after = generate_answers(personalizer.adapted_model(training.adapter), unselected, max_tokens)
        return StreamResult(
            name=stream.stem,
            num_read=len(dialogues),
            num_distinct=personalizer.dialogue_count(),
            segments=segments,
            synthesis=synthesis,
            training=training,
            unselected=compare_answers(before, after, unselected),
            stage_seconds={**personalizer.stage_seconds, "total": time.perf_counter() - start},
        )


def draw_unselected(personalizer: Personalizer, count: int) -> list[Dialogue]:
    """Draw dialogues that were never in the buffer and are no near-duplicate of an annotated one.

    Args:
        personalizer: The loop after selection and annotation.
        count: Maximum number of dialogues.
    """
    annotated = ["\n".join(dialogue.user_turns) for dialogue in personalizer.annotated_dialogues()]
    rows = [
        row
        for row in personalizer.dialogues()
        if (decision := personalizer.decision(row.id)) and decision.action == "kept-out"
    ]
    unselected: list[Dialogue] = []
    for i in np.random.default_rng(0).permutation(len(rows)):
        question = "\n".join(rows[i].dialogue.user_turns)
        if all(rouge1(question, other) < NEAR_DUPLICATE_THRESHOLD for other in annotated):
            unselected.append(rows[i].dialogue)
        if len(unselected) == count:
            break
    return unselected


def make_section(result: StreamResult) -> str:
    """Return a stream's section of the report."""
    decisions = "".join(
        f"| {i * SEGMENT + 1}-{min((i + 1) * SEGMENT, result.num_read)} "
        f"| {' | '.join(str(counts.get(action, 0)) for action in ACTIONS)} |\n"
        for i, counts in enumerate(result.segments)
    )
    synthesis, report = result.synthesis, result.training.report
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(synthesis.dropped.items())) or "none"
    evaluations = [("never selected", result.unselected)]
    if result.training.evaluation is not None:
        evaluations.insert(0, ("annotated, held out", result.training.evaluation))
    changes = "".join(
        f"| {dialogues} | {evaluation.n} | {metric} | {_change_cells(change)} |\n"
        for dialogues, evaluation in evaluations
        for metric, change in (("ROUGE-1", evaluation.rouge1), ("ROUGE-L", evaluation.rougeL))
    )
    return (
        f"\n## {result.name}\n\n{result.num_read} dialogues read, {result.num_distinct} of them distinct.\n\n"
        f"| dialogues | {' | '.join(ACTIONS)} |\n|---|---|---|---|---|\n{decisions}\n"
        f"Synthesis: {synthesis.kept} of {synthesis.generated} rewrites kept (dropped: {dropped}). "
        f"Training: {report.samples} samples, {report.steps} steps, "
        f"mean loss by epoch {', '.join(f'{loss:.3f}' for loss in report.epoch_losses)}.\n\n"
        "| dialogues | n | metric | before | after | gain | 95 % interval |\n"
        f"|---|---|---|---|---|---|---|\n{changes}\n"
        f"Seconds: {', '.join(f'{stage} {seconds:.0f}' for stage, seconds in result.stage_seconds.items())}.\n"
    )


def _change_cells(change: MetricChange) -> str:
    return f"{change.before:.4f} | {change.after:.4f} | {change.gain:+.4f} | {change.low:+.4f} to {change.high:+.4f}"


if __name__ == "__main__":
    main()
