"""The demo: the whole loop, offline, on the embedded model, and the figures it must reach."""

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
from mlx_personal.demo.runner import CONFIG, _load_stream
from mlx_personal.personalizer import Personalizer


def test_the_stream_is_long_enough_and_the_buffer_far_smaller() -> None:
    stream = _load_stream()
    assert len(stream) >= 400
    assert CONFIG.selection.bins < len(stream) / 3


def test_a_profile_of_the_user_named_demo_is_not_replaced(
    home: Path, tiny_model_folder: Path, tiny_model: LanguageModel
) -> None:
    folder = home / "profiles" / "demo"
    Personalizer.create(folder, tiny_model_folder, lm=tiny_model).close()
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 2
    assert "was created by you" in result.stderr
    assert (folder / "profile.db").exists()


@pytest.mark.slow
def test_the_demo_improves_rouge_in_two_minutes(home: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("OPENBLAS_NUM_THREADS", None)
    command = [sys.executable, "-c", "from mlx_personal.cli import main; main()", "demo", "--json"]
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert set(result) == {
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
    assert result["observed"] >= 400
    assert result["replaced"] > 0
    assert result["asked"] == result["selected"] == CONFIG.selection.bins
    assert 0 < result["synthetic_kept"] <= result["synthetic_generated"]
    assert result["rouge1_after"] - result["rouge1_before"] >= 0.15
    assert result["rouge1_gain_ci"][0] > 0
    assert result["seconds"]["total"] <= 120
    assert os.path.exists(os.path.join(result["adapter_path"], "adapters.safetensors"))

    # The adapter is in use in the demo's profile, and loads in mlx-lm.
    status = CliRunner().invoke(main, ["--profile", "demo", "status", "--json"], catch_exceptions=False)
    assert json.loads(status.stdout)["promoted"] == 1
    question = "How do I start with my lentil soup?"
    chat = CliRunner().invoke(main, ["--profile", "demo", "chat", question, "--json"], catch_exceptions=False)
    from mlx_personal.models.loading import resolve_model

    generate = [sys.executable, "-m", "mlx_lm", "generate", "--model", str(resolve_model("demo"))]
    generate += ["--adapter-path", result["adapter_path"], "--prompt", question, "--verbose", "False"]
    reference = subprocess.run(generate, capture_output=True, text=True, env=environment)
    assert reference.returncode == 0, reference.stderr
    # float16 there, float32 here: the answers begin the same, and a later token may differ.
    assert reference.stdout.strip()[:8] == json.loads(chat.stdout)["answer"][:8]
