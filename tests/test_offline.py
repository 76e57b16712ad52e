"""After training the device answers without a network, and exactly as it does with one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mlx_personal import jobs
from mlx_personal.augmentation.augment_users import augment_users
from mlx_personal.augmentation.config import AugmentConfig
from mlx_personal.augmentation.filters import FILTERS, FilterConfig
from mlx_personal.augmentation.server import Server
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.augmentation.user_jobs import User
from tests.support.augmentation import TRAINING, InProcessJobs, grant_consent, make_server, make_users, similar_record
from tests.support.fake_server import FakeServer

DEMO_MODEL_FOLDER = Path(jobs.__file__).parent.parent / "demo" / "model"

# Answers with each adapter, in a process that ends at the first use of a network.
ANSWER_SCRIPT = """
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
    prompt = lm.tokenize_prompt([{"role": "user", "content": sys.argv[3]}])
    answers[adapter] = lm.generate([prompt], max_tokens=24)[0]
    lm.detach_adapter()
print(json.dumps(answers))
"""
UNSHARE = ["unshare", "-rn"]


def generate_answers(
    network: str, model: Path, question: str, adapters: Sequence[Path], command_prefix: Sequence[str] = ()
) -> dict[str, str]:
    """Return the answer of each adapter, generated in a process whose network is `free` or `guarded`."""
    arguments = [network, str(model), question, *map(str, adapters)]
    command = [*command_prefix, sys.executable, "-c", ANSWER_SCRIPT, *arguments]
    completed = subprocess.run(command, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    answers: dict[str, str] = json.loads(completed.stdout)
    return answers


def offline_command_prefixes() -> list[list[str]]:
    """Return what to start processes with: nothing, and (where possible) a namespace without network interfaces."""
    try:
        namespaces = subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        namespaces = False
    return [[], *([UNSHARE] if namespaces else [])]


def test_the_guard_of_these_tests_stops_connections() -> None:
    connect = "import socket; socket.create_connection(('127.0.0.1', 9))"
    code = ANSWER_SCRIPT.partition("from mlx_personal")[0] + connect
    completed = subprocess.run([sys.executable, "-c", code, "guarded"], capture_output=True, text=True)
    assert completed.returncode == 7 and "the network was used" in completed.stderr
    for command_prefix in offline_command_prefixes()[1:]:
        completed = subprocess.run([*command_prefix, sys.executable, "-c", connect], capture_output=True, text=True)
        assert "unreachable" in completed.stderr


@pytest.mark.slow
def test_the_trained_device_answers_without_a_network(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "run_jobs", InProcessJobs())
    with FakeServer(similar_record) as fake_server:
        server = make_server(fake_server.url)
        folder = grant_consent(tmp_path / "out", server)
        assert augment_users(folder, make_users(tiny_model_folder, "ann"), server).trained["ann"].kept
        num_requests = len(fake_server.received)
        adapter = [folder / "adapters" / "ann"]
        online = generate_answers("free", tiny_model_folder, "ann wants to know", adapter)
        assert all(online.values())
    # The server has stopped by now.
    for command_prefix in offline_command_prefixes():
        assert generate_answers("guarded", tiny_model_folder, "ann wants to know", adapter, command_prefix) == online
    assert len(fake_server.received) == num_requests


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`mlx_lm.server` with the demo model on a free port: its URL and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "server.log").open("w")
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(DEMO_MODEL_FOLDER), "--port", str(port)]
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
def test_three_users_are_augmented_by_a_real_server_trained_and_answer_offline(
    tmp_path: Path, cloud: tuple[str, subprocess.Popen[bytes]]
) -> None:
    """Check the steps only: the demo model is not a good teacher, and most of what it generates is dropped."""
    url, process = cloud
    server = Server(url, str(DEMO_MODEL_FOLDER), max_tokens=96, temperature=0.7)
    config = AugmentConfig(
        num_synthetic=3,
        num_demonstrations=2,
        filters=FilterConfig(disabled=frozenset(FILTERS)),
        training=TRAINING,
    )
    drinks = {"ann": "tea", "bob": "coffee", "cyd": "water"}
    users = [
        User(
            name,
            Task("What shall I drink with this: {text}?", ("tea", "coffee", "water")),
            tuple(Record(f"{meal} for {name}", drink) for meal in ("soup", "bread", "rice", "cake")),
            str(DEMO_MODEL_FOLDER),
            config,
        )
        for name, drink in drinks.items()
    ]
    folder = grant_consent(tmp_path / "out", server)
    result = augment_users(folder, users, server, workers=1, concurrency=2)
    assert list(result.trained) == list(drinks) and not (result.failed or result.incomplete)
    assert result.request_summary is not None
    assert result.request_summary.new == 9 and result.request_summary.tokens > 0
    for user_result in result.trained.values():
        assert sum(user_result.outcome_counts.values()) == 3 and user_result.samples == 4 + user_result.kept
    sent = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert [line["status"] for line in sent if "ended" in line] == [200] * 9
    process.terminate()
    process.wait(20)
    adapters = [folder / "adapters" / name for name in drinks]
    question = users[0].task.format_question("soup for ann")
    online = generate_answers("free", DEMO_MODEL_FOLDER, question, adapters)
    for command_prefix in offline_command_prefixes():
        assert generate_answers("guarded", DEMO_MODEL_FOLDER, question, adapters, command_prefix) == online
    # Everything is stored, so the results are found without the server.
    assert list(augment_users(folder, users, server, workers=1).existing) == list(drinks)
