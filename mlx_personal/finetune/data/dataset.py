"""Prepare the samples of a training run: the validation split, the general samples, and notes for the user."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_personal.dialogue import Dialogue, Message
from mlx_personal.errors import UserError
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.data.examples import Example, PreferencePair
from mlx_personal.finetune.data.negatives import negative_pairs
from mlx_personal.finetune.data.samples import SamplePair, SampleSet, TrainingData, make_samples
from mlx_personal.models import LanguageModel
from mlx_personal.reporting import counted


@dataclass(frozen=True)
class PreparedData:
    """The samples of a training run, with notes on their preparation.

    Attributes:
        data: The samples.
        dropped: Number of the examples' samples left out because they have no target.
        truncated: Number of the examples' samples truncated from the left.
        notes: Notes on settings that had no effect or could not be satisfied, one line each.
    """

    data: TrainingData
    dropped: int
    truncated: int
    notes: tuple[str, ...]


def prepare_data(
    lm: LanguageModel,
    examples: Sequence[Example],
    config: LoRAConfig,
    general: Sequence[Dialogue] = (),
    pairs: Sequence[PreferencePair] = (),
) -> PreparedData:
    """Prepare the samples of a training run.

    Args:
        lm: The model whose tokenizer and chat template are used.
        examples: The dialogues to train on; not used by an objective of pairs alone without `negatives`.
        config: Settings of the training run.
        general: General dialogues. Every second one measures forgetting; the others may be replayed.
        pairs: The preference pairs to train on; only used by an objective that needs them. Those with two equal
            answers are left out.

    Returns:
        The samples, with notes on their preparation.

    Raises:
        UserError: If there is nothing to train on.
    """
    max_seq_length = min(config.max_seq_length, lm.context_length)
    different = usable_pairs(config, pairs)
    examples = examples if config.needs_dialogues else []
    members: list[Example | PreferencePair] = [*examples, *different]
    groups = [index if member.group is None else ("group", member.group) for index, member in enumerate(members)]
    validation_groups = draw_validation_groups(groups, config)
    training = [member for member, group in zip(members, groups, strict=True) if group not in validation_groups]
    validating = [member for member, group in zip(members, groups, strict=True) if group in validation_groups]
    train, trained_pairs = _make_samples(lm, training, max_seq_length, config, weights_count=True)
    validation, validation_pairs = _make_samples(lm, validating, max_seq_length, config, weights_count=False)
    if not train.samples and not trained_pairs.pairs:
        if config.negatives and not train.dropped + trained_pairs.dropped:
            what = "nothing to train on: no dialogue has an answer that could be rejected for another one's question"
            raise UserError(what, hint="annotate more dialogues, or set objective to sft")
        dropped = train.dropped + trained_pairs.dropped
        raise UserError(
            f"nothing to train on: {dropped} samples have no target, or none that fits into {max_seq_length} tokens",
            hint="annotate some dialogues first, or raise max_seq_length",
        )
    measured = make_samples(lm, general[::2], max_seq_length).samples
    replayable = make_samples(lm, general[1::2], max_seq_length).samples
    replay_count = round(
        config.replay_ratio / (1 - config.replay_ratio) * (len(train.samples) + len(trained_pairs.pairs))
    )
    # The same samples in each epoch.
    order = np.random.default_rng([config.seed, 1]).permutation(len(replayable))[:replay_count]
    data = TrainingData(
        train.samples,
        [replayable[i] for i in order],
        validation.samples,
        measured,
        trained_pairs.pairs,
        validation_pairs.pairs,
    )
    notes = []
    if config.uses_pairs:
        notes += _notes_on_pairs(config, pairs, different, data)
    if config.validation_split and not validation.samples and not validation_pairs.pairs:
        reason = "the validation examples have no target" if validation_groups else "all examples are of one group"
        notes.append(f"validation_split has no effect, since {reason}: the adapter of the last epoch is used")
    if len(replayable) < replay_count:
        notes.append(
            f"replay_ratio requires {replay_count} general samples, but half of those in general_data are only "
            f"{len(replayable)}"
        )
    if general and not measured:
        notes.append("the general dialogues have no target: forgetting cannot be measured")
    sets = (train, validation, trained_pairs, validation_pairs)
    return PreparedData(data, sum(s.dropped for s in sets), sum(s.truncated for s in sets), tuple(notes))


def usable_pairs(config: LoRAConfig, pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """Return those of the given pairs that the objective uses: with two different answers, or none for `sft`.

    Args:
        config: Settings of the training run.
        pairs: The pairs.

    Raises:
        UserError: If there are none for an objective of pairs alone without `negatives`.
    """
    different = [pair for pair in pairs if not pair.is_equal] if config.uses_pairs else []
    if not different and not config.needs_dialogues:
        reason = f": the two answers of all {len(pairs)} pairs are equal" if pairs else ""
        what = f"there is no preference pair to train on, which the objective {config.objective} needs{reason}"
        raise UserError(what, hint="edit or rewrite some answers first, or set objective to sft")
    return different


@dataclass(frozen=True)
class _PairSet:
    pairs: list[SamplePair]
    dropped: int
    truncated: int


def _make_samples(
    lm: LanguageModel,
    members: Sequence[Example | PreferencePair],
    max_seq_length: int,
    config: LoRAConfig,
    weights_count: bool,
) -> tuple[SampleSet, _PairSet]:
    """Make the samples of one side of the validation split; no answer of the other side is among its negatives."""
    examples = [member for member in members if isinstance(member, Example)]
    pairs = [member for member in members if isinstance(member, PreferencePair)]
    pairs += negative_pairs(examples, config.negatives, config.seed)
    single = examples if config.uses_dialogues else []
    weights = [example.weight for example in single] if weights_count else None
    samples = make_samples(lm, [example.dialogue for example in single], max_seq_length, weights)
    return samples, _make_pairs(lm, pairs, max_seq_length, config)


def _make_pairs(
    lm: LanguageModel, preference_pairs: Sequence[PreferencePair], max_seq_length: int, config: LoRAConfig
) -> _PairSet:
    """Make the samples of preference pairs; a pair is dropped if one of its sides is."""
    pairs, dropped, truncated = [], 0, 0
    # ORPO has a cross entropy of its own, that of the chosen answers.
    chosen_weight = 1.0 if config.objective == "orpo" else 0.0
    for pair in preference_pairs:
        sides = [make_samples(lm, [_last_answer_only(d)], max_seq_length) for d in (pair.chosen, pair.rejected)]
        truncated += sum(side.truncated for side in sides)
        if not all(len(side.samples) == 1 for side in sides):
            dropped += 1
            continue
        chosen, rejected = (side.samples[0] for side in sides)
        pairs.append(
            SamplePair(dataclasses.replace(chosen, weight=chosen_weight), dataclasses.replace(rejected, weight=0.0))
        )
    return _PairSet(pairs, dropped, truncated)


def _last_answer_only(dialogue: Dialogue) -> Dialogue:
    """Return a dialogue whose last answer is its only target."""
    *context, last = dialogue.messages
    return Dialogue((*(Message(m.role, m.content, 0) if m.role == "assistant" else m for m in context), last))


def _notes_on_pairs(
    config: LoRAConfig, pairs: Sequence[PreferencePair], different: Sequence[PreferencePair], data: TrainingData
) -> list[str]:
    notes = []
    if len(different) < len(pairs):
        count = counted(len(pairs) - len(different), "preference pair")
        notes.append(f"left out, because the two answers are equal: {count}")
    if not data.pairs:
        notes.append(f"there is no preference pair to train on: {config.objective} is the same as sft")
    return notes


def draw_validation_groups(groups: Sequence[Hashable], config: LoRAConfig) -> set[Hashable]:
    """Draw the configured fraction of the groups for validation, at least one but never all.

    Args:
        groups: The groups of all examples, in order.
        config: Settings of the training run.
    """
    distinct = list(dict.fromkeys(groups))
    if not config.validation_split or len(distinct) < 2:
        return set()
    count = min(max(1, round(config.validation_split * len(distinct))), len(distinct) - 1)
    order = np.random.default_rng([config.seed, 2]).permutation(len(distinct))
    return {distinct[i] for i in order[:count]}
