"""After training the device answers alone: with no network at all it says what it says with one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import jobs
from mlx_personal.augmentation.augment_users import augment
from mlx_personal.augmentation.config import AugmentConfig
from mlx_personal.augmentation.filters import FILTERS, FilterConfig
from mlx_personal.augmentation.server import Server
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.augmentation.user_jobs import User
from tests.support.augmentation import TRAINING, JobsHere, consented, new_record, server_at, users_on
from tests.support.fake_server import FakeServer

DEMO = Path(jobs.__file__).parent.parent / "demo" / "model"

# Answers with each adapter, in a process that ends at the first look at a network.
ANSWERING = """
import json, os, pathlib, sys
def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind"):
        os.write(2, f"the network was used: {event} {arguments}".encode())
        os._exit(7)
if sys.argv[1] == "guarded":
    sys.addaudithook(guard)
from mlx_personal import load_language_model
lm = load_language_model(sys.argv[2])
answers = {}
for adapter in sys.argv[4:]:
    lm.attach_adapter(pathlib.Path(adapter))
    prompt = lm.prompt_tokens([{"role": "user", "content": sys.argv[3]}])
    answers[adapter] = lm.generate([prompt], max_tokens=24, temperature=0.0)[0]
    lm.detach_adapter()
print(json.dumps(answers))
"""
UNSHARE = ["unshare", "-rn"]


def answers(how: Any, model: Any, question: Any, folders: Any, before: Any = ()) -> Any:
    command = [*before, sys.executable, "-c", ANSWERING, how, str(model), question, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def without_network() -> Any:
    """Ways of having none: an interpreter that refuses, and a system without any interface."""
    try:
        namespaces = subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        namespaces = False
    return [(), *([UNSHARE] if namespaces else [])]


def test_the_guard_of_these_tests_stops_what_would_connect() -> None:
    connect = "import socket; socket.create_connection(('127.0.0.1', 9))"
    code = ANSWERING.partition("from mlx_personal")[0] + connect
    done = subprocess.run([sys.executable, "-c", code, "guarded"], capture_output=True, text=True)
    assert done.returncode == 7 and "the network was used" in done.stderr
    for before in without_network()[1:]:
        done = subprocess.run([*before, sys.executable, "-c", connect], capture_output=True, text=True)
        assert "unreachable" in done.stderr


@pytest.mark.slow
def test_the_trained_device_answers_without_a_network(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "run", JobsHere())
    with FakeServer(new_record) as fake:
        server = server_at(fake.url)
        folder = consented(tmp_path / "out", server)
        assert augment(folder, users_on(tiny_model_folder, "ann"), server).learnt["ann"].kept
        asked = len(fake.received)
        adapter = [folder / "adapters" / "ann"]
        online = answers("free", tiny_model_folder, "ann wants to know", adapter)
        assert all(online.values())
    # The server is gone by now.
    for before in without_network():
        assert answers("guarded", tiny_model_folder, "ann wants to know", adapter, before) == online
    assert len(fake.received) == asked


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Any]:
    """`mlx_lm.server` with the embedded model, on a port of its own."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "server.log").open("w")
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(DEMO), "--port", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        assert process.poll() is None, (tmp_path / "server.log").read_text()
        yield f"http://127.0.0.1:{port}/v1", process
    finally:
        process.terminate()
        process.wait(20)
        log.close()


@pytest.mark.slow
def test_three_users_are_augmented_by_a_real_server_trained_and_answer_alone(tmp_path: Path, cloud: Any) -> None:
    """Of the plumbing only: the embedded model as "the cloud" is no teacher, and what it writes is mostly dropped."""
    url, process = cloud
    server = Server(url, str(DEMO), max_tokens=96, temperature=0.7)
    config = AugmentConfig(k=3, demonstrations=2, filters=FilterConfig(off=frozenset(FILTERS)), training=TRAINING)
    moods = {"ann": "tea", "bob": "coffee", "cyd": "water"}
    users = [
        User(
            name,
            Task("What shall I drink with this: {text}?", ("tea", "coffee", "water")),
            tuple(Record(f"{meal} for {name}", drink) for meal in ("soup", "bread", "rice", "cake")),
            str(DEMO),
            config,
        )
        for name, drink in moods.items()
    ]
    folder = consented(tmp_path / "out", server)
    outcome = augment(folder, users, server, workers=1, concurrency=2)
    assert list(outcome.learnt) == list(moods) and not (outcome.failed or outcome.left)
    assert outcome.asked.new == 9 and outcome.asked.tokens > 0
    for result in outcome.learnt.values():
        assert sum(result.counts.values()) == 3 and result.rows == 4 + result.kept
    sent = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert [line["status"] for line in sent if "ended" in line] == [200] * 9
    process.terminate()
    process.wait(20)
    adapters = [folder / "adapters" / name for name in moods]
    question = users[0].task.ask("soup for ann")
    online = answers("free", DEMO, question, adapters)
    for before in without_network():
        assert answers("guarded", DEMO, question, adapters, before) == online
    # Everything is there, so nobody is needed to say so.
    assert list(augment(folder, users, server, workers=1).found) == list(moods)
