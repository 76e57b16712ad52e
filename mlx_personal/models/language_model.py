"""A language model with its tokenizer and an optional LoRA adapter.

Layers, caches and adapters are mlx-lm's; a `LanguageModel` can also wrap what `mlx_lm.load` returns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError, from_os_error
from mlx_personal.models import generation, likelihood
from mlx_personal.models.adapter_folder import read_adapter_config
from mlx_personal.models.adapter_switch import disabled_adapter
from mlx_personal.models.chat_template.template import ChatTemplate
from mlx_personal.models.lexical_constraints import LexicalConstraint
from mlx_personal.models.mlx_lm_compat import seeded
from mlx_personal.models.prompt_cache import PromptCache
from mlx_personal.models.safe_loading import load_unread_model
from mlx_personal.models.sampling import SamplingParams
from mlx_personal.models.stop_strings import StopStrings
from mlx_personal.progress import Progress
from mlx_personal.runtime.cpu_ops import fast_ops
from mlx_personal.runtime.device import prepare_model

logger = logging.getLogger(__name__)

_DEFAULT_CONTEXT_LENGTH = 4096
_GREEDY = SamplingParams()


class LanguageModel:
    """A causal language model with its tokenizer, with or without an adapter.

    Args:
        model: Any model that `mlx_lm.load` returns.
        tokenizer: Its tokenizer, as `mlx_lm.load` returns it.
        path: The folder it was loaded from, if any.
        name: The name by which another machine can load it, if any.

    Attributes:
        model: The mlx-lm model.
        tokenizer: The tokenizer.
        path: The folder it was loaded from, or None.
        name: The name by which another machine can load it, or None.
        chat_template: Converts conversations to token ids.
        adapter_folder: The folder of the attached adapter; None without one, and for one that is being trained.
        adapter_state: Another number for each adapter that is attached, 0 after it is detached, and -1 while it is
            switched off: what was computed at the same number can be used again.
        backbone: The part of the model below the vocabulary projection.
        vocabulary_size: Number of its token embeddings; None if it has no usual embedding.

    Raises:
        UserError: If the model's architecture has no known backbone.
    """

    def __init__(
        self, model: nn.Module, tokenizer: TokenizerWrapper, path: Path | None = None, name: str | None = None
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.path, self.name = path, name
        self.backbone = _find_backbone(model)
        self.vocabulary_size = _count_embeddings(self.backbone)
        self.chat_template = ChatTemplate(tokenizer, path, self.vocabulary_size)
        self.model.eval()
        self.adapter_folder: Path | None = None
        self.adapter_state = 0
        self._adapter_numbers = itertools.count(1)
        self._base_layers: Any = None

    @property
    def context_length(self) -> int:
        """The maximum number of tokens of a prompt and its answer together."""
        args = getattr(self.model, "args", None)
        return int(getattr(args, "max_position_embeddings", None) or _DEFAULT_CONTEXT_LENGTH)

    @property
    def end_token_ids(self) -> frozenset[int]:
        """The tokens that end an answer: those of the tokenizer and the configs, and those of the chat template."""
        return frozenset(self.tokenizer.eos_token_ids) | self.chat_template.end_token_ids

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of plain text, without special tokens or chat template.

        Args:
            text: The text; control tokens that it mentions become plain text.
        """
        return self.chat_template.tokenize(text)

    def tokenize_prompt(self, messages: list[dict[str, str]], now: datetime.datetime | None = None) -> list[int]:
        """Return the token ids after which the model generates the next assistant turn.

        Args:
            messages: The conversation in chat format.
            now: The time for chat templates that write it; by default a fixed one, so that prompts stay the same.

        Raises:
            UserError: If the chat template fails on this conversation.
        """
        return self.chat_template.tokenize_prompt(messages, now)

    def tokenize_dialogue(self, dialogue: Dialogue) -> list[tuple[list[int], list[bool]]]:
        """Return training sequences in which each assistant turn, with its end token, is a target once.

        Args:
            dialogue: The dialogue.

        Returns:
            Pairs of token ids and, for each token, whether it is a training target.

        Raises:
            UserError: If the chat template fails on this dialogue.
        """
        return self.chat_template.tokenize_dialogue(dialogue)

    def truncate_prompt(self, prompt: list[int], max_tokens: int) -> list[int]:
        """Return the end of a prompt that leaves space for the answer, but at least half of the context.

        Args:
            prompt: Token ids of the prompt.
            max_tokens: Maximum number of tokens of the answer.
        """
        return prompt[-max(self.context_length - max_tokens, self.context_length // 2) :]

    def hidden_states(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Return the hidden states of the last layer after the final norm.

        A begin-of-text token, if the tokenizer has one, is prepended and its state dropped: as an attention sink, its
        state would outweigh all others in a mean.

        Args:
            sequences: Token ids of texts of any length, including 0.

        Returns:
            For each sequence of T tokens a float32 array [T, D].
        """
        start = [self.tokenizer.bos_token_id] if self.tokenizer.bos_token_id is not None else []
        full = [start + list(sequence) for sequence in sequences]
        longest = max((len(sequence) for sequence in full), default=0)
        if longest == 0:
            return [np.zeros((0, 0), np.float32) for _ in full]
        # Right padding, to which no real token attends under a causal mask.
        batch = np.zeros((len(full), longest), np.int32)
        for i, sequence in enumerate(full):
            batch[i, : len(sequence)] = sequence
        with fast_ops(self.model):
            states = np.array(self.backbone(mx.array(batch)).astype(mx.float32))
        return [states[i, len(start) : len(sequence)] for i, sequence in enumerate(full)]

    def generate(
        self,
        prompts: Sequence[list[int]],
        *,
        max_tokens: int | Sequence[int],
        sampling: SamplingParams = _GREEDY,
        seed: int = 0,
        on_progress: Progress | None = None,
        constraints: Sequence[LexicalConstraint] = (),
    ) -> list[str]:
        """Generate one answer to each prompt, all in one continuous batch.

        Thoughts are not removed. A prompt that leaves too little of the context for its answer loses its first tokens.

        Args:
            prompts: Token ids of the prompts.
            max_tokens: Maximum number of tokens, one for all answers or one for each.
            sampling: How tokens are sampled, and before which texts an answer ends; greedy by default.
            seed: Random seed of the sampling.
            on_progress: Receives an event of stage `generation` for each finished answer.
            constraints: For each prompt the tokens that its answer should contain; none if empty.

        Returns:
            The answers, in the order of the prompts.

        Raises:
            ValueError: If a prompt has no tokens, or a limit is below 1.
        """
        limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else max_tokens
        sampling = self._with_stop_strings(sampling)
        truncated = [self.truncate_prompt(prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)]
        answers = generation.generate(
            self.model, self.tokenizer, truncated, limits, sampling, seed, self.end_token_ids, on_progress, constraints
        )
        stops = StopStrings(sampling.stop, self.tokenizer.decode)
        return [stops.cut(self._decode(answer)).strip() for answer in answers]

    def stream(
        self,
        prompt: list[int],
        *,
        max_tokens: int,
        sampling: SamplingParams = _GREEDY,
        seed: int = 0,
        prompt_cache: PromptCache | None = None,
    ) -> Iterator[str]:
        """Generate the answer to one prompt in pieces: the same text as `generate` returns, except for outer spaces.

        Args:
            prompt: Token ids of the prompt.
            max_tokens: Maximum number of tokens of the answer.
            sampling: As in `generate`.
            seed: As in `generate`.
            prompt_cache: Of a conversation whose prompts begin alike; what they share is computed once.

        Yields:
            The pieces of the answer.
        """
        truncated = self.truncate_prompt(prompt, max_tokens)
        if prompt_cache is not None:
            prompt_cache.drop_unless(self.adapter_state)
        yield from generation.stream(
            self.model,
            self.tokenizer,
            truncated,
            max_tokens,
            self._with_stop_strings(sampling),
            seed,
            self.end_token_ids,
            self.chat_template.hidden_token_ids,
            prompt_cache,
        )

    def log_likelihoods(self, prompts: Sequence[list[int]], options: Sequence[str]) -> np.ndarray:
        """Return the log-likelihood of each option as the complete answer to each prompt.

        An answer includes its end token, so that an option is not preferred only because another one begins with it. A
        prompt that leaves too little of the context for the longest option loses its first tokens.

        Args:
            prompts: Token ids of N prompts.
            options: L answers.

        Returns:
            Log-likelihoods in nats, float64 [N, L].

        Raises:
            ValueError: If an option is empty.
        """
        if not all(option.strip() for option in options):
            raise ValueError("an empty option")
        answers = [self.chat_template.tokenize_answer(option) for option in options]
        longest = max(map(len, answers), default=0)
        return likelihood.log_likelihoods(
            self.model, [self.truncate_prompt(prompt, longest) for prompt in prompts], answers
        )

    def attach_adapter(self, folder: Path) -> None:
        """Attach a LoRA adapter, replacing any other one.

        Args:
            folder: Folder of the adapter, in mlx-lm's format.

        Raises:
            UserError: If it does not fit the model, or is damaged.
        """
        self.detach_adapter()
        read_adapter_config(folder)
        self._base_layers = self.model.leaf_modules()
        self.adapter_folder, self.adapter_state = folder, next(self._adapter_numbers)
        try:
            load_adapters(self.model, str(folder))
            _check_complete(self.model, folder)
            self.model.eval()
        except UserError:
            self.detach_adapter()
            raise
        except OSError as error:
            self.detach_adapter()
            raise from_os_error(error, folder) from error
        except Exception as error:  # A broken config or tensors raise whatever mlx-lm and safetensors raise.
            self.detach_adapter()
            reason = "this adapter is damaged or made for another model"
            raise UserError(reason, folder, "promote another adapter, or roll back") from error
        logger.debug("attached the adapter in %s", folder)

    def attach_new_adapter(
        self, num_layers: int, lora_parameters: dict[str, float], seed: int, use_dora: bool = False
    ) -> None:
        """Attach an untrained LoRA adapter, ready to be trained, replacing any other one.

        It does not change the model's output yet. Only the adapter's weights are trainable; they are float32 for any
        dtype of the model.

        Args:
            num_layers: Number of transformer layers to adapt, counted from the last; -1 for all.
            lora_parameters: mlx-lm's parameters: rank, scale (alpha / rank) and dropout.
            seed: Random seed of the initial weights.
            use_dora: Whether to attach DoRA layers [Liu24] instead of LoRA layers [Hu22].

        Raises:
            UserError: If the model does not support such an adapter.
        """
        self.detach_adapter()
        self._base_layers = self.model.leaf_modules()
        self.adapter_state = next(self._adapter_numbers)
        self.model.freeze()
        try:
            with seeded(seed):
                linear_to_lora_layers(self.model, num_layers, lora_parameters, use_dora=use_dora)
        except ValueError as error:
            self.detach_adapter()
            what = f"this model does not support such an adapter ({error})"
            raise UserError(what, hint="train LoRA instead of DoRA") from error
        self.model.train()

    def detach_adapter(self) -> None:
        """Restore the base model; mlx-lm's own removal supports only one of its three kinds of LoRA layer."""
        if self._base_layers is not None:
            self.model.update_modules(self._base_layers)
            self._base_layers = None
            self.adapter_folder, self.adapter_state = None, 0
            self.model.eval()

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Compute as the base model inside the `with` block, without copying weights; as PEFT's method of this name.

        Blocks may be nested. An adapter that is attached or detached inside the block stays so after it.
        """
        base_layers, adapter_state = self._base_layers, self.adapter_state
        with disabled_adapter(self.model, lambda: self._base_layers is base_layers):
            self.adapter_state = -1
            try:
                yield
            finally:
                if self._base_layers is base_layers:
                    self.adapter_state = adapter_state

    def release_weights(self, keep: Sequence[nn.Module]) -> None:
        """Free the memory of all weights except those of some modules; they are read again when they are used.

        This does nothing for a model that was not loaded from a folder.

        Args:
            keep: The modules whose weights stay in memory.
        """
        if self.path is None:
            return
        kept_ids = {id(module) for module in keep}
        kept_prefixes = tuple(f"{name}." for name, module in self.model.named_modules() if id(module) in kept_ids)
        unread = prepare_model(load_unread_model(self.path), lazy=True)
        released = [
            (name, weight) for name, weight in tree_flatten(unread.parameters()) if not name.startswith(kept_prefixes)
        ]
        self.model.load_weights(released, strict=False)
        mx.clear_cache()

    def reload_weights(self) -> None:
        """Read all weights that are not in memory.

        Raises:
            UserError: If the folder can no longer be read.
        """
        try:
            mx.eval(self.model.parameters())
        except RuntimeError as error:
            raise UserError("the base model can no longer be read", self.path, "restore its folder") from error

    def find_nonfinite_weight(self) -> str | None:
        """Read all weights, and return the name of the first one with a NaN or an infinity; None if there is none."""
        for name, weight in tree_flatten(self.model.parameters()):
            if mx.issubdtype(weight.dtype, mx.floating) and not mx.isfinite(weight).all().item():
                return str(name)
        return None

    def _with_stop_strings(self, sampling: SamplingParams) -> SamplingParams:
        """Return sampling parameters with the texts that end an answer in this chat template."""
        own = self.chat_template.stop_strings
        return dataclasses.replace(sampling, stop=(*sampling.stop, *own)) if own else sampling

    def _decode(self, answer: list[int]) -> str:
        """Return the text of an answer without control tokens, which must not become text of a dialogue."""
        hidden = self.chat_template.hidden_token_ids
        return str(self.tokenizer.decode([token for token in answer if token not in hidden]))


def _find_backbone(model: nn.Module) -> nn.Module:
    """Return the part of a model that outputs the last hidden layer, whose name depends on the model family."""
    inner = getattr(model, "language_model", model)
    for name in ("model", "transformer", "backbone"):
        if isinstance(getattr(inner, name, None), nn.Module):
            return getattr(inner, name)
    raise UserError(f"models of the family {type(model).__module__.rpartition('.')[2]} are not supported")


def _count_embeddings(backbone: nn.Module) -> int | None:
    """Return the number of a model's token embeddings, or None if it has no usual embedding."""
    # The first one, since some models embed positions too.
    leaves = tree_flatten(backbone.leaf_modules(), is_leaf=lambda value: isinstance(value, nn.Module))
    embeddings = (module for _, module in leaves if isinstance(module, nn.Embedding | nn.QuantizedEmbedding))
    return next((int(module.weight.shape[0]) for module in embeddings), None)


def _check_complete(model: nn.Module, folder: Path) -> None:
    """Raise UserError if a tensor of the adapter is missing or not finite.

    mlx-lm does not check for missing tensors, which would keep their random initial values.
    """
    stored: Any = mx.load(str(folder / "adapters.safetensors"))
    expected = {k for k, _ in tree_flatten(model.parameters()) if k.rpartition(".")[2] in ("lora_a", "lora_b", "m")}
    if expected - set(stored) or not all(mx.isfinite(tensor).all().item() for tensor in stored.values()):
        raise UserError("this adapter is damaged or incomplete", folder, "promote another adapter, or roll back")
