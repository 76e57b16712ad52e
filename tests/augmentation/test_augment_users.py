"""Many users: nothing is sent without consent, no request or training is repeated, users never influence each other."""

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
from mlx_personal.augmentation import on_device, user_jobs, user_results
from mlx_personal.augmentation.augment_users import augment_users, preview_users
from mlx_personal.augmentation.on_device import PreparedRequests
from mlx_personal.augmentation.prompting import PromptRequest
from mlx_personal.augmentation.sampling import SampleBudget
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.errors import Action, Remedy, StorageError, UserError
from mlx_personal.progress import ProgressEvent
from tests.jobs.test_jobs import ray, two_nodes
from tests.support.augmentation import (
    CONFIG,
    InProcessJobs,
    grant_consent,
    make_records,
    make_server,
    make_users,
    requests_for,
)
from tests.support.cases import slow_cases
from tests.support.fake_server import ANSWER_TOKENS, PROMPT_TOKENS, FakeServer, Fault


@pytest.fixture
def folder(tmp_path: Path, fake_server: FakeServer) -> Path:
    return grant_consent(tmp_path / "out", make_server(fake_server.url))


def adapters(folder: Path) -> dict[str, dict[str, bytes]]:
    """Return the contents of every user's adapter files."""
    return {
        user.name: {file.name: file.read_bytes() for file in user.iterdir()}
        for user in sorted((folder / "adapters").iterdir())
    }


def kept_records(folder: Path, user: str) -> list[Record]:
    """Return the synthetic records of a user that were kept."""
    lines = (folder / "synthetic" / f"{user}.jsonl").read_text().splitlines()
    return [Record(**json.loads(line)) for line in lines]


