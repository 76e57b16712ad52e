"""Train a LoRA adapter that rewrites questions in other words, for a small base model and without paraphrase data.

    python scripts/train_rewriter.py --model MODEL --texts FILE.jsonl[.gz]... --out ADAPTER
    python scripts/train_rewriter.py --model MODEL --out ADAPTER --measure FILE.jsonl...

The pairs of wordings are made by rule from plain texts, one {"text"} per line (see rewriter_pairs.py), and from the
demo world, which has many wordings of its questions. The prompts are those of synthesis. The same arguments give the
same adapter. `--measure` reports the share of the rewrites that synthesis keeps, and the share of the content words
that the rewrites keep: one can be high while the other is low.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import mlx_personal  # noqa: F401 - loads its BLAS, which has to precede mlx.core

# isort: split
import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten
from rewriter_pairs import FUNCTION_WORDS, Material, draw_pairs, extract_material
from write_demo_corpus import draw_corpus

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.dialogue import words
from mlx_personal.errors import UserError, from_os_error
from mlx_personal.finetune import Example, LoRAConfig, TrainingReport, TrainingStep, finetune
from mlx_personal.importers import read_dialogues
from mlx_personal.models import load_language_model
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.storage.files import atomic_folder
from mlx_personal.synthesis import REWRITE_QUESTION, SynthesisConfig, synthesize
from mlx_personal.synthesis.config import PUBLISHED_METHOD


def read_texts(paths: Sequence[Path]) -> list[str]:
    """Return the "text" of each line of the files.

    Raises:
        UserError: If a file cannot be read, or a line has no text.
    """
    texts = []
    for path in paths:
        try:
            with (
                gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file
            ):
                for number, line in enumerate(file, 1):
                    texts.append(_parse_text(line, f"{path}:{number}"))
        except OSError as error:
            raise from_os_error(error, path) from error
        except (UnicodeDecodeError, EOFError) as error:
            raise UserError("not UTF-8 text", path, "give JSON Lines, plain or as .gz") from error
    return texts


def _parse_text(line: str, where: str) -> str:
    try:
        return str(json.loads(line)["text"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("no JSON object with a text", where, 'each line must be {"text": ...}') from error


def draw_dialogues(material: Material, count: int, seed: int) -> list[Dialogue]:
    """Draw dialogues that ask for a rewrite and get one.

    Nearly a third of the questions are words without meaning, whose rewrite is a copy. A model that was trained on
    little text cannot copy, and learns it fastest from them, because nothing else makes them easier.

    Args:
        material: Sentences, chats and phrases, from `extract_material`.
        count: Number of dialogues.
        seed: Random seed.
    """
    rng, dialogues = Random(f"rewriter/{seed}"), []
    pairs = draw_pairs(material, rng)
    vocabulary = [word for phrase in material.phrases["x"] for word in phrase.split()]
    demo_dialogues = (
        Dialogue.from_messages(sample["messages"])
        for sample in draw_corpus(20 * count, seed)
        if sample["messages"][-2]["content"].startswith(REWRITE_QUESTION.partition("\n")[0])
    )
    for _ in range(count):
        kind = rng.random()
        if kind < 0.1:
            dialogues.append(next(demo_dialogues))
        elif kind < 0.4:
            text = " ".join(rng.choice(vocabulary) for _ in range(rng.randint(3, 12)))
            dialogues.append(Dialogue.of(REWRITE_QUESTION.format(question=text), f"[{text}]"))
        else:
            earlier_turns, (one, two) = next(pairs)
            turns = [*earlier_turns, REWRITE_QUESTION.format(question=one), f"[{two}]"]
            roles = ("user", "assistant")
            messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
            dialogues.append(Dialogue.from_messages(messages))
    return dialogues


def continue_training(
    model: str, dialogues: Sequence[Dialogue], config: LoRAConfig, previous: Path, out: Path
) -> TrainingReport:
    """Train on top of an adapter, and write both as one adapter for the base model, whose rank is the sum of both.

    Args:
        model: Name or folder of the base model.
        dialogues: The training dialogues.
        config: Training settings.
        previous: Folder of the adapter to start from.
        out: Folder of the adapter to write.
    """
    lm = load_language_model(model)
    lm.attach_adapter(previous)
    fused = [(name, layer.fuse()) for name, layer in lm.model.named_modules() if hasattr(layer, "fuse")]
    lm.model.update_modules(tree_unflatten(fused))
    with tempfile.TemporaryDirectory() as folder:
        added = Path(folder, "added")
        examples = list(map(Example, dialogues))
        fused_lm = LanguageModel(lm.model, lm.tokenizer)
        report = finetune(fused_lm, examples, config, added, on_progress=print_progress(every=100))
        first, second = (_load_weights(path) for path in (previous, added))
        settings = json.loads((previous / "adapter_config.json").read_text(encoding="utf-8"))
    lora = settings["lora_parameters"]
    # The sum of two products is the product of the stacked matrices; B absorbs the ratio of the scales.
    scales = {"lora_a": 1.0, "lora_b": config.lora_parameters["scale"] / lora["scale"]}
    weights = {
        name: mx.concatenate(
            [first[name], second[name] * scales[name.rpartition(".")[2]]], axis=1 if name.endswith("lora_a") else 0
        )
        for name in first
    }
    lora["rank"] += config.rank
    with atomic_folder(out) as written:
        mx.save_safetensors(str(written / "adapters.safetensors"), weights, {"format": "mlx"})
        (written / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return report


def _load_weights(adapter: Path) -> dict[str, mx.array]:
    weights: Any = mx.load(str(adapter / "adapters.safetensors"))
    mx.eval(weights)  # Arrays are loaded lazily, and the file may be deleted before they are used.
    return dict(weights)


def measure(lm: LanguageModel, path: Path, count: int, config: SynthesisConfig, num_printed: int) -> str:
    """Rewrite dialogues of a file as synthesis does, and describe the rewrites.

    Args:
        lm: The model, with the adapter.
        path: File of dialogues.
        count: Number of dialogues to rewrite.
        config: Settings of synthesis.
        num_printed: Number of rewrites to include in the text.

    Returns:
        The share that is kept, why others are dropped, the median ROUGE-1, the share of content words that are kept,
        and some rewrites.

    Raises:
        UserError: If the file holds no dialogue.
    """
    dialogues = [item for item in read_dialogues(path) if isinstance(item, Dialogue)]
    if not dialogues:
        raise UserError("holds no dialogue", path, "name a file of dialogues, as for import")
    sampled = Random(0).sample(dialogues, min(count, len(dialogues)))
    candidates = synthesize(lm, sampled, dataclasses.replace(config, **PUBLISHED_METHOD))
    reasons = Counter(c.reason for c in candidates)
    overlaps = [c.rouge1 for c in candidates if c.rouge1 is not None]
    parsed = [(c.kept, _recall(sampled[c.original_index], c.dialogue)) for c in candidates if c.dialogue is not None]
    recalls = [recall for _, recall in parsed]
    kept_recalls = [recall for kept, recall in parsed if kept]
    dropped = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common() if reason != "kept")
    lines = [
        f"{path.name}: {len(kept_recalls) / len(candidates):.1%} kept of {len(candidates)} rewrites of {len(sampled)} "
        f"dialogues (dropped: {dropped or 'none'}); median ROUGE-1 {_median(overlaps):.2f}; recall of content words: "
        f"{_mean(recalls):.1%}, in the kept rewrites {_mean(kept_recalls):.1%}"
    ]
    for candidate in Random(1).sample(candidates, min(num_printed, len(candidates))):
        original = " / ".join(sampled[candidate.original_index].user_turns)
        lines.append(f"  {candidate.reason}\n    {original!r}\n    {candidate.raw_text!r}")
    return "\n".join(lines)


def _recall(original: Dialogue, rewrite: Dialogue) -> float:
    """Return the share of the distinct content words of the questions that are in the rewrite; 1 if there are none."""
    content_words = {word for turn in original.user_turns for word in words(turn)} - FUNCTION_WORDS
    rewrite_words = {word for turn in rewrite.user_turns for word in words(turn)}
    return len(content_words & rewrite_words) / len(content_words) if content_words else 1.0


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else 0.0


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def print_progress(every: int) -> Progress:
    """Return a function that prints the mean loss after every so many steps."""
    start, recent_losses = time.perf_counter(), list[float]()

    def on_progress(event: ProgressEvent, /) -> None:
        step = event.detail
        if not isinstance(step, TrainingStep):
            return
        recent_losses.append(step.loss)
        if step.number % every == 0 or step.number == step.steps:
            minutes = (time.perf_counter() - start) / 60
            print(f"step {step.number}/{step.steps}  loss {_mean(recent_losses):.3f}  {minutes:.1f} min", flush=True)
            recent_losses.clear()

    return on_progress


def main() -> None:
    """Train an adapter, measure one, or both."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="a model folder or a name on Hugging Face")
    parser.add_argument("--out", type=Path, required=True, help="adapter to train, or without --texts to measure")
    parser.add_argument("--texts", type=Path, nargs="+", default=[], help='JSON Lines of {"text"}, plain or .gz')
    parser.add_argument("--after", type=Path, help="adapter of this script to continue from; use another --seed")
    parser.add_argument("--samples", type=int, default=20_000, help="pairs of wordings per epoch")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="for a model of a few million parameters")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=Path, nargs="+", default=[], help="files of dialogues to rewrite")
    parser.add_argument("--questions", type=int, default=60, help="dialogues to rewrite of each file")
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--print", type=int, default=0, help="rewrites to print of each file")
    arguments = parser.parse_args()
    if not arguments.texts and not arguments.measure:
        parser.error("nothing to do: name --texts to train on, or --measure an existing adapter")
    lm = load_language_model(arguments.model)
    if arguments.texts:
        start = time.perf_counter()
        material = extract_material(read_texts(arguments.texts))
        dialogues = draw_dialogues(material, arguments.samples, arguments.seed)
        print(f"{len(dialogues)} pairs of wordings after {time.perf_counter() - start:.0f} s", flush=True)
        config = LoRAConfig(
            rank=arguments.rank,
            alpha=arguments.rank,
            dropout=0.0,
            learning_rate=arguments.learning_rate,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            max_seq_length=320,
            seed=arguments.seed,
        )
        if arguments.after is None:
            examples, metadata = list(map(Example, dialogues)), {"task": "rewrites"}
            on_progress = print_progress(every=100)
            report = finetune(lm, examples, config, arguments.out, metadata=metadata, on_progress=on_progress)
        else:
            report = continue_training(arguments.model, dialogues, config, arguments.after, arguments.out)
        print(f"{report.samples} samples, {report.steps} steps, {report.elapsed_s / 60:.1f} min", flush=True)
    lm.attach_adapter(arguments.out)
    for path in arguments.measure:
        synthesis = SynthesisConfig(temperature=arguments.temperature)
        print(measure(lm, path, arguments.questions, synthesis, arguments.print), flush=True)


if __name__ == "__main__":
    main()
