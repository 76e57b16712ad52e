"""`synthesize`, `train`, `evaluate` and `run`: the steps that need no owner at the keyboard."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from mlx_personal.cli.answer import ID, Answer, Cli, answers
from mlx_personal.errors import UserError

if TYPE_CHECKING:
    from mlx_personal.personalizer import Personalizer, Synthesized, Trained


@click.command()
@click.option("--anew", is_flag=True, help="Write new sets for all annotated dialogues, not only for new ones.")
@answers
def synthesize(cli: Cli, anew: bool) -> Answer:
    """Let the model write similar dialogues for the annotated ones."""
    with cli.open() as me:
        done = _synthesize(cli, me, anew)
    return Answer(dataclasses.asdict(done), lambda console: console.print(_synthesized_line(done), soft_wrap=True))


@click.command()
@answers
def train(cli: Cli) -> Answer:
    """Train an adapter on the annotated dialogues and their synthetic sets."""
    with cli.open() as me:
        done = _train(cli, me)
    return Answer(
        dataclasses.asdict(done), lambda console: console.print("\n".join(_trained_lines(done)), soft_wrap=True)
    )


@click.command()
@click.argument("adapter_id", type=ID, required=False)
@answers
def evaluate(cli: Cli, adapter_id: int | None) -> Answer:
    """Compare an adapter with the base model on the dialogues set aside.  [default: the promoted adapter]"""
    with cli.open() as me:
        adapter = me.adapters.promoted() if adapter_id is None else me.adapters.get(adapter_id)
        if adapter is None:
            raise UserError("no adapter is promoted", me.folder, "name one; see `mlx-personal adapters list`")
        with cli.bar("Comparing") as progress:
            compared = me.evaluate(adapter, progress)
    evaluation = None if compared is None else dataclasses.asdict(compared)
    data = {"adapter": adapter.id, "evaluation": evaluation}

    def show(console: Console) -> None:
        if evaluation is None:
            console.print("No annotated dialogue is set aside yet: about one in ten will be. Judge more with review.")
        else:
            console.print(f"adapter {adapter.id} against the base model: {evaluation_line(evaluation)}")

    return Answer(data, show, status=0 if evaluation is not None else 1)


@click.command()
@answers
def run(cli: Cli) -> Answer:
    """Do all steps that are due, without a question: score, synthesize, train, evaluate, promote."""
    done: dict[str, Any] = {}
    lines: list[str] = []
    with cli.open() as me:
        if unscored := me.store.unscored_count():
            with cli.bar("Scoring") as progress:
                done["score"] = me.score(progress)
            lines.append(f"{unscored} dialogues scored.")
        if any(d.step == "synthesize" for d in me.due()):
            synthesized = _synthesize(cli, me, anew=False)
            done["synthesize"] = dataclasses.asdict(synthesized)
            lines.append(_synthesized_line(synthesized))
        if any(d.step == "train" for d in me.due()):
            trained = _train(cli, me)
            done["train"] = dataclasses.asdict(trained)
            lines += _trained_lines(trained)
        if any(d.step == "evaluate" for d in me.due()):
            with cli.bar("Comparing") as progress:
                adapter, promoted = me.judge_waiting(progress)
            done["evaluate"] = {"adapter": adapter.id, "promoted": promoted}
            lines.append(
                f"Adapter {adapter.id} was compared{' and answers from now on' if promoted else ', not promoted'}."
            )
        waiting = len(me.annotations.open_questions())
    if not done:
        lines.append("Nothing is due.")
    if waiting:
        lines.append(f"{waiting} questions are open: mlx-personal review")
    return Answer(
        {"done": done, "open_questions": waiting}, lambda console: console.print("\n".join(lines), soft_wrap=True)
    )


def evaluation_line(evaluation: dict[str, Any]) -> str:
    """ROUGE-1 and ROUGE-L before and after, with the gain's interval."""
    one, longest = evaluation["rouge1"], evaluation["rougeL"]
    return (
        f"ROUGE-1 {one['before']:.3f} -> {one['after']:.3f} (gain {one['gain']:+.3f}, 95 % interval "
        f"{one['low']:+.3f} to {one['high']:+.3f}), ROUGE-L {longest['before']:.3f} -> {longest['after']:.3f}, "
        f"on {evaluation['n']} dialogues set aside"
    )


def _synthesize(cli: Cli, me: Personalizer, anew: bool) -> Synthesized:
    with cli.bar("Rewriting") as progress:
        return me.synthesize(progress, anew)


def _train(cli: Cli, me: Personalizer) -> Trained:
    with cli.bar("Training") as progress:
        return me.train(
            lambda step: progress(step.number, step.steps), lambda done, total: progress(done, total, "Comparing")
        )


def _synthesized_line(done: Synthesized) -> str:
    if not done.dialogues:
        return "Every annotated dialogue has its synthetic set already."
    if not done.kept:
        return (
            f"None of {done.generated} rewrites could be kept: this model does not follow the instruction to rewrite. "
            "Training goes on without synthetic dialogues; an instruction-tuned base model would write them."
        )
    dropped = ", ".join(f"{n} {reason}" for reason, n in sorted(done.dropped.items())) or "none dropped"
    return f"{done.dialogues} dialogues rewritten: {done.kept} of {done.generated} texts kept ({dropped})."


def _trained_lines(done: Trained) -> list[str]:
    report = done.report
    lines = [
        f"Adapter {done.adapter.id}: {report.rows} rows, {report.steps} steps, mean loss "
        f"{report.epoch_losses[0]:.3f} in the first epoch, {report.epoch_losses[-1]:.3f} in the last, "
        f"{report.seconds:.1f} s."
    ]
    if done.evaluation is None:
        lines.append(
            "No annotated dialogue is set aside yet, so it was not compared and not promoted: "
            f"mlx-personal adapters promote {done.adapter.id}"
        )
    else:
        lines.append(evaluation_line(dataclasses.asdict(done.evaluation)))
        better = (
            "It answers from now on." if done.promoted else "It is not better than the present one: kept, not promoted."
        )
        lines.append(better)
    return lines
