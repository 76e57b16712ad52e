"""Import conversations into a profile: read, filter, store in chunks, and count what is left out.

Each chunk is a transaction, so that an interrupted import loses nothing that was stored; the same import brings the
rest when it is run again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import StorageError, UserError
from mlx_personal.importers.conversation import Conversation, Skipped
from mlx_personal.importers.document import Document, path_name
from mlx_personal.importers.reading import ImportedDialogue, read_imports
from mlx_personal.importers.verdicts import Inferences, infer_verdicts
from mlx_personal.personalizer.continuation import NewPart, find_answer, new_part
from mlx_personal.personalizer.import_summary import ImportSummary
from mlx_personal.profile import Origin, PreferencePairRow, Store
from mlx_personal.profile.imports import StoredPart
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress

# Limits of a chunk: a transaction takes longer than many insertions, and long dialogues take memory.
_CHUNK_DIALOGUES: Final = 256
_CHUNK_CHARS: Final = 8_000_000
# A longer conversation is a log rather than a conversation: a book has half as many characters.
MAX_DIALOGUE_CHARS: Final = 1_000_000
_EXAMPLES: Final = 10
# Characters of the conversations that a dry run remembers, so that a second export of the same chat is not new again.
_PLANNED_CHARS: Final = 64_000_000

_NOTHING: Final = "no dialogue could be read ({})"
_DAMAGED_HINT: Final = "check the file, or export it again"

Outcome = Literal["new", "continued", "known"]


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

    def reason_against(self, conversation: Conversation) -> str | None:
        """Return why a conversation is left out, or None.

        Args:
            conversation: The conversation.
        """
        if self.app and conversation.app != self.app.casefold():
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
        examples: The first dialogues that are new, with their conversations.
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
        UserError: If no dialogue could be read.
    """
    options = options or ImportOptions()
    batch = _Batch(store, list(map(path_name, paths)), options, dry_run, wanted)
    progress = _BytesProgress(on_progress or ignore_progress)
    for path in paths:
        batch.read(path, progress)
        progress.next_path()
    if not batch.summary.total("dialogues"):
        raise batch.failed[0] if batch.failed else _nothing_read(batch.summary, paths[0], options.format)
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
        self._dry_run = dry_run
        self._wanted = wanted
        self._chunk: list[tuple[ImportedDialogue, str]] = []
        self._chunk_chars = 0
        # What a dry run would have stored: the keys of all dialogues, and the parts of the first conversations.
        self._keys: set[bytes] = set()
        self._planned: dict[tuple[str, str], list[StoredPart]] = {}
        self._planned_chars = 0
        self.import_id: int | None = None
        self.summary = ImportSummary()
        self.examples: list[ImportedDialogue] = []
        self.failed: list[UserError] = []
        self.damaged: list[UserError] = []

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
            self._store.imports.finish(self.import_id, self.summary.to_json())

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
        if self._dry_run:
            for imported, _ in chunk:
                self._count(imported, self._would_store(imported))
            return
        if chunk:
            with self._store.transaction():
                for imported, source in chunk:
                    self._count(imported, self._put(imported, source))

    def _count(self, imported: ImportedDialogue, outcome: Outcome) -> None:
        counts = self.summary.app(imported.conversation.app)
        counts.conversations += 1
        counts.dialogues += 1
        setattr(counts, outcome, getattr(counts, outcome) + 1)
        if outcome != "known" and len(self.examples) < _EXAMPLES:
            self.examples.append(imported)

    def _would_store(self, imported: ImportedDialogue) -> Outcome:
        """Return what would become of a dialogue."""
        conversation = imported.conversation
        name = (conversation.app, conversation.id)
        parts = self._planned.get(name) or self._store.imports.parts(*name)
        part = new_part(imported.dialogue, parts)
        if part is None:
            return "known"
        key = bytes.fromhex(part.dialogue.key)
        if key in self._keys or self._store.imports.id_of_key(part.dialogue.key) is not None:
            return "known"
        self._keys.add(key)
        if conversation.id and self._planned_chars < _PLANNED_CHARS:
            self._planned_chars += sum(len(message.content) for message in part.dialogue.messages)
            kept = [stored for stored in parts if stored.dialogue_id != part.continues]
            self._planned[name] = [*kept, StoredPart(part.continues or -len(parts) - 1, part.dialogue, False)]
        inferences = infer_verdicts(imported)
        for verdict in inferences.verdicts:
            self.summary.count_verdict(verdict.rating)
        self.summary.pairs += len(inferences.pairs)
        return _outcome(part)

    def _put(self, imported: ImportedDialogue, source: str) -> Outcome:
        """Store what is new about a conversation."""
        conversation, imports = imported.conversation, self._store.imports
        parts = imports.parts(conversation.app, conversation.id)
        part = new_part(imported.dialogue, parts)
        is_new = part is not None and self._put_part(part, conversation, source)
        inferences = infer_verdicts(imported)
        if inferences.verdicts or inferences.pairs:
            if parts:
                parts = imports.parts(conversation.app, conversation.id)
            elif (dialogue_id := imports.id_of_key(imported.dialogue.key)) is not None:
                parts = [StoredPart(dialogue_id, imported.dialogue, False)]
            self._put_inferences(imported.dialogue, inferences, parts)
        return _outcome(part) if part is not None and is_new else "known"

    def _put_part(self, part: NewPart, conversation: Conversation, source: str) -> bool:
        """Store the new turns of a conversation, and return whether the profile did not have them."""
        if self._store.imports.id_of_key(part.dialogue.key) is not None:
            return False
        origin = _origin(conversation, part.position)
        if part.continues is not None:
            return self._store.imports.extend(self._begun(), part.continues, part.dialogue, origin)
        return self._store.imports.add(self._begun(), part.dialogue, source, origin) is not None

    def _put_inferences(self, dialogue: Dialogue, inferences: Inferences, parts: Sequence[StoredPart]) -> None:
        """Store the verdicts and the pairs of a conversation with the dialogues that have their answers."""
        imports = self._store.imports
        for verdict in inferences.verdicts:
            if (found := find_answer(dialogue, verdict.answer, parts)) is not None:
                dialogue_id, answer = found
                if not imports.has_verdict(dialogue_id, answer, verdict.rating, verdict.source):
                    values = (answer, verdict.rating, verdict.source, verdict.evidence)
                    imports.add_verdicts(self._begun(), dialogue_id, [values])
                    self.summary.count_verdict(verdict.rating)
        for pair in inferences.pairs:
            if (found := find_answer(dialogue, pair.answer, parts)) is not None:
                row = PreferencePairRow(*found, pair.chosen, pair.rejected, pair.source)
                if not self._store.pairs.has(row):
                    self._store.pairs.add(self._begun(), row)
                    self.summary.pairs += 1

    def _begun(self) -> int:
        """Return the id of this import, which begins with the first thing that it stores."""
        if self.import_id is None:
            self.import_id = self._store.imports.begin(self._paths, dataclasses.asdict(self._options))
        return self.import_id


def _outcome(part: NewPart) -> Outcome:
    return "new" if part.position == 0 and part.continues is None else "continued"


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
