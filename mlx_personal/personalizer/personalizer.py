"""The loop on one profile: what is heard is scored and selected, the owner is asked, the model learns and answers.

    me = Personalizer.create(Path("profile"), "demo")
    me.observe([Dialogue.of("How long do eggs boil?", "Seven minutes.")])
    for question in me.annotations.questions():
        me.annotations.record(question.dialogue_id, "accept")
    me.synthesize()
    print(me.train().evaluation)

Only joins the rooms; each rule stands in its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from mlx_personal.annotation import AnnotationQueue
from mlx_personal.chat import Conversation
from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue, load_dialogues
from mlx_personal.embedding import make_embedder
from mlx_personal.errors import UserError
from mlx_personal.evaluation import assign_split
from mlx_personal.finetune import TrainingEstimate, TrainingReport, estimate_training, finetune
from mlx_personal.finetune.distributed import ProcessGroup
from mlx_personal.finetune.plot import curves_of, loss_plot_png
from mlx_personal.finetune.worker import broadcast_job
from mlx_personal.models import LanguageModel, load_language_model
from mlx_personal.models.loading import canonical_name, fingerprint, resolve_model
from mlx_personal.personalizer.adapters import Adapters
from mlx_personal.personalizer.observer import Observer
from mlx_personal.personalizer.pending import PendingStep, pending_steps
from mlx_personal.personalizer.promotion import Promoter, PromotionResult
from mlx_personal.personalizer.training_set import begin_run, states_folder, training_set
from mlx_personal.profile import AdapterRow, Store, holds_profile
from mlx_personal.progress import Progress
from mlx_personal.storage.files import atomic_write
from mlx_personal.synthesis import synthesize


@dataclass(frozen=True)
class ObserveResult:
    """What became of some dialogues: how many were given, were new to the stream, and met each decision."""

    given: int
    new: int
    decisions: dict[str, int]


@dataclass(frozen=True)
class SynthesisResult:
    """How many dialogues were rewritten, how many texts came of it, and how many were kept; the rest by reason."""

    dialogues: int
    generated: int
    kept: int
    dropped: dict[str, int]


@dataclass(frozen=True)
class TrainResult(PromotionResult):
    """A trained adapter, and what came of judging it. `plot`: a picture of its losses, None without matplotlib."""

    adapter: AdapterRow
    report: TrainingReport
    plot: str | None


class Personalizer:
    """One owner's profile: a folder with a store, settings, lexicons and adapters.

    Args:
        folder: a profile's folder that `create` has made.
        write: False opens it for reading only, beside a process that writes.
        lm: a model that is already loaded; else it is loaded when first needed.

    Its parts are `adapters`, `annotations`, `judge` and `observer`. `seconds` holds the time spent in each room so far.
    """

    def __init__(self, folder: Path, write: bool = True, lm: LanguageModel | None = None):
        self.folder = Path(folder).expanduser()
        if not holds_profile(self.folder):
            raise UserError("there is no profile here yet", self.folder, "run `mlx-personal init` first")
        self.config = Config.read(self.folder / "config.toml")
        self.store = Store(self.folder, write)
        self.adapters = Adapters(self.store)
        self.annotations = AnnotationQueue(self.store, self.config.annotation, self._place)
        self.seconds: dict[str, float] = {}
        self.observer = Observer(self.store, self.config, self._timed)
        self.judge = Promoter(self.store, self.adapters, self.config, self.adapted, self._timed)
        self._lm = lm
        self._base_checked = False

    @classmethod
    def create(
        cls, folder: Path, model: str | Path, config: Config | None = None, lm: LanguageModel | None = None
    ) -> Personalizer:
        """Makes a profile on a base model: `demo`, a model folder, or a hub repository.

        `config` is written to the profile's config.toml where there is none yet.
        """
        folder = Path(folder).expanduser()
        lm = lm or load_language_model(model)
        store = Store(folder)
        try:
            if store.meta("model") is not None:
                raise UserError("there is a profile here already", folder, "open it, or change its model with init")
            settings = folder / "config.toml"
            if not settings.exists():
                atomic_write(settings, (config or Config()).to_toml().encode())
            with store.database.transaction():
                _remember_model(store, model)
        finally:
            store.close()
        return cls(folder, lm=lm)

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Personalizer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @contextlib.contextmanager
    def _timed(self, room: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[room] = self.seconds.get(room, 0.0) + time.perf_counter() - start

    # The model

    @property
    def model_name(self) -> str:
        """The base model as it was named."""
        return self.store.meta("model") or ""

    @property
    def fingerprint(self) -> str:
        """Of the base model's weights: an adapter fits only the base it was trained on."""
        return self.store.fingerprint()

    def base(self, lazy: bool = False) -> LanguageModel:
        """The base model, without an adapter. Loaded once; with `lazy`, its weights are read when they are used."""
        try:
            if self._lm is None:
                self._lm = load_language_model(self.model_name, lazy=lazy)
            changed = not self._base_checked and fingerprint(resolve_model(self.model_name)) != self.fingerprint
        except UserError as error:
            hint = "if the model has moved, name its new place with `mlx-personal init --model`"
            raise UserError(error.what, error.where, hint) from error
        if changed:
            raise UserError(
                "the base model is not the one this profile was made with",
                self.model_name,
                f"run `mlx-personal init --model {self.model_name}` to take it over",
            )
        self._base_checked = True
        self._lm.detach_adapter()
        return self._lm

    def adapted(self, adapter: AdapterRow | None) -> LanguageModel:
        """The model with this adapter; UserError if it was trained on another base."""
        lm = self.base()
        if adapter is not None:
            self.adapters.check_base(adapter)
            lm.attach_adapter(self.folder / adapter.folder)
        return lm

    def change_model(self, model: str | Path) -> int:
        """Moves the profile to another base: re-embeds the buffer, and lets the new base answer until a retraining.

        Annotations stay, and so do the old base's adapters: on the way back the one that answered last answers again.
        Returns how many bins were re-embedded.
        """
        lm = load_language_model(model)
        with self.store.database.transaction():
            _remember_model(self.store, model)
            embedded = self.observer.reembed(make_embedder(self.config.embedding, lm))
        self._lm = lm
        return embedded

    # Embed, score, select

    def observe(
        self,
        dialogues: Iterable[Dialogue],
        source: str = "api",
        adapter_id: int | None = None,
        on_progress: Progress | None = None,
    ) -> ObserveResult:
        """Appends dialogues to the stream, then scores and selects all that wait.

        Args:
            source: where they come from, kept with them.
            adapter_id: the adapter that gave the answers, if an adapted model did.
            on_done: called with (dialogues scored, dialogues that waited) after each chunk.
        """
        given = list(dialogues)
        new = self.store.add_dialogues(given, source, adapter_id)
        return ObserveResult(len(given), new, self.score(on_progress))

    def score(self, on_progress: Progress | None = None) -> dict[str, int]:
        """Scores and selects the dialogues of the stream that wait for it; how many met each decision."""
        if not self.store.unscored_count():
            return {}
        return self.observer.score(make_embedder(self.config.embedding, self.base()), on_progress)

    # Annotate

    def _place(self, dialogue: Dialogue, judged: Sequence[tuple[Dialogue, int, bool]]) -> tuple[int, bool]:
        return assign_split(dialogue, judged, self.config.evaluation)

    # Synthesize, train, evaluate

    def synthesize(self, on_progress: Progress | None = None, anew: bool = False) -> SynthesisResult:
        """Lets the base model rewrite every annotated dialogue that has no synthetic set yet (all of them, `anew`).

        Dialogues set aside for evaluation are never rewritten, and no rewrite may repeat one of them.
        """
        covered = set() if anew else {s.annotation_id for s in self.store.synthetic()}
        waiting = [a for a in self.store.preferred(held_out=False) if a.id not in covered]
        if not waiting:
            return SynthesisResult(0, 0, 0, {})
        lm = self.base()
        run = self.store.begin_run("synthesis", self.fingerprint, dataclasses.asdict(self.config.synthesis))
        sources = [a.preferred for a in waiting if a.preferred is not None]
        with self._timed("synthesis"):
            made = synthesize(lm, sources, self.config.synthesis, on_progress, self.judge.held_out())
        dropped: dict[str, int] = {}
        for candidate in made:
            if not candidate.kept:
                dropped[candidate.reason] = dropped.get(candidate.reason, 0) + 1
        done = SynthesisResult(len(waiting), len(made), len(made) - sum(dropped.values()), dropped)
        with self.store.database.transaction():
            rows = ((waiting[c.source].id, c.dialogue, c.raw, c.rouge1, c.kept, c.reason) for c in made)
            self.store.add_synthetic(run, rows)
            self.store.finish_run(run, dataclasses.asdict(done))
        return done

    def train(
        self,
        on_progress: Progress | None = None,
        restart: bool = False,
    ) -> TrainResult:
        """Trains a new adapter on the annotated dialogues and their synthetic sets, and promotes it if it is better.

        Whether it is, `judge` decides. A training that was interrupted is finished first, on what it began with;
        `restart` drops it.

        Args:
            on_done: called for each answer of the comparison.
        """
        general = _load_general_dialogues(self.config.finetune.general_data)
        # Whether it fits is known before the weights are read.
        lm, group = self.base(lazy=True), ProcessGroup()
        learnt = training_set(self.store, self.fingerprint, self.judge.held_out(), restart)
        run = begin_run(self.store, self.config.finetune, self.fingerprint, learnt)
        folder, states = self.folder / f"adapters/{run:04d}", states_folder(self.store, run)
        # A run that has not finished has no adapter: what lies there was written right before an interruption.
        shutil.rmtree(folder, ignore_errors=True)
        provenance = {"base_model": self.model_name, "base_fingerprint": self.fingerprint}
        examples = learnt.examples(self.config.mixture.synthetic_weight)
        broadcast_job(group, lm, examples, self.config.finetune, general)
        with self._timed("finetune"):
            report = finetune(
                lm,
                examples,
                self.config.finetune,
                folder,
                general=general,
                metadata=provenance,
                checkpoint_dir=states,
                process_group=group,
                on_progress=on_progress,
            )
        report = dataclasses.replace(report, notes=(*learnt.notes, *report.notes))
        with self.store.database.transaction():
            adapter_id = self.store.add_adapter(run, f"adapters/{run:04d}", self.fingerprint)
            self.store.finish_run(run, dataclasses.asdict(report))
        plot = folder / "losses.png"
        with contextlib.suppress(UserError):  # a picture is no reason to fail
            loss_plot_png(plot, curves_of(report))
        judgement = self.judge.decide(self.adapters.get(adapter_id), on_progress)
        return TrainResult(
            **vars(judgement),
            adapter=self.adapters.get(adapter_id),
            report=report,
            plot=str(plot) if plot.exists() else None,
        )

    def estimate_training(self, restart: bool = False) -> TrainingEstimate:
        """What `train` would do now, and how much memory it would take: no weights are read, and no run is begun."""
        general = _load_general_dialogues(self.config.finetune.general_data)
        learnt = training_set(self.store, self.fingerprint, self.judge.held_out(), restart)
        lm = self.base(lazy=True)
        examples = learnt.examples(self.config.mixture.synthetic_weight)
        found = estimate_training(lm, examples, self.config.finetune, general)
        goes_on = "an interrupted training goes on with these rows, in the parts that it began with"
        notes = [*learnt.notes, *([] if learnt.run is None else [goes_on]), *found.notes]
        return dataclasses.replace(found, notes=tuple(notes))

    # Use

    def conversation(self) -> Conversation:
        """A new conversation with the promoted adapter, or with the base model where none is."""
        return Conversation(self.adapted(self.adapters.promoted()), self.config.chat)

    @contextlib.contextmanager
    def remembered(self, conversation: Conversation) -> Iterator[Conversation]:
        """What is said inside the block goes back into the stream at its end, marked with the adapter that answered."""
        promoted = self.adapters.promoted()
        try:
            yield conversation
        finally:
            if conversation.dialogue is not None:
                adapter_id = None if promoted is None else promoted.id
                self.store.add_dialogues([conversation.dialogue], "chat", adapter_id)

    # Where it stands

    def pending_steps(self) -> list[PendingStep]:
        """The steps of the loop whose time has come, in order."""
        return pending_steps(self.store, self.config, self.fingerprint)

    def status(self) -> dict[str, Any]:
        """Where the profile stands, as plain values."""
        selector, promoted, last = self.observer.selector(), self.adapters.promoted(), self.store.last_run("training")
        annotated = self.store.annotations()
        return {
            "folder": str(self.folder),
            "model": self.model_name,
            "received": self.store.received(),
            "unscored": self.store.unscored_count(),
            "bins": {"filled": len(selector.buffer), "capacity": self.config.selection.bins},
            "decisions": self.store.action_counts(),
            "questions": {"open": len(self.annotations.open_questions()), "left_today": self.annotations.left_today()},
            "annotated": sum(a.preferred is not None for a in annotated),
            "held_out": sum(a.preferred is not None and a.held_out for a in annotated),
            "skipped": sum(a.preferred is None for a in annotated),
            "synthetic": {"written": len(s := self.store.synthetic()), "kept": sum(x.kept for x in s)},
            "adapters": len(self.store.adapters()),
            "promoted": None if promoted is None else promoted.id,
            "last_training": None if last is None else last.finished_at,
            "due": [dataclasses.asdict(d) for d in self.pending_steps()],
        }


def _load_general_dialogues(path: str) -> list[Dialogue]:
    """Return the dialogues of the setting `general_data`; none if it is empty."""
    return load_dialogues(path, min_count=2) if path else []


def _remember_model(store: Store, model: str | Path) -> None:
    store.set_meta("fingerprint", fingerprint(resolve_model(model)))
    store.set_meta("model", canonical_name(model))
