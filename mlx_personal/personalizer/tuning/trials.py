"""The trials of tuning: train a candidate on a part of the annotated dialogues, and score it on another part.

Both parts are of the dialogues that are trained on, so that the held-out ones stay unseen until the end. The validation
part takes no part in training, in examples of the memory, or in preference pairs, and neither do its near-duplicates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import Action, UserError
from mlx_personal.evaluation import EvaluationPart, ModelOutputs, compute_outputs, make_parts
from mlx_personal.evaluation.config import MIN_HELD_OUT
from mlx_personal.finetune import TrainingReport, finetune
from mlx_personal.finetune.data.negatives import negative_pairs
from mlx_personal.finetune.data.samples import make_samples
from mlx_personal.importers import load_dialogues
from mlx_personal.models import LanguageModel
from mlx_personal.personalizer.memory import as_trained, profile_memory
from mlx_personal.personalizer.training_set import TrainingSet, current_training_set
from mlx_personal.personalizer.tuning.score import scored_tokens, validation_score
from mlx_personal.personalizer.tuning.search import Candidate, rung_sizes
from mlx_personal.profile import AnnotationRow, Store
from mlx_personal.progress import Progress
from mlx_personal.reporting import counted
from mlx_personal.storage.files import temporary_folder

# Fraction of the groups of near-duplicates that candidates are scored on, and the largest number of them.
_VALIDATION_RATIO: Final = 0.25
_MAX_VALIDATION_GROUPS: Final = 50
# With fewer groups there is no part to score on that says anything.
_MIN_GROUPS: Final = 4
# Training computes a token forward and backward, about three times the work of scoring it.
_TRAINING_FACTOR: Final = 3
# With fewer preference pairs no objective that needs them is tried.
_MIN_PAIRS: Final = 16
# Objectives with the number of negatives: what can be trained on dialogues alone, and on pairs as well.
_OF_DIALOGUES: Final = (("sft", 0), ("sft+dpo", 1))
_OF_PAIRS: Final = (("dpo", 0), ("orpo", 0), ("sft+dpo", 0))

# An objective, `finetune.examples`, the numbers of examples and negatives, and a rung: see `_data_key`.
_DataKey = tuple[str, str, int, int, int | None]
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class TuningSplit:
    """The groups of near-duplicates of the annotated dialogues that are not held out.

    Attributes:
        training: The groups that candidates are trained on, in the order in which rungs add them.
        validation: The groups that they are scored on.
    """

    training: tuple[int, ...]
    validation: tuple[int, ...]


@dataclass(frozen=True)
class HeldOutOutputs:
    """What a candidate computes on the held-out dialogues, for the comparison by which adapters are promoted.

    Attributes:
        parts: The held-out dialogues with the examples that the candidate puts before them.
        outputs: What the model computes of each part.
        training_s: Duration of the training in seconds.
        forgetting: Relative increase of the loss on general dialogues; None if it is not measured.
    """

    parts: Sequence[EvaluationPart]
    outputs: Sequence[ModelOutputs]
    training_s: float
    forgetting: float | None


class TrialRunner:
    """Trains and scores candidates on one profile, of which nothing but stored vectors of questions changes.

    Args:
        store: The profile's store.
        config: Its settings.
        lm: The base model.
        seed: Random seed of the split.

    Attributes:
        split: The parts of the annotated dialogues.
        rung_sizes: Number of groups that each rung trains on.
        objectives: The objectives for which there are enough preference pairs, each with the number of negatives.
        validation_count: Number of dialogues that candidates are scored on.
        held_out_count: Number of held-out dialogues.
        deciding_ids: Ids of the annotations of those that decide in the comparison at the end.

    Raises:
        UserError: If no dialogue is annotated, or too few are held out, or there are too few groups to split.
    """

    def __init__(self, store: Store, config: Config, lm: LanguageModel, seed: int):
        self._store, self._config, self._lm = store, config, lm
        # Most candidates differ only in settings that leave these as they are.
        self._training_sets: dict[_DataKey, TrainingSet] = {}
        self._token_counts: dict[_DataKey, tuple[int, int, int]] = {}
        self._asked: dict[int, list[Dialogue]] = {}
        self._annotations = store.preferred_annotations(held_out=False)
        self._held_out = [a for a in store.preferred_annotations(held_out=True) if a.preferred is not None]
        self.split = _split_groups(self._annotations, len(self._held_out), store.folder, seed)
        self.rung_sizes = rung_sizes(len(self.split.training))
        self._validation = [
            a.preferred for a in self._annotations if a.group in set(self.split.validation) and a.preferred is not None
        ]
        self.validation_count, self.held_out_count = len(self._validation), len(self._held_out)
        own = [a.id for a in self._held_out if a.origin != "inferred"]
        self.deciding_ids = own or [a.id for a in self._held_out]
        general = config.finetune.general_data
        self._general = load_dialogues(general, min_count=2) if general else []
        with_pairs = current_training_set(store, _with_pairs(config).finetune, self._held_out_dialogues())
        pairs = sum(not pair.is_equal for pair in self._part(with_pairs, None).pairs.values())
        self.objectives = (*_OF_DIALOGUES, *_OF_PAIRS) if pairs >= _MIN_PAIRS else _OF_DIALOGUES

    @property
    def rungs(self) -> int:
        """Number of rungs."""
        return len(self.rung_sizes)

    def tokens(self, candidate: Candidate, rung: int | None) -> int:
        """Return the number of tokens that a trial computes, in tokens that are only scored.

        Args:
            candidate: The candidate.
            rung: Number of the rung; None for a training run on all dialogues, without scoring.
        """
        config = candidate.apply(self._config)
        key = _data_key(config, rung)
        if key not in self._token_counts:
            training_set = self._training_set(config, rung)
            trained_pairs = [
                *training_set.pairs.values(),
                *negative_pairs(training_set.examples(1.0), config.finetune.negatives, config.finetune.seed),
            ]
            pairs = [side for pair in trained_pairs for side in (pair.chosen, pair.rejected)]
            dialogues = list(training_set.dialogues.values()) if config.finetune.uses_dialogues else []
            validation = [] if rung is None else self._validation_dialogues(config)
            max_length = min(config.finetune.max_seq_length, self._lm.context_length)
            self._token_counts[key] = (
                self._count(dialogues, max_length),
                self._count(pairs, max_length),
                scored_tokens(self._lm, validation, config.evaluation) if validation else 0,
            )
        trained, compared, scored = self._token_counts[key]
        # The reference model computes pairs once.
        return _TRAINING_FACTOR * config.finetune.epochs * (trained + compared) + compared + scored

    def score(self, candidate: Candidate, rung: int, on_progress: Progress | None = None) -> float:
        """Train a candidate, and return its score on the validation part, see `score`.

        Args:
            candidate: The candidate.
            rung: Number of the rung.
            on_progress: Receives the events of `finetune`, and an event for each question that is scored.

        Raises:
            UserError: If it cannot be trained or scored.
        """
        config = candidate.apply(self._config)
        dialogues = self._validation_dialogues(config)

        def measure(report: TrainingReport) -> float:
            return validation_score(self._lm, dialogues, config.evaluation, on_progress)

        return self._with_adapter(config, self._training_set(config, rung), measure, on_progress)

    def compute_held_out(self, candidate: Candidate, on_progress: Progress | None = None) -> HeldOutOutputs:
        """Train a candidate on all dialogues, and compute what promotion compares on the held-out ones.

        Args:
            candidate: The candidate.
            on_progress: Receives the events of `finetune` and `compute_outputs`.

        Raises:
            UserError: If it cannot be trained.
        """
        config = candidate.apply(self._config)
        memory = profile_memory(self._store, config, self._lm)
        dialogues = [memory.with_examples(dialogue) for dialogue in self._held_out_dialogues()]
        inferred = [annotation.origin == "inferred" for annotation in self._held_out]
        parts = make_parts(self._lm, dialogues, inferred, config.evaluation)

        def measure(report: TrainingReport) -> HeldOutOutputs:
            outputs = compute_outputs(self._lm, parts, config.evaluation.max_tokens, on_progress)
            return HeldOutOutputs(parts, outputs, report.elapsed_s, report.forgetting)

        return self._with_adapter(config, self._training_set(config, None), measure, on_progress)

    def _with_adapter(
        self,
        config: Config,
        training_set: TrainingSet,
        measure: Callable[[TrainingReport], _Result],
        on_progress: Progress | None,
    ) -> _Result:
        """Return what is measured with an adapter that is trained into a temporary folder."""
        with temporary_folder(self._store.folder / "adapters") as folder:
            report = finetune(
                self._lm,
                training_set.examples(config.mixture.synthetic_weight),
                config.finetune,
                folder / "adapter",
                general=self._general,
                pairs=list(training_set.pairs.values()),
                on_progress=on_progress,
            )
            self._lm.attach_adapter(folder / "adapter")
            try:
                return measure(report)
            finally:
                self._lm.detach_adapter()

    def _training_set(self, config: Config, rung: int | None) -> TrainingSet:
        """Return what a candidate is trained on in a rung; None for all dialogues that are not held out."""
        key = _data_key(config, rung)
        if key not in self._training_sets:
            self._training_sets[key] = self._make_training_set(config, rung)
        return self._training_sets[key]

    def _make_training_set(self, config: Config, rung: int | None) -> TrainingSet:
        unseen = self._held_out_dialogues() if rung is None else [*self._held_out_dialogues(), *self._validation]
        training_set = current_training_set(self._store, config.finetune, unseen)
        if rung is not None:
            training_set = self._part(training_set, self.rung_sizes[rung])
        return as_trained(self._store, config, self._lm, training_set)

    def _part(self, training_set: TrainingSet, size: int | None) -> TrainingSet:
        """Return the part of a training set with the first groups of the training part; None for all of them."""
        groups = set(self.split.training[:size])
        annotations = {annotation.id for annotation in self._annotations if annotation.group in groups}
        known = {annotation.id for annotation in self._annotations}
        # Pairs of dialogues that nobody annotated are in no group: of them as large a share is taken.
        others = [key for key, pair in training_set.pairs.items() if pair.group not in known]
        kept = set(others[: math.ceil(len(others) * len(groups) / len(self.split.training))])
        return dataclasses.replace(
            training_set,
            dialogues={source: d for source, d in training_set.dialogues.items() if source[0] in annotations},
            pairs={k: pair for k, pair in training_set.pairs.items() if pair.group in annotations or k in kept},
        )

    def _validation_dialogues(self, config: Config) -> list[Dialogue]:
        """Return the validation part as it is asked: with the examples of a memory that has none of it."""
        examples = config.memory.examples
        if examples not in self._asked:
            memory = profile_memory(self._store, config, self._lm, self._validation)
            self._asked[examples] = [memory.with_examples(dialogue) for dialogue in self._validation]
        return self._asked[examples]

    def _held_out_dialogues(self) -> list[Dialogue]:
        return [annotation.preferred for annotation in self._held_out if annotation.preferred is not None]

    def _count(self, dialogues: Sequence[Dialogue], max_length: int) -> int:
        return sum(len(sample) for sample in make_samples(self._lm, dialogues, max_length).samples)


def _split_groups(annotations: Sequence[AnnotationRow], held_out: int, folder: Path, seed: int) -> TuningSplit:
    """Divide the groups of near-duplicates into those to train on and those to score on."""
    if not annotations and not held_out:
        raise UserError("no annotated dialogue to tune on", folder, remedy=Action.ANNOTATE)
    if not held_out:
        what = "no annotated dialogue is held out, on which settings could be compared at the end"
        raise UserError(what, folder, "annotate more dialogues", remedy=Action.ANNOTATE)
    if held_out < MIN_HELD_OUT:
        count = counted(held_out, "annotated dialogue is", "annotated dialogues are")
        what = f"only {count} held out, too few to compare settings at the end; at least {MIN_HELD_OUT} are needed"
        raise UserError(what, folder, "annotate more dialogues", remedy=Action.ANNOTATE)
    groups = list(dict.fromkeys(annotation.group for annotation in annotations))
    if len(groups) < _MIN_GROUPS:
        count = counted(len(groups), "group")
        what = f"only {count} of different annotated dialogues can be tuned on; at least {_MIN_GROUPS} are needed"
        raise UserError(what, folder, "annotate more dialogues", remedy=Action.ANNOTATE)
    order = [groups[i] for i in np.random.default_rng([seed, 1]).permutation(len(groups))]
    size = min(max(1, round(_VALIDATION_RATIO * len(groups))), _MAX_VALIDATION_GROUPS)
    return TuningSplit(tuple(order[size:]), tuple(order[:size]))


def _data_key(config: Config, rung: int | None) -> _DataKey:
    """Return the settings of a candidate that change what it is trained on."""
    finetune = config.finetune
    return finetune.objective, finetune.examples, config.memory.examples, finetune.negatives, rung


def _with_pairs(config: Config) -> Config:
    """Return settings with an objective that uses dialogues and preference pairs."""
    return dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, objective="sft+dpo"))
