"""Training in two processes: the losses of one, the same weights in both, and files written by rank 0 alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal import LanguageModel, UserError
from mlx_personal.finetune.distributed import ProcessGroup
from tests.support import random_models
from tests.support.paths import ROOT

# What every process runs first.
PROGRAM = """
import json, sys
import mlx_personal  # before mlx.core, so that its BLAS is loaded first
import mlx.core as mx
import numpy as np
from pathlib import Path
from mlx_personal import Dialogue, UserError, load_language_model
from mlx_personal.finetune import Example, LoRAConfig, finetune
from mlx_personal.finetune.distributed import ProcessGroup
from tests.support.training_steps import for_each_step

QUESTIONS = ["What shall I cook?", "My cat does not eat.", "How deep?", "How do I plant tomatoes in May?", "Hm"]
DIALOGUES = [Dialogue.of(f"{QUESTIONS[i % 5]} {i}", f"Try a soup, number {i}.") for i in range(9)]
EXAMPLES = list(map(Example, DIALOGUES))
CONFIG = LoRAConfig(
    epochs=3, batch_size=4, dropout=0.0, learning_rate=1e-2, num_layers=1, validation_split=0.3, save_every=1
)
model, folder = Path(sys.argv[1]), Path(sys.argv[2])
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def run_processes(program: str, model: Path, folder: Path, size: int = 2) -> list[Any]:
    """Run a program in several processes of a ring, as `mlx.launch` does, and return the JSON of their last lines."""
    return [lines[-1] for lines in run_all_lines(program, model, folder, size)]


