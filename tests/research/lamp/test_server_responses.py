"""LaMP runs with a server: nothing is asked twice or without consent, and nothing private is sent."""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mlx_personal.augmentation.prompting import PromptRequest
from mlx_personal.errors import Action, Remedy, UserError
from mlx_personal.research.lamp import LampSpec, lamp_jobs, run_lamp
from mlx_personal.research.lamp.lamp_folder import LampFolder
from mlx_personal.research.lamp.lamp_results import MethodAnswers
from mlx_personal.research.lamp.lamp_users import LampUser
from tests.research.lamp.conftest import TrainedAdapter
from tests.support.augmentation import CONFIG, InProcessJobs, grant_consent, make_server
from tests.support.fake_server import ANSWER_TOKENS, PROMPT_TOKENS, FakeServer, Fault
from tests.support.lamp_users import SHORT_RUN, edit_json, lamp_spec, read_results, run_and_read, write_lamp_files


@pytest.fixture(autouse=True)
def without_processes(in_process_jobs: InProcessJobs) -> None:
    """No test starts worker processes, except the one that undoes this."""


def server_spec(world: Path, model: Path, fake_server: FakeServer, *methods: str, **changes: Any) -> LampSpec:
    names = methods or ("cdcda", "cdcda-no-copy", "cloud:1")
    return lamp_spec(world, model, *names, server=make_server(fake_server.url), **changes)


@pytest.mark.slow
def test_synthetic_records_are_trained_on_and_answers_are_stored(
    world: Path, folder: Path, fake_server: FakeServer, tiny_model_folder: Path
) -> None:
    results = run_and_read(folder, server_spec(world, tiny_model_folder, fake_server))
    # Four requests for records of each user, which all methods share, and one for each query.
    assert len(fake_server.received) == 3 * 4 + 6 and len(results) == 9
    for (_, method), answers in results.items():
        result = answers.result
        kept = result.counts.get("synthetic: kept", 0)
        requested = sum(count for reason, count in result.counts.items() if reason.startswith("synthetic"))
        assert (requested, result.training_samples) == ((0, 0) if method == "cloud:1" else (4, 4 + kept))
    users = json.loads((world / "LaMP_3_history.json").read_text())
    for number, user in enumerate(users):
        answers = results[number, "cloud:1"]
        assert answers.predictions == {query["id"]: query["input"][-40:].strip() for query in user["query"]}
        result = answers.result
        assert (result.tokens_read, result.tokens_written, result.adapter_bytes) == (None, None, None)
    assert sum(results[number, "cdcda"].result.counts.get("synthetic: kept", 0) for number in range(3)) > 0


