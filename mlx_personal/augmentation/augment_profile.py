"""A profile's owner as the one user: a server writes synthetic sets of the annotated dialogues, `train` learns them.

A guest on the profile: it reads the annotations and adds a synthesis to the store, which takes the place of older ones
of the same annotations, as any synthesis does. Consent, ledger and answers lie in the profile's folder `augment`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import Final

from mlx_personal.augmentation import device
from mlx_personal.augmentation.augment_users import Body, bodies
from mlx_personal.augmentation.client import Asked, ask
from mlx_personal.augmentation.config import AugmentConfig
from mlx_personal.augmentation.consent import Consent
from mlx_personal.augmentation.ledger import Ledger
from mlx_personal.augmentation.response_cache import Answers, opened
from mlx_personal.augmentation.server import Server
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.augmentation.user_files import record_of
from mlx_personal.dialogue import rouge1
from mlx_personal.errors import UserError
from mlx_personal.personalizer import Personalizer
from mlx_personal.progress import Progress

FOLDER: Final = "augment"
# Samples the demonstrations; a folder of one's own has no other user.
_OWNER: Final = "owner"
_TASK: Final = Task()


@dataclass(frozen=True)
class Augmented:
    """What came of it.

    Args:
        records: of the annotated dialogues; skipped: those that are no records, by reason; sent: those shown to the
            server; too_long: those over the budget of tokens alone.
        counts: how many of the requests met which fate; kept: synthetic sets that came of them.
        found: nothing was new since the last time, so nothing was stored.
        left: some answers are missing after a failure, so nothing was judged: the next run goes on.
        asked: what the asking came to.
    """

    records: int
    skipped: dict[str, int]
    sent: int
    too_long: int
    counts: dict[str, int]
    kept: int
    found: bool
    left: bool
    asked: Asked


def augment_profile(
    me: Personalizer,
    server: Server,
    config: AugmentConfig,
    *,
    concurrency: int = 8,
    token_budget: int | None = None,
    on_progress: Progress | None = None,
) -> Augmented:
    """Has the server write synthetic sets of the annotated dialogues that are not set aside, and keeps the good ones.

    Of `config` the training and its weight have no effect: the profile's own settings say how `train` learns. UserError
    where no dialogue is annotated, no consent is given, the server refuses, or the disk does; StoppedError for SIGTERM
    and Ctrl-C while the server was asked.
    """
    folder = me.folder / FOLDER
    Consent(folder).require(server.url, server.model)
    own = _own(me)
    lm = me.base()
    prepared = device.prepare(lm, _OWNER, _TASK, own.records, config)
    with opened(folder) as database, Ledger(folder) as ledger:
        asked = ask(
            prepared.requests,
            server,
            Answers(database),
            ledger,
            concurrency=concurrency,
            token_budget=token_budget,
            on_progress=on_progress,
        )
    done = Augmented(len(own.records), own.skipped, len(prepared.sent), prepared.too_long, {}, 0, False, False, asked)
    if asked.failed or asked.left:
        return dataclasses.replace(done, left=True)
    forbidden = [turn for dialogue in me.judge.held_out() for turn in dialogue.user_turns]
    settings = {"augment": config.to_json(), "model": server.model, "temperature": server.temperature}
    decisive = [own.annotations, [dataclasses.astuple(r) for r in own.records], forbidden, settings, asked.answers]
    key = hashlib.sha256(json.dumps([me.fingerprint, *decisive], sort_keys=True).encode()).hexdigest()
    last = me.store.last_run("synthesis", me.fingerprint)
    if last is not None and last.config.get("key") == key and last.result is not None:
        return dataclasses.replace(done, counts=last.result["counts"], kept=last.result["kept"], found=True)
    made = device.synthetic(lm, _TASK, own.records, prepared, asked.answers, config, forbidden)
    done = dataclasses.replace(done, counts=made.counts, kept=len(made.records))
    run = me.store.begin_run("synthesis", me.fingerprint, {"key": key, **settings})
    rows = [
        (
            own.annotations[source],
            _TASK.dialogue(record),
            asked.answers[number] or "",
            rouge1(record.text, own.records[source].text),
            True,
            "kept",
        )
        for record, source, number in zip(made.records, made.sources, made.requests, strict=True)
    ]
    with me.store.database.transaction():
        me.store.add_synthetic(run, rows)
        me.store.finish_run(run, {"counts": made.counts, "kept": len(rows)})
    return done


def preview_profile(me: Personalizer, server: Server, config: AugmentConfig) -> list[Body]:
    """The bodies that `augment_profile` would send, as `augment.preview` has them."""
    prepared = device.prepare(me.base(), _OWNER, _TASK, _own(me).records, config)
    return bodies(me.folder / FOLDER, prepared.requests, server)


@dataclass(frozen=True)
class _Own:
    """The owner's records, the annotation that each is, and how many annotations are no record for which reason."""

    records: tuple[Record, ...]
    annotations: tuple[int, ...]
    skipped: dict[str, int]


def _own(me: Personalizer) -> _Own:
    records: list[Record] = []
    annotations: list[int] = []
    skipped: Counter[str] = Counter()
    for annotation in me.store.preferred(held_out=False):
        assert annotation.preferred is not None
        try:
            records.append(record_of(annotation.preferred, _TASK))
        except ValueError as error:
            skipped[str(error)] += 1
        else:
            annotations.append(annotation.id)
    if not records:
        why = "no annotated dialogue to send" + "".join(f", {n} skipped: {reason}" for reason, n in skipped.items())
        raise UserError(why, me.folder, "run `mlx-personal review` first")
    return _Own(tuple(records), tuple(annotations), dict(skipped))
