"""Runs all eight steps of the loop on the bundled stream, offline, and measures each.

The fictional owner's ideal answers are bundled with the conversations; they are given only for the dialogues that the
buffer selects, just as a person would be asked about those few.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from mlx_personal.annotation import AnnotationConfig
from mlx_personal.chat import ChatConfig
from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue, words
from mlx_personal.errors import UserError
from mlx_personal.evaluation import Evaluation, EvaluationConfig
from mlx_personal.finetune import LoRAConfig
from mlx_personal.models import load_language_model
from mlx_personal.models.language_model import DEMO_MODEL
from mlx_personal.personalizer import Personalizer
from mlx_personal.profile import Store
from mlx_personal.runtime.device import device_name, peak_memory
from mlx_personal.selection import SelectionConfig

# What differs from the defaults, and why. A buffer of 96 bins: the stream is 480 conversations, not thousands. All its
# questions in one day: the demo's owner is patient. A higher learning rate: the embedded model is a thousand times
# smaller than the ones the default is for. Shorter answers: it never writes long ones.
CONFIG = Config(
    selection=SelectionConfig(bins=96),
    annotation=AnnotationConfig(questions_per_day=1000),
    finetune=LoRAConfig(learning_rate=4e-3, epochs=4),
    evaluation=EvaluationConfig(max_tokens=80),
    chat=ChatConfig(max_tokens=80),
)

_MADE_BY = "made_by"

# What the owner asks at the end, to see the difference with own eyes.
QUESTIONS_AT_THE_END = 3


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured; `seconds` by stage, `asked_again` the same questions with base and adapted answers."""

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


def run_demo(folder: Path, say: Callable[[str], None]) -> DemoResult:
    """Makes the profile `folder` anew and runs the loop in it; `say` gets a line as each stage ends.

    UserError if a profile is there that the demo has not made.
    """
    start = time.perf_counter()
    _clear(folder)
    stream = _stream()
    base = load_language_model(DEMO_MODEL)
    with Personalizer.create(folder, DEMO_MODEL, CONFIG, base) as me:
        me.store.set_meta(_MADE_BY, "demo")
        me.seconds["load"] = time.perf_counter() - start
        say(f"{len(stream)} conversations of one owner, on the embedded model ({device_name()}, float32).")
        observed = me.observe(stream, source="demo")
        counts = observed.decisions
        selected, replaced = len(me.store.bins()), counts.get("replaced", 0)
        say(
            f"1 embed, 2 score, 3 select: {selected} bins filled, {replaced} replaced by better ones, "
            f"{counts.get('kept-out', 0)} kept out, {counts.get('duplicate', 0)} near-duplicates refused."
        )
        asked = _annotate(me, {dialogue.key: preferred for dialogue, preferred in stream.items()})
        say(f"4 annotate: {asked} questions put to the owner, {len(stream) - asked} conversations never asked about.")
        written = me.synthesize()
        say(f"5 synthesize: {written.kept} of {written.generated} rewrites kept.")
        trained = me.train()
        report = trained.report
        say(
            f"6 fine-tune: {report.rows} rows, {report.steps} steps, mean loss {report.epoch_losses[0]:.2f} in "
            f"the first epoch, {report.epoch_losses[-1]:.2f} in the last."
        )
        evaluation = trained.evaluation
        if evaluation is None:
            raise AssertionError("the bundled stream gives dialogues to set aside")
        one = evaluation.rouge1
        promoted = "promoted" if trained.promoted else "not promoted"
        say(
            f"7 evaluate: ROUGE-1 {one.before:.3f} -> {one.after:.3f} on {evaluation.n} dialogues set aside, "
            f"{promoted}."
        )
        again = _ask_again(me, evaluation)
        say(f"8 chat: {len(again)} questions asked again; the conversations went back into the stream.")
        return DemoResult(
            observed=observed.new,
            selected=selected,
            replaced=replaced,
            asked=asked,
            synthetic_generated=written.generated,
            synthetic_kept=written.kept,
            rouge1_before=one.before,
            rouge1_after=one.after,
            rouge1_gain_ci=(one.low, one.high),
            seconds={**me.seconds, "total": time.perf_counter() - start},
            peak_memory_bytes=peak_memory(),
            device=device_name(),
            model=DEMO_MODEL,
            adapter_path=str(me.folder / trained.adapter.folder),
            evaluation=evaluation,
            asked_again=again,
        )


def _clear(folder: Path) -> None:
    """Removes what an earlier demo left, and nothing else."""
    if not folder.exists():
        return
    if (folder / "profile.db").exists():
        store = Store(folder)  # takes the lock: a demo that is running stops us here
        made_by = store.meta(_MADE_BY)
        store.close()
        if made_by != "demo":
            raise UserError(
                "a profile of this name was made by you", folder, "the demo needs the name: choose another --home"
            )
    shutil.rmtree(folder)


def _stream() -> dict[Dialogue, Dialogue]:
    """The bundled conversations, in order, each with the owner's ideal answers in place of the given ones."""
    stream = {}
    for line in (files("mlx_personal.demo") / "stream.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        dialogue = Dialogue.from_messages(row["messages"])
        stream[dialogue] = dialogue.with_turns("assistant", row["preferred"])
    return stream


def _annotate(me: Personalizer, preferred: dict[str, Dialogue]) -> int:
    start = time.perf_counter()
    questions = me.annotations.questions()
    for question in questions:
        ideal = preferred[question.dialogue.key]
        verdict = "accept" if ideal == question.dialogue else "rewrite"
        me.annotations.record(question.dialogue_id, verdict, ideal.assistant_turns)  # type: ignore[arg-type]
    me.seconds["annotation"] = time.perf_counter() - start
    return len(questions)


def _ask_again(me: Personalizer, evaluation: Evaluation) -> tuple[tuple[str, str, str], ...]:
    """(question, the base model's answer, the adapted model's) for some questions set aside, asked through `chat`."""
    start = time.perf_counter()
    # Those of one turn, and not of one word: small talk shows little.
    single = [s for s in evaluation.samples if len(s.questions) == 1 and len(words(s.questions[0])) > 3]
    single = single[:QUESTIONS_AT_THE_END]
    answered = []
    for sample in single:
        conversation = me.conversation()
        with me.remembered(conversation):
            answered.append("".join(conversation.ask(sample.questions[0])).strip())
    me.seconds["chat"] = time.perf_counter() - start
    return tuple((s.questions[0], s.before[0], a) for s, a in zip(single, answered, strict=True))
