"""A profile that version 0.1 wrote opens, reads the same values, answers with its adapter and trains again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx_personal  # noqa: F401 - before mlx.core

# isort: split
import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner

from mlx_personal import Dialogue, LanguageModel, Personalizer
from mlx_personal.cli import main
from tests.support.paths import FIXTURES

PROFILE = FIXTURES / "v0_1" / "profile"

# As `mlx-personal status --json` of version 0.1 printed them, without the folder, the day's questions and `due`.
STATUS = {
    "model": "demo",
    "received": 36,
    "unscored": 0,
    "bins": {"filled": 6, "capacity": 6},
    "decisions": {"duplicate": 4, "kept-out": 25, "replaced": 1, "stored": 6},
    "annotated": 6,
    "held_out": 2,
    "skipped": 0,
    "synthetic": {"written": 24, "kept": 12},
    "adapters": 1,
    "promoted": None,
    "last_training": "2026-11-30T08:42:04+00:00",
    "due": [],
}

# As `mlx-personal buffer list --json` of version 0.1 printed them: dialogue, domain, EOE, DSS and fresh IDD.
BINS = [
    (1, "books", 0.7946168780326843, 0.006060606060606061, 1.0),
    (9, "family", 0.8538520336151123, 0.006306306306306306, 1.0),
    (4, "work", 0.7730039954185486, 0.005555555555555556, 1.0),
    (6, "pets", 0.76795494556427, 0.007407407407407408, 1.0),
    (7, "cooking", 0.8035419583320618, 0.005208333333333333, 1.0),
    (8, "sleep", 0.7260572910308838, 0.007246376811594203, 1.0),
]


@pytest.fixture
def profile(home: Path) -> Path:
    """A copy of the profile, under the name of the default one in this test's home folder."""
    folder = home / "profiles" / "default"
    shutil.copytree(PROFILE, folder)
    return folder


def test_the_status_command_prints_the_same_values(profile: Path) -> None:
    result = CliRunner().invoke(main, ["status", "--json"], catch_exceptions=False)
    printed = json.loads(result.stdout)
    assert printed.pop("folder") == str(profile)
    assert printed.pop("questions")["open"] == 0
    assert printed.pop("model_source") is None
    assert printed.pop("chat_format") == []
    assert printed.pop("prompt_style") is None
    assert printed.pop("tuning") is None
    assert printed.pop("answers")["mode"] == {"adapter": None, "uses_memory": False}
    assert set(printed.pop("inferred").values()) == {0}
    assert printed == STATUS


def test_the_config_is_read_with_its_old_keys_and_a_notice(profile: Path) -> None:
    with Personalizer(profile, write=False) as personalizer:
        config = personalizer.config
    assert (config.selection.bins, config.annotation.questions_per_day, config.evaluation.holdout_ratio) == (6, 50, 0.3)
    finetune = config.finetune
    assert (finetune.rank, finetune.epochs, finetune.max_seq_length, finetune.num_layers) == (1, 1, 200, 1)
    assert (finetune.warmup_ratio, finetune.validation_split) == (0.1, 0.2)
    (notice,) = config.notices
    for key in ("finetune.warmup", "finetune.max_tokens", "finetune.validation", "evaluation.share"):
        assert f"{key} is now " in notice


def test_the_buffer_has_the_same_scores(profile: Path, demo_model: LanguageModel) -> None:
    with Personalizer(profile, write=False, lm=demo_model) as personalizer:
        buffer = personalizer.buffer()
        bins = [(b.dialogue_id, b.domain, b.eoe, b.dss) for b in buffer.bins]
        idd = buffer.fresh_idd()
    assert bins == [row[:4] for row in BINS]
    np.testing.assert_allclose(idd, [row[4] for row in BINS], atol=1e-6)


def test_annotations_and_synthetic_dialogues_are_the_same(profile: Path, demo_model: LanguageModel) -> None:
    with Personalizer(profile, write=False, lm=demo_model) as personalizer:
        annotations, synthetic = personalizer.store.annotations(), personalizer.store.synthetic()
    assert [a.dialogue_id for a in annotations] == [1, 4, 6, 7, 8, 9]
    assert [a.dialogue_id for a in annotations if a.held_out] == [6, 9]
    assert {a.verdict for a in annotations} == {"rewrite"}
    preferred = [a.preferred for a in annotations if a.preferred is not None]
    assert [d.answer for d in preferred] == [f"A short answer, Nora, number {n}." for n in range(6)]
    assert len(synthetic) == 24
    reasons = {reason: sum(s.reason == reason for s in synthetic) for reason in {s.reason for s in synthetic}}
    assert reasons.pop("kept") == 12
    assert sum(reasons.values()) == 12
    assert all((s.dialogue is not None) == (s.rouge1 is not None) for s in synthetic)


def test_a_stored_decision_is_explained(profile: Path) -> None:
    result = CliRunner().invoke(main, ["buffer", "why", "9"], catch_exceptions=False)
    assert result.stdout.startswith("Dialogue 9 was kept in bin 1 in place of dialogue 3: higher than 2 of 6 bins")
    assert result.stdout.endswith(
        "Nearest miss: bin 0 (dialogue 1, books), not beaten in IDD (1.0000 against 1.0000).\n"
    )


def test_the_adapter_keeps_its_evaluation_and_changes_the_output(profile: Path, demo_model: LanguageModel) -> None:
    tokens = mx.array([demo_model.tokenize_prompt([{"role": "user", "content": "What do I need for my mornings?"}])])
    with Personalizer(profile, write=False, lm=demo_model) as personalizer:
        adapter = personalizer.adapters.get(1)
        evaluation = adapter.evaluation
        before = np.array(personalizer.base_model().model(tokens).astype(mx.float32))
        after = np.array(personalizer.adapted_model(adapter).model(tokens).astype(mx.float32))
        demo_model.detach_adapter()
    assert evaluation is not None
    assert (evaluation["n"], len(evaluation["samples"])) == (2, 2)
    assert evaluation["rouge1"] == {"before": 0.04, "after": 0.04, "gain": 0.0, "low": 0.0, "high": 0.0}
    assert evaluation["samples"][0]["questions"] == ["Hello, what time do you suggest for my rabbit?"]
    assert evaluation["samples"][0]["rougeL_after"] == 0.08
    assert 0 < np.abs(after - before).max() < 1


def test_the_loop_goes_on(profile: Path, demo_model: LanguageModel) -> None:
    with Personalizer(profile, lm=demo_model) as personalizer:
        observed = personalizer.observe(
            [Dialogue.of("Which stew warms a cold kitchen?", "One with beans and a bay leaf.")]
        )
        assert (observed.new, sum(observed.decisions.values())) == (1, 1)
        personalizer.adapters.promote(1)
        trained = personalizer.train()
        assert trained.report.samples > 0
        assert trained.adapter.id == 2
        assert personalizer.adapters.get(1).evaluation is not None
        assert trained.evaluation is not None and trained.evaluation.n == 2
    demo_model.detach_adapter()
