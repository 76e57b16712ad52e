"""What a training learns from: the present annotations, or what one that was interrupted began with."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_personal.dialogue import Dialogue, are_near_duplicates
from mlx_personal.errors import UserError
from mlx_personal.finetune import Example, LoRAConfig
from mlx_personal.profile import Store


@dataclass(frozen=True)
class TrainingSet:
    """What is learnt.

    Args:
        sources: what each dialogue is: (annotation id, synthetic id or None for the annotated dialogue itself).
        dialogues: in the same order.
        run: the interrupted run that began with them and goes on; None for a new one.
        dropped: the interrupted run that does not go on, if there is one.
        notes: what the owner should know of that, a line each.
    """

    sources: list[tuple[int, int | None]]
    dialogues: list[Dialogue]
    run: int | None = None
    dropped: int | None = None
    notes: tuple[str, ...] = ()

    def examples(self, synthetic_weight: float) -> list[Example]:
        """Return the examples to train on, each in the group of its annotation.

        Args:
            synthetic_weight: Weight of a synthetic dialogue, where an annotated one weighs 1.
        """
        return [
            Example(dialogue, annotation, 1.0 if synthetic is None else synthetic_weight)
            for dialogue, (annotation, synthetic) in zip(self.dialogues, self.sources, strict=True)
        ]


def training_set(store: Store, fingerprint: str, held_out: Sequence[Dialogue], restart: bool = False) -> TrainingSet:
    """What to learn now; UserError for nothing. It only looks: `begin_run` begins.

    An interrupted run on the present base goes on with what it began with, unless it is to `restart` or some of that
    may not be learnt any more.
    """
    present = _present_set(store, held_out)
    interrupted = interrupted_run(store, fingerprint)
    if interrupted is None:
        return present
    if restart:
        return dataclasses.replace(present, dropped=interrupted, notes=("an interrupted training is dropped",))
    known = dict(zip(present.sources, present.dialogues, strict=True))
    sources = [(row["annotation_id"], row["synthetic_id"]) for row in store.training_sources(interrupted)]
    if sources and all(source in known for source in sources):
        return TrainingSet(sources, [known[source] for source in sources], run=interrupted)
    note = "an interrupted training is dropped: it learnt from what may not be learnt any more"
    return dataclasses.replace(present, dropped=interrupted, notes=(note,))


def begin_run(store: Store, config: LoRAConfig, fingerprint: str, learnt: TrainingSet) -> int:
    """The interrupted run that goes on, or a new one."""
    if learnt.run is not None:
        return learnt.run
    if learnt.dropped is not None:
        shutil.rmtree(states_folder(store, learnt.dropped), ignore_errors=True)
    with store.database.transaction():
        run = store.begin_run("training", fingerprint, {**config.to_json(), **store.last_ids()})
        store.add_training_rows(run, learnt.sources)
    return run


def interrupted_run(store: Store, fingerprint: str) -> int | None:
    """The latest training on this base, if it has not finished and left a state to go on from."""
    run = store.unfinished_run("training", fingerprint)
    return run.id if run is not None and states_folder(store, run.id).exists() else None


def states_folder(store: Store, run: int) -> Path:
    """Where the states of a training are while it has not ended."""
    return store.folder / f"training/{run:04d}"


def _present_set(store: Store, held_out: Sequence[Dialogue]) -> TrainingSet:
    """All annotated dialogues that are not set aside, then their kept synthetic sets; UserError for none."""
    originals = {a.id: a.preferred for a in store.preferred(held_out=False) if a.preferred is not None}
    if not originals:
        raise UserError("no annotated dialogue to train on", store.folder, "run `mlx-personal review` first")
    synthetic = [
        (s.annotation_id, s.id, s.dialogue)
        for s in store.synthetic()
        if s.kept
        and s.annotation_id in originals
        and s.dialogue is not None
        # What was rewritten before a like dialogue was set aside must not be trained on any more.
        and not any(are_near_duplicates(s.dialogue, other) for other in held_out)
    ]
    sources: list[tuple[int, int | None]] = [(a, None) for a in originals]
    sources += [(annotation, rewrite) for annotation, rewrite, _ in synthetic]
    return TrainingSet(sources, [*originals.values(), *(dialogue for _, _, dialogue in synthetic)])
