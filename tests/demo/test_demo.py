"""The demo: the whole loop, offline, on the embedded model and on others, and the figures it must reach."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

import mlx_personal.demo
from mlx_personal import Config, LanguageModel, Personalizer, Progress, ProgressEvent, SynthesisConfig, UserError
from mlx_personal.cli import main
from mlx_personal.demo import DemoResult, runner
from mlx_personal.demo.runner import _load_stream, run_demo
from mlx_personal.demo.settings import CHAT_MODEL_CONFIG, EMBEDDED_MODEL_CONFIG, chat_model_config
from tests.support.cli import error_line, run_cli, run_json

# Enough of the stream for some bins, some near-duplicates and a held-out dialogue.
NUM_CONVERSATIONS = 16
# The settings of a chat model, with less to generate: a random model's answers never end.
QUICK_CONFIG = dataclasses.replace(
    CHAT_MODEL_CONFIG,
    synthesis=SynthesisConfig(k=1, style="zero-shot", max_attempts=1),
    finetune=dataclasses.replace(CHAT_MODEL_CONFIG.finetune, epochs=1),
    evaluation=dataclasses.replace(CHAT_MODEL_CONFIG.evaluation, max_tokens=4),
    chat=dataclasses.replace(CHAT_MODEL_CONFIG.chat, max_tokens=4),
)
STEPS = ["load", "select", "annotate", "synthesize", "train", "evaluate", "chat"]
JSON_KEYS = {
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


@dataclass(frozen=True)
class DemoRun:
    """A demo on the tiny model: its folder, its events and its result."""

    folder: Path
    events: list[ProgressEvent]
    result: DemoResult

    def replay(self, folder: Path, model: str, on_progress: Progress, memory: bool) -> DemoResult:
        """Report the events of this run and return its result, in place of `run_demo`."""
        for event in self.events:
            on_progress(event)
        return self.result


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[DemoRun]:
    folder, events = tmp_path_factory.mktemp("demo") / "demo", list[ProgressEvent]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "chat_model_config", lambda _: QUICK_CONFIG)
        result = run_demo(folder, tiny_model_folder, events.append, NUM_CONVERSATIONS)
    yield DemoRun(folder, events, result)


def test_the_stream_is_long_enough_and_the_buffer_far_smaller() -> None:
    stream = _load_stream()
    assert len(stream) >= 400
    assert EMBEDDED_MODEL_CONFIG.selection.bins < len(stream) / 3
    assert CHAT_MODEL_CONFIG.selection.bins < len(stream) / 3


def test_a_profile_of_the_user_named_demo_is_not_replaced(
    home: Path, tiny_model_folder: Path, tiny_model: LanguageModel
) -> None:
    folder = home / "profiles" / "demo"
    Personalizer.create(folder, tiny_model_folder, lm=tiny_model).close()
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 2
    assert "was created by you" in result.stderr
    assert (folder / "profile.db").exists()


def test_the_learning_rate_falls_with_the_width_of_a_model_and_never_exceeds_the_measured_one() -> None:
    rates = [chat_model_config(hidden_size).finetune.learning_rate for hidden_size in (64, 576, 1152, 4096)]
    assert rates == pytest.approx([2e-3, 2e-3, 1e-3, 2.8125e-4])
    assert chat_model_config(576) == CHAT_MODEL_CONFIG


def test_any_chat_model_goes_through_all_steps(demo_run: DemoRun, tiny_model_folder: Path) -> None:
    result, events = demo_run.result, demo_run.events
    lines = {event.stage: event.detail for event in events if isinstance(event.detail, str)}
    assert list(lines) == STEPS
    assert "This will take about" in lines["load"]
    assert {"scoring", "synthesis", "training", "evaluation"} <= {event.stage for event in events}
    assert result.observed == len(_load_stream(NUM_CONVERSATIONS))
    assert result.selected == result.asked > 0
    assert result.evaluation.n > 0
    assert result.seconds["total"] >= sum(s for stage, s in result.seconds.items() if stage != "total")
    assert (Path(result.adapter_path) / "adapters.safetensors").exists()
    assert Config.read(demo_run.folder / "config.toml") == QUICK_CONFIG
    with Personalizer(demo_run.folder, write=False) as personalizer:
        assert personalizer.model_name == result.model == str(tiny_model_folder)
        assert len(personalizer.annotated_dialogues()) == result.asked
        assert len(personalizer.held_out_dialogues()) == result.evaluation.n


def test_the_command_prints_a_line_for_each_step_and_progress_in_between(
    demo_run: DemoRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlx_personal.demo, "run_demo", demo_run.replay)
    result = run_cli("demo", "--model", "any")
    assert result.exit_code == 0
    for step in ("1 embed, 2 score, 3 select", "4 annotate", "5 synthesize", "6 fine-tune", "7 evaluate", "8 chat"):
        assert f"\n{step}: " in result.stdout
    assert "ROUGE-1 on held-out dialogues: " in result.stdout
    assert "ROUGE-1 of one typical answer given to every question: " in result.stdout
    assert "Log-likelihood of the preferred answers: " in result.stdout
    for stage in ("scoring", "training", "evaluation"):
        assert f"mlx-personal: {stage} " in result.stderr


@pytest.mark.parametrize(("options", "use"), [([], "never"), (["--memory"], "auto")])
def test_memory_is_compared_on_request(
    home: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], use: str
) -> None:
    uses: list[str] = []

    def create(folder: Path, model: Path, config: Config, *_: object) -> None:
        uses.append(config.memory.use)
        raise UserError("seen")

    monkeypatch.setattr(runner, "estimate_training", lambda *_: None)
    monkeypatch.setattr(Personalizer, "create", create)
    assert "seen" in error_line("demo", "--model", tiny_model_folder, *options)
    assert uses == [use]


def test_json_is_all_that_is_printed(demo_run: DemoRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlx_personal.demo, "run_demo", demo_run.replay)
    assert set(run_json("demo", "--model", "any")) == JSON_KEYS
    assert run_cli("demo", "--json").stderr == ""


def test_a_model_that_cannot_be_used_is_one_line_and_costs_nothing(home: Path, tiny_model_folder: Path) -> None:
    folder = _create_earlier_demo(home, tiny_model_folder)
    assert "no-such-model" in error_line("demo", "--model", home / "no-such-model")
    assert error_line("demo", "--model", "")
    assert (folder / "profile.db").exists()


def test_a_model_whose_training_does_not_fit_is_rejected_before_anything_is_done(
    home: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_error(*_: object) -> None:
        raise UserError("not enough memory")

    monkeypatch.setattr(runner, "estimate_training", raise_error)
    folder = _create_earlier_demo(home, tiny_model_folder)
    assert error_line("demo", "--model", tiny_model_folder) == "mlx-personal: not enough memory"
    assert (folder / "profile.db").exists()


@pytest.mark.slow
def test_a_stopped_demo_leaves_a_profile_that_works_and_is_replaced(
    home: Path, tiny_model_folder: Path, other_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Personalizer, "synthesize", stop)
    monkeypatch.setattr(runner, "_load_stream", lambda _: _load_stream(NUM_CONVERSATIONS))
    for model in (tiny_model_folder, other_model_folder):
        result = run_cli("demo", "--model", model)
        assert result.exit_code == 130
        assert result.stderr.splitlines()[-1].startswith("mlx-personal: the demo was stopped")
        with Personalizer(home / "profiles" / "demo") as personalizer:
            assert personalizer.model_name == str(model)
            assert personalizer.pending_steps()[0].step == "synthesize"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(20, "a minute"), (89, "a minute"), (120, "2 minutes"), (3000, "50 minutes"), (9000, "2.5 hours")],
)
def test_an_expected_duration_is_a_round_number(seconds: float, text: str) -> None:
    assert runner._duration_text(seconds) == text


@pytest.mark.slow
def test_the_demo_improves_rouge_in_two_minutes(home: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("OPENBLAS_NUM_THREADS", None)
    command = [sys.executable, "-c", "from mlx_personal.cli import main; main()", "demo", "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert set(result) == JSON_KEYS
    assert result["observed"] >= 400
    assert result["replaced"] > 0
    assert result["asked"] == result["selected"] == EMBEDDED_MODEL_CONFIG.selection.bins
    assert 0 < result["synthetic_kept"] <= result["synthetic_generated"]
    # README's figures; the second one depends on the rounding of a whole training.
    assert result["rouge1_before"] == pytest.approx(0.275, abs=0.001)
    assert result["rouge1_after"] == pytest.approx(0.794, abs=0.05)
    assert result["rouge1_gain_ci"][0] > 0
    # Of CPU time, which other processes affect less: on a quiet machine it takes as long as that.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 120
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


def _create_earlier_demo(home: Path, model: Path) -> Path:
    """Create the profile of a demo that has done nothing, and return its folder."""
    folder = home / "profiles" / "demo"
    Personalizer.create(folder, model, creator="demo").close()
    return folder
