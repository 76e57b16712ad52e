"""A LaMP run: nothing is computed or asked twice or lost, nothing private leaves, and no user meets another."""

from __future__ import annotations

import dataclasses
import gc
import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import Dialogue, load_language_model
from mlx_personal.augmentation.prompting import Request
from mlx_personal.errors import UserError
from mlx_personal.finetune import finetune, fuse
from mlx_personal.research.lamp import run_lamp, user_jobs
from mlx_personal.research.lamp.lamp_database import Records
from mlx_personal.research.lamp.predictions import read_outputs
from mlx_personal.research.lamp.tasks import TASKS
from mlx_personal.research.lamp.user_profiles import User
from tests.support.augmentation import CONFIG, TRAINING, consented, server_at
from tests.support.fake_server import ANSWER_TOKENS, PROMPT_TOKENS, FakeServer, Fault
from tests.support.lamp_users import RUN, as_the_cloud, changed, files, ran, request, results

WITHOUT_A_SERVER = [
    *("non-personalised", "random:1", "recency:2", "bm25:1", "profile", "oppu", "oppu+bm25:1"),
    *("cdcda", "cdcda-no-copy", "cdcda+recency:1"),
]
LEARNING = {"oppu", "oppu+bm25:1", "cdcda", "cdcda-no-copy", "cdcda+recency:1"}


@pytest.fixture(autouse=True)
def in_this_process(here: Any) -> None:
    """No test here needs worker processes, but those that say so."""


@pytest.fixture
def fake() -> Iterator[Any]:
    with FakeServer(as_the_cloud) as server:
        yield server


@pytest.fixture
def world(tmp_path: Path) -> Any:
    return files(tmp_path / "world")


@pytest.fixture
def folder(tmp_path: Path, fake: Any) -> Any:
    return consented(tmp_path / "run", server_at(fake.url))


