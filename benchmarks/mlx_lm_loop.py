"""The whole loop composed from mlx-lm's own functions, as the baseline for ours.

Nothing here is slow on purpose: NumPy works on whole dialogues and domains, and our functions parse texts and compare
answers. But dialogues are embedded one by one, rewrites and answers are generated one by one, and mlx-lm's trainer
trains.
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
from mlx_personal.benchmark.mlx_lm_trainer import stock_loss, train_with_mlx_lm
from mlx_personal.dialogue import rouge1, strip_thoughts, words
from mlx_personal.embedding import unit_mean
from mlx_personal.evaluation import Evaluation, compare_answers
from mlx_personal.finetune import LoRAConfig
from mlx_personal.finetune.data.samples import make_samples
from mlx_personal.finetune.trainer_state import make_optimizer
from mlx_personal.scoring import entropy_of_embedding
from mlx_personal.selection import SelectionConfig
from mlx_personal.synthesis import STYLES, SynthesisConfig, parse_question

Sampler = Callable[[mx.array], mx.array]

# The wired limit is not changed, which has crashed Macs. `mlx_lm.generate` is a function as an attribute of its
# package, and a module only by its import name.
_generate_module: Any = importlib.import_module("mlx_lm.generate")
_generate_module.wired_limit = lambda *_: contextlib.nullcontext()


def generate_text(lm: LanguageModel, prompt: list[int], max_tokens: int, sampler: Sampler | None = None) -> str:
    """Return what mlx-lm generates after a prompt, greedily without a sampler."""
    return mlx_lm.generate(lm.model, lm.tokenizer, prompt, max_tokens=max_tokens, sampler=sampler)


@dataclass(frozen=True, eq=False)
class BufferedDialogue:
    """A dialogue in the buffer.

    Attributes:
        dialogue: The dialogue.
        vector: Its unit vector, [D].
        domain: Its dominant domain.
        eoe: Its entropy of embedding.
        dss: Its domain-specific score.
    """

    dialogue: Dialogue
    vector: np.ndarray
    domain: str
    eoe: float
    dss: float


def embed_dialogues(lm: LanguageModel, dialogues: Iterable[Dialogue], max_tokens: int) -> list[np.ndarray]:
    """Return the token states [T, D] of each dialogue, computed one at a time after the same first token as ours."""
    first = [] if lm.tokenizer.bos_token_id is None else [lm.tokenizer.bos_token_id]
    token_lists = ([*first, *lm.tokenize(dialogue.text)[:max_tokens]] for dialogue in dialogues)
    return [np.array(lm.backbone(mx.array([ids]))[0, len(first) :].astype(mx.float32)) for ids in token_lists]


class BaselineBuffer:
    """A buffer with the replacement rule of [Qin24 §3.2] that computes every IDD again for every dialogue.

    Args:
        lexicons: Words of each domain.
        config: Size of the buffer, and the threshold of near-duplicates.

    Attributes:
        bins: Dialogues in the buffer.
    """

    def __init__(self, lexicons: dict[str, frozenset[str]], config: SelectionConfig):
        self.bins: list[BufferedDialogue] = []
        self._lexicons = lexicons
        self._config = config

    def offer(self, number: int, dialogue: Dialogue, states: np.ndarray) -> None:
        """Score a dialogue, and store it if the rule says so.

        Args:
            number: Number of the dialogue in the stream, from 1.
            dialogue: The dialogue.
            states: Its token states, [T, D].
        """
        new = self._score(dialogue, states)
        if self._is_near_duplicate(new):
            return
        if len(self.bins) < self._config.bins:
            self.bins.append(new)
            return
        idd = self._mean_distance(new.vector, [stored.vector for stored in self.bins if stored.domain == new.domain])
        dominated = [
            slot
            for slot, (stored, stored_idd) in enumerate(zip(self.bins, self._idds(), strict=True))
            if new.eoe > stored.eoe and (new.dss > stored.dss or new.dss == stored.dss == 0) and idd > stored_idd
        ]
        if dominated:
            rng = np.random.default_rng([self._config.seed, number])
            self.bins[int(rng.choice(dominated))] = new

    def _score(self, dialogue: Dialogue, states: np.ndarray) -> BufferedDialogue:
        text_words = words(dialogue.text)
        hits = {name: sum(word in lexicon for word in text_words) for name, lexicon in self._lexicons.items()}
        dss = sum(hits.values()) / (len(hits) * max(len(text_words), 1))
        domain = max(sorted(hits), key=lambda name: hits[name]) if any(hits.values()) else "other"
        return BufferedDialogue(dialogue, unit_mean(states), domain, entropy_of_embedding(states), dss)

    def _is_near_duplicate(self, new: BufferedDialogue) -> bool:
        if not self.bins:
            return False
        nearest = self.bins[int(np.argmax(np.stack([stored.vector for stored in self.bins]) @ new.vector))]
        return rouge1(new.dialogue.text, nearest.dialogue.text) >= self._config.near_duplicate

    def _idds(self) -> list[float]:
        """Return each bin's mean distance to the others of its domain."""
        return [
            self._mean_distance(
                bin_.vector,
                [other.vector for other in self.bins if other.domain == bin_.domain and other is not bin_],
            )
            for bin_ in self.bins
        ]

    def _mean_distance(self, vector: np.ndarray, others: Sequence[np.ndarray]) -> float:
        return float(np.clip(1 - (np.stack(others) @ vector).mean(), 0, 1)) if others else 1.0


