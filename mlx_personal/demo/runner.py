"""Run all eight steps of the learning loop on the bundled conversations, offline, and measure each step.

The fictional user's preferred answers are bundled with the conversations. As with a real user, they are used only for
the dialogues that were selected.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from mlx_personal.config import Config
from mlx_personal.demo.settings import EMBEDDED_MODEL_CONFIG, chat_model_config
from mlx_personal.dialogue import Dialogue, words
from mlx_personal.embedding import make_embedder
from mlx_personal.errors import Action, UserError
from mlx_personal.evaluation import Evaluation
from mlx_personal.finetune import Example, estimate_training
from mlx_personal.models import LanguageModel, load_language_model
from mlx_personal.models.loading import DEMO_MODEL
from mlx_personal.personalizer import Personalizer
from mlx_personal.profile import Store
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress
from mlx_personal.runtime.device import device_name, peak_memory_bytes

# Number of held-out questions that are asked again at the end, to show the difference.
NUM_FINAL_QUESTIONS: Final = 3

# Number of conversations that are embedded to estimate the duration.
_TIMED_CONVERSATIONS: Final = 12
# Duration of the whole loop divided by that of embedding the stream as the timed conversations predict it: 627 s and
# 54 s in one run with SmolLM2-135M-Instruct on two cores.
# All steps compute with the same weights, so the ratio depends little on the size of the model.
_LOOP_PER_EMBEDDING: Final = 12.0

_CREATOR: Final = "demo"
_STEPS: Final = ("embed", "score", "select", "annotate", "synthesize", "train", "evaluate", "chat")


@dataclass(frozen=True)
class DemoResult:
    """The measurements of the demo. Its fields are the keys of `--json`.

    Attributes:
        observed: Number of conversations that were new to the stream.
        selected: Number of filled bins.
        replaced: Number of times that a bin was replaced.
        asked: Number of questions that were answered.
        synthetic_generated: Number of generated rewrites.
        synthetic_kept: Number of kept rewrites.
        rouge1_before: ROUGE-1 of the base model on the held-out dialogues.
        rouge1_after: ROUGE-1 of the adapted model.
        rouge1_gain_ci: 95 % confidence interval of the gain.
        seconds: Seconds by stage, and in total.
        peak_memory_bytes: Peak memory of the process.
        device: Name of the device.
        model: Name of the base model.
        adapter_path: Folder of the adapter.
        evaluation: The comparison of the two models on the held-out dialogues.
        asked_again: Some held-out questions, each with the base model's answer and the adapted model's.
    """

    observed: int
    selected: int
    replaced: int
    asked: int
    synthetic_generated: int
    synthetic_kept: int
    rouge1_before: float
    rouge1_after: float
    rouge1_gain_ci: tuple[float, float]
    seconds: dict[str, float]
    peak_memory_bytes: int
    device: str
    model: str
    adapter_path: str
    evaluation: Evaluation
    asked_again: tuple[tuple[str, str, str], ...]


def run_demo(
    folder: Path,
    model: str | Path = DEMO_MODEL,
    on_progress: Progress = ignore_progress,
    num_conversations: int | None = None,
    memory: bool = False,
) -> DemoResult:
    """Create the demo's profile from scratch and run the learning loop on it.

    Args:
        folder: The profile's folder; an earlier demo's profile there is replaced.
        model: The base model, as for `load_language_model`.
        on_progress: Receives the events of each step, and after it one whose `detail` is a line of text about it.
        num_conversations: Number of the bundled conversations to use, the first ones; None for all.
        memory: Whether memory is compared, and used if it is better.

    Returns:
        The measurements.

    Raises:
        UserError: If the folder is a profile that the demo has not created, or the model cannot be used.
    """

    def report(step: str, text: str) -> None:
        done = _STEPS.index(step) + 1 if step in _STEPS else 0
        on_progress(ProgressEvent(step, done, len(_STEPS), detail=text))

    start = time.perf_counter()
    stream = _load_stream(num_conversations)
    # Before an earlier demo is removed, which a model that cannot be used must not cost.
    base = load_language_model(model)
    if str(model) == DEMO_MODEL:
        config, duration = EMBEDDED_MODEL_CONFIG, ""
    else:
        config = chat_model_config(base.hidden_states([base.tokenize("Hej Nora")])[0].shape[1])
        estimate_training(base, [Example(d, 0, 1.0) for d in stream.values()], config.finetune)  # raises if too large
        duration = f" This will take about {_duration_text(_expected_seconds(base, config, list(stream)))}."
    if memory:
        config = dataclasses.replace(config, memory=dataclasses.replace(config.memory, use="auto"))
    _remove_earlier_demo(folder)
    with Personalizer.create(folder, model, config, base, _CREATOR) as personalizer:
        personalizer.stage_seconds["load"] = time.perf_counter() - start
        on = f"on {_display_name(personalizer.model_name)} ({device_name()})"
        report("load", f"{len(stream)} conversations of one user, {on}.{duration}")
        observed = personalizer.observe(stream, source="demo", on_progress=on_progress)
        counts = observed.decisions
        selected, replaced = len(personalizer.bins()), counts.get("replaced", 0)
        report(
            "select",
            f"1 embed, 2 score, 3 select: {selected} bins filled, {replaced} replaced by better ones, "
            f"{counts.get('kept-out', 0)} rejected, {counts.get('duplicate', 0)} near-duplicates rejected.",
        )
        asked = _annotate(personalizer, {dialogue.key: preferred for dialogue, preferred in stream.items()})
        report("annotate", f"4 annotate: {asked} questions, none about the other {len(stream) - asked} conversations.")
        synthesis = personalizer.synthesize(on_progress)
        report("synthesize", f"5 synthesize: {synthesis.kept} of {synthesis.generated} rewrites kept.")
        trained = personalizer.train(on_progress)
        training = trained.report
        report(
            "train",
            f"6 fine-tune: {training.samples} samples, {training.steps} steps, mean loss "
            f"{training.epoch_losses[0]:.2f} in the first epoch, {training.epoch_losses[-1]:.2f} in the last.",
        )
        evaluation = trained.evaluation
        if evaluation is None:
            raise AssertionError("some of the bundled dialogues are held out")
        rouge1 = evaluation.rouge1
        promoted = "promoted" if trained.promoted else "not promoted"
        if evaluation.modes is not None and evaluation.modes.best.uses_memory:
            promoted += "; memory is used"
        report(
            "evaluate",
            f"7 evaluate: ROUGE-1 {rouge1.before:.3f} -> {rouge1.after:.3f} on {evaluation.n} held-out dialogues, "
            f"{promoted}.",
        )
        asked_again = _ask_again(personalizer, evaluation)
        report("chat", f"8 chat: {len(asked_again)} questions asked again; the conversations were added to the stream.")
        return DemoResult(
            observed=observed.new,
            selected=selected,
            replaced=replaced,
            asked=asked,
            synthetic_generated=synthesis.generated,
            synthetic_kept=synthesis.kept,
            rouge1_before=rouge1.before,
            rouge1_after=rouge1.after,
            rouge1_gain_ci=(rouge1.low, rouge1.high),
            seconds={**personalizer.stage_seconds, "total": time.perf_counter() - start},
            peak_memory_bytes=peak_memory_bytes(),
            device=device_name(),
            model=personalizer.model_name,
            adapter_path=str(personalizer.folder / trained.adapter.folder),
            evaluation=evaluation,
            asked_again=asked_again,
        )


def _expected_seconds(lm: LanguageModel, config: Config, stream: Sequence[Dialogue]) -> float:
    """Return the expected duration of the demo, from the time that the model takes to embed some of the stream."""
    embedder = make_embedder(config.embedding, lm)
    texts = [dialogue.text for dialogue in stream]
    timed = texts[:_TIMED_CONVERSATIONS]
    embedder.embed(timed[:1])  # the first call also allocates and compiles
    start = time.perf_counter()
    embedder.embed(timed)
    seconds_per_character = (time.perf_counter() - start) / sum(map(len, timed))
    return _LOOP_PER_EMBEDDING * seconds_per_character * sum(map(len, texts))


def _duration_text(seconds: float) -> str:
    if seconds < 90:
        return "a minute"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _display_name(model: str) -> str:
    """Return the name of a model without the folders that it is in."""
    return "the embedded model" if model == DEMO_MODEL else Path(model).name


def _remove_earlier_demo(folder: Path) -> None:
    """Remove the profile of an earlier demo, and nothing else."""
    if not folder.exists():
        return
    if (folder / "profile.db").exists():
        store = Store(folder)  # locks the folder, which fails while another demo is running
        creator = store.creator()
        store.close()
        if creator != _CREATOR:
            raise UserError(
                "this profile was created by you, and the demo needs its name", folder, remedy=Action.CHOOSE_HOME
            )
    shutil.rmtree(folder)


def _load_stream(count: int | None = None) -> dict[Dialogue, Dialogue]:
    """Return the first bundled conversations in order, each with its version that contains the preferred answers.

    Args:
        count: Number of conversations; None for all. Those that are repeated word for word are returned once.
    """
    stream = {}
    for line in (files("mlx_personal.demo") / "stream.jsonl").read_text("utf-8").splitlines()[:count]:
        row = json.loads(line)
        dialogue = Dialogue.from_messages(row["messages"])
        stream[dialogue] = dialogue.with_turns("assistant", row["preferred"])
    return stream


def _annotate(personalizer: Personalizer, preferred: dict[str, Dialogue]) -> int:
    """Answer all questions as the user would, and return their number."""
    with personalizer.measure("annotation"):
        questions = personalizer.annotations.questions()
        for question in questions:
            answer = preferred[question.dialogue.key]
            if answer == question.dialogue:
                personalizer.annotations.record(question.dialogue_id, "accept", answer.assistant_turns)
            else:
                personalizer.annotations.record(question.dialogue_id, "rewrite", answer.assistant_turns)
    return len(questions)


def _ask_again(personalizer: Personalizer, evaluation: Evaluation) -> tuple[tuple[str, str, str], ...]:
    """Ask some held-out questions again in chats; return each with the base model's and the adapted model's answer."""
    with personalizer.measure("chat"):
        # Dialogues of one turn and of more than a few words, since small talk shows little.
        samples = [s for s in evaluation.samples if len(s.questions) == 1 and len(words(s.questions[0])) > 3]
        samples = samples[:NUM_FINAL_QUESTIONS]
        answers = []
        for sample in samples:
            conversation = personalizer.conversation()
            with personalizer.recorded_conversation(conversation):
                answers.append("".join(conversation.ask(sample.questions[0])).strip())
    return tuple((s.questions[0], s.before[0], answer) for s, answer in zip(samples, answers, strict=True))