def test_every_user_gets_an_adapter_and_a_second_run_has_nothing_to_do(
    folder: Path, fake_server: FakeServer, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    users, server = make_users(tiny_model_folder, "ann", "bob", "cyd"), make_server(fake_server.url)
    events: list[ProgressEvent] = []
    first = augment_users(folder, users, server, on_progress=events.append)
    assert list(first.trained) == ["ann", "bob", "cyd"] and not (first.existing or first.failed or first.incomplete)
    assert first.request_summary is not None and first.request_summary.message is None
    assert first.request_summary.new == len(fake_server.received) == 12
    before = adapters(folder)
    assert list(before) == ["ann", "bob", "cyd"]
    assert all(set(files) == {"adapters.safetensors", "adapter_config.json"} for files in before.values())
    for name, result in first.trained.items():
        assert result.kept == result.outcome_counts["kept"] == len(kept_records(folder, name)) > 0
        assert sum(result.outcome_counts.values()) == result.requested == 4
        assert (result.records, result.sent, result.samples) == (5, 5, 5 + result.kept)
    assert events[0] == ProgressEvent("preparing", 0, 3) and events[-1] == ProgressEvent("training", 3, 3)
    assert ProgressEvent("requests", 12, 12) in events
    in_process_jobs.done.clear()
    again = augment_users(folder, users, server)
    assert again.existing == first.trained and again.request_summary is None
    assert not (again.trained or again.failed or again.incomplete)
    assert len(fake_server.received) == 12 and not in_process_jobs.done and adapters(folder) == before


def test_the_adapter_is_trained_on_the_real_and_the_kept_records(
    folder: Path, fake_server: FakeServer, in_process_jobs: InProcessJobs, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Compare with `finetune` on the real records and those in the file."""
    from mlx_personal.finetune import Example, finetune

    [user] = make_users(tiny_model_folder, "ann")
    augment_users(folder, [user], make_server(fake_server.url))
    synthetic = kept_records(folder, "ann")
    examples = [Example(Task().to_dialogue(record)) for record in user.records]
    examples += [Example(Task().to_dialogue(record), weight=0.5) for record in synthetic]
    assert len(user.records) == 5
    finetune(load_language_model(tiny_model_folder), examples, CONFIG.training, tmp_path / "own")
    assert adapters(folder)["ann"] == {file.name: file.read_bytes() for file in (tmp_path / "own").iterdir()}


def test_nothing_is_sent_without_consent(
    tmp_path: Path, fake_server: FakeServer, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    server = make_server(fake_server.url)
    with pytest.raises(UserError, match="without your consent") as error:
        augment_users(tmp_path / "out", make_users(tiny_model_folder, "ann"), server)
    arguments = {"server": server.url, "model": "cloud", "out": str(tmp_path / "out")}
    assert error.value.remedy == Remedy(Action.GRANT_CONSENT, arguments)
    grant_consent(tmp_path / "out", dataclasses.replace(server, model="another"))
    with pytest.raises(UserError, match="without your consent"):
        augment_users(tmp_path / "out", make_users(tiny_model_folder, "ann"), server)
    assert not fake_server.received and not in_process_jobs.done and not (tmp_path / "out" / "ledger.jsonl").exists()


def test_a_preview_shows_what_is_sent_and_opens_no_socket(
    folder: Path,
    fake_server: FakeServer,
    in_process_jobs: InProcessJobs,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users, server = make_users(tiny_model_folder, "ann", "bob"), make_server(fake_server.url)
    with monkeypatch.context() as no_sockets:
        no_sockets.setattr(socket, "socket", None)
        bodies = preview_users(folder, users, server)
    assert not fake_server.received and len(bodies) == 8
    augment_users(folder, users[:1], server)
    # Answered requests would not be sent again.
    assert preview_users(folder, users, server) == [body for body in bodies if body.user == "bob"]
    augment_users(folder, users, server)
    assert Counter(body.text.encode() for body in bodies) == Counter(received.body for received in fake_server.received)
    assert preview_users(folder, users, server) == []


def test_a_preview_writes_nothing(tmp_path: Path, in_process_jobs: InProcessJobs, tiny_model_folder: Path) -> None:
    server = make_server("http://127.0.0.1:1/v1")
    assert len(preview_users(tmp_path / "out", make_users(tiny_model_folder, "ann"), server)) == 4
    assert not (tmp_path / "out").exists()


def test_a_run_resumes_after_the_server_died_and_repeats_no_answered_request(
    folder: Path, fake_server: FakeServer, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    users, server = make_users(tiny_model_folder, "ann", "bob", "cyd"), make_server(fake_server.url)
    fake_server.queue_faults(*[None] * 6)
    fake_server.default_fault = Fault(status=503)
    first = augment_users(folder, users, server, concurrency=1)
    # Only ann has all responses; no adapter is trained on a part of them.
    assert list(first.trained) == ["ann"] and first.incomplete == ["bob", "cyd"]
    assert first.request_summary is not None and first.request_summary.message is not None
    assert "does not respond" in first.request_summary.message and "6 answered" in first.request_summary.message
    answered, fake_server.default_fault = set(fake_server.answered_prompts), None
    second = augment_users(folder, users, server)
    assert list(second.existing) == ["ann"] and list(second.trained) == ["bob", "cyd"] and not second.incomplete
    assert (
        Counter(fake_server.answered_prompts) == dict.fromkeys(fake_server.answered_prompts, 1)
        and len(fake_server.answered_prompts) == 12
    )
    assert answered < set(fake_server.answered_prompts)


def test_a_run_that_was_killed_while_training_resumes(
    folder: Path,
    fake_server: FakeServer,
    in_process_jobs: InProcessJobs,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users, server = make_users(tiny_model_folder, "ann", "bob"), make_server(fake_server.url)

    def kill(event: ProgressEvent) -> None:
        if event == ProgressEvent("training", 1, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        augment_users(folder, users, server, on_progress=kill)
    # What a kill in the middle of a write leaves: an adapter without its row, and an incomplete folder.
    (folder / "adapters" / "bob").mkdir()
    (folder / "adapters" / "bob" / "adapters.safetensors").write_bytes(b"half")
    (folder / "adapters" / ".cyd.x.partial").mkdir()
    second = augment_users(folder, users, server)
    assert list(second.existing) == ["ann"] and list(second.trained) == ["bob"]
    assert len(fake_server.received) == 8
    assert sorted(path.name for path in (folder / "adapters").iterdir()) == ["ann", "bob"]
    assert len(adapters(folder)["bob"]["adapters.safetensors"]) > 1000


def test_a_user_is_trained_within_the_budget_and_again_with_a_larger_one(
    folder: Path, fake_server: FakeServer, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    [user] = make_users(tiny_model_folder, "ann", config=dataclasses.replace(CONFIG, num_synthetic=3))
    server = dataclasses.replace(make_server(fake_server.url), max_tokens=10)
    # Enough for the first request and, once that has cost 15 tokens, for the second.
    max_cost = max(server.max_request_tokens(request) for request in requests_for(user))
    budget = max_cost + PROMPT_TOKENS + ANSWER_TOKENS
    first = augment_users(folder, [user], server, token_budget=budget, concurrency=1)
    assert not first.incomplete and first.request_summary is not None
    assert first.trained["ann"].outcome_counts["unanswered"] == first.request_summary.unaffordable == 1
    before = adapters(folder)
    # The same budget brings no new response, so nothing is trained.
    second = augment_users(folder, [user], server, token_budget=budget, concurrency=1)
    assert second.existing == first.trained and not second.trained and len(fake_server.received) == 2
    third = augment_users(folder, [user], server)
    assert third.trained["ann"].outcome_counts.get("unanswered", 0) == 0 and len(fake_server.received) == 3
    assert adapters(folder) != before


@pytest.mark.parametrize("change", [{"synthetic_weight": 0.25}, *slow_cases({"seed": 1})])
def test_another_setting_replaces_the_adapter(
    change: dict[str, Any],
    folder: Path,
    fake_server: FakeServer,
    in_process_jobs: InProcessJobs,
    tiny_model_folder: Path,
) -> None:
    server = make_server(fake_server.url)
    augment_users(folder, make_users(tiny_model_folder, "ann"), server)
    other = make_users(tiny_model_folder, "ann", config=dataclasses.replace(CONFIG, **change))
    assert list(augment_users(folder, other, server).trained) == ["ann"]
    assert list(augment_users(folder, other, server).existing) == ["ann"]
    assert list(augment_users(folder, make_users(tiny_model_folder, "ann"), server).trained) == ["ann"]


def test_a_full_disk_leaves_the_earlier_adapter_and_its_row(
    folder: Path,
    fake_server: FakeServer,
    in_process_jobs: InProcessJobs,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = make_server(fake_server.url)
    augment_users(folder, make_users(tiny_model_folder, "ann"), server)
    before = adapters(folder)

    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    other = make_users(tiny_model_folder, "ann", config=dataclasses.replace(CONFIG, seed=1))
    with monkeypatch.context() as patched:
        patched.setattr(user_results, "atomic_write", full)
        with pytest.raises(StorageError, match="the disk is full"):
            augment_users(folder, other, server)
    assert adapters(folder) == before
    assert list(augment_users(folder, make_users(tiny_model_folder, "ann"), server).existing) == ["ann"]


def test_an_adapter_does_not_depend_on_other_users(
    tmp_path: Path, fake_server: FakeServer, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    """Bob's adapter is the same, bit for bit, without ann, with ann, and with other records of hers."""
    server = make_server(fake_server.url)
    of_bob = []
    ann, bob, eve = make_users(tiny_model_folder, "ann", "bob", "eve")
    changed = dataclasses.replace(ann, records=tuple(Record(r.text[::-1], r.answer) for r in ann.records))
    for number, users in enumerate([[bob], [ann, bob], [eve, changed, bob]]):
        folder = grant_consent(tmp_path / str(number), server)
        augment_users(folder, users, server)
        of_bob.append((adapters(folder)["bob"], kept_records(folder, "bob")))
    assert of_bob[0] == of_bob[1] == of_bob[2]
    for received in fake_server.received:
        assert sum(name in received.prompt for name in ("ann wants", "bob wants", "eve wants")) <= 1


SECRETS = ["jo.doe@example.org", "+44 20 7946 0958", "Zebedee"]


def test_redacted_values_are_not_sent_and_are_restored_in_kept_records(
    folder: Path, fake_server: FakeServer, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    records = tuple(
        Record(f"Write to {SECRETS[i % 3]} about the {noun} of {i} days", f"Dear {SECRETS[i % 3]}, take the {noun}.")
        for i, noun in enumerate(["soup", "bus", "dog", "rent", "lamp", "song"])
    )
    config = dataclasses.replace(CONFIG, num_synthetic=6, redacted_words=("zebedee",))
    [user] = make_users(tiny_model_folder, "ann", config=config)
    result = augment_users(folder, [dataclasses.replace(user, records=records)], make_server(fake_server.url))
    assert result.trained["ann"].kept > 0
    bodies = b"\n".join(received.body for received in fake_server.received)
    assert not any(secret.encode() in bodies for secret in SECRETS)
    assert b"[EMAIL_1]" in bodies and b"[WORD_1]" in bodies
    synthetic = kept_records(folder, "ann")
    assert all(any(secret in record.text and secret in record.answer for secret in SECRETS) for record in synthetic)
    assert "[" not in "".join(record.text for record in synthetic)
    ledger = (folder / "ledger.jsonl").read_text()
    assert not any(secret in ledger for secret in SECRETS)


def test_a_label_that_looks_like_a_placeholder_is_kept(tiny_model: LanguageModel) -> None:
    records = [Record("Write to jo@example.org today", "no"), Record("Buy bread today", "no")]
    response = json.dumps({"text": "Write to [EMAIL_1] on Monday about the rent", "answer": "[EMAIL_1]"})
    prepared = PreparedRequests((PromptRequest("ann", 0, "prompt", 0, (0,)),), (0,))
    synthetic = on_device.filter_responses(
        tiny_model, Task(labels=("no", "[EMAIL_1]")), records, prepared, [response], CONFIG
    )
    assert synthetic.records == (Record("Write to jo@example.org on Monday about the rent", "[EMAIL_1]"),)


def test_records_with_an_invented_placeholder_are_dropped_and_counted(tiny_model: LanguageModel) -> None:
    records = [Record("Write to jo@example.org today", "I have."), *make_records("ann", 3)]
    requests = tuple(PromptRequest("ann", i, "prompt", i, (0,)) for i in range(5))
    written = [
        {"text": "Write to [EMAIL_1] on Monday about the rent", "answer": "Done."},
        {"text": "Write to [EMAIL_9] on Tuesday about the lamp", "answer": "Done."},
        {"text": "Send a long letter to the king of Spain", "answer": "To [PHONE_1]?"},
        {"text": "What is [this] and [THAT_0] in the soup", "answer": "Salt."},
    ]
    responses = [*map(json.dumps, written), "no record"]
    synthetic = on_device.filter_responses(
        tiny_model, Task(), records, PreparedRequests(requests, (0, 1)), responses, CONFIG
    )
    assert synthetic.outcome_counts == {"kept": 2, "placeholder": 2, "unparsable": 1}
    assert [record.text for record in synthetic.records] == [
        "Write to jo@example.org on Monday about the rent",
        written[3]["text"],
    ]
    assert synthetic.requests == (0, 3) and synthetic.sources == (0, 0)


def test_records_that_are_too_long_to_send_are_counted(
    folder: Path, fake_server: FakeServer, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    [user] = make_users(
        tiny_model_folder, "ann", config=dataclasses.replace(CONFIG, sample_budget=SampleBudget(max_tokens=150))
    )
    long = Record("soup " * 200, "Yes.")
    result = augment_users(
        folder, [dataclasses.replace(user, records=(*user.records, long))], make_server(fake_server.url)
    ).trained["ann"]
    assert result.too_long == 1 and 0 < result.sent < 6 and result.records == 6


def test_a_user_without_sent_records_is_trained_on_the_real_ones_alone(
    folder: Path, fake_server: FakeServer, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    [user] = make_users(
        tiny_model_folder, "ann", config=dataclasses.replace(CONFIG, sample_budget=SampleBudget(max_tokens=1))
    )
    result = augment_users(folder, [user], make_server(fake_server.url)).trained["ann"]
    assert (result.sent, result.requested, result.kept, result.samples, result.too_long) == (0, 0, 0, 5, 5)
    assert not fake_server.received and kept_records(folder, "ann") == []


def test_a_user_whose_job_fails_does_not_stop_the_others(
    folder: Path, fake_server: FakeServer, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    users = make_users(tiny_model_folder, "ann", "bob", "cyd", "dan")
    in_process_jobs.fails = lambda function, job: {
        (user_jobs.prepare, "bob"): "out of disk",
        (user_jobs.train, "cyd"): "out of memory",
    }.get((function, job.key))
    server = make_server(fake_server.url)
    result = augment_users(folder, users, server)
    assert result.failed == {"bob": "out of disk", "cyd": "out of memory"} and list(result.trained) == ["ann", "dan"]
    in_process_jobs.fails = lambda function, job: None
    assert list(augment_users(folder, users, server).trained) == ["bob", "cyd"] and len(fake_server.received) == 16


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a\nb", "a\udcff"])
def test_a_name_that_no_folder_can_have_is_refused(
    name: str, folder: Path, fake_server: FakeServer, tiny_model_folder: Path
) -> None:
    with pytest.raises(UserError, match="cannot be a user's name"):
        augment_users(folder, make_users(tiny_model_folder, name), make_server(fake_server.url))


def test_names_that_differ_only_in_case_are_refused(
    folder: Path, fake_server: FakeServer, tiny_model_folder: Path
) -> None:
    with pytest.raises(UserError, match="two users are named 'ann', apart from upper and lower case; rename one"):
        augment_users(folder, make_users(tiny_model_folder, "Ann", "ann"), make_server(fake_server.url))


def test_a_refused_key_is_an_error_and_loses_nothing(
    folder: Path, fake_server: FakeServer, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    users = make_users(tiny_model_folder, "ann")
    fake_server.queue_faults(None, None)
    fake_server.default_fault = Fault(status=401)
    with pytest.raises(UserError, match="requires a key"):
        augment_users(folder, users, make_server(fake_server.url), concurrency=1)
    fake_server.default_fault = None
    assert list(augment_users(folder, users, make_server(fake_server.url)).trained) == ["ann"]
    assert Counter(fake_server.answered_prompts) == dict.fromkeys(fake_server.answered_prompts, 1)


def test_a_second_run_in_the_same_folder_is_refused(
    folder: Path, fake_server: FakeServer, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    started, refused = threading.Event(), []
    users, server = make_users(tiny_model_folder, "ann"), make_server(fake_server.url)

    def start_second_run(event: ProgressEvent) -> None:
        if event.stage == "requests" and not started.is_set():
            started.set()
            with pytest.raises(UserError, match="in use by another process"):
                augment_users(folder, users, server)
            refused.append(True)

    augment_users(folder, users, server, on_progress=start_second_run)
    assert refused


@pytest.mark.slow
def test_worker_processes_train_the_same_adapters_as_this_process(
    tmp_path: Path, fake_server: FakeServer, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, server = make_users(tiny_model_folder, "ann", "bob", "cyd"), make_server(fake_server.url)
    folder = grant_consent(tmp_path / "workers", server)
    assert len(augment_users(folder, users, server, workers=2).trained) == 3
    monkeypatch.setattr(jobs, "run_jobs", InProcessJobs())
    other = grant_consent(tmp_path / "here", server)
    augment_users(other, users, server)
    assert adapters(folder) == adapters(other)


@pytest.mark.slow
def test_all_users_finish_although_a_machine_dies(
    two_nodes: Any, tmp_path: Path, fake_server: FakeServer, tiny_model_folder: Path
) -> None:
    machines, other = two_nodes
    names = ["ann", "bob", "cyd", "dan", "eve", "fay", "gus", "hal"]
    # Long enough that the others are still training when the first is done.
    longer = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, epochs=60))
    users, server = make_users(tiny_model_folder, *names, config=longer), make_server(fake_server.url)
    removed: list[str] = []

    def remove_machine(event: ProgressEvent) -> None:
        if event == ProgressEvent("training", 1, len(names)):
            machines.remove_node(other, allow_graceful=False)
            removed.append(other)

    folder = grant_consent(tmp_path / "out", server)
    result = augment_users(folder, users, server, ray_address=machines.address, on_progress=remove_machine)
    assert removed and sorted(result.trained) == names and not (result.failed or result.incomplete)
    assert sorted(adapters(folder)) == names
    assert Counter(received.prompt for received in fake_server.received) == dict.fromkeys(
        fake_server.answered_prompts, 1
    )
    assert len(fake_server.received) == 4 * len(names)
    assert result.request_summary is not None and result.request_summary.new == 4 * len(names)


assert ray and two_nodes  # fixtures