@pytest.fixture
def adapters(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The weights of every adapter of a run, in the order of training, and the texts each learnt."""
    trained = []

    def spy(lm: Any, dialogues: Any, config: Any, path: Any, **settings: Any) -> Any:
        report = finetune(lm, dialogues, config, path, **settings)
        trained.append(((path / "adapters.safetensors").read_bytes(), [d.to_messages() for d in dialogues]))
        return report

    monkeypatch.setattr(user_jobs, "finetune", spy)
    return trained


def test_every_method_answers_every_query_and_a_second_run_has_nothing_to_do(
    tmp_path: Path, world: Any, here: Any, tiny_model_folder: Path
) -> None:
    asked, told = request(world, tiny_model_folder, *WITHOUT_A_SERVER, users=2), []
    done = run_lamp(tmp_path / "run", asked, on_progress=told.append)
    assert (done.found, done.ran, done.unanswered, done.message) == (0, 20, 0, None) and not done.failed
    assert (done.counts.users, done.counts.queries, done.counts.items) == (2, 4, 8)
    assert (told[0].stage, told[0].done, told[0].total) == ("users", 0, 2)
    assert (told[-1].done, told[-1].remaining) == (2, 0.0)
    golds = read_outputs(TASKS["3"], asked.outputs).by_id
    with Records(tmp_path / "run") as records:
        found = records.results(done.setting)
    assert [f.method for f in found[:10]] == WITHOUT_A_SERVER
    for one in found:
        result = one.result
        assert result["golds"] == {key: golds[key] for key in result["predictions"]} and len(result["golds"]) == 2
        assert (result["seconds"]["train"] > 0) == (one.method in LEARNING) == (result["rows"] >= 4)
        assert (result["adapter_bytes"] or 0) > 0 or one.method not in LEARNING
        assert result["seconds"]["answer"] > 0 and result["tokens"]["read"] > 0
    here.done.clear()
    again = run_lamp(tmp_path / "run", asked)
    assert (again.found, again.ran, again.setting) == (20, 0, done.setting) and not here.done


def test_predictions_are_in_the_benchmarks_form(tmp_path: Path, world: Any, tiny_model_folder: Path) -> None:
    asked = request(world, tiny_model_folder, "non-personalised", "bm25:1")
    found = ran(tmp_path / "run", asked)
    golds = read_outputs(TASKS["3"], asked.outputs)
    for method, name in (("non-personalised", "non-personalised"), ("bm25:1", "bm25-1")):
        written = read_outputs(TASKS["3"], tmp_path / "run" / "predictions" / f"{name}.json")
        assert written.name == golds.name and written.by_id.keys() == golds.by_id.keys()
        own = [result["predictions"] for (_, of), result in found.items() if of == method]
        assert dict(written.by_id) == {key: said for predictions in own for key, said in predictions.items()}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs(tmp_path: Path, task: Any, tiny_model_folder: Path) -> None:
    world = files(tmp_path / "world", task, users=1, records=3, queries=1)
    found = ran(tmp_path / "run", request(world, tiny_model_folder, "bm25:1", "cdcda+bm25:1", task=task))
    assert [len(result["predictions"]) for result in found.values()] == [1, 1]


def test_one_more_method_or_user_computes_that_alone(
    tmp_path: Path, world: Any, here: Any, tiny_model_folder: Path
) -> None:
    first = request(world, tiny_model_folder, "non-personalised", users=2)
    assert run_lamp(tmp_path / "run", first).ran == 2
    more = run_lamp(tmp_path / "run", dataclasses.replace(first, methods=["non-personalised", "bm25"]))
    assert (more.found, more.ran) == (2, 2)
    here.done.clear()
    whole = run_lamp(tmp_path / "run", dataclasses.replace(first, methods=["bm25", "non-personalised"], users=None))
    assert (whole.found, whole.ran) == (4, 2) and here.done == [("perform", "2")]


@pytest.mark.parametrize(
    "change",
    [
        {"choose": True},
        {"seed": 1},
        {"max_length": 300},
        {"augment": dataclasses.replace(CONFIG, synthetic_weight=0.1)},
    ],
)
def test_another_setting_is_another_table(tmp_path: Path, world: Any, tiny_model_folder: Path, change: Any) -> None:
    asked = request(world, tiny_model_folder, "non-personalised", users=1)
    first = run_lamp(tmp_path / "run", asked)
    other = run_lamp(tmp_path / "run", dataclasses.replace(asked, config=dataclasses.replace(RUN, **change)))
    assert first.ran == other.ran == 1 and first.setting != other.setting


def test_users_of_another_file_are_in_another_table(tmp_path: Path, world: Any, tiny_model_folder: Path) -> None:
    """The same names with other records, and one name more."""
    other = files(tmp_path / "other", users=4, records=2)
    first, second = (request(folder, tiny_model_folder, "bm25:1") for folder in (world, other))
    run, predictions = tmp_path / "run", tmp_path / "run" / "predictions" / "bm25-1.json"
    found, written = ran(run, first), predictions.read_text()
    assert len(ran(run, second)) == 4
    assert ran(run, first) == found and predictions.read_text() == written and len(found) == 3


def test_a_user_whose_job_fails_stops_no_other(tmp_path: Path, world: Any, here: Any, tiny_model_folder: Path) -> None:
    asked = request(world, tiny_model_folder, "non-personalised", "oppu")
    here.fails = lambda function, job: "out of memory" if job.key == "1" else None
    done = run_lamp(tmp_path / "run", asked)
    assert done.failed == [("user-1-1", "out of memory")] and done.ran == 4
    here.fails = lambda function, job: None
    again = run_lamp(tmp_path / "run", asked)
    assert (again.found, again.ran, again.failed) == (4, 2, [])


def test_a_killed_run_goes_on(tmp_path: Path, world: Any, tiny_model_folder: Path) -> None:
    asked = request(world, tiny_model_folder, "non-personalised")

    def killed(progress: Any) -> None:
        if progress.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_lamp(tmp_path / "run", asked, on_progress=killed)
    again = run_lamp(tmp_path / "run", asked)
    assert (again.found, again.ran) == (1, 2)


def test_a_user_without_items_is_answered_by_the_base_and_counted(
    tmp_path: Path, world: Any, tiny_model_folder: Path
) -> None:
    for part in ("questions", "history"):
        path = world / f"LaMP_3_{part}.json"
        changed(path, lambda users: [{**user, "profile": []} for user in users])
    found = ran(tmp_path / "run", request(world, tiny_model_folder, *WITHOUT_A_SERVER, users=1))
    plain = found["user-1-0", "non-personalised"]["predictions"]
    assert all(result["predictions"] == plain for result in found.values())
    for (_, method), result in found.items():
        assert (result["counts"].get("nothing to learn", 0) == 1) == (method in LEARNING)
        if ":" in method:
            assert result["counts"]["no items"] == 2
        assert (result["counts"].get("no sentence") == 2) == (method == "profile")
        assert result["adapter_bytes"] is None and result["rows"] == 0


def test_both_layouts_give_the_same_results(tmp_path: Path, world: Any, tiny_model_folder: Path) -> None:
    asked = request(world, tiny_model_folder, "bm25:1", "cdcda+recency:1", users=2)
    history = dataclasses.replace(asked, questions=world / "LaMP_3_history.json", outputs=None)
    assert ran(tmp_path / "official", asked) == ran(tmp_path / "oppu", history)


# No user's rows reach another's adapter


def test_a_users_adapter_and_answers_are_the_same_to_the_bit_alone_or_beside_others(
    tmp_path: Path, world: Any, folder: Any, fake: Any, adapters: Any, tiny_model_folder: Path
) -> None:
    asked = server_request(world, tiny_model_folder, fake, "oppu+bm25:1", "cdcda")
    found = ran(folder, asked)
    together = adapters.copy()
    assert len({weights for weights, _ in together}) == len(together) == 6
    for number in range(2):
        name, path = f"user-1-{number}", world / "LaMP_3_history.json"
        alone = tmp_path / f"{name}.json"
        alone.write_text(json.dumps([user for user in json.loads(path.read_text()) if user["user_id"] == name]))
        adapters.clear()
        own = ran(consented(tmp_path / name, asked.server), dataclasses.replace(asked, questions=alone, outputs=None))
        assert own == {key: result for key, result in found.items() if key[0] == name}
        assert adapters == together[2 * number : 2 * number + 2]


def test_an_adapter_learns_texts_of_its_own_user_alone_and_no_query(
    tmp_path: Path, world: Any, adapters: Any, tiny_model_folder: Path
) -> None:
    ran(tmp_path / "run", request(world, tiny_model_folder, "oppu+bm25:2"))
    users = json.loads((world / "LaMP_3_history.json").read_text())
    texts = [[item["text"] for item in user["profile"]] for user in users]
    for number, (_, learnt) in enumerate(adapters):
        said = json.dumps(learnt)
        for other, own in enumerate(texts):
            assert [text in said for text in own] == [other == number] * len(own)
        assert not any(query["input"] in said for user in users for query in user["query"])


@pytest.mark.slow
def test_worker_processes_find_what_this_one_finds(
    tmp_path: Path, world: Any, folder: Any, fake: Any, monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Path
) -> None:
    asked = server_request(world, tiny_model_folder, fake, "bm25:1", "oppu", "cdcda", "cloud:1")
    found, count = ran(folder, asked), len(fake.received)
    monkeypatch.undo()
    assert ran(consented(tmp_path / "workers", asked.server), asked, workers=2) == found
    assert len(fake.received) == 2 * count


# A server


def server_request(world: Any, model: Any, fake: Any, *methods: Any, **changes: Any) -> Any:
    names = methods or ("cdcda", "cdcda-no-copy", "cloud:1")
    return request(world, model, *names, server=server_at(fake.url), **changes)


def test_a_servers_records_are_learnt_and_its_answers_are_kept(
    world: Any, folder: Any, fake: Any, tiny_model_folder: Path
) -> None:
    found = ran(folder, server_request(world, tiny_model_folder, fake))
    # Four records a user, which all methods share, and an answer a query.
    assert len(fake.received) == 3 * 4 + 6 and len(found) == 9
    for (_, method), result in found.items():
        kept = result["counts"].get("synthetic: kept", 0)
        asked = sum(count for reason, count in result["counts"].items() if reason.startswith("synthetic"))
        assert (asked, result["rows"]) == ((0, 0) if method == "cloud:1" else (4, 4 + kept))
    users = {user["user_id"]: user for user in json.loads((world / "LaMP_3_history.json").read_text())}
    for name, user in users.items():
        said = found[name, "cloud:1"]
        assert said["predictions"] == {query["id"]: query["input"][-40:].strip() for query in user["query"]}
        assert (said["tokens"], said["adapter_bytes"]) == ({}, None)
    assert sum(found[name, "cdcda"]["counts"].get("synthetic: kept", 0) for name in users) > 0


def test_a_second_run_asks_and_opens_nothing(
    world: Any, folder: Any, fake: Any, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = server_request(world, tiny_model_folder, fake, "cdcda", "cloud:1", users=1)
    run_lamp(folder, asked)
    count = len(fake.received)
    monkeypatch.setattr(socket, "socket", None)
    assert run_lamp(folder, asked).found == 2
    # Another filter's records and the same inputs are there already.
    assert run_lamp(folder, dataclasses.replace(asked, methods=["cdcda-no-balance"])).ran == 1
    assert len(fake.received) == count


def test_a_method_that_asks_nothing_needs_no_consent(
    tmp_path: Path, world: Any, fake: Any, tiny_model_folder: Path
) -> None:
    asked = server_request(world, tiny_model_folder, fake, "bm25:1", "oppu", users=1)
    assert run_lamp(tmp_path / "out", asked).ran == 2 and not fake.received


def test_nothing_leaves_without_consent(
    tmp_path: Path, world: Any, fake: Any, here: Any, tiny_model_folder: Path
) -> None:
    out = tmp_path / "a run"
    with pytest.raises(UserError) as raised:
        run_lamp(out, server_request(world, tiny_model_folder, fake))
    line = str(raised.value)
    assert "without your consent" in line and "\n" not in line
    assert f"mlx-personal augment consent --server {fake.url} --server-model cloud --out '{out}'" in line
    assert not fake.received and not here.done


def test_a_dead_server_leaves_its_results_for_later_and_nothing_is_asked_twice(
    world: Any, folder: Any, fake: Any, tiny_model_folder: Path
) -> None:
    fake.misbehave(*[None] * 6)
    fake.always = Fault(status=503)
    asked = server_request(world, tiny_model_folder, fake, "bm25:1", "cdcda", "cloud:1")
    done = run_lamp(folder, asked)
    assert "does not answer" in done.message and not done.failed
    assert done.ran + done.unanswered == 9 and done.unanswered >= 5
    kept = results(folder, done)
    assert {user for user, method in kept if method == "bm25:1"} == {"user-1-0", "user-1-1", "user-1-2"}
    assert not any(method == "cloud:1" for _, method in kept)
    fake.always = None
    again = run_lamp(folder, asked)
    assert (again.found, again.ran, again.unanswered, again.message) == (done.ran, done.unanswered, 0, None)
    assert Counter(fake.answered) == dict.fromkeys(fake.answered, 1) and len(fake.answered) == 18


def test_a_spent_budget_learns_what_came(world: Any, folder: Any, fake: Any, tiny_model_folder: Path) -> None:
    asked = server_request(world, tiny_model_folder, fake, "cdcda", users=1)
    asked = dataclasses.replace(asked, server=dataclasses.replace(asked.server, max_tokens=10))
    each = PROMPT_TOKENS + ANSWER_TOKENS
    assert run_lamp(folder, asked).server_tokens == 4 * each
    # Room for the shortest prompt beside one answer, so for two of the four at most.
    most = min(asked.server.most_tokens(Request("", 0, received.prompt, 0, ())) for received in fake.received)
    short = dataclasses.replace(asked, token_budget=most + each)
    other = consented(folder.parent / "short", asked.server)
    cut = run_lamp(other, short)
    assert cut.server_tokens in (each, 2 * each) and "the token budget is used up" in cut.message
    counts = results(other, cut)["user-1-0", "cdcda"]["counts"]
    assert counts["synthetic: unanswered"] == 4 - cut.server_tokens / each
    # The same budget brings nothing more and learns nothing anew; a larger one both.
    again = run_lamp(other, short)
    assert (again.found, again.ran) == (1, 0)
    more = run_lamp(other, dataclasses.replace(short, token_budget=None))
    assert (more.found, more.ran, more.server_tokens) == (0, 1, 4 * each)
    assert "synthetic: unanswered" not in results(other, more)["user-1-0", "cdcda"]["counts"]
    assert run_lamp(other, dataclasses.replace(short, token_budget=None)).found == 1


def test_a_query_that_the_budget_has_no_room_for_is_not_scored(
    world: Any, folder: Any, fake: Any, tiny_model_folder: Path
) -> None:
    asked = server_request(world, tiny_model_folder, fake, "cloud:0", token_budget=1)
    cut = run_lamp(folder, asked)
    assert (cut.ran, cut.unanswered, cut.server_tokens) == (0, 3, 0) and "budget is used up" in cut.message
    assert not fake.received and not results(folder, cut)
    assert run_lamp(folder, dataclasses.replace(asked, token_budget=None)).ran == 3


def test_a_server_that_refuses_is_one_error_and_the_answers_so_far_are_kept(
    world: Any, folder: Any, fake: Any, tiny_model_folder: Path
) -> None:
    fake.misbehave(None, None)
    fake.always = Fault(status=401)
    with pytest.raises(UserError, match="wants a key"):
        run_lamp(folder, server_request(world, tiny_model_folder, fake, "cdcda", "cloud", users=1))
    fake.always = None
    assert run_lamp(folder, server_request(world, tiny_model_folder, fake, "cdcda", "cloud", users=1)).ran == 2
    assert Counter(fake.answered) == dict.fromkeys(fake.answered, 1)


def test_a_user_whose_prompts_fail_is_named_and_the_others_go_on(
    world: Any, folder: Any, fake: Any, here: Any, tiny_model_folder: Path
) -> None:
    here.fails = lambda function, job: "out of breath" if (function, job.key) == (user_jobs.prompts, "1") else None
    done = run_lamp(folder, server_request(world, tiny_model_folder, fake, "bm25:1", "cdcda"))
    assert done.failed == [("user-1-1", "out of breath")] and (done.ran, done.unanswered) == (5, 1)


def test_what_is_redacted_never_leaves_and_comes_back_in_the_answers(
    world: Any, folder: Any, fake: Any, tiny_model_folder: Path
) -> None:
    secrets = ["jo.doe@example.org", "Zebedee"]

    def with_secrets(users: Any) -> None:
        for user in users:
            for item in user["profile"]:
                item["text"] = f"Dear {secrets[0]}, {item['text']} Yours, {secrets[1]}"
            for query in user["query"]:
                query["input"] += f" Ask zebedee or {secrets[0]}"

    changed(world / "LaMP_3_history.json", with_secrets)
    config = dataclasses.replace(RUN, augment=dataclasses.replace(CONFIG, own_words=("zebedee",)))
    asked = server_request(world, tiny_model_folder, fake, "cdcda", "cloud:2", config=config)
    found = ran(folder, dataclasses.replace(asked, questions=world / "LaMP_3_history.json", outputs=None))
    sent = b"\n".join(received.body for received in fake.received)
    left = sent + (folder / "ledger.jsonl").read_bytes()
    assert not any(secret.lower().encode() in left.lower() for secret in secrets)
    assert b"[EMAIL_1]" in sent and b"[WORD_1]" in sent
    said = [text for (_, m), result in found.items() if m == "cloud:2" for text in result["predictions"].values()]
    assert len(said) == 6 and all(text.endswith(f"Ask zebedee or {secrets[0]}") for text in said)


def test_a_server_hears_of_one_user_at_a_time(
    world: Any, folder: Any, fake: Any, here: Any, tiny_model_folder: Path
) -> None:
    here.fails = lambda function, job: "not needed" if function is user_jobs.perform else None
    run_lamp(folder, server_request(world, tiny_model_folder, fake))
    assert len(fake.received) == 3 * 4 + 6
    users = json.loads((world / "LaMP_3_history.json").read_text())
    for received in fake.received:
        shown = [any(item["text"] in received.prompt for item in user["profile"]) for user in users]
        assert sum(shown) == 1


# Two stages


def test_a_task_adapter_of_others_is_trained_and_fused_once(
    tmp_path: Path, world: Any, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_personal.research.lamp import run_lamp as requesting

    fused = []
    monkeypatch.setattr(requesting, "fuse", lambda *args: (fused.append(args), fuse(*args)))
    others = files(tmp_path / "others", seed=2)
    asked = request(
        world,
        tiny_model_folder,
        "non-personalised",
        "oppu",
        others=others / "LaMP_3_questions.json",
        others_outputs=others / "LaMP_3_outputs.json",
        others_training=TRAINING,
        users=1,
    )
    found = ran(tmp_path / "run", asked)
    history = dataclasses.replace(asked, others=others / "LaMP_3_history.json", others_outputs=None)
    again = run_lamp(tmp_path / "run", history)
    assert (again.found, len(fused)) == (2, 1)
    # The reference: the base of the first stage, made by hand, as the model of a plain run.
    users = json.loads((others / "LaMP_3_history.json").read_text())

    dialogues = [Dialogue.of(query["input"], query["gold"]) for user in users for query in user["query"]]
    lm = load_language_model(tiny_model_folder)
    finetune(lm, dialogues, TRAINING, tmp_path / "adapter")
    fuse(lm, tmp_path / "adapter", tmp_path / "fused")
    plain = request(world, tmp_path / "fused", "non-personalised", "oppu", users=1)
    assert ran(tmp_path / "by hand", plain) == found


def test_a_user_among_the_others_and_the_runs_is_refused(tmp_path: Path, world: Any, tiny_model_folder: Path) -> None:
    asked = request(world, tiny_model_folder, "oppu", others=world / "LaMP_3_history.json", others_training=TRAINING)
    with pytest.raises(UserError, match="is among the other users and among those of the run"):
        run_lamp(tmp_path / "run", asked)


# What makes no sense


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"methods": []}, "no method is named"),
        ({"methods": ["cloud"]}, "the method cloud needs a server"),
        ({"users": 0}, "0 users are asked for"),
        ({"others_outputs": "x.json"}, "outputs of other users, but no questions"),
        ({"task": "6"}, "no LaMP task"),
        ({"outputs": None}, "name their outputs as well"),
        ({"model": "/nowhere/at/all"}, "no such model folder"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    tmp_path: Path, world: Any, tiny_model_folder: Path, change: Any, says: str
) -> None:
    asked = dataclasses.replace(request(world, tiny_model_folder, "oppu"), **change)
    with pytest.raises(UserError, match=says):
        run_lamp(tmp_path / "run", asked)


def test_a_servers_thoughts_are_no_answer_and_an_empty_answer_is_counted(
    tmp_path: Path, world: Any, tiny_model_folder: Path
) -> None:
    for said, prediction, counts in (("<think>3?</think>\n4", "4", {}), ("", "", {"empty answers": 2})):
        with FakeServer(lambda prompt, said=said: said) as server:
            folder = consented(tmp_path / f"run {prediction}", server_at(server.url))
            found = ran(folder, server_request(world, tiny_model_folder, server, "cloud:0", users=1))
        result = found["user-1-0", "cloud:0"]
        assert set(result["predictions"].values()) == {prediction} and result["counts"] == counts


def test_a_run_holds_the_users_whose_jobs_are_under_way_alone(
    tmp_path: Path, fake: Any, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def users_held() -> Any:
        return sum(isinstance(one, User) for one in gc.get_objects())

    held, before, add = [], users_held(), Records.add

    def looking(self: Any, key: Any, *rest: Any) -> Any:
        held.append(users_held() - before)
        return add(self, key, *rest)

    monkeypatch.setattr(Records, "add", looking)
    asked = server_request(files(tmp_path / "world", users=8), tiny_model_folder, fake, "cloud:0")
    run_lamp(consented(tmp_path / "run", asked.server), asked)
    # The one that is done, and the next ones as they are read.
    assert len(held) == 8 and max(held) <= 4


def test_a_query_of_others_that_nothing_can_learn_is_one_line(
    tmp_path: Path, world: Any, tiny_model_folder: Path
) -> None:
    files(tmp_path / "others", seed=2)
    others = tmp_path / "others" / "LaMP_3_history.json"
    changed(others, lambda users: users[0]["query"][0].update(input=users[0]["query"][0]["input"] + "\0"))
    with pytest.raises(UserError, match="cannot be learnt: a NUL byte"):
        run_lamp(tmp_path / "run", request(world, tiny_model_folder, "oppu", others=others))
