"""Many users, one server: nothing leaves without consent, nothing is asked or learnt twice, no user meets another."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import LanguageModel, jobs, load_language_model
from mlx_personal.augmentation import device, user_jobs
from mlx_personal.augmentation.augment_users import ProgressEvent, augment, preview
from mlx_personal.augmentation.device import Prepared
from mlx_personal.augmentation.prompting import Request
from mlx_personal.augmentation.sampling import Budget
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.errors import UserError
from tests.jobs.test_jobs import ray, two_nodes
from tests.support.augmentation import CONFIG, JobsHere, consented, records_of, requests_for, server_at, users_on
from tests.support.fake_server import ANSWER_TOKENS, PROMPT_TOKENS, Fault


@pytest.fixture
def folder(tmp_path: Path, fake: Any) -> Any:
    return consented(tmp_path / "out", server_at(fake.url))


def adapters(folder: Any) -> Any:
    """The bytes of every user's adapter."""
    return {
        user.name: {file.name: file.read_bytes() for file in user.iterdir()}
        for user in sorted((folder / "adapters").iterdir())
    }


def kept(folder: Any, user: Any) -> Any:
    lines = (folder / "synthetic" / f"{user}.jsonl").read_text().splitlines()
    return [Record(**json.loads(line)) for line in lines]


def test_three_users_get_an_adapter_each_and_a_second_run_has_nothing_to_do(
    folder: Any, fake: Any, here: Any, tiny_model_folder: Path
) -> None:
    users, server, told = users_on(tiny_model_folder, "ann", "bob", "cyd"), server_at(fake.url), []
    first = augment(folder, users, server, on_progress=told.append)
    assert list(first.learnt) == ["ann", "bob", "cyd"] and not (first.found or first.failed or first.left)
    assert first.asked.new == len(fake.received) == 12 and first.asked.message is None
    before = adapters(folder)
    assert list(before) == ["ann", "bob", "cyd"]
    assert all(set(files) == {"adapters.safetensors", "adapter_config.json"} for files in before.values())
    for name, result in first.learnt.items():
        assert result.kept == result.counts["kept"] == len(kept(folder, name)) > 0
        assert sum(result.counts.values()) == result.asked == 4
        assert (result.records, result.sent, result.rows) == (5, 5, 5 + result.kept)
    assert told[0] == ProgressEvent("preparing", 0, 3) and told[-1] == ProgressEvent("learning", 3, 3)
    assert ProgressEvent("asking", 12, 12) in told
    here.done.clear()
    again = augment(folder, users, server)
    assert again.found == first.learnt and not (again.learnt or again.failed or again.left) and again.asked is None
    assert len(fake.received) == 12 and not here.done and adapters(folder) == before


