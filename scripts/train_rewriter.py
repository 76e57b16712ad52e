"""Teaches a small base model to put a question in other words, without any paraphrase data; writes a LoRA adapter.

    python scripts/train_rewriter.py --model MODEL --texts FILE.jsonl[.gz]... --out ADAPTER
    python scripts/train_rewriter.py --model MODEL --out ADAPTER --measure FILE.jsonl...

The pairs of wordings come from plain texts, one {"text"} a line, by rule (`rewriter_pairs`), and from the demo world,
which knows many wordings of its own questions. The dialogues are exactly what synthesis asks. The same arguments give
the same adapter. `--measure` tells what `synthesize` keeps of the rewrites, and how much of the content they keep:
the one can be high where the other is low.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import mlx_personal  # noqa: F401 - before mlx.core, so that its tuned BLAS comes first

# isort: split
import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten
from rewriter_pairs import FUNCTION_WORDS, Material, material, pairs
from write_demo_corpus import corpus

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.dialogue import InvalidLine, read_dialogues, words
from mlx_personal.errors import UserError, from_os_error
from mlx_personal.finetune import Example, LoRAConfig, TrainingReport, TrainingStep, finetune
from mlx_personal.models import load_language_model
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.storage.files import atomic_folder
from mlx_personal.synthesis import REWRITE_QUESTION, SynthesisConfig, synthesize


def read_texts(paths: Sequence[Path]) -> list[str]:
    """The "text" of each line; UserError for a file that cannot be read or a line that has none."""
    texts = []
    for path in paths:
        try:
            with (
                gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file
            ):
                for number, line in enumerate(file, 1):
                    texts.append(_text(line, f"{path}:{number}"))
        except OSError as error:
            raise from_os_error(error, path) from error
        except (UnicodeDecodeError, EOFError) as error:
            raise UserError("not UTF-8 text", path, "give JSON Lines, plain or as .gz") from error
    return texts


def _text(line: str, where: str) -> str:
    try:
        return str(json.loads(line)["text"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("no JSON object with a text", where, 'each line is to be {"text": ...}') from error


def dialogues(found: Material, rows: int, seed: int) -> list[Dialogue]:
    """So many dialogues that ask for a rewrite and get one.

    Nearly a third of them have words without a sense, which come back as they are. A model that was trained on little
    text cannot copy, and learns to from these soonest: nothing but copying makes them easier.
    """
    rng, made = Random(f"rewriter/{seed}"), []
    drawn, loose = pairs(found, rng), [word for phrase in found.phrases["x"] for word in phrase.split()]
    demo = (
        Dialogue.from_messages(row["messages"])
        for row in corpus(20 * rows, seed)
        if row["messages"][-2]["content"].startswith(REWRITE_QUESTION.partition("\n")[0])
    )
    for _ in range(rows):
        kind = rng.random()
        if kind < 0.1:
            made.append(next(demo))
        elif kind < 0.4:
            text = " ".join(rng.choice(loose) for _ in range(rng.randint(3, 12)))
            made.append(Dialogue.of(REWRITE_QUESTION.format(question=text), f"[{text}]"))
        else:
            before, (one, two) = next(drawn)
            turns = [*before, REWRITE_QUESTION.format(question=one), f"[{two}]"]
            roles = ("user", "assistant")
            made.append(Dialogue.from_messages({"role": roles[i % 2], "content": t} for i, t in enumerate(turns)))
    return made


def go_on(model: str, made: Sequence[Dialogue], config: LoRAConfig, before: Path, out: Path) -> TrainingReport:
    """Trains on top of the adapter `before`, and writes both as one adapter for the bare model; ranks add up."""
    lm = load_language_model(model)
    lm.attach_adapter(before)
    fused = [(name, layer.fuse()) for name, layer in lm.model.named_modules() if hasattr(layer, "fuse")]
    lm.model.update_modules(tree_unflatten(fused))
    with tempfile.TemporaryDirectory() as folder:
        added = Path(folder, "added")
        examples = list(map(Example, made))
        report = finetune(LanguageModel(lm.model, lm.tokenizer), examples, config, added, on_progress=progress(100))
        first, second = (_weights(path) for path in (before, added))
        settings = json.loads((before / "adapter_config.json").read_text(encoding="utf-8"))
    lora = settings["lora_parameters"]
    # The sum of two products is the product of the stacked matrices; what is scaled differently goes into the second.
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


def _weights(adapter: Path) -> dict[str, mx.array]:
    weights: Any = mx.load(str(adapter / "adapters.safetensors"))
    mx.eval(weights)  # the file may be gone when they are used
    return dict(weights)


def measure(lm: LanguageModel, path: Path, questions: int, config: SynthesisConfig, samples: int) -> str:
    """What `synthesize` makes of so many dialogues of a file: the share kept, what was wrong with the others, the
    median ROUGE-1, how many of the words with a meaning come back, and some of the rewrites. UserError if it has none.
    """
    read = [d for d in read_dialogues(path) if not isinstance(d, InvalidLine)]
    if not read:
        raise UserError("holds no dialogue", path, "name a file of dialogues, as for import")
    chosen = Random(0).sample(read, min(questions, len(read)))
    candidates = synthesize(lm, chosen, config)
    reasons = Counter(c.reason for c in candidates)
    overlaps = [c.rouge1 for c in candidates if c.rouge1 is not None]
    kept = [_returned(chosen[c.original_index], c.dialogue) for c in candidates if c.kept and c.dialogue is not None]
    parsed = [_returned(chosen[c.original_index], c.dialogue) for c in candidates if c.dialogue is not None]
    dropped = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common() if reason != "kept")
    lines = [
        f"{path.name}: {len(kept) / len(candidates):.1%} kept of {len(candidates)} rewrites of {len(chosen)} dialogues "
        f"(dropped: {dropped or 'none'}); median ROUGE-1 {_mid(overlaps):.2f}; content words that come back: "
        f"{_mean(parsed):.1%}, in the kept {_mean(kept):.1%}"
    ]
    for c in Random(1).sample(candidates, min(samples, len(candidates))):
        old = " / ".join(chosen[c.original_index].user_turns)
        lines.append(f"  {c.reason}\n    {old!r}\n    {c.raw_text!r}")
    return "\n".join(lines)


def _returned(old: Dialogue, new: Dialogue) -> float:
    """The share of the different content words of the questions that their rewrites hold; 1 if there is none."""
    meant = {w for turn in old.user_turns for w in words(turn)} - FUNCTION_WORDS
    return len(meant & {w for turn in new.user_turns for w in words(turn)}) / len(meant) if meant else 1.0


def _mid(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else 0.0


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def progress(every: int) -> Progress:
    """Prints the mean loss of every so many steps and the minutes so far."""
    begun, recent = time.perf_counter(), list[float]()

    def show(event: ProgressEvent, /) -> None:
        step = event.detail
        if not isinstance(step, TrainingStep):
            return
        recent.append(step.loss)
        if step.number % every == 0 or step.number == step.steps:
            minutes = (time.perf_counter() - begun) / 60
            print(f"step {step.number}/{step.steps}  loss {_mean(recent):.3f}  {minutes:.1f} min", flush=True)
            recent.clear()

    return show


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="a model folder or a name on Hugging Face")
    parser.add_argument("--out", type=Path, required=True, help="the adapter: made of --texts, or measured as it is")
    parser.add_argument("--texts", type=Path, nargs="+", default=[], help='JSON Lines of {"text"}, plain or .gz')
    parser.add_argument("--after", type=Path, help="an adapter made so before, to go on from; give another --seed")
    parser.add_argument("--rows", type=int, default=20_000, help="pairs of wordings, each seen once an epoch")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="for a model of a few million parameters")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=Path, nargs="+", default=[], help="files of dialogues to rewrite")
    parser.add_argument("--questions", type=int, default=60, help="dialogues of each to rewrite")
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--samples", type=int, default=0, help="rewrites of each to print")
    args = parser.parse_args()
    if not args.texts and not args.measure:
        parser.error("nothing to do: name --texts to train on, or --measure an adapter that is there")
    lm = load_language_model(args.model)
    if args.texts:
        begun = time.perf_counter()
        made = dialogues(material(read_texts(args.texts)), args.rows, args.seed)
        print(f"{len(made)} pairs of wordings after {time.perf_counter() - begun:.0f} s", flush=True)
        config = LoRAConfig(
            rank=args.rank,
            alpha=args.rank,
            dropout=0.0,
            learning_rate=args.learning_rate,
            epochs=args.epochs,
            batch_size=args.batch_size,
            max_seq_length=320,
            seed=args.seed,
        )
        if args.after is None:
            examples, metadata = list(map(Example, made)), {"task": "rewrites"}
            report = finetune(lm, examples, config, args.out, metadata=metadata, on_progress=progress(100))
        else:
            report = go_on(args.model, made, config, args.after, args.out)
        print(f"{report.samples} rows, {report.steps} steps, {report.elapsed_s / 60:.1f} min", flush=True)
    lm.attach_adapter(args.out)
    for path in args.measure:
        synthesis = SynthesisConfig(temperature=args.temperature)
        print(measure(lm, path, args.questions, synthesis, args.samples), flush=True)


if __name__ == "__main__":
    main()
