"""The one place that loads a model, and the one object through which the other rooms use it.

`LanguageModel(*mlx_lm.load(...))` works as well as `load_language_model`. It is not a model definition: layers, caches
and adapters are mlx-lm's.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
from huggingface_hub import errors as hub_errors
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import _download, hf_repo_to_path, load_model

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError, from_os_error
from mlx_personal.models import generation, likelihood
from mlx_personal.models.chat_template import ChatTemplate
from mlx_personal.progress import Progress
from mlx_personal.runtime.cpu_ops import fast
from mlx_personal.runtime.device import prepare

DEMO_MODEL = "demo"

# It warns of texts beyond the model's context; here they are cut before the model sees them.
logging.getLogger("transformers.tokenization_utils_base").setLevel(logging.ERROR)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "tekken.json")


class LanguageModel:
    """A causal language model with its tokenizer, and with or without an adapter.

    Args:
        model: any model that `mlx_lm.load` gives.
        tokenizer: the `TokenizerWrapper` that came with it.
        path: where it was loaded from, if it was.
        name: by which another machine can load it.
    """

    def __init__(
        self, model: nn.Module, tokenizer: TokenizerWrapper, path: Path | None = None, name: str | None = None
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.path, self.name = path, name
        self.format = ChatTemplate(tokenizer)
        self.body = _body_of(model)
        self.model.eval()
        self._base_layers: Any = None

    @property
    def context_length(self) -> int:
        """The most tokens of a prompt and its answer together."""
        args = getattr(self.model, "args", None)
        return int(getattr(args, "max_position_embeddings", None) or 4096)

    def text_tokens(self, text: str) -> list[int]:
        """The tokens of plain text, without special tokens or template."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def prompt_tokens(self, messages: list[dict[str, str]]) -> list[int]:
        """The tokens after which the model writes the next assistant turn."""
        return self.format.prompt_tokens(messages)

    def training_tokens(self, dialogue: Dialogue) -> list[tuple[list[int], list[bool]]]:
        """Rows of (tokens, is a target) in which every assistant turn, with its end token, is a target once."""
        return self.format.training_rows(dialogue)

    def hidden_states(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """The last hidden layer after the final norm: for each row of T tokens a float32 array [T, D].

        A begin-of-text token, where the tokenizer has one, is put in front and its state left out: models park
        attention there, and its state would outweigh all others in a mean. Rows of any length, 0 included.
        """
        start = [self.tokenizer.bos_token_id] if self.tokenizer.bos_token_id is not None else []
        full = [start + list(row) for row in rows]
        longest = max((len(row) for row in full), default=0)
        if longest == 0:
            return [np.zeros((0, 0), np.float32) for _ in full]
        # Right padding: under a causal mask no real token sees it.
        batch = np.zeros((len(full), longest), np.int32)
        for i, row in enumerate(full):
            batch[i, : len(row)] = row
        with fast(self.model):
            states = np.array(self.body(mx.array(batch)).astype(mx.float32))
        return [states[i, len(start) : len(row)] for i, row in enumerate(full)]

    def generate(
        self,
        prompts: Sequence[list[int]],
        *,
        max_tokens: int | Sequence[int],
        temperature: float = 0.0,
        seed: int = 0,
        on_progress: Progress | None = None,
    ) -> list[str]:
        """One answer a prompt, all in one continuous batch; greedy at temperature 0, else sampled from `seed`.

        `max_tokens` is one limit for all or one for each. `on_done(done, total)` is called each time an answer is
        finished. Thoughts are not stripped. A prompt that leaves no room in the context loses its oldest tokens.
        """
        limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else max_tokens
        fitting = [self._fitting(prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)]
        answers = generation.generate(self.model, self.tokenizer, fitting, limits, temperature, seed, on_progress)
        return [self.tokenizer.decode(answer).strip() for answer in answers]

    def stream(self, prompt: list[int], *, max_tokens: int, temperature: float = 0.0, seed: int = 0) -> Iterator[str]:
        """The answer to one prompt, piece by piece; together what `generate` gives, outer spaces aside."""
        fitting = self._fitting(prompt, max_tokens)
        return generation.stream(self.model, self.tokenizer, fitting, max_tokens, temperature, seed)

    def log_likelihoods(self, prompt_tokens: list[int], options: Sequence[str]) -> np.ndarray:
        """The log-likelihood of each of L options as the whole answer to a prompt, float64 [L], in nats.

        See `log_likelihoods_of_each`.
        """
        return self.log_likelihoods_of_each([prompt_tokens], options)[0]

    def log_likelihoods_of_each(self, prompts: Sequence[list[int]], options: Sequence[str]) -> np.ndarray:
        """The log-likelihood of each of L options as the whole answer to each of N prompts, float64 [N, L], in nats.

        An answer is its tokens and the end token behind them, so that one which another begins with is not preferred.
        A prompt that leaves no room for the longest option loses its oldest tokens. ValueError for an empty option.
        """
        if not all(option.strip() for option in options):
            raise ValueError("an empty option")
        answers = [[*self.text_tokens(option), self.format.end_token()] for option in options]
        longest = max(map(len, answers), default=0)
        return likelihood.log_likelihoods(self.model, [self._fitting(prompt, longest) for prompt in prompts], answers)

    def attach_adapter(self, folder: Path) -> None:
        """Answers with the LoRA adapter in `folder` (mlx-lm's format) from now on.

        UserError if it does not fit the model, or is damaged.
        """
        self.detach_adapter()
        self._base_layers = self.model.leaf_modules()
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
        except Exception as error:  # a broken config or tensors raise whatever mlx-lm and safetensors happen to raise
            self.detach_adapter()
            reason = "this adapter is damaged or made for another model"
            raise UserError(reason, folder, "promote another adapter, or roll back") from error

    def attach_new_adapter(
        self, num_layers: int, lora_parameters: dict[str, float], seed: int, dora: bool = False
    ) -> None:
        """Puts a LoRA adapter that changes nothing yet on the last `num_layers` blocks (-1: all), ready to be trained.

        `lora_parameters` are mlx-lm's: rank, scale (alpha / rank) and dropout; `dora` makes it a DoRA adapter. Only the
        adapter's weights, which are float32 whatever the model's, are trainable.
        """
        self.detach_adapter()
        self._base_layers = self.model.leaf_modules()
        self.model.freeze()
        # mlx-lm draws from MLX's one generator, whose numbers are others' too.
        state: Any = mx.random.state
        high, low = state[0].tolist()
        mx.random.seed(seed)
        try:
            linear_to_lora_layers(self.model, num_layers, lora_parameters, use_dora=dora)
        except ValueError as error:
            self.detach_adapter()
            raise UserError(f"this model takes no such adapter ({error})", hint="train LoRA instead of DoRA") from error
        finally:
            mx.random.seed(high << 32 | low)
        self.model.train()

    def detach_adapter(self) -> None:
        """Back to the base model. mlx-lm's own removal knows only one of its three kinds of LoRA layer."""
        if self._base_layers is not None:
            self.model.update_modules(self._base_layers)
            self._base_layers = None
            self.model.eval()

    def release(self, kept: Sequence[nn.Module]) -> None:
        """Frees the memory of all weights but those of the modules `kept`; what is used is read again by itself.

        Does nothing for a model that came from no folder.
        """
        if self.path is None:
            return
        keep = {id(module) for module in kept}
        held = tuple(f"{name}." for name, module in self.model.named_modules() if id(module) in keep)
        unread = prepare(load_model(self.path, lazy=True)[0], lazy=True)
        again = [(name, weight) for name, weight in tree_flatten(unread.parameters()) if not name.startswith(held)]
        self.model.load_weights(again, strict=False)
        mx.clear_cache()

    def read(self) -> None:
        """Reads all weights that are not in memory; UserError if the folder does not give them any more."""
        try:
            mx.eval(self.model.parameters())
        except RuntimeError as error:
            raise UserError("the base model cannot be read any more", self.path, "put its folder back") from error

    def damaged_weight(self) -> str | None:
        """The name of the first weight that holds something else than numbers, if one does; reads all of them."""
        for name, weight in tree_flatten(self.model.parameters()):
            if mx.issubdtype(weight.dtype, mx.floating) and not mx.isfinite(weight).all().item():
                return str(name)
        return None

    def _fitting(self, prompt: list[int], max_tokens: int) -> list[int]:
        """The prompt's end, so that the answer fits behind it; at least half of the context stays the prompt's."""
        return prompt[-max(self.context_length - max_tokens, self.context_length // 2) :]


def _body_of(model: nn.Module) -> nn.Module:
    """The part below the vocabulary projection, whose output is the last hidden layer; families name it differently."""
    inner = getattr(model, "language_model", model)
    for name in ("model", "transformer", "backbone"):
        if isinstance(getattr(inner, name, None), nn.Module):
            return getattr(inner, name)
    raise UserError(f"models of the kind {type(model).__module__.rpartition('.')[2]} are not supported")


def _check_complete(model: nn.Module, folder: Path) -> None:
    """mlx-lm checks the tensors that are there; those that are missing would keep their random first values."""
    stored: Any = mx.load(str(folder / "adapters.safetensors"))
    wanted = {k for k, _ in tree_flatten(model.parameters()) if k.rpartition(".")[2] in ("lora_a", "lora_b", "m")}
    if wanted - set(stored) or not all(mx.isfinite(tensor).all().item() for tensor in stored.values()):
        raise UserError("this adapter is damaged or incomplete", folder, "promote another adapter, or roll back")


def load_language_model(
    name_or_path: str | Path, adapter_path: Path | None = None, lazy: bool = False
) -> LanguageModel:
    """Loads the embedded model (`demo`), a folder, or a repository of the Hugging Face hub.

    `lazy` leaves the weights unread until `read` is called or they are used.

    UserError where there is no such model, it lacks its tokenizer, or it needs code of its own to run.
    """
    path = resolve(name_or_path)
    try:
        model, tokenizer = mlx_lm.load(str(path), lazy=lazy)[:2]
    except OSError as error:
        raise from_os_error(error, path) from error
    except Exception as error:  # loaders raise anything from KeyError to SafetensorError on a damaged folder
        reason = f"the model cannot be loaded ({error})"
        raise UserError(reason, path, "check the folder or name another model") from error
    loaded = LanguageModel(prepare(model, lazy), tokenizer, path, canonical_name(name_or_path))
    if adapter_path is not None:
        loaded.attach_adapter(adapter_path)
    return loaded


def canonical_name(name_or_path: str | Path) -> str:
    """A model's name as a profile keeps it: a folder's is absolute, so that it holds from any other folder."""
    if str(name_or_path) != DEMO_MODEL and Path(name_or_path).expanduser().exists():
        return str(Path(name_or_path).expanduser().resolve())
    return str(name_or_path)


def resolve(name_or_path: str | Path) -> Path:
    """The folder of a model; downloads a hub repository that is not in the cache yet."""
    name = canonical_name(name_or_path)
    path = Path(__file__).parent.parent / "demo" / "model" if name == DEMO_MODEL else Path(name)
    if not path.exists():
        path = _fetch(name)
    if not path.is_dir():
        raise UserError("is not a model folder", path, "name a folder with config.json and .safetensors files")
    if not (path / "config.json").exists() or not any(path.glob("*.safetensors")):
        raise UserError("no config.json or .safetensors weights in this folder", path, "name another model folder")
    if not any((path / name).exists() for name in _TOKENIZER_FILES):
        raise UserError("a model folder without a tokenizer", path, "add its tokenizer.json and tokenizer_config.json")
    return path


def _fetch(repo: str) -> Path:
    if repo.count("/") != 1 or repo.startswith((".", "/", "~")):
        raise UserError("no such model folder", repo, "name a folder, a hub repository like owner/name, or `demo`")
    try:
        # What was downloaded once is used as it is: no network, and no new revision under an adapter's feet.
        cached = hf_repo_to_path(repo)
        if any(cached.glob("*.safetensors")):  # an interrupted download may have left the small files only
            return cached
    except (OSError, hub_errors.HfHubHTTPError, ValueError):
        pass
    try:
        return _download(repo)
    except hub_errors.RepositoryNotFoundError as error:
        raise UserError("no such repository on the hub", repo, "check its name, or log in if it is gated") from error
    except OSError as error:
        if error.errno:
            raise from_os_error(error, repo) from error
        raise UserError("cannot be fetched from the hub", repo, "check the network, or name a local folder") from error
    except Exception as error:  # the hub's client raises its HTTP library's own errors when there is no network
        raise UserError("cannot be fetched from the hub", repo, "check the network, or name a local folder") from error


def fingerprint(folder: Path) -> str:
    """Hash of a model folder's config and of its weights' names, shapes and a sample of their bytes.

    A sample, because hashing gigabytes at every start would take longer than answering.
    """
    digest = hashlib.sha256(json.dumps(json.loads((folder / "config.json").read_text()), sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as data:
            for part in range(8):
                data.seek(size * part // 8)
                digest.update(data.read(65536))
    return digest.hexdigest()[:16]
