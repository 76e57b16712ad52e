"""How much memory a training will take, told before anything is loaded, and the fastest plan that fits the machine.

The estimate is of what `mx.get_peak_memory` will say, weights included: the largest of what each phase holds. It counts
the arrays that MLX keeps for the gradient, as listed beside the coefficients.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_personal.backend import LanguageModel
from mlx_personal.backend.device import device_name
from mlx_personal.backend.memory import usable_memory
from mlx_personal.errors import UserError
from mlx_personal.finetune.anatomy import Anatomy, Block, of_folder, of_model
from mlx_personal.finetune.batches import parts, shuffled
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.frozen import GROUP_TOKENS
from mlx_personal.finetune.loss import CHUNK_BYTES
from mlx_personal.finetune.rows import TrainingData

# Numbers a token and block that stay for the gradient. They were counted in the graph, and checked to the array by
# evaluating the loss of tiny models and reading `mx.get_active_memory`. Each of the first two norms keeps its input and
# its output, further ones one of them.
_NORM, _FURTHER_NORM = 2, 1
# A perceptron's middle: gate, its sigmoid, their product, the other factor, and the product of both; more for the
# polynomial and the tanh of a GELU; input, bend and output where nothing is gated.
# On a CPU, where `backend.exponential` computes a gated SiLU, its sigmoid and first product are computed again instead.
_GATED_SILU, _GATED_SILU_CPU, _GATED_GELU, _GELU, _UNGATED = 5, 3, 7, 5, 3
# Turned queries and what attention gives; turned keys, and values; the cosines and sines of both.
_QUERIES, _KEYS, _ROTARY = 2, 2, 2
# A head's attention to each token before: its softmax; with capped scores (Gemma 2) each step on the way to it.
_SCORES, _CAPPED_SCORES = 1, 8
# Of a block of unknown make, what goes into its linear layers and comes out, this often: a guess on the safe side.
_UNKNOWN = 3

# Numbers a token that the backward pass of one block holds beside what was kept, in the middle and in attention, when
# the middle's kept arrays are gone. Measured on a CPU over 26 tiny Llamas of different sizes: they depend on how far
# MLX runs ahead of what is computed.
_BACK_MIDDLE, _BACK_WIDTH = 6, 10
_BACK_SCORES, _BACK_QUERIES = 3, 10
# The middle's gradient beside a block that is computed again.
_AGAIN_MIDDLE = 4
# The same of a forward pass without gradient; measured over 18.
_FORWARD_MIDDLE, _FORWARD_WIDTH, _FORWARD_SCORES, _FORWARD_KEYS = 2, 6, 1.4, 2

# Arrays of the size of the logits, of one chunk alone and of several, where MLX runs ahead; measured on a CPU.
_HEAD_ARRAYS, _HEAD_ARRAYS_AHEAD = 5, 13
# Arrays of full logits in mlx-lm's plain loss, which the exactness check computes: of all tokens, and of targets.
_PLAIN_LOGITS, _PLAIN_TARGETS = 3, 3

# Arrays of the adapter's size, float32, counted: weights, two moments and the weights of the step before; and at the
# end of a step its gradient and what replaces them. In the exactness check: weights and disturbed ones, then two
# gradients.
_MASTERS, _MASTERS_IN_STEP = 4, 6
_MASTERS_IN_CHECK, _MASTERS_COMPARED = 2, 4

# Fewer tokens at once than this use the device badly.
_LEAST_TOKENS = 256


@dataclass(frozen=True)
class Plan:
    """How a training uses memory.

    Args:
        batch_tokens: computed at once.
        checkpoint: blocks keep their inputs only and are computed again for the gradient.
        cache_bytes: the frozen blocks' output may take in memory.
        estimate: bytes the training is expected to hold at most; None where nothing was estimated.
    """

    batch_tokens: int = 2048
    checkpoint: bool = False
    cache_bytes: int = 2**30
    estimate: int | None = None


@dataclass(frozen=True)
class Estimate:
    """Bytes that each phase is expected to hold at most, and of them those of the frozen blocks' kept output."""

    loading: int
    exactness: int
    frozen: int
    training: int
    reading_again: int
    kept_states: int

    @property
    def peak(self) -> int:
        return max(self.loading, self.exactness, self.frozen, self.training, self.reading_again)


@dataclass(frozen=True)
class _Part:
    """Rows that are computed at once: tokens, the sum of the rows' squared lengths, and targets."""

    tokens: int
    squares: int
    targets: int

    @classmethod
    def of(cls, lengths: Sequence[int], targets: Sequence[int]) -> _Part:
        return cls(sum(lengths), sum(length**2 for length in lengths), sum(targets))


def plan_for(lm: LanguageModel, data: TrainingData, config: LoRAConfig) -> Plan:
    """The fastest plan that fits this machine; UserError where none does."""
    anatomy = of_model(lm) if lm.path is None else of_folder(lm.path)
    learnt = [*data.rows, *data.replay]
    rows = [*learnt, *data.validation, *data.general]
    lengths, targets = [len(row) for row in rows], [int(row.is_target.sum()) for row in rows]
    return fastest(anatomy, lengths, targets, config, usable_memory(), len(learnt))


