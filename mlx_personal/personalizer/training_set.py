"""What a training learns from, and which run it belongs to: a new one, or one that was interrupted."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_personal.dialogue import Dialogue, near_duplicates
from mlx_personal.dialogue.readers import BadLine, read_dialogues
from mlx_personal.errors import UserError
from mlx_personal.finetune import LoRAConfig
from mlx_personal.store import Store


@dataclass(frozen=True)
class TrainingSet:
    """Dialogues, and for each what it is: (annotation id, synthetic id or None for the annotated dialogue itself)."""

    sources: list[tuple[int, int | None]]
    dialogues: list[Dialogue]

    @property
    def annotations(self) -> list[int]:
        """The annotation each dialogue goes back to."""
        return [annotation for annotation, _ in self.sources]


def run_to_train(
    store: Store, config: LoRAConfig, fingerprint: str, held_out: Sequence[Dialogue], restart: bool
) -> tuple[int, TrainingSet]:
    """The run to go on with, or a new one, and what it learns from; UserError for nothing to learn from.

    An interrupted run on the present base goes on with what it began with, unless it is to `restart` or some of that
    may not be learnt any more.
    """
    interrupted = interrupted_run(store, fingerprint)
    if interrupted is not None:
        begun_with = None if restart else _set_of_run(store, interrupted, held_out)
        if begun_with is not None:
            return interrupted, begun_with
        shutil.rmtree(states_folder(store, interrupted), ignore_errors=True)
    learnt = _present_set(store, held_out)
    with store.database.transaction():
        run = store.begin_run("training", fingerprint, {**dataclasses.asdict(config), **store.last_ids()})
        store.add_training_rows(run, learnt.sources)
    return run, learnt


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
        and not any(near_duplicates(s.dialogue, other) for other in held_out)
    ]
    sources: list[tuple[int, int | None]] = [(a, None) for a in originals]
    sources += [(annotation, rewrite) for annotation, rewrite, _ in synthetic]
    return TrainingSet(sources, [*originals.values(), *(dialogue for _, _, dialogue in synthetic)])


def _set_of_run(store: Store, run_id: int, held_out: Sequence[Dialogue]) -> TrainingSet | None:
    """What a run began with, without what has come since; None if some of it may not be learnt any more."""
    present = _present_set(store, held_out)
    known = dict(zip(present.sources, present.dialogues, strict=True))
    sources = [(row["annotation_id"], row["synthetic_id"]) for row in store.training_sources(run_id)]
    if not sources or not all(source in known for source in sources):
        return None
    return TrainingSet(sources, [known[source] for source in sources])


def general_dialogues(path: str) -> list[Dialogue]:
    """The general dialogues of a file, none for no path; UserError that names the first bad line."""
    if not path:
        return []
    found = []
    for line in read_dialogues(Path(path).expanduser()):
        if isinstance(line, BadLine):
            raise UserError(f"no dialogue ({line.reason})", line.where, "mend that line, or name another file")
        found.append(line)
    if len(found) < 2:
        raise UserError("fewer than two general dialogues", path, "name a file with more")
    return found
