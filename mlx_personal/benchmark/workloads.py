"""The workloads of the benchmark: a model, and random samples with the lengths of personal data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np

from mlx_personal.benchmark.random_weights import model_config
from mlx_personal.errors import UserError
from mlx_personal.finetune.data.samples import Sample
from mlx_personal.models.loading import DEMO_MODEL, resolve_model

# The number of tokens of a sample is log-normal: half of the samples are shorter than the median, one in twenty is
# shorter than 30 tokens, and one in twenty is longer than 260.
MEDIAN_TOKENS: Final = 90
SIGMA: Final = 0.655
MIN_TOKENS: Final = 8
MAX_TOKENS: Final = 1024
# The other tokens of a sample are the prompt.
TARGET_FRACTION: Final = 0.6


@dataclass(frozen=True)
class Workload:
    """What every trainer trains.

    Attributes:
        name: Name of the workload.
        model: One of `SHAPES` with random weights, or the name or path of a model.
        samples: Number of training samples.
        epochs: Number of epochs.
        num_layers: Number of adapted layers, counted from the last; -1 for all.
        batch_size: Samples of an optimizer step.
        seed: Random seed of the samples, their order and the initial weights of the adapter.
    """

    name: str
    model: str
    samples: int
    epochs: int
    num_layers: int
    batch_size: int = 4
    seed: int = 0

    def with_settings(self, **settings: Any) -> Workload:
        """Return the workload with some fields replaced; a value of None keeps the field.

        Raises:
            UserError: If the workload cannot be trained or compared.
        """
        workload = dataclasses.replace(self, **{name: value for name, value in settings.items() if value is not None})
        for name in ("samples", "epochs", "batch_size"):
            if getattr(workload, name) < 1:
                raise UserError(f"{name} is {getattr(workload, name)}; it must be at least 1")
        if not 0 <= workload.seed < 2**32:  # the range of the generator that mlx-lm uses
            raise UserError(f"seed is {workload.seed}; it must lie in 0..{2**32 - 1}")
        if workload.num_layers != -1 and workload.num_layers < 1:
            raise UserError(f"num_layers is {workload.num_layers}; it must be at least 1, or -1 for all")
        if workload.samples % workload.batch_size:
            what = f"{workload.samples} samples do not fill batches of {workload.batch_size}"
            hint = "choose a multiple: mlx-lm leaves out an incomplete batch, so the training runs would differ"
            raise UserError(what, hint=hint)
        return workload


# `paper` has the settings of [Qin24 §4.1]: a buffer of 128 bins, each with its dialogue and six synthetic ones.
WORKLOADS: Final = {
    "paper": Workload("paper", "3b", samples=128 * 7, epochs=3, num_layers=-1),
    "small": Workload("small", DEMO_MODEL, samples=32, epochs=4, num_layers=2),
    "135m": Workload("135m", "135m", samples=32, epochs=8, num_layers=8),
    "1b": Workload("1b", "1b", samples=32, epochs=8, num_layers=8),
}


def quick_workload(name: str, **settings: int | None) -> tuple[Workload, list[str]]:
    """Return a workload that is trained within a minute by default: `small` with fewer samples and epochs.

    Args:
        name: Name of the requested workload.
        **settings: Fields to replace; a value of None keeps the field.

    Returns:
        The workload, and a line for each difference from the request: another model, or fewer layers.

    Raises:
        UserError: If the workload cannot be trained or compared.
    """
    notices = []
    if name != "small":
        notices.append(f"a quick benchmark trains the embedded model instead of {name}")
    workload = WORKLOADS["small"].with_settings(samples=16, epochs=2).with_settings(**settings)
    num_layers = model_config(resolve_model(DEMO_MODEL))["num_hidden_layers"]
    if workload.num_layers > num_layers:
        notices.append(
            f"the embedded model has {num_layers} layers, so all are adapted instead of {workload.num_layers}"
        )
        workload = workload.with_settings(num_layers=-1)
    return workload, notices


def make_random_samples(workload: Workload, vocabulary: int) -> list[Sample]:
    """Return samples of random tokens below `vocabulary`, the same ones for the same workload.

    The lengths are the quantiles of the distribution in random order, so that a few samples have its shape too. The
    last tokens of each sample are the targets, as an answer follows its prompt.

    Args:
        workload: Decides the number of samples and the random seed.
        vocabulary: Number of tokens in the vocabulary.
    """
    rng = np.random.default_rng(workload.seed)
    quantiles = (np.arange(workload.samples) + 0.5) / workload.samples
    scores = np.array([NormalDist().inv_cdf(quantile) for quantile in quantiles])
    lengths = np.clip(np.round(MEDIAN_TOKENS * np.exp(SIGMA * scores)), MIN_TOKENS, MAX_TOKENS).astype(int)
    samples = []
    for length in rng.permutation(lengths):
        tokens = rng.integers(0, vocabulary, length, dtype=np.int32)
        is_target = np.arange(length) >= length - round(TARGET_FRACTION * length)
        samples.append(Sample(tokens[:-1], tokens[1:], is_target[1:]))
    return samples


def mlx_lm_order(workload: Workload) -> list[list[list[int]]]:
    """Return the samples of every step of every epoch as mlx-lm draws them: adjacent samples are in one batch."""
    # Not a Generator, since mlx-lm shuffles with NumPy's legacy global generator.
    rng = np.random.RandomState(workload.seed)
    size = workload.batch_size
    batches = [list(range(start, start + size)) for start in range(0, workload.samples, size)]
    return [[batches[i] for i in rng.permutation(len(batches))] for _ in range(workload.epochs)]