def estimate(
    folder: Path,
    lengths: Sequence[int],
    targets: Sequence[int],
    config: LoRAConfig,
    batch_tokens: int = 2048,
    checkpoint: bool = False,
    cache_bytes: int | None = None,
) -> Estimate:
    """What training the model in `folder` takes, which is not loaded; UserError if it is no model folder.

    Args:
        lengths, targets: of each row, how many inputs it has and how many of them are learnt from.
        cache_bytes: that the frozen blocks' output may take in memory; None is no limit.
    """
    return _estimate(of_folder(folder), lengths, targets, config, Plan(batch_tokens, checkpoint), cache_bytes)


def fastest(
    anatomy: Anatomy,
    lengths: Sequence[int],
    targets: Sequence[int],
    config: LoRAConfig,
    limit: int | None,
    learnt: int | None = None,
) -> Plan:
    """The fastest plan for a model and rows that stays below `limit` bytes, if there is a limit.

    Smaller parts cost next to nothing, checkpointing a third more time, reading states from a file somewhere between:
    so all of a step at once, then less, then checkpointing. `learnt` is how many of the rows are trained on (the first
    ones); by default all. UserError if nothing fits.
    """
    learnt = len(lengths) if learnt is None else learnt
    steps = _steps(learnt, config)
    whole = max(_LEAST_TOKENS, max(sum(lengths[row] for row in step) for step in steps))
    sizes = [config.batch_tokens] if config.batch_tokens else list(_halved(whole))
    smallest = math.inf
    for checkpoint in (False, True):
        for tokens in sizes:
            plan = Plan(tokens, checkpoint)
            for cache in (None, 0):
                found = _estimate(anatomy, lengths, targets, config, plan, cache, learnt)
                smallest = min(smallest, found.peak)
                if limit is None or found.peak <= limit:
                    return dataclasses.replace(plan, cache_bytes=found.kept_states, estimate=found.peak)
    smaller = "" if device_name() == "cpu" else " or a quantized"
    raise UserError(
        f"this training needs at least {smallest / 1e9:.1f} GB of memory, and there are {(limit or 0) / 1e9:.1f} GB",
        hint=f"lower num_layers or max_tokens, or take a smaller{smaller} model",
    )


def _estimate(
    anatomy: Anatomy,
    lengths: Sequence[int],
    targets: Sequence[int],
    config: LoRAConfig,
    plan: Plan,
    cache_bytes: int | None,
    learnt: int | None = None,
) -> Estimate:
    count = len(anatomy.blocks)
    first = 0 if config.num_layers == -1 else max(0, count - config.num_layers)
    trained, block = anatomy.blocks[first:], anatomy.blocks[-1]
    adapter = 4 * sum(_adapter_numbers(block, config) for block in trained)
    probe = sorted(range(len(lengths)), key=lengths.__getitem__)
    pair = [probe[0], next((row for row in probe if lengths[row] > lengths[probe[0]]), probe[-1])]

    states = sum(lengths) * anatomy.width * anatomy.number if first else 0
    in_memory = states if cache_bytes is None or states <= cache_bytes else 0
    held = anatomy.rest + sum(block.bytes for block in trained) if first else anatomy.bytes

    # Padded, as the plain way has them.
    widest = max(lengths[row] for row in pair)
    both = _Part(2 * widest, 2 * widest**2, sum(targets[row] for row in pair))
    logits = 4 * anatomy.vocabulary * (_PLAIN_LOGITS * both.tokens + _PLAIN_TARGETS * both.targets)
    check = sum(_kept(anatomy, block, both, config) for block in trained) + max(logits, _back(anatomy, block, both))

    step = _MASTERS_IN_STEP * adapter
    for part in _parts(lengths, targets, config, plan, len(lengths) if learnt is None else learnt):
        step = max(step, _MASTERS * adapter + _gradient(anatomy, trained, part, config, plan.checkpoint))

    group = _Part.of(*_group(lengths, targets)) if first else _Part(0, 0, 0)
    return Estimate(
        loading=anatomy.bytes,
        exactness=anatomy.bytes + max(_MASTERS_IN_CHECK * adapter + check, _MASTERS_COMPARED * adapter),
        frozen=anatomy.bytes + adapter + in_memory + _forward(anatomy, block, group),
        training=held + in_memory + step,
        reading_again=anatomy.bytes + in_memory + _MASTERS * adapter,
        kept_states=in_memory,
    )


