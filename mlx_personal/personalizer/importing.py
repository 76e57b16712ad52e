"""Import conversations into a profile: read, filter, store in chunks, and count what is left out.

Each chunk is a transaction, so that an interrupted import loses nothing that was stored; the same import brings the
rest when it is run again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import StorageError, UserError, quoted
from mlx_personal.importers.conversation import Conversation, Skipped
from mlx_personal.importers.document import Document, path_name
from mlx_personal.importers.reading import ImportedDialogue, read_imports
from mlx_personal.importers.verdicts import CORRECTION, InferredVerdict, infer_verdicts
from mlx_personal.personalizer.continuation import NewPart, new_part
from mlx_personal.personalizer.import_summary import ImportSummary
from mlx_personal.personalizer.import_target import DryRunTarget, ImportTarget, ProfileTarget
from mlx_personal.profile import Origin, PreferencePairRow, Store
from mlx_personal.profile.exchanges import Exchange, StoredAnswer, exchanges_of
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress

# Limits of a chunk: a transaction takes longer than many insertions, and long dialogues take memory.
_CHUNK_DIALOGUES: Final = 256
_CHUNK_CHARS: Final = 8_000_000
# A longer conversation is a log rather than a conversation: a book has half as many characters.
MAX_DIALOGUE_CHARS: Final = 1_000_000
_EXAMPLES: Final = 10

# Evidence of a verdict on an answer that a later export has another one instead of.
_REPLACED: Final = "another answer to the same question was preferred"
_NOTHING: Final = "no dialogue could be read ({})"
_DAMAGED_HINT: Final = "check the file, or export it again"


@dataclass(frozen=True)
class ImportOptions:
    """What is imported.

    Attributes:
        format: Name of the format of all files; None to recognize each one.
        since: Conversations that ended earlier are left out, in seconds since 1970, UTC; None for all.
        until: Conversations that began at this time or later are left out, in seconds since 1970, UTC; None for all.
        app: Conversations of other apps are left out, regardless of case; empty for all.
        title: Conversations whose title does not contain this are left out, regardless of case; empty for all.
    """

    format: str | None = None
    since: float | None = None
    until: float | None = None
    app: str = ""
    title: str = ""

    def is_of_app(self, name: str) -> bool:
        """Return whether an app is the wanted one.

        Args:
            name: Name of the app.
        """
        return name.casefold() == self.app.casefold()

    def reason_against(self, conversation: Conversation) -> str | None:
        """Return why a conversation is left out, or None.

        Args:
            conversation: The conversation.
        """
        if self.app and not self.is_of_app(conversation.app):
            return "of another app"
        if self.title.casefold() not in conversation.title.casefold():
            return "its title does not match"
        if self.since is not None or self.until is not None:
            times = [turn.time for turn in conversation.turns if turn.time is not None]
            times += [] if conversation.time is None else [conversation.time]
            if not times:
                return "its time is unknown"
            if (self.since is not None and max(times) < self.since) or (
                self.until is not None and min(times) >= self.until
            ):
                return "outside of the wanted time"
        return None


@dataclass(frozen=True)
class ImportResult:
    """The result of an import.

    Attributes:
        import_id: Id of the import; None if it stored nothing.
        summary: What was read, stored and left out.
        examples: The first dialogues that are new, as far as they are, with their conversations.
        failed: Why paths brought nothing that could not be read, or are damaged, beside others that could.
    """

    import_id: int | None
    summary: ImportSummary
    examples: tuple[ImportedDialogue, ...]
    failed: tuple[UserError, ...]


def import_paths(
    store: Store,
    paths: Sequence[Path],
    options: ImportOptions | None = None,
    on_progress: Progress | None = None,
    dry_run: bool = False,
    wanted: Callable[[Document | Skipped], bool] | None = None,
) -> ImportResult:
    """Import the conversations of files, folders and zips, without scoring them.

    Args:
        store: The profile's store.
        paths: What to import; `-` is standard input.
        options: What is imported; by default everything.
        on_progress: Receives events of stage `reading`, in bytes.
        dry_run: Whether to store nothing.
        wanted: Returns whether a file is read, or that it cannot be is reported; None for all.

    Returns:
        What was read, stored and left out.

    Raises:
        UserError: If no dialogue could be read, or none is of the wanted app.
    """
    options = options or ImportOptions()
    batch = _Batch(store, list(map(path_name, paths)), options, dry_run, wanted)
    progress = _BytesProgress(on_progress or ignore_progress)
    for path in paths:
        batch.read(path, progress)
        progress.next_path()
    if not batch.summary.total("dialogues"):
        raise batch.failed[0] if batch.failed else _nothing_read(batch.summary, paths[0], options.format)
    if options.app and not any(map(options.is_of_app, batch.summary.apps)):
        hint = f"the apps are {', '.join(map(quoted, batch.summary.apps))}"
        raise UserError(f"no conversation is of the app {quoted(options.app)}", paths[0], hint)
    batch.finish()
    return ImportResult(batch.import_id, batch.summary, tuple(batch.examples), (*batch.failed, *batch.damaged))


def _nothing_read(summary: ImportSummary, path: Path, format_name: str | None) -> UserError:
    for skipped in summary.by_count():
        if format_name is not None:
            hint = "name another format, or none to recognize it"
        else:
            hint = _DAMAGED_HINT if skipped.is_damaged else "see the formats in the documentation"
        return UserError(_NOTHING.format(skipped.reason), skipped.places[0], hint)
    return UserError("no dialogue in this file", path, "name a file with conversations")


class _BytesProgress:
    """Forwards the bytes that are read from several paths as progress."""

    def __init__(self, on_progress: Progress):
        self._on_progress = on_progress
        self._done_before = self._total_before = self._done = self._total = 0

    def __call__(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        event = ProgressEvent("reading", self._done_before + done, self._total_before + total)
        self._on_progress(event)

    def next_path(self) -> None:
        self._done_before += self._done
        self._total_before += self._total
        self._done = self._total = 0


class _Batch:
    """One import: the dialogues of a chunk, and what was counted so far."""

    def __init__(
        self,
        store: Store,
        paths: list[str],
        options: ImportOptions,
        dry_run: bool,
        wanted: Callable[[Document | Skipped], bool] | None,
    ):
        self._store = store
        self._paths = paths
        self._options = options
        self._target: ImportTarget = DryRunTarget(store) if dry_run else ProfileTarget(store, self._begin)
        self._wanted = wanted
        self._chunk: list[tuple[ImportedDialogue, str]] = []
        self._chunk_chars = 0
        self.summary = ImportSummary()
        self.examples: list[ImportedDialogue] = []
        self.failed: list[UserError] = []
        self.damaged: list[UserError] = []

    @property
    def import_id(self) -> int | None:
        """Id of the import; None if nothing was stored."""
        return self._target.import_id

    def read(self, path: Path, on_bytes: Callable[[int, int], None]) -> None:
        """Store the dialogues of a path. Those before an error are stored too."""
        source, damage = f"import:{path_name(Path(path.name))}", None
        dialogues_before = self.summary.total("dialogues")
        try:
            for item in read_imports(path, self._options.format, on_bytes, self._wanted):
                if isinstance(item, Skipped):
                    self.summary.skip(item)
                    damage = damage or (item if item.is_damaged else None)
                else:
                    self._add(item, source)
        except StorageError:
            raise  # nothing more can be stored
        except UserError as error:
            self.failed.append(error)
            damage = None
        self._store_chunk()
        if damage is not None and self.summary.total("dialogues") == dialogues_before:
            self.damaged.append(UserError(_NOTHING.format(damage.reason), damage.where, _DAMAGED_HINT))

    def finish(self) -> None:
        """Record the end of the import, unless it stored nothing."""
        if self.import_id is not None:
            self._store.imports.finish(self.import_id, self.summary.to_stored_json())

    def _add(self, imported: ImportedDialogue, source: str) -> None:
        conversation = imported.conversation
        chars = sum(len(message.content) for message in imported.dialogue.messages)
        reason = self._options.reason_against(conversation)
        if reason is None and chars > MAX_DIALOGUE_CHARS:
            reason = f"a conversation of over {MAX_DIALOGUE_CHARS:,} characters"
        if reason is not None:
            self.summary.app(conversation.app).dialogues += 1
            self.summary.skip(Skipped(conversation.where, reason, conversation.app))
            return
        self._chunk.append((imported, source))
        self._chunk_chars += chars
        if len(self._chunk) >= _CHUNK_DIALOGUES or self._chunk_chars >= _CHUNK_CHARS:
            self._store_chunk()

    def _store_chunk(self) -> None:
        chunk, self._chunk, self._chunk_chars = self._chunk, [], 0
        if chunk:
            with self._target.transaction():
                for imported, source in chunk:
                    self._count(imported, self._put(imported, source))

    def _count(self, imported: ImportedDialogue, part: NewPart | None) -> None:
        counts = self.summary.app(imported.conversation.app)
        counts.conversations += 1
        counts.dialogues += 1
        if part is None:
            counts.known += 1
            return
        if part.is_continuation:
            counts.continued += 1
        else:
            counts.new += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(_from_position(imported, part))

    def _put(self, imported: ImportedDialogue, source: str) -> NewPart | None:
        """Store what is new about a conversation, and return it; None if the profile has all of it."""
        conversation, dialogue = imported.conversation, imported.dialogue
        exchanges = exchanges_of(dialogue, conversation.id)
        part = new_part(dialogue, exchanges, conversation.app, conversation.id, self._target)
        is_new = part is not None and self._put_part(part, conversation, source)
        self._put_inferences(imported, [exchange for exchange in exchanges if exchange.weight])
        return part if is_new else None

    def _put_part(self, part: NewPart, conversation: Conversation, source: str) -> bool:
        """Store the new turns of a conversation, and return whether the profile did not have them."""
        if self._target.id_of_key(part.dialogue.key) is not None:
            return False
        origin = _origin(conversation, part.position)
        if part.continues is not None:
            self._target.extend(part.continues, part.dialogue, origin)
        else:
            self._target.add(part.dialogue, source, origin)
        return True

    def _put_inferences(self, imported: ImportedDialogue, targets: Sequence[Exchange]) -> None:
        """Store the verdicts and the pairs of a conversation with the dialogues that have their answers.

        Args:
            imported: The conversation.
            targets: Its exchanges of weight 1.
        """
        inferences = infer_verdicts(imported)
        if not inferences.verdicts and not inferences.pairs:
            return
        conversation_id = imported.conversation.id
        # The same dialogue from elsewhere than an import has no exchanges.
        equal_id = self._target.id_of_key(imported.dialogue.key)

        def find(answer: int) -> StoredAnswer | None:
            found = self._target.find(targets[answer].prefix_hash)
            return StoredAnswer(equal_id, answer) if found is None and equal_id is not None else found

        for verdict in inferences.verdicts:
            self._put_verdict(find(verdict.answer), verdict, conversation_id)
        for pair in inferences.pairs:
            found = find(pair.answer)
            if found is not None:
                row = PreferencePairRow(found.dialogue_id, found.answer, pair.chosen, pair.rejected, pair.source)
                self.summary.pairs += self._target.add_pair(row)
            if pair.source != CORRECTION:  # an earlier export may have the rejected answer instead
                rejected = self._target.find(targets[pair.answer].hash_with(pair.rejected))
                if rejected is not None and not self._target.is_rated(rejected.dialogue_id, rejected.answer):
                    verdict = InferredVerdict(pair.answer, "bad", pair.source, _REPLACED)
                    self._put_verdict(rejected, verdict, conversation_id)

    def _put_verdict(self, stored: StoredAnswer | None, verdict: InferredVerdict, conversation_id: str) -> None:
        if stored is not None:
            verdict = dataclasses.replace(verdict, answer=stored.answer)
            if self._target.add_verdict(stored.dialogue_id, verdict, conversation_id):
                self.summary.count_verdict(verdict.rating)

    def _begin(self) -> int:
        return self._store.imports.begin(self._paths, dataclasses.asdict(self._options))


def _from_position(imported: ImportedDialogue, part: NewPart) -> ImportedDialogue:
    """Return a conversation from its first new message on."""
    dialogue = Dialogue(part.dialogue.messages[part.position :])
    turns = imported.normalized.turns[part.position : len(part.dialogue.messages)]
    normalized = dataclasses.replace(imported.normalized, dialogue=dialogue, turns=turns)
    return dataclasses.replace(imported, normalized=normalized)


def _origin(conversation: Conversation, position: int) -> Origin:
    """Return what is stored about the conversation of a dialogue."""
    models = [turn.model for turn in conversation.turns if turn.model]
    times = [conversation.time, *(turn.time for turn in conversation.turns)]
    return Origin(
        app=conversation.app,
        conversation_id=conversation.id,
        title=conversation.title,
        model=models[-1] if models else "",
        time=next((time for time in times if time is not None), None),
        position=position,
    )