def run_all_lines(program: str, model: Path, folder: Path, size: int = 2) -> list[list[Any]]:
    """Run a program in several processes of a ring, and return the JSON of all lines of each."""
    folder.mkdir(exist_ok=True)
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(size)]))
    command = [sys.executable, "-c", PROGRAM + program, str(model), str(folder)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    running = []
    for rank in range(size):
        ring = {"MLX_HOSTFILE": str(hosts), "MLX_RANK": str(rank)} if size > 1 else {}
        running.append(subprocess.Popen(command, env=os.environ | path | ring, **pipes))
    try:
        printed = [process.communicate(timeout=180) for process in running]
    finally:
        for process in running:
            process.kill()
    assert all(process.returncode == 0 for process in running), printed
    return [list(map(json.loads, out.splitlines())) for out, _ in printed]


# Two processes

COLLECTIVES = """
group = ProcessGroup()
rank = group.rank
rng = np.random.default_rng(rank)
summed = group.all_sum(mx.array(rng.normal(size=15).astype(np.float32)))
value = {"text": "ünïcode", "number": 0.1, "none": None, "list": [1, [2]]} if rank == 0 else "what nobody wants"
arrays = {
    "half": mx.array(rng.normal(size=(7,))).astype(mx.bfloat16),
    "scalar": mx.array(rank + 5, mx.uint64),
    "f": mx.array(rng.normal(size=(2, 3)).astype(np.float32)) * mx.array([float("nan"), 1.0, float("inf")]),
}
received = group.broadcast_arrays(arrays if rank == 0 else {})
print(json.dumps({
    "rank": rank,
    "size": group.size,
    "sum": summed.tolist(),
    "gathered": group.all_gather({"rank": rank}),
    "value": group.broadcast(value),
    "nothing": group.broadcast(None if rank == 0 else 1),
    "arrays": {name: [str(a.dtype), a.shape, np.array(a.reshape(-1).view(mx.uint8)).tolist()]
               for name, a in received.items()},
    "none": group.broadcast_arrays({} if rank == 0 else {}) == {},
    "share": group.shard([5, 3, 8, 1], [1] * 9),
}))
"""


@pytest.mark.slow
def test_collectives_are_exact(two_processes: tuple[Path, list[list[Any]]]) -> None:
    _, ((first, *_), (second, *_)) = two_processes
    assert [(r["rank"], r["size"]) for r in (first, second)] == [(0, 2), (1, 2)]
    each = [np.random.default_rng(rank).normal(size=15).astype(np.float32) for rank in range(2)]
    for result in (first, second):
        assert result["sum"] == (each[0] + each[1]).tolist()
        assert result["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert result["value"] == {"text": "ünïcode", "number": 0.1, "none": None, "list": [1, [2]]}
        assert result["nothing"] is None
        assert result["none"]
    assert first["arrays"] == second["arrays"]
    assert [first["arrays"][name][:2] for name in ("half", "scalar", "f")] == [
        ["mlx.core.bfloat16", [7]],
        ["mlx.core.uint64", []],
        ["mlx.core.float32", [2, 3]],
    ]
    assert bytes(first["arrays"]["scalar"][2]) == (5).to_bytes(8, "little")
    assert sorted([*first["share"], *second["share"]]) == [1, 3, 5, 8]


TRAINING = """
group = ProcessGroup()
report = finetune(
    load_language_model(model), EXAMPLES, CONFIG, folder / f"adapter{group.rank}", checkpoint_folder=folder / "s"
)
print(json.dumps([group.rank, report.losses, report.validation_losses, report.best_step]))
"""


@pytest.mark.slow
def test_two_processes_train_like_one(
    two_processes: tuple[Path, list[list[Any]]],
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    together, lines = two_processes
    results = [trained for _, trained, _ in lines]
    # A single process needs no ring: this one.
    monkeypatch.setattr(sys, "argv", ["-c", str(tiny_model_folder), str(tmp_path)])
    exec(PROGRAM + TRAINING, {})
    _, alone, validation, best = json.loads(capsys.readouterr().out)
    assert [rank for rank, *_ in results] == [0, 1]
    assert results[0][1:4] == results[1][1:4]
    assert results[0][1] == pytest.approx(alone, abs=1e-5, rel=1e-5)
    assert [loss for _, loss in results[0][2]] == pytest.approx([loss for _, loss in validation], abs=1e-5, rel=1e-5)
    assert results[0][3] == best
    # Only rank 0 writes.
    written = sorted(path.name for path in together.iterdir() if path.name not in ("hosts.json", "home0", "home1"))
    assert written in (["adapter0"], ["adapter0", "s"])
    adapters = [
        random_models.load_weights(folder / "adapter0" / "adapters.safetensors") for folder in (tmp_path, together)
    ]
    assert adapters[0].keys() == adapters[1].keys()
    for name, weight in adapters[0].items():
        assert np.allclose(np.array(weight), np.array(adapters[1][name]), atol=1e-4), name


WEIGHTS = """
import hashlib
from mlx.utils import tree_flatten
from mlx_personal.finetune import TrainingData, plan_training, train
from mlx_personal.finetune.data.samples import make_samples
lm = load_language_model(model)
# A step of a single sample leaves nothing to do for the other process.
order = lambda epoch: [[0, 1, 2], [3], [4, 5, 6, 7, 8]]
config = LoRAConfig(epochs=2, learning_rate=1e-2, dropout=0.1)
report = train(lm, plan_training(TrainingData(make_samples(lm, DIALOGUES, 256).samples), config, order=order))
weights = b"".join(np.array(w).tobytes() for _, w in sorted(tree_flatten(lm.model.trainable_parameters())))
print(json.dumps([hashlib.sha256(weights).hexdigest(), report.losses]))
"""


@pytest.mark.slow
def test_both_processes_have_bit_identical_weights(tiny_model_folder: Path, tmp_path: Path) -> None:
    first, second = run_processes(WEIGHTS, tiny_model_folder, tmp_path)
    assert first == second
    assert len(first[1]) == 6


RESUMED = """
import os
group = ProcessGroup()
def stop(step):
    # Only one of them is signaled.
    if step.number == 2 and group.rank == 1 and "stopping" in os.environ:
        os.kill(os.getpid(), 15)
config = LoRAConfig(epochs=3, batch_size=4, dropout=0.2, learning_rate=1e-2, validation_split=0.3)
def run():
    adapter, checkpoints = folder / "adapter", folder / "s"
    lm = load_language_model(model)
    return finetune(lm, EXAMPLES, config, adapter, checkpoint_folder=checkpoints, on_progress=for_each_step(stop))
os.environ["stopping"] = "1"
message = None
try:
    report = run()
except UserError as error:
    message = str(error)
    del os.environ["stopping"]
    report = run()
print(json.dumps([group.rank, message, report.resumed_from, report.losses, list(report.notes)]))
"""


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_they_resume(tiny_model_folder: Path, tmp_path: Path) -> None:
    results = run_processes(RESUMED, tiny_model_folder, tmp_path / "stopped")
    uninterrupted = run_processes(RESUMED.replace("== 1 and", "== 9 and"), tiny_model_folder, tmp_path / "whole")
    assert uninterrupted[0][1:3] == [None, 0]
    for rank, (rank_of_result, message, resumed_from, losses, notes) in enumerate(results):
        assert rank_of_result == rank
        assert message.startswith("training was stopped after step 3 of ")
        assert resumed_from == 3
        assert losses == uninterrupted[0][3]
        assert notes == []
    weights = [(tmp_path / name / "adapter" / "adapters.safetensors").read_bytes() for name in ("stopped", "whole")]
    assert weights[0] == weights[1]


# The train command

COMMAND = """
from mlx_personal.config import Config
from mlx_personal.cli.main import main
from mlx_personal.personalizer import Personalizer
import contextlib, dataclasses, io, os

home = folder / ('home' + os.environ['MLX_RANK'])
os.environ["MLX_PERSONAL_HOME"] = str(home)
rank, output = int(os.environ["MLX_RANK"]), io.StringIO()
if rank == 0:
    # Only rank 0 has a profile.
    config = dataclasses.replace(Config(), finetune=dataclasses.replace(CONFIG, seed=5))
    with Personalizer.create(home / "profiles" / "default", model, config) as me:
        me.observe(DIALOGUES, source="test")
        for question in me.annotations.questions():
            me.annotations.record(question.dialogue_id, "accept", question.dialogue.assistant_turns)
try:
    with contextlib.redirect_stdout(output):
        main(["train", "--json"])
except SystemExit as left:
    written = [str(path.relative_to(folder)) for path in home.parent.rglob("home*/**/adapters.safetensors")]
    print(json.dumps([rank, left.code, list(map(json.loads, output.getvalue().splitlines())), written]))
"""


@pytest.fixture(scope="module")
def two_processes(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[Any]]]:
    """The folder of two processes, and what each has printed; starting them takes longer than what they do."""
    folder = tmp_path_factory.mktemp("two-processes")
    return folder, run_all_lines(COLLECTIVES + TRAINING + COMMAND, tiny_model_folder, folder)


@pytest.mark.slow
def test_the_train_command_runs_on_both_machines_and_rank_0_reports(
    two_processes: tuple[Path, list[list[Any]]],
) -> None:
    _, ((*_, first), (*_, second)) = two_processes
    assert [output["report"]["samples"] for output in first[2]] == [6]
    assert second[2] == []
    assert first[:2] == [0, 0] and second[:2] == [1, 0]
    assert first[3] == ["home0/profiles/default/adapters/0001/adapters.safetensors"]


LEFT = """
group = ProcessGroup()
if group.rank == 0:
    def full(*_):
        raise OSError(28, "No space left on device")
    mx.save_safetensors = full
try:
    finetune(load_language_model(model), EXAMPLES, CONFIG, folder / "adapter", checkpoint_folder=folder / "s")
except UserError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.slow
def test_a_failure_of_rank_0_is_reported_by_the_others(tiny_model_folder: Path, tmp_path: Path) -> None:
    first, second = run_processes(LEFT, tiny_model_folder, tmp_path)
    assert "the disk is full" in first
    assert "another machine has left this training run" in second and "\n" not in second
    assert not (tmp_path / "adapter").exists()


@pytest.mark.slow
def test_three_processes_train_like_one(tiny_model_folder: Path, tmp_path: Path) -> None:
    results = run_processes(TRAINING, tiny_model_folder, tmp_path / "three", 3)
    alone = run_processes(TRAINING, tiny_model_folder, tmp_path / "one", 1)[0]
    assert results[0][1:4] == results[1][1:4] == results[2][1:4]
    assert results[0][1] == pytest.approx(alone[1], abs=1e-5, rel=1e-5)


PREFERENCES = """
import dataclasses
from mlx_personal.finetune.data.examples import PreferencePair
from mlx_personal.finetune.worker import broadcast_job, run_worker
group = ProcessGroup()
config = dataclasses.replace(CONFIG, objective="sft+dpo")
pairs = [PreferencePair(d, Dialogue.of(d.question, "I do not know."), group=i) for i, d in enumerate(DIALOGUES)]
if group.rank == 0:
    lm = load_language_model(model)
    broadcast_job(group, lm, EXAMPLES, config, [], pairs)
    report = finetune(lm, EXAMPLES, config, folder / "adapter", pairs=pairs, checkpoint_folder=folder / "s")
else:
    report = run_worker(group)
print(json.dumps([report.losses, report.validation_losses, report.rewards["rewards/margins"]]))
"""


@pytest.mark.slow
def test_two_processes_train_on_pairs_like_one(tiny_model_folder: Path, tmp_path: Path) -> None:
    first, second = run_processes(PREFERENCES, tiny_model_folder, tmp_path / "two")
    [alone] = run_processes(PREFERENCES, tiny_model_folder, tmp_path / "one", 1)
    assert first == second
    assert first[0] == pytest.approx(alone[0], abs=1e-5, rel=1e-4)
    assert first[2] == pytest.approx(alone[2], abs=1e-4, rel=1e-3)


# A single process


def test_without_mlx_launch_the_group_has_one_process(
    tiny_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLX_RANK", raising=False)
    monkeypatch.setattr(mx.distributed, "init", lambda **_: pytest.fail("initialized"))
    group = ProcessGroup()
    assert (group.rank, group.size) == (0, 1)
    array, value = mx.ones((2,)), object()
    assert group.all_sum(array) is array
    assert group.all_gather(value) == [value]
    assert group.broadcast(value) is value
    assert (arrays := {"a": array}) == group.broadcast_arrays(arrays)
    assert group.shard([3, 1, 2], [5] * 4) == [3, 1, 2]


def test_a_rank_without_a_group_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_RANK", "1")
    for name in ("MLX_HOSTFILE", "MLX_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"MLX_RANK is set, but there is no group") as raised:
        ProcessGroup()
    assert "mlx.launch" in raised.value.line() and "\n" not in raised.value.line()


# Sharding


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 1000), min_size=1, max_size=40), size=st.integers(1, 6), seed=st.integers(0, 99))
def test_a_step_is_sharded_completely_and_evenly(lengths: list[int], size: int, seed: int) -> None:
    step = np.random.default_rng(seed).permutation(len(lengths)).tolist()
    shards = []
    for rank in range(size):
        group = ProcessGroup()
        group.rank, group.size = rank, size
        shards.append(group.shard(step, lengths))
    assert Counter(index for share in shards for index in share) == Counter(step)
    for share in shards:
        assert share == [index for index in step if index in share]
    loads = [sum(lengths[index] for index in share) for share in shards]
    # Longest first: the process with most tokens had the fewest before its last, shortest sample.
    assert max(loads) - min(loads) <= max(lengths)
    assert max(loads) <= sum(lengths) / size + max(lengths)
