"""The training loop: AdamW steps over an adapter's float32 weights, with exact resumption.

    lm = load_language_model("demo")
    data = TrainingData(make_samples(lm, dialogues, 1024).samples)
    report = train(lm, plan_training(data, LoRAConfig()))
    lm.detach_adapter()

mlx-lm's own loop computes padding, fails for samples without targets, drops the last batch, cannot be resumed, and sets
the wired memory limit. Layers and adapters are mlx-lm's.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_personal.errors import StoppedError, UserError
from mlx_personal.finetune.data.samples import total_target_weight
from mlx_personal.finetune.distributed import ProcessGroup
from mlx_personal.finetune.flat_parameters import FlatParameters
from mlx_personal.finetune.forward.gradients import GradientComputer
from mlx_personal.finetune.plan import TrainingPlan, select_forward_mode
from mlx_personal.finetune.report import TrainingReport, make_report, make_step
from mlx_personal.finetune.resume import CheckpointStore
from mlx_personal.finetune.trainer_state import TrainerState, initial_state
from mlx_personal.models import LanguageModel
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.runtime import blas_threads
from mlx_personal.runtime.signals import stop_on_signal

logger = logging.getLogger(__name__)


class InterruptedTrainingError(StoppedError):
    """A signal stopped the training, after it had saved a checkpoint."""


class DivergedError(UserError):
    """The loss, the gradient or the adapter is not finite. A resumed training run would diverge again."""


def train(
    lm: LanguageModel,
    plan: TrainingPlan,
    *,
    checkpoints: CheckpointStore | None = None,
    process_group: ProcessGroup | None = None,
    on_progress: Progress | None = None,
) -> TrainingReport:
    """Train a new adapter, which is then attached to the model with the best weights in float32.

    The same arguments on the same machine produce the same adapter, bit for bit, even if the run was interrupted. After
    an error the model has no adapter.

    Args:
        lm: The base model.
        plan: The samples and settings of the training run.
        checkpoints: Saves checkpoints; the newest existing one is resumed. None saves and resumes nothing.
        process_group: The processes that train together. Each calls this with the same arguments; rank 0 saves.
        on_progress: Receives events of stage `caching activations` before the first step, and after each step one of
            stage `training`, whose detail is a `TrainingStep`.

    Returns:
        The report of the training run.

    Raises:
        UserError: If there are no samples, the model's weights are not finite, a checkpoint belongs to another training
            run, all checkpoints are damaged, or the disk fails.
        DivergedError: If the loss is not finite.
        InterruptedTrainingError: If a signal stopped the training.
    """
    if not plan.data.train and not plan.data.pairs:
        raise UserError("nothing to train on", hint="annotate some dialogues first")
    try:
        return _train(lm, plan, checkpoints, process_group or ProcessGroup(), on_progress)
    except BaseException:
        lm.detach_adapter()
        raise


def _train(
    lm: LanguageModel,
    plan: TrainingPlan,
    checkpoints: CheckpointStore | None,
    process_group: ProcessGroup,
    on_progress: Progress | None,
) -> TrainingReport:
    start, notes = time.perf_counter(), list[str]()
    mx.reset_peak_memory()
    _load_weights(lm)

    resumed = None if checkpoints is None else checkpoints.load(process_group)
    if resumed is not None:
        notes += resumed.notes
        if resumed.memory is not None:
            plan = dataclasses.replace(plan, memory=resumed.memory, plan_memory_for=None)

    plan.attach_adapter(lm)
    layout = FlatParameters(lm.model.trainable_parameters())
    first_weights = {"weights": layout.flatten(lm.model.trainable_parameters())}
    weights = process_group.broadcast_arrays(first_weights)["weights"]
    state = initial_state(weights, plan.learning_rates, plan.patience)
    if resumed is not None:
        state.restore(resumed.checkpoint)
    resumed_from, finished = state.step, state.is_finished(len(plan.steps))

    if resumed is not None and finished:
        # Nothing is computed any more, so no forward mode is checked.
        plan = dataclasses.replace(plan, forward_mode=resumed.forward_mode)
    else:
        plan = select_forward_mode(lm, plan, process_group)
        if resumed is not None:
            resumed.check_forward_mode(plan.forward_mode)
    if plan.fallback_reason:
        notes.append(
            f"computed in a slower mode, {plan.forward_mode}, since the fastest is not exact: {plan.fallback_reason}"
        )

    # A resumed training run must use the same activations: cached ones if they were cached before, else recomputed
    # ones.
    cache = resumed is None or resumed.cached_activations
    computer = GradientComputer(
        lm,
        plan.data.all,
        plan.forward_mode,
        plan.memory,
        share_prefixes=plan.share_prefixes,
        use_cache=cache,
        objective=plan.objective,
    )
    prepare_s = time.perf_counter() - start
    if finished:
        logger.info("the training had finished at step %d", state.step)
    else:
        with computer.prepared(on_progress):
            if resumed is not None and cache and computer.cache_location == "nowhere":
                notes.append(
                    "no space for the activations that were cached before: the result will not be bit-identical"
                )
            _set_reference(computer, state, process_group)
            prepare_s = time.perf_counter() - start
            logger.info("training: %d steps, from step %d, %s", len(plan.steps), resumed_from, plan.forward_mode)
            threads = blas_threads.adapt_threads().threads
            if _Loop(plan, state, computer, layout, process_group, checkpoints).run(on_progress) - {threads}:
                notes.append(
                    "the load of the machine changed, and so did the number of BLAS threads: the last bits of the "
                    "adapter differ from those of an undisturbed run"
                )
    lm.model.update(layout.unflatten(state.weights if state.best_weights is None else state.best_weights))

    processed_tokens = float(process_group.all_sum(mx.array([float(computer.processed_tokens)])))
    return make_report(
        plan,
        state,
        resumed_from=resumed_from,
        processed_tokens=processed_tokens,
        activation_cache=computer.cache_location,
        activation_cache_bytes=computer.cache_bytes,
        peak_memory_bytes=mx.get_peak_memory(),
        elapsed_s=time.perf_counter() - start,
        prepare_s=prepare_s,
        notes=notes,
    )


def _load_weights(lm: LanguageModel) -> None:
    lm.reload_weights()
    if name := lm.find_nonfinite_weight():
        raise UserError(f"the base model is damaged: {name} is not finite", lm.name, hint="download it again")


def _set_reference(computer: GradientComputer, state: TrainerState, process_group: ProcessGroup) -> None:
    """Compute the log-probabilities of the pairs under the base model once, or take those of the resumed run."""
    if not computer.objective.needs_reference:
        return
    if state.reference is None:
        own = sorted(computer.reference_log_probabilities().items()) if process_group.rank == 0 else None
        state.reference = dict(process_group.broadcast(own))
    computer.objective = dataclasses.replace(computer.objective, reference=state.reference)


@dataclass(frozen=True)
class _Loop:
    """The optimizer steps of a training run, from the present state to its end."""

    plan: TrainingPlan
    state: TrainerState
    computer: GradientComputer
    layout: FlatParameters
    process_group: ProcessGroup
    checkpoints: CheckpointStore | None

    def run(self, on_progress: Progress | None) -> set[int | None]:
        """Run the remaining steps, and return the numbers of BLAS threads that were used."""
        plan, state = self.plan, self.state
        thread_counts: set[int | None] = set()
        with stop_on_signal() as request:
            if state.step == 0:
                self._evaluate()
            while not state.is_finished(len(plan.steps)):
                start, number = time.perf_counter(), state.step + 1
                thread_counts.add(blas_threads.adapt_threads().threads)
                stop = self._step(number, request.signal is not None)
                if plan.is_last_of_epoch(number):
                    self._evaluate()
                if on_progress is not None:
                    step = make_step(plan, state, time.perf_counter() - start, mx.get_active_memory())
                    on_progress(ProgressEvent("training", number, len(plan.steps), detail=step))
                done = state.is_finished(len(plan.steps))
                # The last one too, so that a finished training is not lost before its adapter is stored.
                if self.checkpoints is not None and (stop or done or number % plan.save_every == 0):
                    cached = self.computer.cache_location != "nowhere"
                    self.checkpoints.save(state, plan, cached, self.process_group)
                if stop and not done:
                    # If this process received no signal, another machine did.
                    raise self._interrupted(number, request.signal or signal.SIGTERM)
        # A signal in the last step counts too: what follows, such as an evaluation, may take long.
        if float(self.process_group.all_sum(mx.array([float(request.signal is not None)]))) > 0:
            raise self._interrupted(state.step, request.signal or signal.SIGTERM)
        return thread_counts

    def _step(self, number: int, stop_requested: bool) -> bool:
        """Run one optimizer step on all machines, and return whether any of them was requested to stop."""
        plan, state, step = self.plan, self.state, self.plan.steps[self.state.step]
        indices = plan.shard(step, self.process_group)
        seed = (plan.seed, number, self.process_group.rank)
        factor = plan.cross_entropy_factor(step)
        sums, gradient = self.computer.gradient(self.layout.unflatten(state.weights), indices, seed, factor)
        # One array, so that there is one transfer.
        header = mx.concatenate([mx.array([float(stop_requested)]), sums])
        summed = self.process_group.all_sum(mx.concatenate([header, self.layout.flatten(gradient)]))
        mean_gradient = summed[len(header) :] / step.loss_weight
        updated = state.optimizer.apply_gradients({"weights": mean_gradient}, {"weights": state.weights})
        state.weights = updated["weights"]
        norms = mx.linalg.norm(mean_gradient), mx.linalg.norm(state.weights)
        mx.eval(state.weights, state.optimizer.state, norms, summed)
        stop, *total_sums = np.array(summed[: len(header)], np.float64).tolist()
        mean_loss = plan.mean_loss(total_sums, step.target_weight, step.pair_count)
        # The weights too, because those of the last step do not affect any later loss.
        for name, value in (("loss", mean_loss), ("gradient", float(norms[0])), ("adapter", float(norms[1]))):
            if not math.isfinite(value):
                what = f"training failed, the {name} became {value} at step {number} of {len(plan.steps)}"
                raise DivergedError(what, hint="lower the learning rate")
        state.losses.append(mean_loss)
        state.target_tokens.append(step.target_tokens)
        if plan.objective.chosen:
            state.pair_statistics.append(_means(total_sums, step.pair_count))
        return bool(stop > 0)

    def _evaluate(self) -> None:
        """Compute the validation losses, before the first step and after each epoch, and keep the best weights."""
        data, state = self.plan.data, self.state
        validation = data.validation_indices
        general = range(validation.stop, validation.stop + len(data.general))
        if general:
            cross_entropy, *_ = self._sums(general)
            state.general_losses.append((state.step, cross_entropy / total_target_weight(data.general)))
        if validation:
            sums, pair_count = self._sums(validation), len(data.validation_pairs)
            target_weight = total_target_weight(data.all[index] for index in validation)
            loss = self.plan.mean_loss(sums, target_weight, pair_count)
            state.validation_losses.append((state.step, loss))
            if pair_count:
                state.validation_statistics.append((state.step, _means(sums, pair_count)))
            # The loss before the first step is only for comparison: that adapter is never kept.
            if state.step > 0:
                state.early_stopping.update(loss, state.step)
                if state.early_stopping.best_step == state.step:
                    state.best_weights = state.weights

    def _sums(self, indices: Sequence[int]) -> list[float]:
        """Return the sums of rank 0 in all processes, so that they make the same decisions."""
        sums = None
        if self.process_group.rank == 0:
            sums = self.computer.sums(self.layout.unflatten(self.state.weights), indices)
        received: list[float] = self.process_group.broadcast(sums)
        return received

    def _interrupted(self, number: int, by: signal.Signals) -> InterruptedTrainingError:
        what = f"training was stopped after step {number} of {len(self.plan.steps)}"
        logger.info("%s", what)
        if self.checkpoints is None:
            return InterruptedTrainingError(what, by)
        return InterruptedTrainingError(f"{what} and saved", by, hint="start the same training run again to resume it")


def _means(sums: Sequence[float], pair_count: int) -> list[float]:
    """Return the means of the statistics of pairs from the sums of `BatchObjective.sums`; none without pairs."""
    return [value / pair_count for value in sums[2:]] if pair_count else []