def test_a_second_run_asks_nothing_and_opens_no_connection(
    world: Path, folder: Path, fake_server: FakeServer, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = server_spec(world, tiny_model_folder, fake_server, "cdcda", "cloud:1", num_users=1)
    run_lamp(folder, spec)
    num_received = len(fake_server.received)
    monkeypatch.setattr(socket, "socket", None)
    assert run_lamp(folder, spec).num_stored == 2
    # Another set of filters uses the responses that are cached.
    assert run_lamp(folder, dataclasses.replace(spec, methods=["cdcda-no-balance"])).num_computed == 1
    assert len(fake_server.received) == num_received


def test_methods_that_ask_nothing_need_no_consent(
    tmp_path: Path, world: Path, fake_server: FakeServer, tiny_model_folder: Path
) -> None:
    spec = server_spec(world, tiny_model_folder, fake_server, "bm25:1", "oppu", num_users=1)
    assert run_lamp(tmp_path / "out", spec).num_computed == 2 and not fake_server.received


def test_nothing_is_sent_without_consent(
    tmp_path: Path, world: Path, fake_server: FakeServer, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    out = tmp_path / "a run"
    with pytest.raises(UserError, match="without your consent") as raised:
        run_lamp(out, server_spec(world, tiny_model_folder, fake_server))
    arguments = {"server": fake_server.url, "model": "cloud", "out": str(out)}
    assert raised.value.remedy == Remedy(Action.GRANT_CONSENT, arguments)
    assert not fake_server.received and not in_process_jobs.done


@pytest.mark.slow
def test_a_dead_server_leaves_its_results_for_a_later_run_and_nothing_is_asked_twice(
    world: Path, folder: Path, fake_server: FakeServer, tiny_model_folder: Path
) -> None:
    fake_server.queue_faults(*[None] * 6)
    fake_server.default_fault = Fault(status=503)
    spec = server_spec(world, tiny_model_folder, fake_server, "bm25:1", "cdcda", "cloud:1")
    first = run_lamp(folder, spec)
    assert first.message is not None and "does not respond" in first.message and not first.failed
    assert first.num_computed + first.num_unanswered == 9 and first.num_unanswered >= 5
    stored = read_results(folder, first)
    assert {user for user, method in stored if method == "bm25:1"} == {0, 1, 2}
    assert not any(method == "cloud:1" for _, method in stored)
    fake_server.default_fault = None
    again = run_lamp(folder, spec)
    assert (again.num_stored, again.num_computed) == (first.num_computed, first.num_unanswered)
    assert (again.num_unanswered, again.message) == (0, None)
    assert Counter(fake_server.answered_prompts) == dict.fromkeys(fake_server.answered_prompts, 1)
    assert len(fake_server.answered_prompts) == 18


@pytest.mark.slow
def test_a_used_up_budget_trains_on_the_records_that_came(
    world: Path, folder: Path, fake_server: FakeServer, tiny_model_folder: Path
) -> None:
    spec = server_spec(world, tiny_model_folder, fake_server, "cdcda", num_users=1)
    assert spec.server is not None
    server = dataclasses.replace(spec.server, max_tokens=10)
    spec = dataclasses.replace(spec, server=server)
    tokens_each = PROMPT_TOKENS + ANSWER_TOKENS
    assert run_lamp(folder, spec).server_tokens == 4 * tokens_each
    # Enough for the shortest prompt besides one answer, so for at most two of the four.
    most = min(
        server.max_request_tokens(PromptRequest("", 0, received.prompt, 0, ())) for received in fake_server.received
    )
    limited_spec = dataclasses.replace(spec, token_budget=most + tokens_each)
    other_folder = grant_consent(folder.parent / "limited", server)
    limited = run_lamp(other_folder, limited_spec)
    assert limited.server_tokens in (tokens_each, 2 * tokens_each)
    assert limited.message is not None and "the token budget is used up" in limited.message
    counts = read_results(other_folder, limited)[0, "cdcda"].result.counts
    assert counts["synthetic: unanswered"] == 4 - limited.server_tokens / tokens_each
    # The same budget brings no more records and trains nothing again; a larger one does both.
    again = run_lamp(other_folder, limited_spec)
    assert (again.num_stored, again.num_computed) == (1, 0)
    unlimited_spec = dataclasses.replace(limited_spec, token_budget=None)
    more = run_lamp(other_folder, unlimited_spec)
    assert (more.num_stored, more.num_computed, more.server_tokens) == (0, 1, 4 * tokens_each)
    assert "synthetic: unanswered" not in read_results(other_folder, more)[0, "cdcda"].result.counts
    assert run_lamp(other_folder, unlimited_spec).num_stored == 1


def test_queries_over_the_budget_are_not_scored(
    world: Path, folder: Path, fake_server: FakeServer, tiny_model_folder: Path
) -> None:
    spec = server_spec(world, tiny_model_folder, fake_server, "cloud:0", token_budget=1)
    limited = run_lamp(folder, spec)
    assert (limited.num_computed, limited.num_unanswered, limited.server_tokens) == (0, 3, 0)
    assert limited.message is not None and "budget is used up" in limited.message
    assert not fake_server.received and not read_results(folder, limited)
    assert run_lamp(folder, dataclasses.replace(spec, token_budget=None)).num_computed == 3


def test_a_refusal_is_a_user_error_and_earlier_responses_are_kept(
    world: Path, folder: Path, fake_server: FakeServer, tiny_model_folder: Path
) -> None:
    fake_server.queue_faults(None, None)
    fake_server.default_fault = Fault(status=401)
    spec = server_spec(world, tiny_model_folder, fake_server, "cdcda", "cloud", num_users=1)
    with pytest.raises(UserError, match="requires a key"):
        run_lamp(folder, spec)
    fake_server.default_fault = None
    assert run_lamp(folder, spec).num_computed == 2
    assert Counter(fake_server.answered_prompts) == dict.fromkeys(fake_server.answered_prompts, 1)


@pytest.mark.slow
def test_a_user_whose_prompts_fail_is_reported_and_stops_no_other(
    world: Path, folder: Path, fake_server: FakeServer, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    failing_job = (lamp_jobs.build_server_prompts, "1")
    in_process_jobs.fails = lambda function, job: "out of memory" if (function, job.key) == failing_job else None
    result = run_lamp(folder, server_spec(world, tiny_model_folder, fake_server, "bm25:1", "cdcda"))
    assert result.failed == [("user-1-1", "out of memory")]
    assert (result.num_computed, result.num_unanswered) == (5, 1)


@pytest.mark.slow
def test_redacted_words_are_never_sent_and_restored_in_the_answers(
    world: Path, folder: Path, fake_server: FakeServer, tiny_model_folder: Path
) -> None:
    secrets = ["jo.doe@example.org", "Zebedee"]

    def add_secrets(users: list[dict[str, Any]]) -> None:
        for user in users:
            for item in user["profile"]:
                item["text"] = f"Dear {secrets[0]}, {item['text']} Yours, {secrets[1]}"
            for query in user["query"]:
                query["input"] += f" Ask zebedee or {secrets[0]}"

    edit_json(world / "LaMP_3_history.json", add_secrets)
    config = dataclasses.replace(SHORT_RUN, augment=dataclasses.replace(CONFIG, redacted_words=("zebedee",)))
    spec = server_spec(world, tiny_model_folder, fake_server, "cdcda", "cloud:2", config=config)
    spec = dataclasses.replace(spec, questions=world / "LaMP_3_history.json", outputs=None)
    results = run_and_read(folder, spec)
    sent = b"\n".join(received.body for received in fake_server.received)
    logged = sent + (folder / "ledger.jsonl").read_bytes()
    assert not any(secret.lower().encode() in logged.lower() for secret in secrets)
    assert b"[EMAIL_1]" in sent and b"[WORD_1]" in sent
    answers = [
        text for (_, method), of_user in results.items() if method == "cloud:2" for text in of_user.predictions.values()
    ]
    assert len(answers) == 6 and all(text.endswith(f"Ask zebedee or {secrets[0]}") for text in answers)


def test_every_prompt_shows_items_of_one_user(
    world: Path, folder: Path, fake_server: FakeServer, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    in_process_jobs.fails = lambda function, job: "not needed" if function is lamp_jobs.run_methods else None
    run_lamp(folder, server_spec(world, tiny_model_folder, fake_server))
    assert len(fake_server.received) == 3 * 4 + 6
    users = json.loads((world / "LaMP_3_history.json").read_text())
    for received in fake_server.received:
        shown = [any(item["text"] in received.prompt for item in user["profile"]) for user in users]
        assert sum(shown) == 1


def fixed_response(response: str, prompt: str) -> str:
    return response


def test_thoughts_are_stripped_and_empty_answers_are_counted(
    tmp_path: Path, world: Path, tiny_model_folder: Path
) -> None:
    for response, prediction, counts in (("<think>3?</think>\n4", "4", {}), ("", "", {"empty answers": 2})):
        with FakeServer(functools.partial(fixed_response, response)) as server:
            folder = grant_consent(tmp_path / f"run {prediction}", make_server(server.url))
            results = run_and_read(folder, server_spec(world, tiny_model_folder, server, "cloud:0", num_users=1))
        answers = results[0, "cloud:0"]
        assert set(answers.predictions.values()) == {prediction} and answers.result.counts == counts


@pytest.mark.slow
def test_only_users_with_active_jobs_are_in_memory(
    tmp_path: Path, fake_server: FakeServer, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def num_users() -> int:
        return sum(isinstance(value, LampUser) for value in gc.get_objects())

    numbers: list[int] = []
    before, add_answers = num_users(), LampFolder.add_answers

    def counting(folder: LampFolder, setting: str, user: int, method: str, answers: MethodAnswers) -> None:
        numbers.append(num_users() - before)
        add_answers(folder, setting, user, method, answers)

    monkeypatch.setattr(LampFolder, "add_answers", counting)
    spec = server_spec(write_lamp_files(tmp_path / "world", users=8), tiny_model_folder, fake_server, "cloud:0")
    run_lamp(grant_consent(tmp_path / "run", make_server(fake_server.url)), spec)
    # The user whose job is done, and the next ones as they are read.
    assert len(numbers) == 8 and max(numbers) <= 4


@pytest.mark.slow
def test_a_users_adapter_and_answers_are_bit_identical_alone_and_among_others(
    tmp_path: Path,
    world: Path,
    folder: Path,
    fake_server: FakeServer,
    trained_adapters: list[TrainedAdapter],
    tiny_model_folder: Path,
) -> None:
    spec = server_spec(world, tiny_model_folder, fake_server, "oppu+bm25:1", "cdcda")
    results = run_and_read(folder, spec)
    adapters_together = trained_adapters.copy()
    assert len({weights for weights, _ in adapters_together}) == len(adapters_together) == 6
    # The second user, who has others before and after.
    name, path, alone = "user-1-1", world / "LaMP_3_history.json", tmp_path / "alone.json"
    alone.write_text(json.dumps([user for user in json.loads(path.read_text()) if user["user_id"] == name]))
    trained_adapters.clear()
    own_folder = grant_consent(tmp_path / name, make_server(fake_server.url))
    own_results = run_and_read(own_folder, dataclasses.replace(spec, questions=alone, outputs=None))
    assert own_results == {(0, method): answers for (user, method), answers in results.items() if user == 1}
    assert trained_adapters == adapters_together[2:4]


@pytest.mark.slow
def test_worker_processes_give_the_same_results(
    tmp_path: Path,
    world: Path,
    folder: Path,
    fake_server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model_folder: Path,
) -> None:
    spec = server_spec(world, tiny_model_folder, fake_server, "bm25:1", "oppu", "cdcda", "cloud:1")
    results, num_received = run_and_read(folder, spec), len(fake_server.received)
    monkeypatch.undo()
    other_folder = grant_consent(tmp_path / "workers", make_server(fake_server.url))
    assert run_and_read(other_folder, spec, workers=2) == results
    assert len(fake_server.received) == 2 * num_received
