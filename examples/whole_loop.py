"""Run the whole loop from Python: observe, annotate, synthesize, train, promote, chat.

    python examples/whole_loop.py

Runs on the embedded demo model and the first conversations of its stream, in a temporary profile. Takes about a minute.
"""

from __future__ import annotations

import json
import tempfile
from importlib.resources import files
from pathlib import Path

from mlx_personal import Config, Dialogue, LoRAConfig, Personalizer
from mlx_personal.annotation import AnnotationConfig
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.selection import SelectionConfig

CONFIG = Config(
    selection=SelectionConfig(bins=32),
    annotation=AnnotationConfig(questions_per_day=100),
    # The embedded model is a thousand times smaller than those that the default rate is for.
    finetune=LoRAConfig(learning_rate=4e-3, epochs=3),
    # Fewer than five held-out dialogues decide nothing.
    evaluation=EvaluationConfig(holdout_ratio=0.2),
)


def main() -> None:
    """Personalize the demo model for the fictional owner of its stream."""
    lines = (files("mlx_personal.demo") / "stream.jsonl").read_text(encoding="utf-8").splitlines()[:100]
    records = [json.loads(line) for line in lines]
    dialogues = [Dialogue.from_messages(record["messages"]) for record in records]
    ideal_answers = {dialogue.key: record["preferred"] for dialogue, record in zip(dialogues, records, strict=True)}

    with (
        tempfile.TemporaryDirectory() as folder,
        Personalizer.create(Path(folder) / "profile", "demo", CONFIG) as personalizer,
    ):
        observed = personalizer.observe(dialogues)
        print(f"{observed.new} dialogues are new; decisions: {observed.decisions}")

        # A person would be asked about these few dialogues.
        for question in personalizer.annotations.questions():
            personalizer.annotations.record(question.dialogue_id, "rewrite", ideal_answers[question.dialogue.key])

        synthesis = personalizer.synthesize()
        print(f"{synthesis.kept} of {synthesis.generated} rewrites kept")

        trained = personalizer.train()
        print(f"loss {trained.report.epoch_losses[0]:.2f} -> {trained.report.epoch_losses[-1]:.2f}")
        if trained.evaluation is not None:
            gain = trained.evaluation.rouge1
            print(f"ROUGE-1 on held-out dialogues {gain.before:.3f} -> {gain.after:.3f}, promoted: {trained.promoted}")

        print("".join(personalizer.conversation().ask("When should I water my tomatoes?")))


if __name__ == "__main__":
    main()
