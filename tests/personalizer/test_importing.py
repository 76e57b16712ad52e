"""Imports are stored in chunks, counted, filtered, continued by later exports, and can be taken back."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from mlx_personal.annotation.proposals import proposal_of
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import StorageError, UserError
from mlx_personal.importers.conversation import Skipped
from mlx_personal.importers.reading import ImportedDialogue
from mlx_personal.importers.verdicts import Inferences, InferredVerdict, PreferencePair, infer_verdicts
from mlx_personal.personalizer import importing
from mlx_personal.personalizer.import_summary import ImportSummary
from mlx_personal.personalizer.importing import ImportOptions, ImportResult, import_paths
from mlx_personal.profile import Store
from mlx_personal.profile.undo_import import undo_import
from mlx_personal.progress import ProgressEvent
from tests.support.chatgpt_export import chatgpt_conversation, write_chatgpt_export
from tests.support.cli import dialogue_line
from tests.support.imports import write_lines

SOUP = ["How do I cook soup?", "Slowly."]
BREAD = ["And bread?", "In the oven."]
TEA = ["And tea?", "With hot water."]
DAY_S = 86_400


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "profile")
    yield store
    store.close()


def score_all(store: Store) -> None:
    """Record a decision on every dialogue, without a buffer."""
    for row in store.unscored(1000):
        store.add_decision(row.id, "kept-out", "food", (0.5, 0.5, 0.5), None, None, {"reason": "test"})


def import_chat(store: Store, folder: Path, *texts: str, name: str = "c1") -> ImportResult:
    return import_paths(store, [write_chatgpt_export(folder / "x.json", chatgpt_conversation(name, texts))])


def questions(store: Store) -> list[tuple[str, ...]]:
    """Return the questions of each dialogue of the stream whose answers have weight 1."""
    return [row.dialogue.user_turns for row in store.dialogues()]


def test_dialogues_are_stored_with_their_origin(store: Store, tmp_path: Path) -> None:
    chat = chatgpt_conversation("c1", SOUP + BREAD, "Cooking", 1_760_000_000.0)
    result = import_paths(store, [write_chatgpt_export(tmp_path / "chats.json", chat)])
    (row,) = store.dialogues()
    assert row.dialogue.user_turns == ("How do I cook soup?", "And bread?")
    assert row.source == "import:chats.json"
    (origin,) = store.imports.origins(row.id)
    assert vars(origin.origin) == {
        "app": "chatgpt",
        "conversation_id": "c1",
        "title": "Cooking",
        "model": "gpt-5",
        "time": 1_760_000_000.0,
        "position": 0,
    }
    (batch,) = store.imports.all()
    assert (batch.id, batch.paths) == (result.import_id, (str(tmp_path / "chats.json"),))
    assert batch.finished_at is not None and batch.summary == result.summary.to_json()


def test_an_equal_export_brings_nothing(store: Store, tmp_path: Path) -> None:
    import_chat(store, tmp_path, *SOUP)
    again = import_chat(store, tmp_path, *SOUP)
    assert again.import_id is None and len(store.imports.all()) == 1
    assert vars(again.summary.apps["chatgpt"]) == {
        "conversations": 1,
        "dialogues": 1,
        "new": 0,
        "continued": 0,
        "known": 1,
        "skipped": 0,
    }


def test_a_longer_export_replaces_an_unscored_dialogue(store: Store, tmp_path: Path) -> None:
    import_chat(store, tmp_path, *SOUP)
    result = import_chat(store, tmp_path, *SOUP, *BREAD)
    assert questions(store) == [(SOUP[0], BREAD[0])]
    assert result.summary.apps["chatgpt"].continued == 1
    assert [row.origin.position for row in store.imports.origins(1)] == [0, 2]


def test_new_turns_of_a_scored_dialogue_have_it_as_context(store: Store, tmp_path: Path) -> None:
    import_chat(store, tmp_path, *SOUP)
    score_all(store)
    import_chat(store, tmp_path, *SOUP, *BREAD)
    import_chat(store, tmp_path, *SOUP, *BREAD, *TEA)
    assert questions(store) == [(SOUP[0],), (BREAD[0], TEA[0])]
    assert [message.weight for message in store.dialogues()[1].dialogue.messages] == [1, 0, 1, 1, 1, 1]


def test_without_an_id_conversations_with_the_same_beginning_are_the_same(store: Store, tmp_path: Path) -> None:
    for texts in (SOUP, SOUP, SOUP + BREAD, SOUP):
        import_chat(store, tmp_path, *texts, name="")
    assert questions(store) == [(SOUP[0], BREAD[0])]
    score_all(store)
    assert import_chat(store, tmp_path, *SOUP, *BREAD, *TEA, name="").summary.total("continued") == 1
    import_chat(store, tmp_path, *TEA, name="")
    assert questions(store) == [(SOUP[0], BREAD[0]), (TEA[0],), (TEA[0],)]


def test_what_conversations_of_an_app_have_in_common_is_a_target_once(store: Store, tmp_path: Path) -> None:
    """A branch in a new chat, or a resumed session, has the turns before it copied."""
    chats = [chatgpt_conversation("c1", SOUP + BREAD), chatgpt_conversation("c2", SOUP + TEA)]
    result = import_paths(store, [write_chatgpt_export(tmp_path / "x.json", *chats)])
    assert questions(store) == [(SOUP[0], BREAD[0]), (TEA[0],)]
    assert [message.content for message in store.dialogues()[1].dialogue.messages] == SOUP + TEA
    assert (result.summary.total("new"), result.summary.total("continued")) == (2, 0), "it is another conversation"
    later = import_chat(store, tmp_path, *SOUP, *TEA, *BREAD, name="c2")
    assert (later.summary.total("new"), later.summary.total("continued")) == (0, 1)
    assert questions(store) == [(SOUP[0], BREAD[0]), (TEA[0], BREAD[0])], "its own dialogue goes on, not the copied one"


def write_rows(file: Path, *rows: list[str], **fields: str) -> Path:
    """Write a training set; with `system` its rows begin with a system turn."""
    system = [{"role": "system", "content": fields.pop("system")}] if "system" in fields else []
    turns = [[{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(row)] for row in rows]
    return write_lines(file, [{"messages": [*system, *row], **fields} for row in turns])


@pytest.mark.parametrize("is_scored", [False, True])
def test_a_conversation_goes_on_in_another_app(store: Store, tmp_path: Path, is_scored: bool) -> None:
    import_chat(store, tmp_path, *SOUP)
    if is_scored:
        score_all(store)
    result = import_paths(store, [write_rows(tmp_path / "rows.jsonl", SOUP, SOUP + BREAD)])
    assert questions(store) == [(SOUP[0],), (BREAD[0],)]
    assert [message.weight for message in store.dialogues()[1].dialogue.messages] == [1, 0, 1, 1]
    assert (result.summary.total("new"), result.summary.total("known")) == (1, 1)


def test_only_without_an_id_a_system_turn_makes_another_conversation(store: Store, tmp_path: Path) -> None:
    for system in ("You are a pirate.", "You are a king.", "You are a king."):
        import_paths(store, [write_rows(tmp_path / "rows.jsonl", SOUP, system=system)])
    assert questions(store) == [(SOUP[0],)] * 2
    row = {"system": "You are a pirate.", "conversation_id": "conversation-one"}
    import_paths(store, [write_rows(tmp_path / "rows.jsonl", TEA, **row)])
    result = import_paths(store, [write_rows(tmp_path / "rows.jsonl", TEA, **{**row, "system": "You are a king."})])
    assert (result.import_id, questions(store)[2:]) == (None, [(TEA[0],)])


def test_an_answer_that_a_later_export_replaces_is_proposed_as_bad(store: Store, tmp_path: Path) -> None:
    import_chat(store, tmp_path, *SOUP)
    chat = chatgpt_conversation("c1", [SOUP[0], "Quickly.", *BREAD])
    old = chatgpt_conversation("c1", SOUP)["mapping"]["c1-1"]
    chat["mapping"]["old"] = {**old, "id": "old", "message": {**old["message"], "id": "old"}}
    export = write_chatgpt_export(tmp_path / "later.json", chat)
    dry = import_paths(store, [export], dry_run=True)
    result = import_paths(store, [export])
    assert (result.summary.good, result.summary.bad, result.summary.pairs) == (1, 1, 1)
    assert dry.summary == result.summary
    (verdict,) = store.imports.verdicts(1)
    assert (verdict.rating, verdict.source) == ("bad", "regenerated")
    assert import_paths(store, [export]).import_id is None


def test_equal_dialogues_of_any_conversation_are_stored_once(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text("\n".join([dialogue_line(*SOUP)] * 3))
    import_paths(store, [file])
    result = import_chat(store, tmp_path, *SOUP)
    assert questions(store) == [(SOUP[0],)]
    assert result.import_id is None


def test_conversations_are_filtered_by_time_app_and_title(store: Store, tmp_path: Path) -> None:
    start = 1_760_000_000.0
    chats = [
        chatgpt_conversation("old", ["old?", "yes"], "Old soup", start - 10 * DAY_S),
        chatgpt_conversation("new", ["new?", "yes"], "New SOUP", start),
        chatgpt_conversation("late", ["late?", "yes"], "Bread", start + 10 * DAY_S),
    ]
    export = write_chatgpt_export(tmp_path / "chats.json", *chats)

    def taken(**options: float | str) -> list[str]:
        result = import_paths(store, [export], ImportOptions(**options), dry_run=True)  # type: ignore[arg-type]
        assert result.summary.total("conversations") == 3
        return [example.dialogue.question for example in result.examples]

    assert taken() == ["old?", "new?", "late?"]
    assert taken(since=start) == ["new?", "late?"]
    assert taken(since=start + 30) == ["new?", "late?"], "it ended a minute after it began"
    assert taken(until=start) == ["old?"]
    assert taken(until=start + 1, since=start - 1) == ["new?"]
    assert taken(title="soup") == ["old?", "new?"]
    assert taken(app="chatgpt") == taken(app="ChatGPT") == ["old?", "new?", "late?"]
    with pytest.raises(UserError, match=r"no conversation is of the app 'claude'; the apps are 'chatgpt'"):
        taken(app="claude")


def test_an_app_with_capitals_is_found_in_any_case(store: Store, tmp_path: Path) -> None:
    session = {"type": "session", "harness": "My-App", "id": "s1"}
    turns = [
        {"type": "message", "message": {"role": r, "content": t}}
        for r, t in zip(("user", "assistant"), SOUP, strict=True)
    ]
    file = tmp_path / "session.jsonl"
    file.write_text("\n".join(map(json.dumps, [session, *turns])))
    for name in ("My-App", "my-app", "MY-APP"):
        assert import_paths(store, [file], ImportOptions(app=name), dry_run=True).summary.total("new") == 1


def test_what_a_reason_quotes_of_a_file_is_not_stored(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    roles = ['Anna\'s "friend"', "Anna" * 100, "Berta"]
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": f"b{n}"}]} for n in (1, 2, 3)
    ]
    for row, role in zip(rows, roles, strict=True):
        row["messages"].append({"role": role, "content": "c"})
        row["messages"].append({"role": "user", "content": [{"type": "Carla", "x": 1}]})  # type: ignore[dict-item]
    file.write_text("\n".join(map(json.dumps, rows)))
    reasons = [(skipped.reason, skipped.count) for skipped in import_paths(store, [file]).summary.by_count()]
    assert reasons[0] == ("a turn with the unknown role 'Anna\\'s \"friend\"'", 3)
    (batch,) = store.imports.all()
    assert batch.summary is not None
    stored = [skipped["reason"] for skipped in batch.summary["skipped"]]
    assert stored[:2] == ["a turn with the unknown role '...'", "a user turn with other parts only"]


def test_a_time_filter_leaves_out_conversations_without_a_time(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(dialogue_line(*SOUP))
    result = import_paths(store, [file], ImportOptions(since=0.0))
    assert [(skipped.reason, skipped.count) for skipped in result.summary.by_count()] == [("its time is unknown", 1)]
    assert store.dialogue_count() == 0


def test_a_dry_run_counts_the_same_and_stores_nothing(store: Store, tmp_path: Path) -> None:
    chats = [chatgpt_conversation(str(number), [f"question {number}", "yes"]) for number in range(15)]
    export = write_chatgpt_export(tmp_path / "chats.json", *chats[:5])
    import_paths(store, [export])
    export = write_chatgpt_export(tmp_path / "chats.json", *chats, chats[7])
    trial = import_paths(store, [export], dry_run=True)
    assert store.dialogue_count() == 5 and len(store.imports.all()) == 1 and trial.import_id is None
    assert [example.dialogue.question for example in trial.examples] == [f"question {n}" for n in range(5, 15)]
    assert trial.summary == import_paths(store, [export]).summary


@pytest.mark.parametrize("is_scored", [False, True])
def test_examples_are_what_would_be_stored(store: Store, tmp_path: Path, is_scored: bool) -> None:
    import_chat(store, tmp_path, *SOUP)
    if is_scored:
        score_all(store)
    chats = [chatgpt_conversation("c1", SOUP + BREAD), chatgpt_conversation("c2", SOUP + TEA)]
    result = import_paths(store, [write_chatgpt_export(tmp_path / "chats.json", *chats)], dry_run=True)
    assert [example.dialogue for example in result.examples] == [Dialogue.of(*BREAD), Dialogue.of(*TEA)]
    assert [[turn.text for group in example.normalized.turns for turn in group] for example in result.examples] == [
        BREAD,
        TEA,
    ]


def test_over_long_conversations_are_left_out(store: Store, tmp_path: Path) -> None:
    texts = [text for number in range(11) for text in (f"{number}?", "x" * 99_000)]
    result = import_paths(
        store,
        [write_chatgpt_export(tmp_path / "x.json", chatgpt_conversation("a", texts), chatgpt_conversation("b", SOUP))],
    )
    assert questions(store) == [(SOUP[0],)]
    assert [skipped.reason for skipped in result.summary.by_count()] == ["a conversation of over 1,000,000 characters"]


def test_an_interrupted_import_is_completed_by_running_it_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_CHUNK_DIALOGUES", 2)
    chats = [chatgpt_conversation(str(number), [f"question {number}", "yes"]) for number in range(5)]
    export = write_chatgpt_export(tmp_path / "chats.json", *chats)

    def interrupt(imported: ImportedDialogue) -> Inferences:
        if imported.dialogue.question == "question 3":
            raise KeyboardInterrupt
        return infer_verdicts(imported)

    monkeypatch.setattr(importing, "infer_verdicts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_paths(store, [export])
    assert questions(store) == [("question 0",), ("question 1",)], "a chunk is stored as a whole or not at all"
    assert [row.finished_at for row in store.imports.all()] == [None]
    monkeypatch.setattr(importing, "infer_verdicts", infer_verdicts)
    assert import_paths(store, [export]).summary.total("new") == 3
    assert store.dialogue_count() == 5


def test_a_full_disk_is_no_fault_of_the_input(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(store.imports, "add", fail)
    with pytest.raises(StorageError, match="the disk is full"):
        import_chat(store, tmp_path, *SOUP)


def test_a_path_that_cannot_be_read_leaves_the_others(store: Store, tmp_path: Path) -> None:
    export = write_chatgpt_export(tmp_path / "x.json", chatgpt_conversation("a", SOUP))
    result = import_paths(store, [tmp_path / "missing.json", export])
    assert questions(store) == [(SOUP[0],)]
    assert [error.line() for error in result.failed] == [
        f"{tmp_path / 'missing.json'}: no such file or folder; check the name"
    ]
    with pytest.raises(UserError, match="no such file"):
        import_paths(store, [tmp_path / "missing.json"])


def test_progress_counts_the_bytes_of_all_paths(store: Store, tmp_path: Path) -> None:
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file in files:
        file.write_text(dialogue_line(*SOUP) + "\n")
    events: list[ProgressEvent] = []
    import_paths(store, files, on_progress=events.append)
    size = sum(file.stat().st_size for file in files)
    assert {event.stage for event in events} == {"reading"}
    assert (events[-1].done, events[-1].total) == (size, size)
    assert [event.done for event in events] == sorted(event.done for event in events)


def test_progress_counts_files_that_are_not_read_and_compressed_ones(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "a.jsonl").write_text(dialogue_line(*SOUP))
    (folder / "b.unknown").write_text("nothing")
    packed = (dialogue_line(*TEA) + "\n").encode() * 1000
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(packed))
    events: list[ProgressEvent] = []
    import_paths(store, [folder], on_progress=events.append)
    size = len(packed) + sum((folder / name).stat().st_size for name in ("a.jsonl", "b.unknown"))
    assert {event.total for event in events[1:]} == {size}
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert events[-1].done == size


def infer_from_thanks(imported: ImportedDialogue) -> Inferences:
    """Infer that every answer before a question with `thanks` is good, and one before `no` is bad."""
    verdicts, pairs = [], []
    for answer, question in enumerate(imported.dialogue.user_turns[1:]):
        if question.startswith(("thanks", "no")):
            rating = "good" if question.startswith("thanks") else "bad"
            verdicts.append(InferredVerdict(answer, rating, question.split()[0], question))  # type: ignore[arg-type]
        if question.startswith("no"):
            pairs.append(PreferencePair(answer, "better", imported.dialogue.assistant_turns[answer], "correction"))
    return Inferences(tuple(verdicts), tuple(pairs))


def test_verdicts_are_stored_with_the_dialogue_that_has_the_answer(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "infer_verdicts", infer_from_thanks)
    import_chat(store, tmp_path, *SOUP, "and?", "a")
    score_all(store)
    longer = [*SOUP, "and?", "a", "no, shorter", "b", "thanks", "c"]
    result = import_chat(store, tmp_path, *longer)
    assert (result.summary.good, result.summary.bad, result.summary.pairs) == (1, 1, 1)
    assert [vars(row) for dialogue_id in (1, 2) for row in store.imports.verdicts(dialogue_id)] == [
        {"id": 1, "dialogue_id": 1, "answer": 1, "rating": "bad", "source": "no,", "evidence": "no, shorter"},
        {"id": 2, "dialogue_id": 2, "answer": 0, "rating": "good", "source": "thanks", "evidence": "thanks"},
    ]
    assert [(pair.dialogue_id, pair.answer, pair.rejected) for pair in store.pairs.usable()] == [(1, 1, "a")]
    again = import_chat(store, tmp_path, *longer)
    assert (again.summary.good, again.summary.bad, again.summary.pairs, again.import_id) == (0, 0, 0, None)
    assert import_chat(store, tmp_path, *TEA, name="c2").import_id == 3, "an import that stores nothing has no id"


def test_a_verdict_on_a_known_dialogue_is_an_import_of_its_own(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(
        json.dumps(
            {
                "messages": [
                    {"role": "user" if i % 2 == 0 else "assistant", "content": text}
                    for i, text in enumerate([*SOUP, "thanks", "yes"])
                ]
            }
        )
    )
    monkeypatch.setattr(importing, "infer_verdicts", lambda imported: Inferences())
    import_paths(store, [file])
    monkeypatch.setattr(importing, "infer_verdicts", infer_from_thanks)
    result = import_paths(store, [file])
    assert (result.summary.good, result.summary.total("known"), result.import_id) == (1, 1, 2)


def test_the_rating_of_a_later_export_counts_until_that_import_is_taken_back(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratings: list[Literal["good", "bad"]] = ["good", "good", "bad"]
    results, latest = [], []
    for rating in ratings:
        verdict = InferredVerdict(0, rating, "thumbs", f"rated {rating} in the app")
        monkeypatch.setattr(importing, "infer_verdicts", lambda imported, found=verdict: Inferences((found,)))
        results.append(import_chat(store, tmp_path, *SOUP))
        latest.append(proposal_of(Dialogue.of(*SOUP), store.imports.verdicts(1)))
    assert [result.import_id is not None for result in results] == [True, False, True]
    assert [proposal.verdict for proposal in latest if proposal is not None] == ["accept", "accept", "skip"]
    assert results[2].import_id is not None
    undo_import(store, results[2].import_id)
    proposal = proposal_of(Dialogue.of(*SOUP), store.imports.verdicts(1))
    assert proposal is not None and proposal.verdict == "accept"


def import_rated(store: Store, folder: Path, *ratings: tuple[str, list[str], str]) -> tuple[int, int]:
    """Import chats with a thumb on their first answer, and return how many new verdicts are good and bad.

    Args:
        store: The store.
        folder: Folder for the export.
        *ratings: Id, texts and rating of each chat.
    """
    export = folder / "export"
    export.mkdir(exist_ok=True)
    chats = [
        chatgpt_conversation(f"c{number}", texts) | {"conversation_id": name, "id": name}
        for number, (name, texts, _) in enumerate(ratings)
    ]
    write_chatgpt_export(export / "conversations.json", *chats)
    rows = [
        {"message_id": f"c{number}-1", "conversation_id": name, "rating": f"thumbs_{rating}"}
        for number, (name, _, rating) in enumerate(ratings)
    ]
    (export / "message_feedback.json").write_text(json.dumps(rows))
    dry = import_paths(store, [export], dry_run=True)
    result = import_paths(store, [export])
    assert dry.summary == result.summary
    assert result.import_id is not None or result.summary.good + result.summary.bad == 0
    return result.summary.good, result.summary.bad


def test_each_conversation_may_change_its_rating_of_a_shared_answer(store: Store, tmp_path: Path) -> None:
    def import_both(first: str, second: str) -> tuple[int, int]:
        return import_rated(store, tmp_path, ("one", SOUP + BREAD, first), ("two", SOUP + TEA, second))

    assert import_both("up", "down") == (1, 1)
    assert import_both("up", "down") == (0, 0), "what was stored before is not new"
    assert import_both("down", "down") == (0, 1)
    assert import_both("down", "up") == (1, 0), "the second one does not own the answer"
    assert import_both("down", "up") == (0, 0)
    assert [row.rating for row in store.imports.verdicts(1)] == ["good", "bad", "bad", "good"]


def test_opposed_ratings_of_conversations_without_an_id_settle(store: Store, tmp_path: Path) -> None:
    """They cannot be distinguished, so that a rating that changes back is not counted."""

    def import_both(first: str, second: str) -> tuple[int, int]:
        return import_rated(store, tmp_path, ("", SOUP + BREAD, first), ("", SOUP + TEA, second))

    assert import_both("up", "down") == (1, 1)
    assert import_both("up", "down") == (0, 0)
    assert import_both("up", "up") == (0, 0)
    assert [row.rating for row in store.imports.verdicts(1)] == ["good", "bad"]


def test_a_shared_answer_that_its_chat_does_not_rate_has_the_rating_of_another_one(
    store: Store, tmp_path: Path
) -> None:
    import_chat(store, tmp_path, *SOUP, *BREAD)
    export = tmp_path / "export"
    export.mkdir()
    write_chatgpt_export(export / "conversations.json", chatgpt_conversation("c2", SOUP + TEA))
    thumb = {"message_id": "c2-1", "conversation_id": "c2", "rating": "thumbs_down"}
    (export / "message_feedback.json").write_text(json.dumps([thumb]))
    assert import_paths(store, [export]).summary.bad == 1
    assert [row.rating for row in store.imports.verdicts(1)] == ["bad"]
    assert import_paths(store, [export]).import_id is None


def test_a_pair_is_used_until_a_later_export_rates_its_rejected_answer_good(store: Store, tmp_path: Path) -> None:
    texts = ["How long?", "Two hours.", "No, that is wrong.", "Half an hour."]
    import_chat(store, tmp_path, *texts)
    assert [(pair.chosen, pair.rejected) for pair in store.pairs.usable()] == [("Half an hour.", "Two hours.")]
    export = tmp_path / "export"
    export.mkdir()
    write_chatgpt_export(export / "conversations.json", chatgpt_conversation("c1", texts))
    thumb = {"message_id": "c1-1", "conversation_id": "c1", "rating": "thumbs_up"}
    (export / "message_feedback.json").write_text(json.dumps([thumb]))
    result = import_paths(store, [export])
    assert (result.summary.good, store.inferred.counts().pairs, store.pairs.usable()) == (1, 0, [])
    assert result.import_id is not None
    undo_import(store, result.import_id)
    assert (store.inferred.counts().pairs, len(store.pairs.usable())) == (1, 1)


def test_a_dry_run_of_several_exports_of_a_chat_counts_as_the_import_does(store: Store, tmp_path: Path) -> None:
    exports = [
        write_chatgpt_export(tmp_path / f"{number}.json", chatgpt_conversation("c1", texts))
        for number, texts in enumerate([SOUP, [*SOUP, *BREAD], [*SOUP, *BREAD], [*SOUP, *TEA]])
    ]
    dry = import_paths(store, exports, dry_run=True).summary
    assert store.dialogue_count() == 0
    real = import_paths(store, exports).summary
    assert dry.to_json() == real.to_json()
    assert (real.total("new"), real.total("continued"), real.total("known")) == (1, 2, 1)


def test_equal_reasons_are_counted_together() -> None:
    summary = ImportSummary()
    for number in range(5):
        summary.skip(Skipped(f"f:{number}", f"a user message of {number * 1000:,} characters"))
    summary.skip(Skipped("f:9", "a user message of 7 characters", is_turn=True))
    for number in range(200):
        summary.skip(Skipped(f"g:{number}", "reason " + "x" * number))
    first, second = summary.by_count()[:2]
    assert (first.reason, first.count, first.places) == ("other reasons", 102, ["g:98", "g:99", "g:100"])
    assert (second.reason, second.count, second.places) == ("a user message of 0 characters", 5, ["f:0", "f:1", "f:2"])


def test_a_file_without_a_dialogue_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a question without an answer") as error:
        import_chat(store, tmp_path, "Hello?")
    assert error.value.where == f"{tmp_path / 'x.json'}:1"


def test_answers_of_no_conversation_change(store: Store, tmp_path: Path) -> None:
    """A regenerated answer is new, with all that follows it, and the earlier one stays."""
    import_chat(store, tmp_path, *SOUP, *BREAD)
    import_chat(store, tmp_path, *SOUP, BREAD[0], "In a pan.", *TEA)
    assert [row.dialogue.assistant_turns for row in store.dialogues()] == [
        ("Slowly.", "In the oven."),
        ("In a pan.", "With hot water."),
    ]
    assert isinstance(store.dialogues()[1].dialogue, Dialogue)
