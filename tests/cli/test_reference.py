"""The reference of the command line in docs/cli.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version

import click
import pytest

from mlx_personal.augmentation.config import AugmentConfig
from mlx_personal.augmentation.server import Server
from mlx_personal.benchmark import ROUNDS
from mlx_personal.cli.augment import augment
from mlx_personal.cli.benchmark import benchmark
from mlx_personal.cli.lamp import lamp
from mlx_personal.cli.main import COMMANDS
from mlx_personal.cli.reference import render_reference
from mlx_personal.cli.study import study
from mlx_personal.finetune import LoRAConfig
from mlx_personal.research.lamp.lamp_config import LampConfig
from mlx_personal.research.study import Cell
from tests.support.paths import ROOT

# The text is laid out by click; docs/cli.md is that of the locked version.
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
LOCKED_CLICK = next(package["version"] for package in LOCK["package"] if package["name"] == "click")


@pytest.mark.skipif(version("click") != LOCKED_CLICK, reason="another version of click lays help texts out differently")
def test_docs_have_the_reference_of_these_commands() -> None:
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert text == render_reference(), "python -m mlx_personal.cli.reference > docs/cli.md"


@pytest.mark.parametrize("columns", ["20", "300"])
def test_reference_does_not_depend_on_the_terminal(columns: str) -> None:
    environment = {**os.environ, "COLUMNS": columns, "MLX_PERSONAL_HOME": "/nowhere"}
    command = [sys.executable, "-m", "mlx_personal.cli.reference"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=True)
    assert done.stdout == render_reference()


def test_reference_has_every_command() -> None:
    text = render_reference()
    for name in ("mlx-personal", "mlx-personal adapters rollback", "mlx-personal study run", "mlx-personal doctor"):
        assert f"# {name}\n" in text
    for name in COMMANDS:
        assert f"# mlx-personal {name}\n" in text


AUGMENT, LAMP, TRAINING, CELL = AugmentConfig(), LampConfig(), LoRAConfig(), Cell("", "", "", "", 0, "base")


# The help repeats these numbers, because it is shown without importing the library.
@pytest.mark.parametrize(
    ("command", "defaults"),
    [
        (
            augment,
            {
                "k": AUGMENT.num_synthetic,
                "demonstrations": AUGMENT.num_demonstrations,
                "records": AUGMENT.sample_budget.max_records,
                "tokens": AUGMENT.sample_budget.max_tokens,
                "synthetic_weight": AUGMENT.synthetic_weight,
                "temperature": Server("http://localhost/v1", "model").temperature,
                "max_tokens": Server("http://localhost/v1", "model").max_tokens,
                "epochs": TRAINING.epochs,
                "learning_rate": TRAINING.learning_rate,
                "rank": TRAINING.rank,
                "seed": AUGMENT.seed,
            },
        ),
        (benchmark.commands["run"], {"rounds": ROUNDS}),
        (
            study.commands["run"],
            {
                **{name: getattr(CELL, name) for name in ("received", "evaluation", "answer_tokens", "choices")},
                **{name: getattr(CELL, name) for name in ("bins", "examples", "strength")},
                "epochs": TRAINING.epochs,
                "learning_rate": TRAINING.learning_rate,
                "dropout": TRAINING.dropout,
                "negatives": TRAINING.negatives,
                "max_seq_length": TRAINING.max_seq_length,
            },
        ),
        (
            lamp.commands["run"],
            {
                "synthetic": LAMP.augment.num_synthetic,
                "synthetic_weight": LAMP.augment.synthetic_weight,
                "demonstrations": LAMP.augment.num_demonstrations,
                "max_length": LAMP.max_length,
                "answer_tokens": LAMP.answer_tokens,
                "epochs": LAMP.augment.training.epochs,
                "learning_rate": LAMP.augment.training.learning_rate,
                "batch_size": LAMP.augment.training.batch_size,
            },
        ),
    ],
    ids=["augment", "benchmark run", "study run", "lamp run"],
)
def test_help_states_the_defaults_of_the_library(command: click.Command, defaults: dict[str, float]) -> None:
    help_texts = {option.name: option.help or "" for option in command.params if isinstance(option, click.Option)}
    stated = {name: re.findall(r"\[default: ([\d.e-]+)", help_texts[name]) for name in defaults}
    assert {name: [float(text) for text in texts] for name, texts in stated.items()} == {
        name: [value] for name, value in defaults.items()
    }