def _gradient(anatomy: Anatomy, trained: Sequence[Block], part: _Part, config: LoRAConfig, checkpoint: bool) -> int:
    """Bytes that the loss and gradient of one part take, beside all weights."""
    # The last block hands on the targets' places alone: its output is not kept.
    last = anatomy.number * anatomy.width * part.tokens
    of_block = max(_kept(anatomy, block, part, config) for block in trained)
    back = max(_back(anatomy, block, part) for block in trained)
    if checkpoint:
        kept = len(trained) * last
        back = max(
            of_block + max(_back(anatomy, block, part, again=True) for block in trained),
            _forward(anatomy, trained[-1], part),
        )
    else:
        kept = sum(_kept(anatomy, block, part, config) for block in trained) - last
    rows = max(16, CHUNK_BYTES // (4 * anatomy.vocabulary))
    logits = 4 * anatomy.vocabulary * min(_HEAD_ARRAYS * part.targets, _HEAD_ARRAYS_AHEAD * rows)
    head = logits + 12 * anatomy.width * part.targets
    return kept + max(head, back)


def _kept(anatomy: Anatomy, block: Block, part: _Part, config: LoRAConfig) -> int:
    """Bytes that stay of one trained block's forward pass until its gradient is taken."""
    inputs = sum(into for into, _, _ in block.linear)
    outputs = sum(out for _, out, _ in block.linear)
    width, middle, scores = anatomy.width, block.hidden, 0
    if block.queries:
        scores = (_CAPPED_SCORES if anatomy.capped else _SCORES) * anatomy.heads * part.squares + part.squares // 4
        each = _QUERIES * block.queries + _KEYS * block.keys + _ROTARY * block.queries // anatomy.heads
        each += (block.queries + block.keys) * block.normed_heads
    else:
        each = _UNKNOWN * (inputs + outputs)
    each += width * (_NORM * min(block.norms, 2) + _FURTHER_NORM * max(block.norms - 2, 0))
    if block.gated:
        each += middle * (_GATED_GELU if anatomy.gelu else _gated_silu())
    else:
        each += middle * (_GELU if anatomy.gelu else _UNGATED)
    each += config.rank * len(block.linear)
    if config.dropout:
        # Each linear layer has its own thinned input, and a byte a number says where; the common ones are not needed.
        each += inputs + math.ceil(inputs / anatomy.number) - (2 * width + middle + block.queries)
    if config.dora:
        each += outputs
    return anatomy.number * (each * part.tokens + scores)


def _gated_silu() -> int:
    return _GATED_SILU_CPU if device_name() == "cpu" else _GATED_SILU


def _back(anatomy: Anatomy, block: Block, part: _Part, again: bool = False) -> int:
    """Bytes beside what was kept while the gradient passes one block, in its middle or in its attention."""
    width, middle = anatomy.width, block.hidden or 4 * anatomy.width
    in_middle = (_BACK_MIDDLE + _AGAIN_MIDDLE * again) * middle + _BACK_WIDTH * width
    freed = _gated_silu() * middle + _NORM * width
    in_attention = (_BACK_QUERIES * block.queries - freed) * part.tokens + _BACK_SCORES * anatomy.heads * part.squares
    return anatomy.number * max(in_middle * part.tokens, in_attention)


def _forward(anatomy: Anatomy, block: Block, part: _Part) -> int:
    """Bytes that a forward pass without gradient takes."""
    middle = block.hidden or 4 * anatomy.width
    each = _FORWARD_MIDDLE * middle + _FORWARD_WIDTH * anatomy.width + _FORWARD_KEYS * block.keys
    return int(anatomy.number * (each * part.tokens + _FORWARD_SCORES * anatomy.heads * part.squares))


def _adapter_numbers(block: Block, config: LoRAConfig) -> int:
    magnitudes = sum(out for _, out, _ in block.linear) if config.dora else 0
    return sum(config.rank * (into + out) * copies for into, out, copies in block.linear) + magnitudes


def _steps(count: int, config: LoRAConfig) -> list[list[int]]:
    """The rows of the steps to come; those of later epochs are like those of the first ones."""
    epochs = range(min(config.epochs, 8))
    return [step for epoch in epochs for step in shuffled(count, config.batch_size, config.seed, epoch)]


def _parts(
    lengths: Sequence[int], targets: Sequence[int], config: LoRAConfig, plan: Plan, learnt: int
) -> Iterator[_Part]:
    """What is computed at once in the steps to come."""
    for step in _steps(learnt, config):
        for part in parts(step, lengths, plan.batch_tokens, "packed"):
            yield _Part.of([lengths[row] for row in part], [targets[row] for row in part])


def _group(lengths: Sequence[int], targets: Sequence[int]) -> tuple[list[int], list[int]]:
    """The rows of the costliest group of the frozen blocks' pass."""
    groups = parts(range(len(lengths)), lengths, GROUP_TOKENS, "packed")
    rows = max(groups, key=lambda group: sum(lengths[row] for row in group))
    return [lengths[row] for row in rows], [targets[row] for row in rows]


def _halved(most: int) -> Iterator[int]:
    """`most`, and half of it again and again."""
    while most >= _LEAST_TOKENS:
        yield most
        most //= 2
