"""The whole loop as one writes it today from mlx-lm's own parts, to measure ours against.

Nothing in it is slow on purpose: NumPy works on whole dialogues and whole domains, and reading and judging texts is
ours. But a dialogue is embedded alone, a rewrite and an answer are generated alone, and `mlx_lm.lora`'s trainer trains.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx_lm.sample_utils import make_sampler

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.benchmark.mlx_lm_trainer import stock_loss, train_plain
from mlx_personal.dialogue import rouge1, strip_thoughts, words
from mlx_personal.embedding import unit_mean
from mlx_personal.evaluation import Evaluation, compare_answers
from mlx_personal.finetune import LoRAConfig
from mlx_personal.finetune.data.samples import make_samples
from mlx_personal.finetune.trainer_state import make_optimizer
from mlx_personal.scoring import entropy_of_embedding
from mlx_personal.selection import SelectionConfig
from mlx_personal.synthesis import SynthesisConfig, parse_question, rewrite_prompts

Sampler = Callable[[mx.array], mx.array]

# The wired limit stays as it is: changing it has crashed Macs. `mlx_lm.generate` is a function as an attribute of its
# package, and a module only by its import name.
_module: Any = importlib.import_module("mlx_lm.generate")
_module.wired_limit = lambda *_: contextlib.nullcontext()


def text_after(lm: LanguageModel, prompt: list[int], limit: int, sampler: Sampler | None = None) -> str:
    """What mlx-lm writes after a prompt, greedily without a sampler."""
    return mlx_lm.generate(lm.model, lm.tokenizer, prompt, max_tokens=limit, sampler=sampler)


@dataclass(frozen=True, eq=False)
class Kept:
    """A dialogue in the buffer: its unit vector [D], its domain, and the two scores that stay."""

    dialogue: Dialogue
    vector: np.ndarray
    domain: str
    eoe: float
    dss: float


def embed(lm: LanguageModel, dialogues: Iterable[Dialogue], max_tokens: int) -> list[np.ndarray]:
    """The token states [T, D] of each dialogue, one at a time, after the same first token as ours."""
    first = [] if lm.tokenizer.bos_token_id is None else [lm.tokenizer.bos_token_id]
    rows = ([*first, *lm.tokenize(dialogue.text)[:max_tokens]] for dialogue in dialogues)
    return [np.array(lm.backbone(mx.array([row]))[0, len(first) :].astype(mx.float32)) for row in rows]


class Buffer:
    """Keeps dialogues by the paper's rule; every IDD is computed anew for every dialogue.

    Args:
        lexicons: the words of each domain.
        config: how many are kept, and what counts as a repetition.
    """

    def __init__(self, lexicons: dict[str, frozenset[str]], config: SelectionConfig):
        self.bins: list[Kept] = []
        self._lexicons = lexicons
        self._config = config

    def offer(self, number: int, dialogue: Dialogue, states: np.ndarray) -> None:
        """Scores the dialogue of this number in the stream, from 1, and keeps it or not."""
        new = self._scored(dialogue, states)
        if self._repeats(new):
            return
        if len(self.bins) < self._config.bins:
            self.bins.append(new)
            return
        idd = self._mean_distance(new.vector, [b.vector for b in self.bins if b.domain == new.domain])
        beaten = [
            slot
            for slot, (b, b_idd) in enumerate(zip(self.bins, self._idds(), strict=True))
            if new.eoe > b.eoe and (new.dss > b.dss or new.dss == b.dss == 0) and idd > b_idd
        ]
        if beaten:
            rng = np.random.default_rng([self._config.seed, number])
            self.bins[int(rng.choice(beaten))] = new

    def _scored(self, dialogue: Dialogue, states: np.ndarray) -> Kept:
        spoken = words(dialogue.text)
        hits = {name: sum(word in lexicon for word in spoken) for name, lexicon in self._lexicons.items()}
        dss = sum(hits.values()) / (len(hits) * max(len(spoken), 1))
        domain = max(sorted(hits), key=lambda name: hits[name]) if any(hits.values()) else "other"
        return Kept(dialogue, unit_mean(states), domain, entropy_of_embedding(states), dss)

    def _repeats(self, new: Kept) -> bool:
        if not self.bins:
            return False
        nearest = self.bins[int(np.argmax(np.stack([b.vector for b in self.bins]) @ new.vector))]
        return rouge1(new.dialogue.text, nearest.dialogue.text) >= self._config.near_duplicate

    def _idds(self) -> list[float]:
        """Each bin's mean distance to the others of its domain."""
        return [
            self._mean_distance(one.vector, [b.vector for b in self.bins if b.domain == one.domain and b is not one])
            for one in self.bins
        ]

    def _mean_distance(self, vector: np.ndarray, others: Sequence[np.ndarray]) -> float:
        return float(np.clip(1 - (np.stack(others) @ vector).mean(), 0, 1)) if others else 1.0


def synthesize(lm: LanguageModel, dialogues: Iterable[Dialogue], config: SynthesisConfig) -> list[Dialogue]:
    """`config.k` rewrites of each dialogue, generated one by one; those that parse and lie in the band."""
    sampler = make_sampler(temp=config.temperature)
    made = []
    for dialogue in dialogues:
        original = dialogue.without_thoughts()
        prompts = rewrite_prompts(lm, original, config)
        for _ in range(config.k if prompts else 0):
            texts = [text_after(lm, lm.tokenize_prompt(p.messages), p.max_tokens, sampler) for p in prompts]
            try:
                rewrite = original.with_turns("user", [parse_question(text) for text in texts])
            except ValueError:
                continue
            overlap = rouge1("\n".join(rewrite.user_turns), "\n".join(original.user_turns))
            if rewrite not in made and config.band[0] <= overlap <= config.band[1]:
                made.append(rewrite)
    return made


def train(lm: LanguageModel, dialogues: Sequence[Dialogue], config: LoRAConfig) -> int:
    """Leaves a trained adapter on the model; how many rows an epoch had. mlx-lm leaves out the last partial batch."""
    rows = make_samples(lm, dialogues, min(config.max_seq_length, lm.context_length)).samples
    batch = min(config.batch_size, len(rows))
    lm.attach_new_adapter(config.num_layers, config.lora_parameters, config.seed)
    optimizer = make_optimizer(config.learning_rate_schedule(config.epochs * (len(rows) // batch)))
    train_plain(lm.model, optimizer, rows, batch, config.epochs, config.seed, stock_loss, lambda _: None)
    lm.model.eval()
    return len(rows) // batch * batch


def answers(lm: LanguageModel, dialogues: Iterable[Dialogue], max_tokens: int) -> list[list[str]]:
    """For each dialogue the greedy answer at every assistant turn, one by one."""
    return [
        [
            strip_thoughts(text_after(lm, lm.tokenize_prompt(context), max_tokens))
            for context, _ in dialogue.without_thoughts().exchanges()
        ]
        for dialogue in dialogues
    ]


def evaluate(lm: LanguageModel, held_out: Sequence[Dialogue], max_tokens: int) -> Evaluation:
    """The adapter that is on the model against the base model, which is what is left on it."""
    after = answers(lm, held_out, max_tokens)
    lm.detach_adapter()
    return compare_answers(answers(lm, held_out, max_tokens), after, held_out)
