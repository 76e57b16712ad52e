"""How much memory a training will take, told before anything is loaded, and the fastest plan that fits the machine.

The estimate is of what `mx.get_peak_memory` will say, weights included: the largest of what each phase holds. It counts
the arrays that MLX keeps for the gradient, as listed beside the coefficients.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlx_personal.errors import UserError
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.data.batching import micro_batches, shuffled_steps
from mlx_personal.finetune.data.samples import TrainingData
from mlx_personal.finetune.forward.activation_cache import CACHE_BATCH_TOKENS
from mlx_personal.finetune.forward.cross_entropy import CHUNK_BYTES
from mlx_personal.finetune.forward.equivalence import probe_samples, two_lengths
from mlx_personal.finetune.forward.packed_attention import length_buckets
from mlx_personal.finetune.planning.model_spec import Block, ModelSpec, spec_from_folder, spec_from_model
from mlx_personal.models import LanguageModel
from mlx_personal.runtime.device import device_name
from mlx_personal.runtime.memory import usable_memory_bytes

# Numbers a token and block that stay for the gradient. They were counted in the code, and checked by evaluating the
# loss alone and reading `mx.get_active_memory`: 1 to 6 % too few over 68 tiny Llamas with and without dropout and DoRA,
# by what the adapter's own small arrays take. Each of the first two norms keeps its input and its output, further ones
# one of them.
_NORM, _FURTHER_NORM = 2, 1
# A perceptron's middle: gate, its sigmoid, their product, the other factor, and the product of both; more for the
# polynomial and the tanh of a GELU; input, bend and output where nothing is gated.
_GATED_SILU, _GATED_GELU, _GELU, _UNGATED = 5, 7, 5, 3
# Queries as they are multiplied with keys; keys and values; what attention gives to the next layer.
_QUERIES, _KEYS, _ATTENDED = 1, 2, 1
# On a CPU our own functions keep what attention gave beside what is made of it, and no product of gate and sigmoid.
_FAST_QUERIES, _FAST_GATED_SILU = 2, 4
# A head's attention to each token before: its softmax; with capped scores (Gemma 2) each step on the way to it.
_SCORES, _CAPPED_SCORES = 1, 8
# Linear layers whose input is the block's own, normalized: of queries, keys and values.
_FROM_INPUT = 3
# Of a block of unknown make, what goes into its linear layers and comes out, this often: what a small Mamba takes.
_UNKNOWN = 6

# What there is beside that is what MLX computes ahead, ten operations on a CPU: measured there, on tiny Llamas of
# different sizes, as arrays of the size of a perceptron's middle, a block's width, a head's attention and the queries.
# In the backward pass of one block, which is in its middle, or in its attention when the middle's kept arrays are gone:
# over 90, all within 21 %.
_BACK_MIDDLE, _BACK_WIDTH = 4.4, 12.5
_BACK_SCORES, _BACK_QUERIES = 7.8, 3
# Attention in mlx-lm's own way, in the exactness check of 125; with what follows for its logits, one in 20 is off by
# more than 15 %.
_PLAIN_BACK_SCORES = 5.5
# More where a block is computed again; over 36, most within 20 %.
_AGAIN_SCORES = 1.2
# In a forward pass without gradient; over 61, most within 20 %.
_FORWARD_MIDDLE, _FORWARD_SCORES, _FORWARD_QUERIES = 6.4, 5.9, 5.1

# Arrays of one chunk's logits and of the next one's: on a CPU, where the exponential is many steps, over 13 sizes,
# within 12 %; with an exponential in one step, as a GPU has it.
_HEAD_ARRAYS, _HEAD_NEXT = 11, 4
_HEAD_ARRAYS_FUSED, _HEAD_NEXT_FUSED = 5, 8
# Of the width, at each target: the final norm's input and output, and the gradient; counted.
_HEAD_WIDTH = 3
# Arrays of full logits in mlx-lm's plain loss, which the exactness check computes: of all tokens, and of targets.
_PLAIN_LOGITS, _PLAIN_TARGETS = 2.4, 5.3

# Arrays of the adapter's size, float32. Counted: weights, two moments, and the gradient of the part before. At the end
# of a step, when MLX runs ahead through all of AdamW, and in the exactness check: measured on 5 and on 59 models.
_MASTERS, _MASTERS_IN_STEP = 4, 15
_MASTERS_IN_CHECK = 4

# Fewer tokens at once than this use the device badly.
_LEAST_TOKENS = 256


@dataclass(frozen=True)
class MemoryPlan:
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
    estimated_peak_bytes: int | None = None


@dataclass(frozen=True)
class MemoryEstimate:
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
    """Rows that are computed at once.

    Args:
        tokens: of all of them.
        attended: the same where rows of like length are side by side in groups, padded to the group's longest.
        squares: sum of the rows' squared lengths there; `largest` is that of one group.
        targets: of all of them.
    """

    tokens: int
    attended: int
    squares: int
    largest: int
    targets: int

    @classmethod
    def packed(cls, lengths: Sequence[int], targets: Sequence[int]) -> _Part:
        groups = [(len(group), lengths[group[0]]) for group in length_buckets(lengths)]
        attended = sum(count * longest for count, longest in groups)
        squares = [count * longest**2 for count, longest in groups]
        return cls(sum(lengths), attended, sum(squares), max(squares), sum(targets))

    @classmethod
    def padded(cls, lengths: Sequence[int], targets: Sequence[int]) -> _Part:
        tokens = len(lengths) * max(lengths)
        squares = tokens * max(lengths)
        return cls(tokens, tokens, squares, squares, sum(targets))


def plan_memory(lm: LanguageModel, data: TrainingData, config: LoRAConfig) -> MemoryPlan:
    """The fastest plan that fits this machine; UserError where none does."""
    anatomy = spec_from_model(lm) if lm.path is None else spec_from_folder(lm.path)
    learnt = [*data.train, *data.replay]
    rows = [*learnt, *data.validation, *data.general]
    lengths, targets = [len(row) for row in rows], [int(row.is_target.sum()) for row in rows]
    return fastest_plan(anatomy, lengths, targets, config, usable_memory_bytes(), len(learnt), probe_samples(rows))


def fastest_plan(
    anatomy: ModelSpec,
    lengths: Sequence[int],
    targets: Sequence[int],
    config: LoRAConfig,
    limit: int | None,
    learnt: int | None = None,
    probe: Sequence[int] | None = None,
) -> MemoryPlan:
    """The fastest plan for a model and rows that stays below `limit` bytes, if there is a limit.

    Smaller parts cost next to nothing, checkpointing a third more time, reading states from a file somewhere between:
    so all of a step at once, then less, then checkpointing. `learnt` and `probe` are those of `estimate_memory`. UserError if
    nothing fits.
    """
    learnt = len(lengths) if learnt is None else learnt
    steps = _steps(learnt, config)
    whole = max(_LEAST_TOKENS, max(sum(lengths[row] for row in step) for step in steps))
    sizes = [config.micro_batch_tokens] if config.micro_batch_tokens else list(_halved(whole))
    smallest = math.inf
    for checkpoint in (False, True):
        for tokens in sizes:
            plan = MemoryPlan(tokens, checkpoint)
            for cache in (None, 0):
                found = estimate_memory(anatomy, lengths, targets, config, plan, cache, learnt, probe)
                smallest = min(smallest, found.peak)
                if limit is None or found.peak <= limit:
                    return dataclasses.replace(plan, cache_bytes=found.kept_states, estimated_peak_bytes=found.peak)
    smaller = "" if device_name() == "cpu" else " or a quantized"
    raise UserError(
        f"this training needs at least {smallest / 1e9:.1f} GB of memory, and there are {(limit or 0) / 1e9:.1f} GB",
        hint=f"lower num_layers or max_seq_length, or take a smaller{smaller} model",
    )


def estimate_memory(
    anatomy: ModelSpec,
    lengths: Sequence[int],
    targets: Sequence[int],
    config: LoRAConfig,
    plan: MemoryPlan,
    cache_bytes: int | None,
    learnt: int | None = None,
    probe: Sequence[int] | None = None,
) -> MemoryEstimate:
    """What a training by this plan takes.

    Args:
        lengths, targets: of each row, how many inputs it has and how many of them are learnt from.
        cache_bytes: that the frozen blocks' output may take in memory; None is no limit.
        learnt: how many of the rows are trained on, the first ones; by default all.
        probe: the rows that the exactness check takes; by default those it takes where no two rows begin alike.
    """
    learnt = len(lengths) if learnt is None else learnt
    count = len(anatomy.blocks)
    first = 0 if config.num_layers == -1 else max(0, count - config.num_layers)
    trained, block = anatomy.blocks[first:], anatomy.blocks[-1]
    adapter = 4 * sum(_adapter_numbers(block, config) for block in trained)
    states = sum(lengths) * anatomy.width * anatomy.number if first else 0
    in_memory = states if cache_bytes is None or states <= cache_bytes else 0
    let_go = anatomy.readable and first > 0
    held = anatomy.rest + sum(block.bytes for block in trained) if let_go else anatomy.bytes

    probe = two_lengths(lengths) if probe is None else probe
    undropped = dataclasses.replace(config, dropout=0.0)
    both = _Part.padded([lengths[row] for row in probe], [targets[row] for row in probe])
    logits = int(4 * anatomy.vocabulary * (_PLAIN_LOGITS * both.tokens + _PLAIN_TARGETS * both.targets))
    kept = sum(_kept(anatomy, block, both, undropped, fast=False) for block in trained)
    plain = kept + max(logits, _back(anatomy, block, both, fast=False))
    fast = _gradient(anatomy, trained, _part_of(probe, lengths, targets), undropped, checkpoint=False)

    step = _MASTERS_IN_STEP * adapter
    for part in _parts(range(learnt), lengths, targets, config, plan):
        step = max(step, _MASTERS * adapter + _gradient(anatomy, trained, part, config, plan.checkpoint))
    held_out = range(learnt, len(lengths))
    for rows in micro_batches(held_out, lengths, plan.batch_tokens, "packed"):
        part = _part_of(rows, lengths, targets)
        step = max(step, _MASTERS * adapter + max(_forward(anatomy, block, part), _head(anatomy, part)))

    frozen = anatomy.bytes + adapter
    if first:
        groups = micro_batches(range(len(lengths)), lengths, CACHE_BATCH_TOKENS, "packed")
        frozen += in_memory + max(_forward(anatomy, block, _part_of(group, lengths, targets)) for group in groups)
    return MemoryEstimate(
        loading=anatomy.bytes,
        exactness=anatomy.bytes + _MASTERS_IN_CHECK * adapter + max(plain, fast),
        frozen=frozen,
        training=held + in_memory + step,
        reading_again=anatomy.bytes + in_memory + _MASTERS * adapter,
        kept_states=in_memory,
    )


def _gradient(anatomy: ModelSpec, trained: Sequence[Block], part: _Part, config: LoRAConfig, checkpoint: bool) -> int:
    """Bytes that the loss and gradient of one part take, beside all weights."""
    head = _head(anatomy, part)
    kept = [_kept(anatomy, block, part, config, fast=True) for block in trained]
    states = anatomy.number * anatomy.width * part.tokens
    if not checkpoint:
        # No gradient goes below the first block: its input is not kept, nor what dropout multiplied it by.
        unneeded = states * (1 + (_FROM_INPUT if config.dropout else 0))
        return sum(kept) - unneeded + max(head, *(_back(anatomy, block, part, fast=True) for block in trained))
    # On a CPU dropout's factors are drawn when the graph is made: those of all blocks, for both passes.
    drawn = [0] * len(trained)
    if config.dropout and device_name() == "cpu":
        drawn = [anatomy.number * _inputs(block) * part.tokens for block in trained]
    again = max(
        own - factors + _back(anatomy, block, part, fast=True, again=True)
        for own, factors, block in zip(kept, drawn, trained, strict=True)
    )
    forward = sum(drawn) + _forward(anatomy, trained[-1], part)
    return len(trained) * states + sum(drawn) + max(forward, head, again)


def _head(anatomy: ModelSpec, part: _Part) -> int:
    """Bytes of the final norm, the logits, and the gradient by what they are made of."""
    rows = max(16, CHUNK_BYTES // (4 * anatomy.vocabulary))
    here, ahead = (_HEAD_ARRAYS, _HEAD_NEXT) if device_name() == "cpu" else (_HEAD_ARRAYS_FUSED, _HEAD_NEXT_FUSED)
    following = min(max(part.targets - rows, 0), rows)
    logits = 4 * anatomy.vocabulary * (here * min(part.targets, rows) + ahead * following)
    return logits + 4 * _HEAD_WIDTH * anatomy.width * part.targets


def _kept(anatomy: ModelSpec, block: Block, part: _Part, config: LoRAConfig, *, fast: bool) -> int:
    """Bytes that stay of one trained block's forward pass until its gradient is taken.

    `fast` is this package's way, else mlx-lm's own.
    """
    fast = fast and device_name() == "cpu"
    inputs, outputs = _inputs(block), sum(out for _, out, _ in block.linear)
    width, middle, in_attention = anatomy.width, block.hidden, 0
    each = config.rank * len(block.linear)
    if block.queries:
        scores = _CAPPED_SCORES if anatomy.capped else _SCORES
        queries = (_FAST_QUERIES if fast else _QUERIES) + block.normed_heads
        padded = queries * block.queries + (_KEYS + block.normed_heads) * block.keys
        in_attention = padded * part.attended + scores * anatomy.heads * part.squares
        each += _ATTENDED * block.queries
    else:
        each += _UNKNOWN * (inputs + outputs)
    each += width * (_NORM * min(block.norms, 2) + _FURTHER_NORM * max(block.norms - 2, 0))
    if block.gated:
        each += middle * (_GATED_GELU if anatomy.gelu else _FAST_GATED_SILU if fast else _GATED_SILU)
    else:
        each += middle * (_GELU if anatomy.gelu else _UNGATED)
    if config.dropout:
        # Each linear layer has its own thinned input, and what it was multiplied by; the common ones are not needed.
        each += 2 * inputs - (2 * width + middle + block.queries)
    if config.use_dora:
        each += outputs  # before they are stretched to the learnt magnitudes
    return anatomy.number * (each * part.tokens + in_attention)


def _back(anatomy: ModelSpec, block: Block, part: _Part, *, fast: bool, again: bool = False) -> int:
    """Bytes beside what was kept while the gradient passes one block, in its middle or in its attention."""
    width, middle = anatomy.width, block.hidden or 4 * anatomy.width
    in_middle = (_BACK_MIDDLE * middle + _BACK_WIDTH * width) * part.tokens
    freed = (_FAST_GATED_SILU if fast else _GATED_SILU) * middle + _NORM * width
    scores = (_BACK_SCORES if fast else _PLAIN_BACK_SCORES) * anatomy.heads * part.largest
    in_attention = _BACK_QUERIES * block.queries * part.attended + scores - freed * part.tokens
    more = _AGAIN_SCORES * anatomy.heads * part.largest if again else 0
    return int(anatomy.number * (max(in_middle, in_attention) + more))


def _forward(anatomy: ModelSpec, block: Block, part: _Part) -> int:
    """Bytes that a forward pass without gradient takes."""
    middle, scores = block.hidden or 4 * anatomy.width, anatomy.heads * part.largest
    in_attention = _FORWARD_QUERIES * block.queries * part.attended + _FORWARD_SCORES * scores
    return int(anatomy.number * (_FORWARD_MIDDLE * middle * part.tokens + in_attention))


def _inputs(block: Block) -> int:
    return sum(into for into, _, _ in block.linear)


def _adapter_numbers(block: Block, config: LoRAConfig) -> int:
    magnitudes = sum(out for _, out, _ in block.linear) if config.use_dora else 0
    return sum(config.rank * (into + out) * copies for into, out, copies in block.linear) + magnitudes


def _steps(count: int, config: LoRAConfig) -> list[list[int]]:
    """The rows of the steps to come; those of later epochs are like those of the first ones."""
    epochs = range(min(config.epochs, 8))
    return [step for epoch in epochs for step in shuffled_steps(count, config.effective_batch_size, config.seed, epoch)]


def _parts(
    rows: Sequence[int], lengths: Sequence[int], targets: Sequence[int], config: LoRAConfig, plan: MemoryPlan
) -> Iterator[_Part]:
    """What is computed at once in the steps to come."""
    for step in _steps(len(rows), config):
        for part in micro_batches(step, lengths, plan.batch_tokens, "packed"):
            yield _part_of(part, lengths, targets)


def _part_of(rows: Sequence[int], lengths: Sequence[int], targets: Sequence[int]) -> _Part:
    return _Part.packed([lengths[row] for row in rows], [targets[row] for row in rows])


def _halved(most: int) -> Iterator[int]:
    """`most`, and half of it again and again."""
    while most >= _LEAST_TOKENS:
        yield most
        most //= 2