def test_an_adapter_answers_as_one_that_learnt_the_kept_records(
    folder: Any, fake: Any, here: Any, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The reference: `finetune` itself, on the real records and those in the file."""
    from mlx_personal.finetune import finetune

    [user] = users_on(tiny_model_folder, "ann")
    augment(folder, [user], server_at(fake.url))
    made = kept(folder, "ann")
    dialogues = [Task().dialogue(record) for record in (*user.records, *made)]
    weights = [1.0] * 5 + [0.5] * len(made)
    finetune(load_language_model(tiny_model_folder), dialogues, CONFIG.training, tmp_path / "own", weights=weights)
    assert adapters(folder)["ann"] == {file.name: file.read_bytes() for file in (tmp_path / "own").iterdir()}


def test_nothing_leaves_without_consent(tmp_path: Path, fake: Any, here: Any, tiny_model_folder: Path) -> None:
    server = server_at(fake.url)
    with pytest.raises(UserError, match=r"without your consent; give it by `mlx-personal augment consent"):
        augment(tmp_path / "out", users_on(tiny_model_folder, "ann"), server)
    consented(tmp_path / "out", dataclasses.replace(server, model="another"))
    with pytest.raises(UserError, match="without your consent"):
        augment(tmp_path / "out", users_on(tiny_model_folder, "ann"), server)
    assert not fake.received and not here.done and not (tmp_path / "out" / "ledger.jsonl").exists()


def test_a_preview_is_what_is_sent_and_opens_no_socket(
    folder: Any, fake: Any, here: Any, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, server = users_on(tiny_model_folder, "ann", "bob"), server_at(fake.url)
    with monkeypatch.context() as without:
        without.setattr(socket, "socket", None)
        shown = preview(folder, users, server)
    assert not fake.received and len(shown) == 8
    augment(folder, users[:1], server)
    # What has been answered would not leave again.
    assert preview(folder, users, server) == [body for body in shown if body.user == "bob"]
    augment(folder, users, server)
    assert Counter(body.text.encode() for body in shown) == Counter(received.body for received in fake.received)
    assert preview(folder, users, server) == []


def test_a_preview_changes_nothing_on_the_disk(tmp_path: Path, here: Any, tiny_model_folder: Path) -> None:
    server = server_at("http://127.0.0.1:1/v1")
    assert len(preview(tmp_path / "out", users_on(tiny_model_folder, "ann"), server)) == 4
    assert not (tmp_path / "out").exists()


def test_a_run_whose_server_dies_goes_on_and_asks_nothing_twice_that_was_answered(
    folder: Any, fake: Any, here: Any, tiny_model_folder: Path
) -> None:
    users, server = users_on(tiny_model_folder, "ann", "bob", "cyd"), server_at(fake.url)
    fake.misbehave(*[None] * 6)
    fake.always = Fault(status=503)
    first = augment(folder, users, server, concurrency=1)
    # Ann has all her answers; the others are named, and nothing is learnt of half of theirs.
    assert list(first.learnt) == ["ann"] and first.left == ["bob", "cyd"]
    assert "does not answer" in first.asked.message and "6 answered" in first.asked.message
    answered, fake.always = set(fake.answered), None
    second = augment(folder, users, server)
    assert list(second.found) == ["ann"] and list(second.learnt) == ["bob", "cyd"] and not second.left
    assert Counter(fake.answered) == dict.fromkeys(fake.answered, 1) and len(fake.answered) == 12
    assert answered < set(fake.answered)


def test_a_run_that_is_killed_while_it_learns_goes_on(
    folder: Any, fake: Any, here: Any, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, server = users_on(tiny_model_folder, "ann", "bob"), server_at(fake.url)

    def killed(progress: Any) -> None:
        if progress == ProgressEvent("learning", 1, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        augment(folder, users, server, on_progress=killed)
    # As a kill in the middle of a write leaves it: an adapter without its row, and half a one.
    (folder / "adapters" / "bob").mkdir()
    (folder / "adapters" / "bob" / "adapters.safetensors").write_bytes(b"half")
    (folder / "adapters" / ".cyd.x.partial").mkdir()
    second = augment(folder, users, server)
    assert list(second.found) == ["ann"] and list(second.learnt) == ["bob"]
    assert len(fake.received) == 8
    assert sorted(path.name for path in (folder / "adapters").iterdir()) == ["ann", "bob"]
    assert len(adapters(folder)["bob"]["adapters.safetensors"]) > 1000


def test_a_user_learns_what_the_budget_left_and_anew_once_there_is_more(
    folder: Any, fake: Any, here: Any, tiny_model_folder: Path
) -> None:
    [user] = users_on(tiny_model_folder, "ann", config=dataclasses.replace(CONFIG, k=3))
    server = dataclasses.replace(server_at(fake.url), max_tokens=10)
    # Room for the first and, once that has cost 15, for the second.
    most = max(server.most_tokens(r) for r in requests_for(user))
    budget = most + PROMPT_TOKENS + ANSWER_TOKENS
    first = augment(folder, [user], server, token_budget=budget, concurrency=1)
    assert not first.left and first.learnt["ann"].counts["unanswered"] == first.asked.unaffordable == 1
    before = adapters(folder)
    # The same budget brings nothing new, so nothing is learnt again.
    second = augment(folder, [user], server, token_budget=budget, concurrency=1)
    assert second.found == first.learnt and not second.learnt and len(fake.received) == 2
    third = augment(folder, [user], server)
    assert third.learnt["ann"].counts.get("unanswered", 0) == 0 and len(fake.received) == 3
    assert adapters(folder) != before


@pytest.mark.parametrize("change", [{"seed": 1}, {"synthetic_weight": 0.25}])
def test_another_setting_makes_another_adapter_in_the_same_place(
    change: Any, folder: Any, fake: Any, here: Any, tiny_model_folder: Path
) -> None:
    server = server_at(fake.url)
    augment(folder, users_on(tiny_model_folder, "ann"), server)
    other = users_on(tiny_model_folder, "ann", config=dataclasses.replace(CONFIG, **change))
    assert list(augment(folder, other, server).learnt) == ["ann"]
    assert list(augment(folder, other, server).found) == ["ann"]
    assert list(augment(folder, users_on(tiny_model_folder, "ann"), server).learnt) == ["ann"]


def test_no_users_rows_reach_anothers_adapter(tmp_path: Path, fake: Any, here: Any, tiny_model_folder: Path) -> None:
    """B's adapter is the same to the bit whether B is alone, beside A, or beside an A who says other things."""
    server, found = server_at(fake.url), []
    ann, bob, eve = users_on(tiny_model_folder, "ann", "bob", "eve")
    changed = dataclasses.replace(ann, records=tuple(Record(r.text[::-1], r.answer) for r in ann.records))
    for number, users in enumerate([[bob], [ann, bob], [eve, changed, bob]]):
        folder = consented(tmp_path / str(number), server)
        augment(folder, users, server)
        found.append((adapters(folder)["bob"], kept(folder, "bob")))
    assert found[0] == found[1] == found[2]
    for received in fake.received:
        assert sum(name in received.prompt for name in ("ann wants", "bob wants", "eve wants")) <= 1


SECRETS = ["jo.doe@example.org", "+44 20 7946 0958", "Zebedee"]


def test_what_is_redacted_never_leaves_and_is_there_again_in_what_is_kept(
    folder: Any, fake: Any, here: Any, tiny_model_folder: Path
) -> None:
    records = tuple(
        Record(f"Write to {SECRETS[i % 3]} about the {noun} of {i} days", f"Dear {SECRETS[i % 3]}, take the {noun}.")
        for i, noun in enumerate(["soup", "bus", "dog", "rent", "lamp", "song"])
    )
    config = dataclasses.replace(CONFIG, k=6, own_words=("zebedee",))
    [user] = users_on(tiny_model_folder, "ann", config=config)
    outcome = augment(folder, [dataclasses.replace(user, records=records)], server_at(fake.url))
    assert outcome.learnt["ann"].kept > 0
    bodies = b"\n".join(received.body for received in fake.received)
    assert not any(secret.encode() in bodies for secret in SECRETS)
    assert b"[EMAIL_1]" in bodies and b"[WORD_1]" in bodies
    made = kept(folder, "ann")
    assert all(any(secret in record.text and secret in record.answer for secret in SECRETS) for record in made)
    assert "[" not in "".join(record.text for record in made)
    ledger = (folder / "ledger.jsonl").read_text()
    assert not any(secret in ledger for secret in SECRETS)


def test_a_label_that_looks_like_a_placeholder_stays_a_label(tiny_model: LanguageModel) -> None:
    records = [Record("Write to jo@example.org today", "no"), Record("Buy bread today", "no")]
    answer = json.dumps({"text": "Write to [EMAIL_1] on Monday about the rent", "answer": "[EMAIL_1]"})
    prepared = Prepared((Request("ann", 0, "prompt", 0, (0,)),), (0,))
    made = device.synthetic(tiny_model, Task(labels=("no", "[EMAIL_1]")), records, prepared, [answer], CONFIG)
    assert made.records == (Record("Write to jo@example.org on Monday about the rent", "[EMAIL_1]"),)


def test_a_placeholder_that_the_server_made_up_is_dropped_and_counted(tiny_model: LanguageModel) -> None:
    records = [Record("Write to jo@example.org today", "I have."), *records_of("ann", 3)]
    asked = tuple(Request("ann", i, "prompt", i, (0,)) for i in range(5))
    said = [
        {"text": "Write to [EMAIL_1] on Monday about the rent", "answer": "Done."},
        {"text": "Write to [EMAIL_9] on Tuesday about the lamp", "answer": "Done."},
        {"text": "Send a long letter to the king of Spain", "answer": "To [PHONE_1]?"},
        {"text": "What is [this] and [THAT_0] in the soup", "answer": "Salt."},
    ]
    answers = [*map(json.dumps, said), "no record"]
    made = device.synthetic(tiny_model, Task(), records, Prepared(asked, (0, 1)), answers, CONFIG)
    assert made.counts == {"kept": 2, "placeholder": 2, "unparsable": 1}
    assert [record.text for record in made.records] == [
        "Write to jo@example.org on Monday about the rent",
        said[3]["text"],
    ]
    assert made.requests == (0, 3) and made.sources == (0, 0)


def test_records_over_the_budget_alone_are_counted(folder: Any, fake: Any, here: Any, tiny_model_folder: Path) -> None:
    [user] = users_on(tiny_model_folder, "ann", config=dataclasses.replace(CONFIG, budget=Budget(tokens=150)))
    long = Record("soup " * 200, "Yes.")
    result = augment(folder, [dataclasses.replace(user, records=(*user.records, long))], server_at(fake.url)).learnt[
        "ann"
    ]
    assert result.too_long == 1 and 0 < result.sent < 6 and result.records == 6


def test_a_user_of_whom_nothing_may_leave_learns_the_own_records_alone(
    folder: Any, fake: Any, here: Any, tiny_model_folder: Path
) -> None:
    [user] = users_on(tiny_model_folder, "ann", config=dataclasses.replace(CONFIG, budget=Budget(tokens=1)))
    result = augment(folder, [user], server_at(fake.url)).learnt["ann"]
    assert (result.sent, result.asked, result.kept, result.rows, result.too_long) == (0, 0, 0, 5, 5)
    assert not fake.received and kept(folder, "ann") == []


def test_a_user_whose_job_fails_does_not_stop_the_others(
    folder: Any, fake: Any, here: Any, tiny_model_folder: Path
) -> None:
    users = users_on(tiny_model_folder, "ann", "bob", "cyd", "dan")
    here.fails = lambda function, job: {
        (user_jobs.prepare, "bob"): "out of breath",
        (user_jobs.learn, "cyd"): "out of memory",
    }.get((function, job.key))
    server = server_at(fake.url)
    outcome = augment(folder, users, server)
    assert outcome.failed == {"bob": "out of breath", "cyd": "out of memory"} and list(outcome.learnt) == ["ann", "dan"]
    here.fails = lambda function, job: None
    assert list(augment(folder, users, server).learnt) == ["bob", "cyd"] and len(fake.received) == 16


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a\nb", "a\udcff"])
def test_a_name_that_no_folder_can_have_is_refused(name: str, folder: Any, fake: Any, tiny_model_folder: Path) -> None:
    with pytest.raises(UserError, match="is no name for a user"):
        augment(folder, users_on(tiny_model_folder, name), server_at(fake.url))


def test_two_users_of_one_name_are_refused(folder: Any, fake: Any, tiny_model_folder: Path) -> None:
    with pytest.raises(UserError, match="two users are named 'ann', but for its case; rename one"):
        augment(folder, users_on(tiny_model_folder, "Ann", "ann"), server_at(fake.url))


def test_a_key_that_the_server_refuses_is_one_error_and_nothing_is_lost(
    folder: Any, fake: Any, here: Any, tiny_model_folder: Path
) -> None:
    users = users_on(tiny_model_folder, "ann")
    fake.misbehave(None, None)
    fake.always = Fault(status=401)
    with pytest.raises(UserError, match="wants a key"):
        augment(folder, users, server_at(fake.url), concurrency=1)
    fake.always = None
    assert list(augment(folder, users, server_at(fake.url)).learnt) == ["ann"]
    assert Counter(fake.answered) == dict.fromkeys(fake.answered, 1)


def test_two_runs_at_once_in_one_folder_are_refused(folder: Any, fake: Any, here: Any, tiny_model_folder: Path) -> None:
    inside, seen = threading.Event(), []
    users, server = users_on(tiny_model_folder, "ann"), server_at(fake.url)

    def second(progress: Any) -> None:
        if progress.stage == "asking" and not inside.is_set():
            inside.set()
            with pytest.raises(UserError, match="in use by another process"):
                augment(folder, users, server)
            seen.append(True)

    augment(folder, users, server, on_progress=second)
    assert seen


@pytest.mark.slow
def test_worker_processes_make_the_same_adapters_as_this_one(
    tmp_path: Path, fake: Any, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, server = users_on(tiny_model_folder, "ann", "bob", "cyd"), server_at(fake.url)
    folder = consented(tmp_path / "workers", server)
    assert len(augment(folder, users, server, workers=2).learnt) == 3
    monkeypatch.setattr(jobs, "run", JobsHere())
    other = consented(tmp_path / "here", server)
    augment(other, users, server)
    assert adapters(folder) == adapters(other)


@pytest.mark.slow
def test_every_user_finishes_though_a_machine_dies_and_no_prompt_is_sent_twice(
    two_nodes: Any, tmp_path: Path, fake: Any, tiny_model_folder: Path
) -> None:
    machines, other = two_nodes
    names = ["ann", "bob", "cyd", "dan", "eve", "fay", "gus", "hal"]
    # Long enough that the others are at work when the first is done.
    longer = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, epochs=60))
    users, server, lost = users_on(tiny_model_folder, *names, config=longer), server_at(fake.url), []

    def on_progress(progress: Any) -> None:
        if progress == ProgressEvent("learning", 1, len(names)):
            machines.remove_node(other, allow_graceful=False)
            lost.append(progress)

    folder = consented(tmp_path / "out", server)
    outcome = augment(folder, users, server, ray=machines.address, on_progress=on_progress)
    assert lost and sorted(outcome.learnt) == names and not (outcome.failed or outcome.left)
    assert sorted(adapters(folder)) == names
    assert Counter(received.prompt for received in fake.received) == dict.fromkeys(fake.answered, 1)
    assert len(fake.received) == 4 * len(names) == outcome.asked.new


assert ray and two_nodes  # fixtures