def synthesize(lm: LanguageModel, dialogues: Iterable[Dialogue], config: SynthesisConfig) -> list[Dialogue]:
    """Generate `config.k` rewrites of each dialogue, one by one, and return those that are valid and in the band."""
    sampler = make_sampler(temp=config.temperature)
    method = STYLES["zero-shot"].method(lm, config)
    rewrites = []
    for dialogue in dialogues:
        original = dialogue.without_thoughts()
        prompts = [method.prompt(original, unit, 0) for unit in method.units(original)]
        for _ in range(config.k if prompts else 0):
            texts = [generate_text(lm, p.tokens, p.max_tokens, sampler) for p in prompts]
            try:
                rewrite = original.with_turns("user", [parse_question(text) for text in texts])
            except ValueError:
                continue
            overlap = rouge1("\n".join(rewrite.user_turns), "\n".join(original.user_turns))
            if rewrite not in rewrites and config.band[0] <= overlap <= config.band[1]:
                rewrites.append(rewrite)
    return rewrites


def train(lm: LanguageModel, dialogues: Sequence[Dialogue], config: LoRAConfig) -> int:
    """Train an adapter with mlx-lm, which leaves out the last incomplete batch, and leave it on the model.

    Returns:
        The number of samples of an epoch.
    """
    samples = make_samples(lm, dialogues, min(config.max_seq_length, lm.context_length)).samples
    batch_size = min(config.batch_size, len(samples))
    lm.attach_new_adapter(config.num_layers, config.lora_parameters, config.seed)
    train_with_mlx_lm(
        lm.model,
        make_optimizer(config.learning_rate_schedule(config.epochs * (len(samples) // batch_size))),
        samples,
        batch_size=batch_size,
        epochs=config.epochs,
        seed=config.seed,
        loss=stock_loss,
    )
    lm.model.eval()
    return len(samples) // batch_size * batch_size


def generate_answers(lm: LanguageModel, dialogues: Iterable[Dialogue], max_tokens: int) -> list[list[str]]:
    """Generate a greedy answer for every assistant turn of each dialogue, one by one."""
    return [
        [
            strip_thoughts(generate_text(lm, lm.tokenize_prompt(context), max_tokens))
            for context, _ in dialogue.without_thoughts().exchanges()
        ]
        for dialogue in dialogues
    ]


def evaluate(lm: LanguageModel, held_out: Sequence[Dialogue], max_tokens: int) -> Evaluation:
    """Compare the adapter that is attached with the base model, and detach it."""
    after = generate_answers(lm, held_out, max_tokens)
    lm.detach_adapter()
    return compare_answers(generate_answers(lm, held_out, max_tokens), after, held_out)
