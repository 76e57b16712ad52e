"""The learning loop of one profile: select dialogues, ask the user about them, train the model, and chat with it.

    personalizer = Personalizer.create(Path("profile"), "demo")
    personalizer.observe([Dialogue.of("How long do eggs boil?", "Seven minutes.")])
    for question in personalizer.annotations.questions():
        personalizer.annotations.record(question.dialogue_id, "accept")
    personalizer.synthesize()
    print(personalizer.train().evaluation)

This module connects the packages that implement the steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from mlx_personal.annotation import AnnotationQueue, GroupedDialogue
from mlx_personal.chat import ChatConfig, Conversation
from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue
from mlx_personal.embedding import make_embedder
from mlx_personal.errors import Action, Remedy, StorageError, UserError
from mlx_personal.evaluation import Evaluation, assign_split
from mlx_personal.finetune import TrainingEstimate, TrainingReport, checkpoint, estimate_training, finetune
from mlx_personal.finetune.distributed import ProcessGroup
from mlx_personal.finetune.plot import curves_of, loss_plot_png
from mlx_personal.finetune.worker import broadcast_job
from mlx_personal.importers import load_dialogues
from mlx_personal.memory import Memory
from mlx_personal.models import LanguageModel, load_language_model
from mlx_personal.models.finding import find_model
from mlx_personal.models.loading import DEMO_MODEL, fingerprint, resolve_model
from mlx_personal.personalizer.adapters import Adapters
from mlx_personal.personalizer.chat_format_record import check_chat_format, record_chat_format
from mlx_personal.personalizer.importing import ImportOptions, ImportResult, import_paths
from mlx_personal.personalizer.memory import as_trained, profile_memory
from mlx_personal.personalizer.observer import Observer
from mlx_personal.personalizer.pending import PendingStep, pending_steps
from mlx_personal.personalizer.promotion import Promoter, PromotionResult
from mlx_personal.personalizer.question_proposals import ProposalResult, propose_for_profile
from mlx_personal.personalizer.status import ProfileStatus, store_status
from mlx_personal.personalizer.training_set import TrainingSet, begin_training, build_training_set
from mlx_personal.personalizer.watching import Poll, poll, unwatch, watch
from mlx_personal.profile import (
    AdapterRow,
    AnnotationRow,
    BinRow,
    DecisionRow,
    DialogueRow,
    NewSynthetic,
    RunRow,
    Store,
    SyntheticRow,
    check_profile_exists,
)
from mlx_personal.profile.undo_import import ImportDependents, UndoneImport, import_dependents, undo_import
from mlx_personal.profile.watched_folders import WatchedFolderRow
from mlx_personal.progress import Progress, as_stage
from mlx_personal.scoring import Lexicons
from mlx_personal.selection import Buffer
from mlx_personal.storage.files import atomic_write
from mlx_personal.synthesis import STYLES, Calibration, SynthesisConfig, calibrate, synthesize
from mlx_personal.synthesis.config import AUTO, CALIBRATION_RECORD, PUBLISHED_METHOD, StyleName

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ObserveResult:
    """The result of adding dialogues to the stream.

    Attributes:
        total: Number of dialogues that were passed in.
        new: Number of these that were new to the stream.
        decisions: Number of dialogues for each action of the selection.
    """

    total: int
    new: int
    decisions: dict[str, int]


@dataclass(frozen=True)
class SynthesisResult:
    """The result of a synthesis run. Its fields are the keys under which profiles store it.

    Attributes:
        dialogues: Number of dialogues that were rewritten.
        generated: Number of generated rewrites; those that fail a check are drawn again.
        kept: Number of rewrites that are trained on.
        dropped: Numbers of the other rewrites by reason.
        wanted: Number of rewrites that were to be kept.
        style: Name of the prompt style; empty if nothing was rewritten.
    """

    dialogues: int
    generated: int
    kept: int
    dropped: dict[str, int]
    wanted: int = 0
    style: str = ""


@dataclass(frozen=True)
class TrainResult(PromotionResult):
    """A trained adapter and its evaluation.

    Attributes:
        adapter: The adapter.
        report: The report of the training run.
        plot: File of a plot of the losses; None without matplotlib.
    """

    adapter: AdapterRow
    report: TrainingReport
    plot: str | None


class Personalizer:
    """One user's profile: a folder with a database, settings, lexicons and adapters.

    Args:
        folder: Folder of a profile, see `create`.
        write: Whether to write, which locks the profile. It can be read while another process writes.
        lm: The base model if it is already loaded; otherwise it is loaded when it is first used.

    Attributes:
        folder: The profile's folder.
        config: The profile's settings.
        store: The profile's store.
        annotations: The open questions and the user's verdicts.
        adapters: The trained adapters.
        imports: The imports and what they brought.
        stage_seconds: Seconds spent in each stage so far.

    Raises:
        UserError: If there is no profile, another process writes to it, or its settings or database cannot be read.
    """

    def __init__(self, folder: Path, write: bool = True, lm: LanguageModel | None = None):
        self.folder = Path(folder).expanduser()
        check_profile_exists(self.folder)
        self.config = Config.read(self.folder / "config.toml")
        self.store = Store(self.folder, write)
        self.adapters = Adapters(self.store)
        self.imports = self.store.imports
        self.annotations = AnnotationQueue(self.store, self.config.annotation, self._assign_split)
        self.stage_seconds: dict[str, float] = {}
        self._observer = Observer(self.store, self.config, self.measure)
        self._promoter = Promoter(self.store, self.adapters, self.config, self.adapted_model, self.measure)
        self._lm = lm
        self._writes = write
        self._base_checked = False

    @classmethod
    def create(
        cls,
        folder: Path,
        model: str | Path,
        config: Config | None = None,
        lm: LanguageModel | None = None,
        creator: str | None = None,
    ) -> Personalizer:
        """Create a profile.

        Args:
            folder: Its folder.
            model: The base model, by any name that `load_language_model` takes.
            config: Its settings, which are written to config.toml unless that file exists.
            lm: The base model if it is already loaded.
            creator: Name of the program that creates the profile; None if the user does.

        Returns:
            The new profile, open for writing.

        Raises:
            UserError: If there is already a profile, or the model cannot be loaded or used for chats.
        """
        folder = Path(folder).expanduser()
        lm = lm or load_language_model(model)
        check_chat_format(lm)
        store = Store(folder)
        try:
            if store.model_name() is not None:
                raise UserError("there is already a profile here", folder, "open it, or change its base model")
            config_file = folder / "config.toml"
            if not config_file.exists():
                atomic_write(config_file, (config or Config()).to_toml().encode())
            with store.transaction():
                _set_model(store, model)
                record_chat_format(store, lm)
                if creator is not None:
                    store.set_creator(creator)
        finally:
            store.close()
        return cls(folder, lm=lm)

    def close(self) -> None:
        """Close the profile and release its lock."""
        self.store.close()

    def __enter__(self) -> Personalizer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the duration of the `with` block to a stage of `stage_seconds`.

        Args:
            stage: Name of the stage.
        """
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + time.perf_counter() - start

    # The model

    @property
    def model_name(self) -> str:
        """Name of the base model."""
        return self.store.model_name() or ""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the base model's weights: an adapter fits only the base model it was trained on."""
        return self.store.fingerprint()

    def base_model(self, lazy: bool = False) -> LanguageModel:
        """Return the base model without an adapter, loaded once.

        Args:
            lazy: Whether its weights are read only when they are used.

        Raises:
            UserError: If the model cannot be loaded or used for chats, or is not the one of the profile.
        """
        try:
            if self._lm is None:
                self._lm = load_language_model(self.model_name, lazy=lazy)
            changed = not self._base_checked and fingerprint(resolve_model(self.model_name)) != self.fingerprint
        except StorageError:
            raise  # a full disk or a missing permission says nothing about where the model is
        except UserError as error:
            hint = "if the model was moved, set its new location"
            raise UserError(error.what, error.where, hint, remedy=Action.SET_BASE_MODEL) from error
        if changed:
            raise UserError(
                "the base model is not the one that this profile was created with",
                self.model_name,
                "set it again to accept the new one",
                remedy=Remedy(Action.SET_BASE_MODEL, {"model": self.model_name}),
            )
        if not self._base_checked:
            check_chat_format(self._lm)
            if self._writes:
                record_chat_format(self.store, self._lm)
        self._base_checked = True
        self._lm.detach_adapter()
        return self._lm

    def adapted_model(self, adapter: AdapterRow | Path | None) -> LanguageModel:
        """Return the model with an adapter, or the base model for None.

        Args:
            adapter: An adapter of the profile, or the folder of any other one in mlx-lm's format.

        Raises:
            UserError: If the adapter was trained on another base model, or its files are damaged.
        """
        lm = self.base_model()
        if isinstance(adapter, AdapterRow):
            self.adapters.check_base(adapter)
            lm.attach_adapter(self.folder / adapter.folder)
        elif adapter is not None:
            try:
                lm.attach_adapter(adapter)
            except StorageError:
                raise
            except UserError as error:
                raise UserError(error.what, error.where, "name the folder of an adapter for this model") from error
        return lm

    def change_model(self, model: str | Path) -> int:
        """Change the base model of the profile. The new one is used without an adapter until the next training run.

        The buffer is embedded again. Annotations are kept, and so are the adapters of the old base model: if it is set
        again, the adapter that was last in use is in use again.

        Args:
            model: The new base model, by any name that `load_language_model` takes.

        Returns:
            The number of bins that were embedded again.

        Raises:
            UserError: If the model cannot be loaded or used for chats; the profile keeps its base model then.
        """
        lm = load_language_model(model)
        check_chat_format(lm)
        with self.store.transaction():
            _set_model(self.store, model)
            record_chat_format(self.store, lm)
            bins = self._observer.reembed(make_embedder(self.config.embedding, lm))
        self._lm = lm
        logger.info("base model changed; %d bins embedded again", bins)
        return bins

    # Embed, score, select

    def observe(
        self,
        dialogues: Iterable[Dialogue],
        source: str = "api",
        adapter_id: int | None = None,
        on_progress: Progress | None = None,
    ) -> ObserveResult:
        """Append dialogues to the stream, then score and select all unscored ones.

        Args:
            dialogues: The dialogues, in order.
            source: Where they come from, which is stored with them.
            adapter_id: Adapter that generated the answers, if any.
            on_progress: Receives an event of stage `scoring` after each chunk.

        Returns:
            The numbers of new dialogues and of the selection's decisions.
        """
        dialogues = list(dialogues)
        new = self.add_dialogues(dialogues, source, adapter_id)
        return ObserveResult(len(dialogues), new, self.score(on_progress))

    def add_dialogues(self, dialogues: Iterable[Dialogue], source: str, adapter_id: int | None = None) -> int:
        """Append dialogues to the stream without scoring them, and return the number of new ones.

        Args:
            dialogues: The dialogues, in order.
            source: Where they come from, which is stored with them.
            adapter_id: Adapter that generated the answers, if any.
        """
        return self.store.add_dialogues(dialogues, source, adapter_id)

    def import_paths(
        self,
        paths: Sequence[Path],
        options: ImportOptions | None = None,
        on_progress: Progress | None = None,
        dry_run: bool = False,
    ) -> ImportResult:
        """Append the conversations of files, folders and zips of any known format to the stream, without scoring them.

        Args:
            paths: What to import; `-` is standard input.
            options: What is imported; by default everything.
            on_progress: Receives events of stage `reading`, in bytes.
            dry_run: Whether to store nothing.

        Returns:
            What was read, stored and left out.

        Raises:
            UserError: If no dialogue could be read.
        """
        return import_paths(self.store, paths, options, on_progress, dry_run)

    def watch(self, path: Path, format_name: str | None = None) -> str:
        """Watch a folder or file of another program, from which `poll_watched_folders` imports what is new.

        Args:
            path: The folder or file.
            format_name: Name of the format of all its files; None to recognize each one.

        Returns:
            Its absolute path, by which it is known.

        Raises:
            UserError: If it does not exist, or it has files and none of the first ones can be imported.
        """
        return watch(self.store, path, format_name)

    def unwatch(self, path: Path) -> str:
        """Stop watching a folder or file, and return its absolute path.

        Raises:
            UserError: If it is not watched.
        """
        return unwatch(self.store, path)

    def watched_folders(self) -> list[WatchedFolderRow]:
        """Return the watched folders in the order in which they were added."""
        return self.store.watched.all()

    def poll_watched_folders(self, on_progress: Progress | None = None) -> list[Poll]:
        """Append the conversations of new and changed files of all watched folders to the stream, without scoring them.

        Args:
            on_progress: Receives events of stage `reading`, in bytes.

        Returns:
            What each folder brought.
        """
        return poll(self.store, on_progress)

    def undo_import(self, import_id: int) -> UndoneImport:
        """Take back an import: its dialogues, and everything that was made of them, except for trained adapters.

        Args:
            import_id: The import.

        Raises:
            UserError: If there is no such import, or it was taken back before.
        """
        undone = undo_import(self.store, import_id)
        self._observer.forget_buffer()
        self.annotations = AnnotationQueue(self.store, self.config.annotation, self._assign_split)
        return undone

    def score(self, on_progress: Progress | None = None) -> dict[str, int]:
        """Score and select all unscored dialogues of the stream.

        Args:
            on_progress: Receives an event of stage `scoring` after each chunk.

        Returns:
            The number of dialogues for each action of the selection.
        """
        if not self.store.unscored_count():
            return {}
        return self._observer.score(make_embedder(self.config.embedding, self.base_model()), on_progress)

    def buffer(self) -> Buffer:
        """Return the buffer with the scores of its bins."""
        return self._observer.selector().buffer

    def lexicons(self) -> Lexicons:
        """Return the lexicons in use: the built-in ones, replaced or extended by the profile's own files."""
        return self._observer.lexicons()

    # Synthesize, train, evaluate

    def synthesize(
        self, on_progress: Progress | None = None, regenerate: bool = False, recalibrate: bool = False
    ) -> SynthesisResult:
        """Let the base model rewrite every annotated dialogue that has no synthetic dialogues.

        Held-out dialogues are never rewritten, and rewrites that are near-duplicates of them are dropped. The first
        time with a model, the prompt style that works with it is found on a few of the dialogues, and stored.

        Args:
            on_progress: Receives an event of stage `calibration` or `synthesis` for each generated text.
            regenerate: Whether to rewrite all annotated dialogues again.
            recalibrate: Whether to find the prompt style again.

        Returns:
            The numbers of generated and kept rewrites.
        """
        covered = set() if regenerate else {s.annotation_id for s in self.store.synthetic()}
        annotations = [a for a in self.training_annotations() if a.id not in covered]
        if not annotations:
            return SynthesisResult(0, 0, 0, {})
        lm, config = self.base_model(), self._synthesis_config()
        run_id = self.store.begin_run("synthesis", self.fingerprint, dataclasses.asdict(config))
        originals = [a.preferred for a in annotations if a.preferred is not None]
        with self.measure("synthesis"):
            style = STYLES[self._prompt_style(lm, originals, config, on_progress, recalibrate)]
            candidates = synthesize(lm, originals, config, on_progress, self.held_out_dialogues(), style)
        dropped: dict[str, int] = {}
        for candidate in candidates:
            if not candidate.kept:
                dropped[candidate.reason] = dropped.get(candidate.reason, 0) + 1
        kept, wanted = len(candidates) - sum(dropped.values()), len(originals) * config.k
        result = SynthesisResult(len(annotations), len(candidates), kept, dropped, wanted, style.name)
        texts = [
            NewSynthetic(annotations[c.original_index].id, c.dialogue, c.raw_text, c.rouge1, c.kept, c.reason)
            for c in candidates
        ]
        with self.store.transaction():
            self.store.add_synthetic(run_id, texts)
            self.store.finish_run(run_id, dataclasses.asdict(result))
        return result

    def prompt_style(self) -> Calibration | None:
        """Return the prompt style that was found for the current base model, or None if it has not been looked for."""
        return Calibration.from_json(self.store.model_record(CALIBRATION_RECORD))

    def _synthesis_config(self) -> SynthesisConfig:
        """Return the settings of the synthesis, with those that the embedded model was trained for."""
        config = self.config.synthesis
        if config.style == AUTO and self.model_name == DEMO_MODEL:
            return dataclasses.replace(config, **PUBLISHED_METHOD)
        return config

    def _prompt_style(
        self,
        lm: LanguageModel,
        originals: Sequence[Dialogue],
        config: SynthesisConfig,
        on_progress: Progress | None,
        recalibrate: bool,
    ) -> StyleName:
        """Return the configured prompt style, or the one found for the model, which is looked for the first time."""
        if config.style != AUTO:
            return config.style
        known = None if recalibrate else self.prompt_style()
        if known is None or known.mode != config.mode:
            known = calibrate(lm, originals, config, as_stage("calibration", on_progress))
            self.store.set_model_record(CALIBRATION_RECORD, known.to_json())
        return known.style

    def last_synthesis(self) -> RunRow | None:
        """Return the latest finished synthesis run on the current base model, or None if there is none."""
        return self.store.last_run("synthesis", self.fingerprint)

    def record_synthesis(self, config: dict[str, Any], texts: Sequence[NewSynthetic], result: dict[str, Any]) -> None:
        """Store synthetic dialogues from another source; they replace those of the same annotations.

        Args:
            config: Settings with which they were generated.
            texts: The synthetic dialogues.
            result: The result to store with them.
        """
        with self.store.transaction():
            run_id = self.store.begin_run("synthesis", self.fingerprint, config)
            self.store.add_synthetic(run_id, texts)
            self.store.finish_run(run_id, result)

    def propose_questions(self, count: int | None = None, on_progress: Progress | None = None) -> ProposalResult:
        """Let the base model write questions that the owner might ask, for the owner to answer or to reject.

        Args:
            count: Number of wanted questions; None for as many as the settings want and are not open yet.
            on_progress: Receives events of stage `questions`.

        Returns:
            The numbers of proposed and generated questions.
        """
        if count is None:
            count = max(0, self.config.synthesis.questions - len(self.store.proposed.open()))
        if count == 0:
            return ProposalResult(0, 0, {})
        held_out, seed = self.held_out_dialogues(), self.config.synthesis.seed
        with self.measure("questions"):
            return propose_for_profile(self.store, self.base_model(), count, held_out, seed, on_progress)

    def train(self, on_progress: Progress | None = None, restart: bool = False) -> TrainResult:
        """Train a new adapter on the annotated dialogues and their rewrites, and promote it if it is better.

        An interrupted training run is resumed with the dialogues that it began with.

        Args:
            on_progress: Receives the events of `finetune`, and one of stage `evaluation` for each generated answer.
            restart: Whether to discard an interrupted training run and start again.

        Returns:
            The adapter, its evaluation, and the report of the training run.

        Raises:
            UserError: If there is nothing to train on, or not enough memory or disk space.
        """
        general = self._general_dialogues()
        # Lazily, so that a training run that does not fit into memory fails before the weights are read.
        lm, process_group = self.base_model(lazy=True), ProcessGroup()
        training_set = as_trained(self.store, self.config, lm, self._training_set(restart))
        run_id = begin_training(self.store, self.config.finetune, self.fingerprint, training_set)
        adapter_folder = f"adapters/{run_id:04d}"
        # The folder exists if the run was interrupted after writing it: it is written again from the last checkpoint.
        shutil.rmtree(self.folder / adapter_folder, ignore_errors=True)
        examples = training_set.examples(self.config.mixture.synthetic_weight)
        pairs = list(training_set.pairs.values())
        broadcast_job(process_group, lm, examples, self.config.finetune, general, pairs)
        with self.measure("finetune"):
            report = finetune(
                lm,
                examples,
                self.config.finetune,
                self.folder / adapter_folder,
                general=general,
                pairs=pairs,
                metadata={"base_model": self.model_name, "base_fingerprint": self.fingerprint},
                checkpoint_folder=self.store.checkpoint_folder(run_id),
                keep_checkpoints=True,
                process_group=process_group,
                on_progress=on_progress,
            )
        report = dataclasses.replace(report, notes=(*training_set.notes, *report.notes))
        with self.store.transaction():
            adapter_id = self.store.add_adapter(run_id, adapter_folder, self.fingerprint)
            self.store.finish_run(run_id, dataclasses.asdict(report))
        # Only now: without the row, the next call would have to train again.
        checkpoint.discard(self.store.checkpoint_folder(run_id))
        plot = self.folder / adapter_folder / "losses.png"
        with contextlib.suppress(UserError):  # training must not fail because of a missing plot
            loss_plot_png(plot, curves_of(report))
        promotion = self._promoter.promote_if_better(self.adapters.get(adapter_id), on_progress)
        return TrainResult(
            **vars(promotion),
            adapter=self.adapters.get(adapter_id),
            report=report,
            plot=str(plot) if plot.exists() else None,
        )

    def estimate_training(self, restart: bool = False) -> TrainingEstimate:
        """Estimate the steps and the memory of `train`, without reading weights.

        Args:
            restart: Whether an interrupted training run would be discarded.

        Raises:
            UserError: If there is nothing to train on, or not enough memory.
        """
        general = self._general_dialogues()
        lm = self.base_model(lazy=True)
        training_set = as_trained(self.store, self.config, lm, self._training_set(restart), reads_weights=False)
        examples = training_set.examples(self.config.mixture.synthetic_weight)
        estimate = estimate_training(lm, examples, self.config.finetune, general, list(training_set.pairs.values()))
        resumed = "an interrupted training run is resumed with these samples and its own micro-batches"
        notes = [*training_set.notes, *([] if training_set.resumed_run is None else [resumed]), *estimate.notes]
        return dataclasses.replace(estimate, notes=tuple(notes))

    def evaluate(self, adapter: AdapterRow | Path, on_progress: Progress | None = None) -> Evaluation | None:
        """Compare an adapter with the base model on the held-out dialogues, without storing the result.

        Args:
            adapter: The adapter.
            on_progress: Receives an event of stage `evaluation` for each generated answer.

        Returns:
            The comparison; None if no dialogue is held out.
        """
        return self._promoter.evaluate(adapter, on_progress)

    def promote_pending(self, on_progress: Progress | None = None) -> tuple[AdapterRow, PromotionResult]:
        """Evaluate the adapter that has not been evaluated, and promote it if it is better.

        Args:
            on_progress: Receives an event of stage `evaluation` for each generated answer.

        Returns:
            The adapter and the result.

        Raises:
            UserError: If there is none.
        """
        return self._promoter.promote_pending(on_progress)

    # Chat

    def memory(self, lm: LanguageModel | None = None, is_own: bool = True) -> Memory:
        """Return the memory: the annotated dialogues and the buffer, without what is held out; empty if it is not used.

        Args:
            lm: The model that answers, with or without an adapter; by default the base model.
            is_own: Whether it answers with what is in use. About an adapter outside the profile nothing was decided.
        """
        uses_memory = None if is_own else self.config.memory.is_used(decided=False)
        return profile_memory(self.store, self.config, lm or self.base_model(), uses_memory=uses_memory)

    def conversation(
        self, config: ChatConfig | None = None, adapter_folder: Path | None = None, seed: int | None = None
    ) -> Conversation:
        """Return a new conversation with the promoted adapter, or with the base model if none is promoted.

        Args:
            config: Settings of the answers; the profile's by default.
            adapter_folder: Folder of an adapter outside the profile that answers instead.
            seed: Random seed of the sampling; None for a random one.
        """
        lm = self.adapted_model(adapter_folder or self.adapters.promoted())
        return Conversation(lm, config or self.config.chat, seed, self.memory(lm, adapter_folder is None))

    @contextlib.contextmanager
    def recorded_conversation(
        self, conversation: Conversation, adapter_folder: Path | None = None
    ) -> Iterator[Conversation]:
        """Store a conversation in the stream as one dialogue that grows with each answer inside the `with` block.

        The dialogue names the adapter in use. Answers of an adapter outside the profile are stored like imported ones,
        with its folder as their source.

        Args:
            conversation: The conversation, from `conversation`.
            adapter_folder: Folder of the adapter outside the profile that answers, if any.

        Yields:
            The same conversation.
        """
        promoted = None if adapter_folder is not None else self.adapters.promoted()
        source = "chat" if adapter_folder is None else f"chat with the adapter in {adapter_folder}"
        dialogue_id: int | None = None

        def record(dialogue: Dialogue) -> None:
            nonlocal dialogue_id
            adapter_id = None if promoted is None else promoted.id
            dialogue_id = self.store.put_conversation(dialogue_id, dialogue, source, adapter_id)

        conversation.record = record
        try:
            yield conversation
        finally:
            conversation.record = None

    # Lookups

    def status(self) -> ProfileStatus:
        """Return the status of the profile."""
        return store_status(self.store, self.config)

    def pending_steps(self) -> list[PendingStep]:
        """Return the pending steps of the learning loop, in order."""
        return pending_steps(self.store, self.config, self.fingerprint)

    def import_dependents(self, import_id: int) -> ImportDependents:
        """Return what was made of the dialogues of an import.

        Raises:
            UserError: If there is no import with this id.
        """
        return import_dependents(self.store, self.imports.get(import_id).id)

    def dialogue_count(self) -> int:
        """Return the number of received dialogues."""
        return self.store.dialogue_count()

    def unscored_count(self) -> int:
        """Return the number of dialogues that have not been scored."""
        return self.store.unscored_count()

    def dialogues(self) -> list[DialogueRow]:
        """Return the whole stream in order."""
        return self.store.dialogues()

    def dialogue(self, dialogue_id: int) -> DialogueRow | None:
        """Return the dialogue with this id, or None if there is none."""
        return self.store.dialogue(dialogue_id)

    def decision(self, dialogue_id: int) -> DecisionRow | None:
        """Return the selection's decision on a dialogue, or None if it has not been scored."""
        return self.store.decision(dialogue_id)

    def bins(self) -> list[BinRow]:
        """Return the filled bins by slot, as stored."""
        return self.store.bins()

    def annotation_of(self, dialogue_id: int) -> AnnotationRow | None:
        """Return the annotation of a dialogue, or None if there is none."""
        return self.store.annotation_of(dialogue_id)

    def training_annotations(self) -> list[AnnotationRow]:
        """Return the annotations that are trained on: those with a preferred answer that are not held out."""
        return self.store.preferred_annotations(held_out=False)

    def held_out_dialogues(self) -> list[Dialogue]:
        """Return the annotated dialogues that are held out for evaluation, with their preferred answers."""
        return self._promoter.held_out_dialogues()

    def annotated_dialogues(self) -> list[Dialogue]:
        """Return all annotated dialogues with their preferred answers, including held-out ones."""
        return [a.preferred for a in self.store.annotations() if a.preferred is not None]

    def synthetic(self) -> list[SyntheticRow]:
        """Return the latest synthetic dialogues of every annotation, kept or not."""
        return self.store.synthetic()

    def _assign_split(self, dialogue: Dialogue, earlier: Sequence[GroupedDialogue]) -> tuple[int, bool]:
        return assign_split(dialogue, earlier, self.config.evaluation)

    def _training_set(self, restart: bool) -> TrainingSet:
        held_out = self.held_out_dialogues()
        return build_training_set(self.store, self.config.finetune, self.fingerprint, held_out, restart)

    def _general_dialogues(self) -> list[Dialogue]:
        path = self.config.finetune.general_data
        return load_dialogues(path, min_count=2) if path else []


def _set_model(store: Store, model: str | Path) -> None:
    found = find_model(model)
    store.set_model(found.name, fingerprint(found.folder))
