"""The demo: the whole loop, offline, on the embedded model, and what its numbers must reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_personal import LanguageModel
from mlx_personal.cli import main
from mlx_personal.demo.runner import CONFIG, _stream
from mlx_personal.personalizer import Personalizer


def test_the_stream_is_long_enough_and_the_buffer_far_smaller() -> None:
    stream = _stream()
    assert len(stream) >= 400
    assert CONFIG.selection.bins < len(stream) / 3


def test_a_profile_that_the_owner_named_demo_is_left_alone(
    home: Path, tiny_model_folder: Path, tiny_model: LanguageModel
) -> None:
    folder = home / "profiles" / "demo"
    Personalizer.create(folder, tiny_model_folder, lm=tiny_model).close()
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 2
    assert "was made by you" in result.stderr
    assert (folder / "profile.db").exists()


@pytest.mark.slow
def test_the_demo_learns_its_owner_in_two_minutes(home: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("OPENBLAS_NUM_THREADS", None)
    command = [sys.executable, "-c", "from mlx_personal.cli import main; main()", "demo", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {
        "observed",
        "selected",
        "replaced",
        "asked",
        "synthetic_generated",
        "synthetic_kept",
        "rouge1_before",
        "rouge1_after",
        "rouge1_gain_ci",
        "seconds",
        "peak_memory_bytes",
        "device",
        "model",
        "adapter_path",
    }
    assert found["observed"] >= 400
    assert found["replaced"] > 0
    assert found["asked"] == found["selected"] == CONFIG.selection.bins
    assert 0 < found["synthetic_kept"] <= found["synthetic_generated"]
    assert found["rouge1_after"] - found["rouge1_before"] >= 0.15
    assert found["rouge1_gain_ci"][0] > 0
    assert found["seconds"]["total"] <= 120
    assert os.path.exists(os.path.join(found["adapter_path"], "adapters.safetensors"))

    # The demo's profile is a profile: its adapter answers, also through mlx-lm itself.
    status = CliRunner().invoke(main, ["--profile", "demo", "status", "--json"], catch_exceptions=False)
    assert json.loads(status.stdout)["promoted"] == 1
    question = "How do I start with my lentil soup?"
    chat = CliRunner().invoke(main, ["--profile", "demo", "chat", question, "--json"], catch_exceptions=False)
    from mlx_personal.models.language_model import resolve

    generate = [sys.executable, "-m", "mlx_lm", "generate", "--model", str(resolve("demo"))]
    generate += ["--adapter-path", found["adapter_path"], "--prompt", question, "--verbose", "False"]
    theirs = subprocess.run(generate, capture_output=True, text=True, env=environment)
    assert theirs.returncode == 0, theirs.stderr
    # float16 there, float32 here: the beginning is the same, a late token may differ.
    assert theirs.stdout.strip()[:8] == json.loads(chat.stdout)["answer"][:8]
