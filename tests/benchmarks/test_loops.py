"""The benchmarks of the synthesis and of the whole loop, and the equality of the work of both."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.finetune import LoRAConfig
from mlx_personal.finetune.schedule import LearningRateSchedule
from mlx_personal.scoring import Lexicons
from mlx_personal.scoring.dissimilarity import in_domain_dissimilarity_reference
from mlx_personal.selection import SelectionConfig
from tests.support.paths import ROOT

DIALOGUES = [Dialogue.of(f"How do I plant {n} tomatoes?", "In May, with a stake each.") for n in range(4)]


@pytest.fixture(scope="module", autouse=True)
def root_on_path() -> Iterator[None]:
    """The benchmarks are not part of the package; they run in the root of a clone."""
    sys.path.insert(0, str(ROOT))
    yield
    sys.path.remove(str(ROOT))


@pytest.fixture
def synthesis() -> ModuleType:
    return importlib.import_module("benchmarks.synthesis")


@pytest.fixture
def mlx_lm_loop() -> ModuleType:
    return importlib.import_module("benchmarks.mlx_lm_loop")


@pytest.fixture
def loop() -> ModuleType:
    return importlib.import_module("benchmarks.loop")


# Synthesis


@pytest.mark.slow
def test_the_synthesis_benchmark_prints_its_values_and_writes_its_report(
    synthesis: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "synthesis.md"
    arguments = ["--quick", "--dialogues", "3", "--rewrites", "2", "--json", "--out", str(out)]
    assert synthesis.main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["greedy"]["texts"] == result["greedy"]["equal"] + result["greedy"]["ties"] == 3
    assert (result["dialogues"], result["rewrites"], result["model"]) == (3, 2, "demo")
    (our_s,), (loop_s,) = result["seconds"]["ours"], result["seconds"]["mlx_lm"]
    assert result["speedup"] == pytest.approx(loop_s / our_s)
    assert "`python -m benchmarks.synthesis --dialogues 3 --rewrites 2 --rounds 1`" in out.read_text()
    assert "| loop of mlx_lm.generate |" in out.read_text()


def test_a_difference_that_rounding_does_not_explain_fails_the_benchmark(
    synthesis: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speed = synthesis.Speed(
        synthesis.Timings({synthesis.OURS: [1.0, 1.0, 2.0], synthesis.LOOP: [5.0, 3.0, 8.0]}),
        {synthesis.OURS: 10, synthesis.LOOP: 20},
    )
    monkeypatch.setattr(synthesis, "load_language_model", lambda _: None)
    monkeypatch.setattr(synthesis, "measure_speed", lambda *_, **__: speed)
    monkeypatch.setattr(synthesis, "build_requests", lambda *_: [])
    for gaps, failures in (((), 0), ((9e-5,), 0), ((9e-5, 1.1e-4), 1), ((float("inf"),), 1)):
        monkeypatch.setattr(synthesis, "compare_greedy", lambda *_, gaps=gaps, **__: synthesis.Agreement(64, gaps))
        assert synthesis.main(["--json"]) == (1 if failures else 0)
        result = json.loads(capsys.readouterr().out)
        assert result["greedy"]["failures"] == failures
        assert result["greedy"]["equal"] == 64 - len(gaps)
        assert result["speedup"] == 4.0


def test_equal_greedy_texts_are_counted_and_gaps_measured(
    synthesis: ModuleType, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = synthesis.build_requests(tiny_model, DIALOGUES, synthesis.SynthesisConfig(max_tokens=12))
    assert len(requests) == len(DIALOGUES)
    assert {request.max_tokens for request in requests} == {12}
    assert synthesis.compare_greedy(tiny_model, requests) == synthesis.Agreement(4, ())
    real = tiny_model.generate
    monkeypatch.setattr(tiny_model, "generate", lambda *args, **kwargs: [*real(*args, **kwargs)[:-1], "else"])
    # Equal tokens with different texts are an error of decoding, which rounding does not explain.
    assert synthesis.compare_greedy(tiny_model, requests).gaps == (float("inf"),)
    assert synthesis.compare_greedy(tiny_model, requests).failures == 1
    # The tokens of a model with random weights are compared instead of its texts, and they are equal.
    assert synthesis.compare_greedy(tiny_model, requests, is_text=False) == synthesis.Agreement(4, ())


def test_the_gap_is_that_of_the_first_different_step(synthesis: ModuleType, tiny_model: LanguageModel) -> None:
    request = synthesis.GenerationRequest(tiny_model.tokenize_prompt([{"role": "user", "content": "Hi"}]), 6)
    tokens: list[int] = []
    gaps = []
    for _ in range(4):
        logits = np.array(tiny_model.model(mx.array([[*request.prompt, *tokens]])))[0, -1]
        tokens.append(int(logits.argmax()))
        second, first = np.sort(logits)[-2:]
        gaps.append(first - second)
    assert 2 not in tokens
    for step in range(4):
        ours = [*tokens[:step], 299, *tokens[step + 1 :]]
        assert synthesis.logit_gap(tiny_model, request, ours) == pytest.approx(gaps[step], abs=1e-4)
        assert synthesis.logit_gap(tiny_model, request, tokens[:step]) == pytest.approx(gaps[step], abs=1e-4)


def test_wrong_input_is_one_line_and_exit_code_2(
    synthesis: ModuleType, loop: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, broken, other = tmp_path / "empty.jsonl", tmp_path / "broken.jsonl", tmp_path / "other.jsonl"
    empty.touch()
    broken.write_text("{")
    other.write_text('{"text": "no dialogue"}')
    for benchmark, arguments in (
        (synthesis, ["--dialogues", "9999"]),
        (synthesis, ["--model", str(tmp_path / "nowhere")]),
        (synthesis, ["--stream", str(empty)]),
        (synthesis, ["--out", str(tmp_path / "nowhere" / "synthesis.md")]),
        (loop, ["--model", str(tmp_path / "nowhere")]),
        (loop, ["--out", str(tmp_path)]),
        *((loop, ["--stream", str(stream)]) for stream in (empty, broken, other, tmp_path / "nowhere.jsonl")),
    ):
        assert benchmark.main(arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith(f"{benchmark.__name__}: ")
        assert printed.err.count("\n") == 1
    for benchmark, name in ((synthesis, "--rounds"), (loop, "--bins"), (loop, "--epochs")):
        with pytest.raises(SystemExit) as raised:
            benchmark.main([name, "0"])
        assert raised.value.code == 2


# The whole loop


@pytest.mark.slow
def test_the_loop_benchmark_runs_all_stages_with_the_same_work(
    loop: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert loop.main(["--quick", "--dialogues", "40", "--json", "--out", str(tmp_path / "loop.md")]) == 0
    result = json.loads(capsys.readouterr().out)
    (round_,) = result["rounds"]
    for name in ("ours", "baseline"):
        assert set(round_[name]) == set(loop.STAGES)
        assert all(seconds > 0 for seconds in round_[name].values())
    assert result["speedup"] == pytest.approx(sum(round_["baseline"].values()) / sum(round_["ours"].values()))
    counts = round_["counts"]
    assert counts["selected"] == counts["selected by both"] == counts["rewritten"] + counts["held out"] == 16
    assert counts["samples"] >= counts["samples of the baseline"] > counts["samples"] - 8
    report = (tmp_path / "loop.md").read_text()
    for stage in (*loop.STAGES, "all"):
        assert f"| {stage} |" in report
    assert report.count("- baseline: ") == report.count("- ours: ") == len(loop.STAGES)


def test_a_model_folder_is_reported_without_its_path(loop: ModuleType, synthesis: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    config = loop.make_config(loop.parse(["--quick"]))
    round_ = loop.Round(dict.fromkeys(loop.STAGES, 1.0), dict.fromkeys(loop.STAGES, 2.0), {}, {})
    options = loop.parse(["--quick", "--model", str(folder)])
    assert loop.to_json(options, 4, config, [round_])["model"] == "my-model"
    assert str(tmp_path) not in loop.make_report(options, 4, config, [round_])


def test_the_gain_of_the_baseline_is_relative_to_the_base_model(
    mlx_lm_loop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model:
        adapted = True

        def detach_adapter(self) -> None:
            self.adapted = False

    answers = {True: ["In May, with a stake each."], False: ["I do not know."]}
    monkeypatch.setattr(mlx_lm_loop, "generate_answers", lambda lm, held_out, _: [answers[lm.adapted]] * len(held_out))
    evaluation = mlx_lm_loop.evaluate(Model(), DIALOGUES, 20)
    assert evaluation.rouge1.gain == evaluation.rouge1.after == 1


def test_both_are_trained_with_the_same_optimizer(
    mlx_lm_loop: ModuleType, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizers: list[Any] = []
    monkeypatch.setattr(
        mlx_lm_loop, "train_with_mlx_lm", lambda _, optimizer, *rest, **settings: optimizers.append(optimizer)
    )
    config = LoRAConfig(learning_rate=4e-3, epochs=4, batch_size=2, num_layers=1)
    mlx_lm_loop.train(tiny_model, DIALOGUES, config)
    (optimizer,) = optimizers
    assert type(optimizer).__name__ == "AdamW"
    expected = LearningRateSchedule("cosine", 4e-3, 8, config.warmup_ratio)
    rates = [float(optimizer._schedulers["learning_rate"](mx.array(step))) for step in range(8)]
    assert rates == pytest.approx([expected.at(step) for step in range(8)])
    tiny_model.detach_adapter()


def test_the_buffer_of_the_baseline_scores_by_the_definitions(mlx_lm_loop: ModuleType) -> None:
    rng = np.random.default_rng(0)
    lexicons = Lexicons.load()
    buffer = mlx_lm_loop.BaselineBuffer(dict(lexicons), SelectionConfig(bins=6))
    texts = ["bread soup oven pan", "car engine tyre", "cat dog vet leash", "soup and a pan", "oven, pan, salt", "no"]
    for number, text in enumerate(texts, 1):
        buffer.offer(number, Dialogue.of(text, f"number {number}"), rng.standard_normal((5, 8)).astype(np.float32))
    assert len(buffer.bins) == 6
    for bin_, idd in zip(buffer.bins, buffer._idds(), strict=True):
        expected = lexicons.domain_specific_score(bin_.dialogue.text)
        assert (bin_.domain, bin_.dss) == (expected.domain, pytest.approx(expected.dss))
        others = [other.vector for other in buffer.bins if other.domain == bin_.domain and other is not bin_]
        assert idd == pytest.approx(in_domain_dissimilarity_reference(bin_.vector, others), abs=1e-6)


def test_the_preferred_answers_of_a_stream_are_read(loop: ModuleType, tmp_path: Path) -> None:
    lines = [
        {"messages": DIALOGUES[0].to_messages(), "preferred": ["In June."]},
        {"messages": DIALOGUES[1].to_messages()},
        {"messages": DIALOGUES[0].to_messages(), "preferred": ["In June."]},
    ]
    path = tmp_path / "stream.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    stream = loop.read_stream(path, None)
    assert stream == {DIALOGUES[0]: DIALOGUES[0].with_turns("assistant", ["In June."]), DIALOGUES[1]: DIALOGUES[1]}
    assert list(loop.read_stream(path, 1)) == DIALOGUES[:1]
