"""`synthesize`, `train`, `evaluate` and `run`: the steps that need no owner at the keyboard."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

import click
from rich.console import Console

from mlx_personal.cli.context import ID, Answer, Cli, answers
from mlx_personal.cli.training_progress import bytes_text, training_line
from mlx_personal.errors import StoppedError, UserError
from mlx_personal.progress import Progress, ProgressEvent

if TYPE_CHECKING:
    from mlx_personal.finetune import TrainingEstimate, TrainingReport, TrainingStep
    from mlx_personal.personalizer import Personalizer, SynthesisResult, TrainResult

# What Ctrl-C and SIGTERM do to a training, by what is on display: (what, hint).
_INTERRUPTED: Final = {
    "prepare": ("the training was interrupted before it had done a step", "the same command starts it again"),
    "step": ("the training was broken off", "the same command goes on from where it was saved last"),
    "compare": ("the comparison was interrupted; the new adapter is kept", "`mlx-personal run` compares it"),
}


@click.command()
@click.option("--anew", is_flag=True, help="Write new sets for all annotated dialogues, not only for new ones.")
@answers
def synthesize(cli: Cli, anew: bool) -> Answer:
    """Let the model write similar dialogues for the annotated ones."""
    with cli.open() as me:
        done = _synthesize(cli, me, anew)
    return Answer(dataclasses.asdict(done), lambda console: console.print(_synthesized_line(done), soft_wrap=True))


@click.command()
@click.option("--restart", is_flag=True, help="Drop a training that was interrupted, and begin anew.")
@click.option("--plan", is_flag=True, help="Do not train: tell the rows, the steps and the memory it would take.")
@answers
def train(cli: Cli, restart: bool, plan: bool) -> Answer | None:
    """Train an adapter on the annotated dialogues and their synthetic sets.

    An interrupted training goes on where it was. Under `mlx.launch` the machines train together.
    """
    if plan:
        with cli.open(write=False) as me:
            found = me.estimate_training(restart)
        return Answer(
            dataclasses.asdict(found), lambda console: console.print("\n".join(_plan_lines(found)), soft_wrap=True)
        )
    from mlx_personal.finetune.distributed import ProcessGroup
    from mlx_personal.finetune.worker import run_worker

    if (group := ProcessGroup()).rank > 0:
        run_worker(group)
        # The first machine tells what came of it.
        return None
    with cli.open() as me:
        done = _train(cli, me, restart)
    return Answer(dataclasses.asdict(done), lambda console: _show_trained(console, done))


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
            compared = me.judge.evaluate(adapter, progress)
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
        if any(d.step == "synthesize" for d in me.pending_steps()):
            synthesized = _synthesize(cli, me, anew=False)
            done["synthesize"] = dataclasses.asdict(synthesized)
            lines.append(_synthesized_line(synthesized))
        if any(d.step == "train" for d in me.pending_steps()):
            trained = _train(cli, me)
            done["train"] = dataclasses.asdict(trained)
            lines += _trained_lines(trained)
        if any(d.step == "evaluate" for d in me.pending_steps()):
            with cli.bar("Comparing") as progress:
                adapter, judgement = me.judge.promote_pending(progress)
            done["evaluate"] = {"adapter": adapter.id, "promoted": judgement.promoted}
            became = "and answers from now on" if judgement.promoted else "and not promoted"
            lines.append(f"Adapter {adapter.id} was compared {became}.")
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


def _synthesize(cli: Cli, me: Personalizer, anew: bool) -> SynthesisResult:
    with cli.bar("Rewriting") as progress:
        return me.synthesize(progress, anew)


def _train(cli: Cli, me: Personalizer, restart: bool = False) -> TrainResult:
    from mlx_personal.runtime.energy import EnergyMeter
    from mlx_personal.runtime.signals import TerminatedError, terminate_immediately

    meter = EnergyMeter()
    with terminate_immediately(), contextlib.ExitStack() as shown:
        # One display at a time: each begins when there is something to show.
        current: dict[str, Progress] = {}

        def display(what: str, make: Callable[[], contextlib.AbstractContextManager[Progress]]) -> Progress:
            if what not in current:
                shown.close()
                current.clear()
                current[what] = shown.enter_context(make())
            return current[what]

        def report(event: ProgressEvent, /) -> None:
            if event.stage == "training":
                step = dataclasses.replace(cast("TrainingStep", event.detail), power_watts=meter.power_watts())
                display("step", lambda: training_line(cli))(dataclasses.replace(event, detail=step))
            elif event.stage == "evaluation":
                display("compare", lambda: cli.bar("Comparing"))(event)
            else:
                display("prepare", lambda: cli.bar("Preparing"))(event)

        try:
            return me.train(report, restart)
        except (KeyboardInterrupt, TerminatedError) as stopped:
            # Before the first step, or told twice: a first Ctrl-C between steps is the training's own to answer.
            what, hint = _INTERRUPTED[next(iter(current), "prepare")]
            by = signal.SIGINT if isinstance(stopped, KeyboardInterrupt) else signal.SIGTERM
            raise StoppedError(what, by, hint) from None


def _synthesized_line(done: SynthesisResult) -> str:
    if not done.dialogues:
        return "Every annotated dialogue has its synthetic set already."
    if not done.kept:
        return (
            f"None of {done.generated} rewrites could be kept: this model does not follow the instruction to rewrite. "
            "Training goes on without synthetic dialogues; an instruction-tuned base model would write them."
        )
    dropped = ", ".join(f"{n} {reason}" for reason, n in sorted(done.dropped.items())) or "none dropped"
    return f"{done.dialogues} dialogues rewritten: {done.kept} of {done.generated} texts kept ({dropped})."


def _show_trained(console: Console, done: TrainResult) -> None:
    from mlx_personal.finetune.plot import curves_of, loss_plot_text

    if done.report.steps > 1:
        console.print(loss_plot_text(curves_of(done.report), min(console.width, 100), 14))
    console.print("\n".join(_trained_lines(done)), soft_wrap=True)


def _plan_lines(found: TrainingEstimate) -> list[str]:
    """What `train --plan` tells."""
    plan = found.plan
    kept = f"in memory ({bytes_text(plan.cache_bytes)})" if plan.cache_bytes else "in a temporary file"
    blocks = f"All {found.blocks} blocks are adapted: none is computed once for all epochs."
    if found.frozen_blocks:
        blocks = (
            f"{found.frozen_blocks} of {found.blocks} blocks are computed once a row; what they give is kept {kept}."
        )
    held_out = [f"{found.validation_samples} rows are held out to find the best epoch."] * bool(found.validation_samples)
    held_out += [f"{found.general_samples} general rows measure what is forgotten."] * bool(found.general_samples)
    return [
        f"{found.samples} rows are learnt, {found.replayed_samples} of them general ones, in {found.epochs} epochs of "
        f"{found.target_tokens:,} target tokens: {found.steps} steps.",
        *held_out,
        *_lost(found),
        f"At most {plan.batch_tokens:,} tokens are computed at once"
        f"{', each block twice, to keep less of it' if plan.checkpoint else ''}.",
        blocks,
        f"Expected to take at most {_known(plan.estimated_peak_bytes)} of memory, where it may take "
        f"{_known(found.usable_memory_bytes)} of the machine's {_known(found.machine_memory_bytes)}.",
        *(f"Note: {note}" for note in found.notes),
    ]


def _known(count: int | None) -> str:
    return "an unknown part" if count is None else bytes_text(count)


def _expected(report: TrainingReport) -> str:
    """How far the memory was from what had been expected."""
    expected = report.estimated_memory_bytes
    if expected is None:
        return "."
    return f" ({expected / 1e9:.2f} GB expected, {expected / report.peak_memory_bytes - 1:+.0%})."


def _lost(told: TrainingReport | TrainingEstimate) -> list[str]:
    """A line on rows that are not learnt as they are, if there are any."""
    lost = [f"{told.dropped_samples} rows have nothing to learn"] * bool(told.dropped_samples)
    lost += [f"{told.truncated_samples} are too long and lose their beginning"] * bool(told.truncated_samples)
    return [", ".join(lost) + "."] if lost else []


def _trained_lines(done: TrainResult) -> list[str]:
    report = done.report
    here = (report.steps - report.resumed_from) / report.steps
    speed = report.target_tokens * report.epochs * here / report.elapsed_s
    lines = [
        f"Adapter {done.adapter.id}: {report.samples} rows, {report.steps} steps, mean loss "
        f"{report.epoch_losses[0]:.3f} in the first epoch, {report.epoch_losses[-1]:.3f} in the last, "
        f"{report.elapsed_s:.1f} s, {speed:,.0f} target tokens/s, at most {report.peak_memory_bytes / 1e9:.2f} GB"
        + _expected(report)
    ]
    if report.resumed_from:
        lines.append(f"It went on from step {report.resumed_from}, where it had been interrupted.")
    lines += _lost(report)
    lines += [f"Note: {note}" for note in report.notes]
    lines.append(
        "No picture of its losses without matplotlib: pip install 'mlx-personal[plots]'"
        if done.plot is None
        else f"Its losses: {done.plot}"
    )
    if report.forgetting is not None:
        lines.append(f"The loss on general dialogues changed by {report.forgetting:+.1%}.")
    if done.evaluation is None:
        lines.append(
            "No annotated dialogue is set aside yet, so it was not compared and not promoted: "
            f"mlx-personal adapters promote {done.adapter.id}"
        )
    else:
        lines.append(evaluation_line(dataclasses.asdict(done.evaluation)))
        if done.promoted:
            lines.append("It answers from now on.")
        elif done.exceeds_forgetting:
            lines.append("It has forgotten more than `forgetting` in the settings allows: kept, not promoted.")
        else:
            lines.append("It is not better than the present one: kept, not promoted.")
    return lines
