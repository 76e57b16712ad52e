"""The training loop: steps of AdamW over an adapter's float32 weights, exact to resume.

    lm = load_language_model("demo")
    report = train(lm, TrainingData(make_samples(lm, dialogues, 1024).samples), LoRAConfig())
    lm.detach_adapter()

The loop is this package's: mlx-lm's own trains on padding, fails on rows without targets, drops the last batch, forgets
where it was, and sets the wired memory limit. Layers and adapters are mlx-lm's.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from mlx_personal.errors import StoppedError, UserError
from mlx_personal.finetune import checkpoint
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.data import batching
from mlx_personal.finetune.data.samples import TrainingData, target_tokens, target_weight
from mlx_personal.finetune.distributed import ProcessGroup
from mlx_personal.finetune.flat_parameters import FlatParameters
from mlx_personal.finetune.forward.equivalence import FORWARD_MODES, ForwardMode, ModeSelection
from mlx_personal.finetune.forward.equivalence_cache import select_mode_once
from mlx_personal.finetune.forward.gradients import GradientComputer
from mlx_personal.finetune.planning.memory import MemoryPlan
from mlx_personal.finetune.report import TrainingReport, TrainingStep
from mlx_personal.finetune.schedule import EarlyStopping, LearningRateSchedule
from mlx_personal.models import LanguageModel
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.runtime.signals import stop_on_signal

Order = Callable[[int], Sequence[Sequence[int]]]
"""From an epoch, counted from 0, to the rows of each of its steps."""


@dataclass(frozen=True)
class CheckpointStore:
    """Where the states of this training are kept, and what a state must have in common with it to go on from there."""

    folder: Path
    identity: checkpoint.CheckpointIdentity


class InterruptedTrainingError(StoppedError):
    """Somebody asked the training to stop, and it did, after saving where it was."""


class DivergedError(UserError):
    """The loss, the gradient or the adapter became no number: what was saved of this training leads there again."""


def train(
    lm: LanguageModel,
    data: TrainingData,
    config: LoRAConfig,
    *,
    plan: MemoryPlan | None = None,
    order: Order | None = None,
    resumable: CheckpointStore | None = None,
    group: ProcessGroup | None = None,
    on_progress: Progress | None = None,
) -> TrainingReport:
    """Trains a fresh adapter, which is attached to `lm` afterwards; its weights are float32, the best ones found.

    Args:
        plan: how much to compute at once and to keep in memory.
        order: the rows of each step; by default every row once an epoch, in random order.
        resumable: keeps states of the training as it goes, and goes on from the newest one that is there already.
        group: the processes that train together; each is given the same arguments. Rank 0 alone keeps states.
        on_progress: Gets the stage `caching activations` before the first step, and `training`, whose detail is a
            `TrainingStep`, after each step.

    The same arguments on the same machine give the same adapter, bit for bit, interrupted or not. After an error `lm`
    has no adapter. UserError for no rows, for a model that gives no numbers, for states of another training or none
    that is undamaged, if the disk refuses; DivergedError for a training that gives none; InterruptedTrainingError when
    asked to stop.
    """
    if not data.train:
        raise UserError("nothing to train on", hint="annotate some dialogues first")
    training = _Training(lm, data, config, plan or MemoryPlan(), order, resumable, group or ProcessGroup())
    try:
        return training.run(on_progress)
    except BaseException:
        lm.detach_adapter()
        raise


def optimizer_for(schedule: LearningRateSchedule) -> optim.Optimizer:
    """AdamW as every training has it, with these learning rates."""
    # Bias correction, which MLX leaves off: without it the first steps are three times the learning rate long.
    return optim.AdamW(learning_rate=schedule, bias_correction=True)


class _Training:
    """One training from the first look at the rows to the report; what a saved state holds are its attributes."""

    def __init__(
        self,
        lm: LanguageModel,
        data: TrainingData,
        config: LoRAConfig,
        plan: MemoryPlan,
        order: Order | None,
        resumable: CheckpointStore | None,
        group: ProcessGroup,
    ):
        self.lm, self.data, self.config, self.plan = lm, data, config, plan
        self.order, self.resumable, self.group = order or self._in_random_order, resumable, group
        self.learnt = [*data.train, *data.replay]
        self.lengths = [len(row) for row in self.learnt]
        self.notes: list[str] = []
        self.losses: list[float] = []
        self.targets: list[int] = []
        self.validation_losses: list[tuple[int, float]] = []
        self.general_losses: list[tuple[int, float]] = []
        self.patience = EarlyStopping(config.early_stopping_patience or None)
        self.best: mx.array | None = None
        self.stopped_early = False

    def run(self, on_progress: Progress | None) -> TrainingReport:
        start, lm = time.perf_counter(), self.lm
        mx.reset_peak_memory()
        lm.reload_weights()
        if name := lm.find_nonfinite_weight():
            what = f"the base model is damaged: {name} holds something else than numbers"
            raise UserError(what, lm.name, hint="fetch it again")
        saved = self._saved()
        rows = [*self.learnt, *self.data.validation, *self.data.general]
        lm.attach_new_adapter(self.config.num_layers, self.config.lora_parameters, self.config.seed, self.config.use_dora)
        self.way, fallback_reason = self._agreed_way(select_mode_once(lm, self.config, rows))
        if saved is not None and saved.facts["way"] != self.way:
            what = f"cannot resume: this training was computed {saved.facts['way']}, and here {self.way} is exact"
            raise UserError(what, hint=checkpoint.RESTART_HINT)
        self.steps = [(epoch, chosen) for epoch in range(self.config.epochs) for chosen in self.order(epoch)]
        self.flattening = FlatParameters(lm.model.trainable_parameters())
        own = {"weights": self.flattening.flat(lm.model.trainable_parameters())}
        self.weights = self.group.arrays_from_first(own)["weights"]
        self.schedule = self.config.learning_rate_schedule(len(self.steps))
        self.optimizer = optimizer_for(self.schedule)
        self.optimizer.init({"weights": self.weights})
        if saved is not None:
            self._restore(saved)
        resumed_from = len(self.losses)
        keep = saved is None or saved.facts["kept_states"]
        computing = GradientComputer(lm, rows, self.way, self.plan, share=self.config.dropout == 0, keep=keep)
        with computing.opened(on_progress):
            if saved is not None and keep and computing.kept_in == "nowhere":
                self.notes.append("no room for what was kept before: the result will not be bit-identical")
            prepared = time.perf_counter() - start
            self._train(computing, on_progress)
        lm.model.update(self.flattening.nested(self.weights if self.best is None else self.best))
        return self._report(computing, fallback_reason, resumed_from, prepared, time.perf_counter() - start)

    def _agreed_way(self, choice: ModeSelection) -> tuple[ForwardMode, str]:
        """The slowest way that a machine of the group has chosen, and why."""
        way, reason = max(
            self.group.gather([choice.way, choice.reason]), key=lambda found: FORWARD_MODES.index(found[0])
        )
        if reason:
            self.notes.append(f"computed in a slower way, {way}, since the fast one is not exact: {reason}")
        return way, reason

    def _train(self, computing: GradientComputer, on_progress: Progress | None) -> None:
        with stop_on_signal() as stop_request:
            if not self.losses:
                self._look(computing)
            while len(self.losses) < len(self.steps) and not self.stopped_early:
                began, number = time.perf_counter(), len(self.losses) + 1
                stop_asked = self._step(computing, number, stop_request.signal is not None)
                last_of_epoch = number == len(self.steps) or self.steps[number][0] != self.steps[number - 1][0]
                if last_of_epoch:
                    self._look(computing)
                if on_progress is not None:
                    step = self._as_step(number, time.perf_counter() - began)
                    on_progress(ProgressEvent("training", number, len(self.steps), detail=step))
                done = number == len(self.steps) or self.stopped_early
                if self.resumable is not None and not done and (stop_asked or number % self.config.save_every == 0):
                    self._save(self.resumable, computing)
                if stop_asked and not done:
                    raise self._interrupted(number, stop_request.signal or signal.SIGTERM)  # or another machine was asked

    def _step(self, computing: GradientComputer, number: int, stop_asked: bool) -> bool:
        """One optimizer step on all machines; whether one of them was asked to stop."""
        chosen = self.steps[number - 1][1]
        mine = self.group.share(chosen, self.lengths)
        seed = (self.config.seed, number, self.group.rank)
        nested = self.flattening.nested(self.weights)
        loss, slope = computing.gradient(nested, mine, seed)
        # In one array, which travels at once.
        own = mx.concatenate([mx.stack([loss, mx.array(float(stop_asked))]), self.flattening.flat(slope)])
        summed = self.group.sum(own)
        weight = target_weight(self.learnt[row] for row in chosen)
        gradient = summed[2:] / weight
        self.weights = self.optimizer.apply_gradients({"weights": gradient}, {"weights": self.weights})["weights"]
        # What comes out of the last step is in no loss any more.
        sizes = mx.linalg.norm(gradient), mx.linalg.norm(self.weights)
        mx.eval(self.weights, self.optimizer.state, sizes, summed)
        mean = float(summed[0]) / weight
        for what, value in (("loss", mean), ("gradient", float(sizes[0])), ("adapter", float(sizes[1]))):
            if not math.isfinite(value):
                where = f"the {what} became {value} at step {number} of {len(self.steps)}"
                raise DivergedError(f"training failed, {where}", hint="lower the learning rate")
        self.losses.append(mean)
        self.targets.append(target_tokens(self.learnt[row] for row in chosen))
        return float(summed[1]) > 0

    def _look(self, computing: GradientComputer) -> None:
        """The losses on held-out rows, before the first step and after each epoch; keeps the best adapter."""
        number, first = len(self.losses), len(self.learnt)
        validation = range(first, first + len(self.data.validation))
        general = range(validation.stop, validation.stop + len(self.data.general))
        if general:
            self.general_losses.append((number, self._loss(computing, general)))
        if validation:
            loss = self._loss(computing, validation)
            self.validation_losses.append((number, loss))
            # The adapter that does nothing yet is what to beat, never what to keep.
            if number > 0:
                self.stopped_early = self.patience.update(loss, number)
                if self.patience.best_step == number:
                    self.best = self.weights

    def _loss(self, computing: GradientComputer, rows: Sequence[int]) -> float:
        """Of the first machine, for all: what follows from it has to be the same everywhere."""
        mine = self.group.rank == 0
        loss: float = self.group.from_first(
            computing.loss(self.flattening.nested(self.weights), rows) if mine else None
        )
        return loss

    def _in_random_order(self, epoch: int) -> Sequence[Sequence[int]]:
        if self.way == "packed":
            return batching.shuffled_steps(len(self.learnt), self.config.effective_batch_size, self.config.seed, epoch)
        return batching.bucketed_steps(self.lengths, self.config.effective_batch_size, self.config.seed, epoch)

    # Saved states

    def _saved(self) -> checkpoint.Checkpoint | None:
        """The state to go on from, the same on all machines, if there is one."""
        if self.resumable is None:
            return None
        found, note = checkpoint.load_latest(self.resumable.folder) if self.group.rank == 0 else (None, None)
        facts = self.group.from_first(None if found is None else found.facts)
        if facts is None:
            return None
        self.notes += [note] if note else []
        if note := checkpoint.check_identity(facts["identity"], self.resumable.identity):
            self.notes.append(note)
        # What is computed at once decides the last bits. Each machine has its own plan, by its memory.
        if len(facts["plans"]) == self.group.size:
            self.plan = MemoryPlan(**facts["plans"][self.group.rank])
        return checkpoint.Checkpoint(self.group.arrays_from_first({} if found is None else dict(found.arrays)), facts)

    def _save(self, resumable: CheckpointStore, computing: GradientComputer) -> None:
        plans = self.group.gather(dataclasses.asdict(self.plan))
        if self.group.rank != 0:
            return
        trees = {"weights": self.weights, "optimizer": self.optimizer.state}
        trees |= {} if self.best is None else {"best": self.best}
        facts = {
            "step": len(self.losses),
            "losses": self.losses,
            "targets": self.targets,
            "validation_losses": self.validation_losses,
            "general_losses": self.general_losses,
            "patience": self.patience.facts(),
            "plans": plans,
            "way": self.way,
            "kept_states": computing.kept_in != "nowhere",
            "identity": dataclasses.asdict(resumable.identity),
        }
        checkpoint.save(resumable.folder, checkpoint.Checkpoint(dict(tree_flatten(trees)), facts))

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        trees = tree_unflatten(list(saved.arrays.items()))
        self.weights, self.optimizer.state = trees["weights"], trees["optimizer"]
        self.best = trees.get("best")
        facts = saved.facts
        self.losses, self.targets = list(facts["losses"]), list(facts["targets"])
        self.validation_losses = [(step, loss) for step, loss in facts["validation_losses"]]
        self.general_losses = [(step, loss) for step, loss in facts["general_losses"]]
        self.patience.restore(facts["patience"])

    def _interrupted(self, number: int, by: signal.Signals) -> InterruptedTrainingError:
        what = f"training was stopped after step {number} of {len(self.steps)}"
        if self.resumable is None:
            return InterruptedTrainingError(what, by)
        return InterruptedTrainingError(f"{what} and saved", by, hint="the same command goes on from there")

    # What is told

    def _as_step(self, number: int, seconds: float) -> TrainingStep:
        return TrainingStep(
            number=number,
            steps=len(self.steps),
            epoch=self.steps[number - 1][0] + 1,
            loss=self.losses[-1],
            learning_rate=self.schedule.at(number - 1),
            target_tokens=self.targets[-1],
            elapsed_s=seconds,
            memory_bytes=mx.get_active_memory(),
        )

    def _report(
        self, computing: GradientComputer, fallback_reason: str, resumed_from: int, prepared: float, seconds: float
    ) -> TrainingReport:
        done = len(self.losses)
        processed = float(self.group.sum(mx.array([float(computing.processed)])))
        epochs = self.steps[done - 1][0] + 1
        epoch_losses, epoch_ends = [], []
        for epoch in range(epochs):
            of_epoch = [i for i in range(done) if self.steps[i][0] == epoch]
            epoch_ends.append(of_epoch[-1] + 1)
            weights = [target_weight(self.learnt[row] for row in self.steps[i][1]) for i in of_epoch]
            total = sum(self.losses[i] * weight for i, weight in zip(of_epoch, weights, strict=True))
            epoch_losses.append(total / sum(weights))
        return TrainingReport(
            samples=len(self.learnt),
            replayed_samples=len(self.data.replay),
            dropped_samples=0,
            truncated_samples=0,
            target_tokens=target_tokens(self.learnt),
            processed_tokens=round(processed / (done - resumed_from) * len(self.order(0))),
            epochs=epochs,
            steps=done,
            losses=tuple(self.losses),
            epoch_losses=tuple(epoch_losses),
            epoch_ends=tuple(epoch_ends),
            validation_losses=tuple(self.validation_losses),
            general_losses=tuple(self.general_losses),
            best_step=done if self.best is None or self.patience.best_step is None else self.patience.best_step,
            forward_mode=self.way,
            fallback_reason=fallback_reason,
            activation_cache=computing.kept_in,
            activation_cache_bytes=computing.kept_bytes,
            peak_memory_bytes=mx.get_peak_memory(),
            estimated_memory_bytes=self.plan.estimated_peak_bytes,
            elapsed_s=seconds,
            prepare_s=prepared,
            resumed_from=resumed_from,
            notes=tuple(self.notes),
        )
