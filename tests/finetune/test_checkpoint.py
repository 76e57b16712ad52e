"""Checkpoints: bit-exact, atomic, with damage detected, and resumed by the same training only."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal import UserError
from mlx_personal.errors import Action, Remedy
from mlx_personal.finetune.checkpoint import Checkpoint, discard, load_latest, save
from mlx_personal.finetune.identity import TrainingIdentity, check_identity

TYPES = [mx.float32, mx.bfloat16, mx.float16, mx.uint32, mx.int32, mx.int64, mx.uint8, mx.bool_]
IDENTITY = TrainingIdentity("abc", "123", {"rank": 8, "betas": (0.9, 0.999)}, {"mlx": "0.32.4", "threads": 2})


def checkpoint_at(step: int, value: float = 1.0) -> Checkpoint:
    arrays = {"layers.0.lora_a": mx.full((3, 5), value), "rng": mx.array([0, 2**32 - 1], mx.uint32)}
    return Checkpoint(arrays, {"step": step, "losses": [0.1, 1 / 3]})


def bits(array: mx.array) -> bytes:
    return np.array(array.reshape(-1).view(mx.uint8)).tobytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip_bit(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


# Exactness


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_arrays_of_every_dtype_are_restored_bit_for_bit(dtype: mx.Dtype, tmp_path: Path) -> None:
    random = np.random.default_rng(0).integers(0, 2 if dtype == mx.bool_ else 256, (6, 4 * dtype.size), np.uint8)
    arrays = {"a": mx.array(random).view(dtype), "scalar": mx.array(random)[0, : dtype.size].view(dtype)[0]}
    arrays["turned"] = arrays["a"].T
    arrays["empty"] = arrays["a"][:0]
    save(tmp_path, Checkpoint(arrays, {"step": 1}))
    loaded, note = load_latest(tmp_path)
    assert loaded is not None and note is None
    assert loaded.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (loaded.arrays[name].dtype, loaded.arrays[name].shape) == (array.dtype, array.shape)
        assert bits(loaded.arrays[name]) == bits(array)


def test_metadata_is_restored_exactly(tmp_path: Path) -> None:
    metadata = {
        "step": 7,
        "best": math.inf,
        "losses": [0.1, 1e-300, math.nan],
        "rng": 2**127 - 1,
        "name": 'é "\n\ud800',
    }
    save(tmp_path, Checkpoint({}, metadata))
    loaded, _ = load_latest(tmp_path)
    assert loaded is not None and loaded.step == 7
    assert repr(loaded.metadata) == repr(metadata)


def test_a_loaded_checkpoint_does_not_need_its_file(tmp_path: Path) -> None:
    save(tmp_path, checkpoint_at(1, 1.0))
    loaded, _ = load_latest(tmp_path)
    save(tmp_path, checkpoint_at(1, 2.0))
    discard(tmp_path)
    assert loaded is not None and (loaded.arrays["layers.0.lora_a"] == 1.0).all()


# Number of checkpoints


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 12_345_678, 15):
        save(tmp_path, checkpoint_at(step))
        if step == 12_345_678:
            assert names(tmp_path) == ["state-0000010.safetensors", "state-12345678.safetensors"]
    # 15 was saved last, so the checkpoint of a later step belongs to an abandoned course of the training.
    assert names(tmp_path) == ["state-0000010.safetensors", "state-0000015.safetensors"]


def test_partial_files_of_a_killed_save_are_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".state-0000001.safetensors.x.partial").write_bytes(b"half")
    (tmp_path / "state-of-mind.safetensors").write_bytes(b"not ours")
    save(tmp_path, checkpoint_at(1))
    assert names(tmp_path) == ["state-0000001.safetensors", "state-of-mind.safetensors"]


def test_discard_removes_checkpoints_only(tmp_path: Path) -> None:
    save(tmp_path, checkpoint_at(1))
    (tmp_path / "adapter_config.json").write_text("{}")
    save(tmp_path / "alone", checkpoint_at(1))
    for folder in (tmp_path, tmp_path / "alone", tmp_path / "nothing"):
        discard(folder)
    assert names(tmp_path) == ["adapter_config.json"]
    assert load_latest(tmp_path) == (None, None)
    assert load_latest(tmp_path / "nothing") == (None, None)


# Damage


def test_a_truncated_checkpoint_falls_back_to_the_previous_one(tmp_path: Path) -> None:
    save(tmp_path, checkpoint_at(5))
    newer = save(tmp_path, checkpoint_at(10))
    newer.write_bytes(newer.read_bytes()[: newer.stat().st_size // 2])
    loaded, note = load_latest(tmp_path)
    assert loaded is not None and loaded.step == 5
    assert note == "state-0000010.safetensors damaged: resuming from step 5"


def test_every_flipped_bit_of_the_arrays_is_detected(tmp_path: Path) -> None:
    file = save(tmp_path, checkpoint_at(10))
    whole = file.read_bytes()
    for at in range(len(whole) - 68, len(whole)):
        flip_bit(file, at)
        with pytest.raises(UserError, match="damaged"):
            load_latest(tmp_path)
        file.write_bytes(whole)


@settings(max_examples=120, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_anywhere_is_detected_or_harmless(
    at: float, bit: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("states")
    file = save(folder, checkpoint_at(10))
    data = bytearray(file.read_bytes())
    position = int(at * len(data))
    data[position] ^= 1 << bit
    file.write_bytes(data[:position] if cut else data)
    try:
        loaded, _ = load_latest(folder)
    except UserError as error:
        assert "damaged" in error.what
    else:
        assert not cut and loaded is not None and loaded.metadata == checkpoint_at(10).metadata
        assert all(bits(loaded.arrays[name]) == bits(array) for name, array in checkpoint_at(10).arrays.items())


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"{}", bytes([255]) * 64, b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_not_a_checkpoint_counts_as_damaged(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "state-0000003.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"damaged: state-0000003.+ and there is no other checkpoint; discard"):
        load_latest(tmp_path)


def test_a_checkpoint_of_another_layout_is_rejected_and_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("mlx_personal.finetune.checkpoint._LAYOUT", 1)
        file = save(tmp_path, checkpoint_at(10))
    with pytest.raises(UserError, match="another version of mlx-personal started this training run; discard"):
        load_latest(tmp_path)
    assert file.exists()


def test_a_changed_array_name_is_detected(tmp_path: Path) -> None:
    file = save(tmp_path, checkpoint_at(10))
    file.write_bytes(file.read_bytes().replace(b'"layers.0.lora_a"', b'"layers.1.lora_a"'))
    with pytest.raises(UserError, match="damaged"):
        load_latest(tmp_path)


def test_an_unreadable_checkpoint_is_not_reported_as_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, checkpoint_at(1))

    def refuse(*_: object) -> io.BytesIO:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match="cannot write or read here"):
        load_latest(tmp_path)


# Failing disks


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_last_checkpoint(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, checkpoint_at(5))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_some(file: BinaryIO, *_: object) -> None:
        file.write(b"some")
        full()

    if call == "write":
        monkeypatch.setattr(mx, "save_safetensors", write_some)
    else:
        monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match="the disk is full; free some space"):
        save(tmp_path, checkpoint_at(10))
    monkeypatch.undo()
    assert names(tmp_path) == ["state-0000005.safetensors"]
    loaded, note = load_latest(tmp_path)
    assert loaded is not None and loaded.step == 5 and note is None


def test_a_write_beyond_the_file_size_limit_is_detected(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
import mlx_personal
import mlx.core as mx
from mlx_personal.finetune.checkpoint import Checkpoint, save
folder = Path(sys.argv[1])
save(folder, Checkpoint({"a": mx.zeros(1000)}, {"step": 5}))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(folder, Checkpoint({"a": mx.zeros(100_000)}, {"step": 10}))
except mlx_personal.UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'state-0000010.safetensors'}: file too large\n"
    assert names(tmp_path) == ["state-0000005.safetensors"]
    assert load_latest(tmp_path)[0] is not None


def test_an_interrupted_save_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, checkpoint_at(5))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mx, "save_safetensors", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, checkpoint_at(10))
    assert names(tmp_path) == ["state-0000005.safetensors"]


# Identity


def saved_identity(**changes: object) -> dict[str, object]:
    saved = json.loads(json.dumps(IDENTITY.to_json()))
    return {**saved, **changes}


def test_the_same_identity_gives_no_note() -> None:
    assert check_identity(saved_identity(), IDENTITY) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": "other"}, "the base model is not the one that this training run started with"),
        ({"rows": "other"}, "the training samples have changed"),
        ({"settings": {"rank": 16, "betas": [0.9, 0.999]}}, "changed settings: rank was 16, is 8"),
        ({"settings": {"rank": 8}}, r"betas was None, is \[0.9, 0.999\]"),
        ({"settings": {"rank": 8, "betas": [0.9, 0.999], "old": 1}}, "old was 1, is None"),
    ],
)
def test_another_training_is_rejected_with_a_reason(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words) as refusal:
        check_identity(saved_identity(**changes), IDENTITY)
    assert refusal.value.remedy == Remedy(Action.RESTART_TRAINING)
    assert "\n" not in refusal.value.line()


def test_another_thread_count_gives_a_note() -> None:
    note = check_identity(saved_identity(environment={"mlx": "0.32.4", "threads": 8}), IDENTITY)
    assert note == "resumed under other conditions (threads was 8, is 2): the result will not be bit-identical"
