"""Fine-tune any mlx-lm model with LoRA on a file of chat messages.

    python examples/fine_tune.py --model mlx-community/Llama-3.2-1B-Instruct-4bit --data chats.jsonl --adapter adapter

Each line of the file is {"messages": [{"role": ..., "content": ...}, ...]}. Without options it trains the embedded demo
model on its own stream. The adapter is in mlx-lm's format: mlx_lm.generate --adapter-path loads it.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib.resources import files
from pathlib import Path

from mlx_personal import (
    Dialogue,
    Example,
    LoRAConfig,
    ProgressEvent,
    TrainingStep,
    finetune,
    load_language_model,
    read_dialogues,
)


def show(event: ProgressEvent) -> None:
    """Print every tenth training step."""
    if isinstance(event.detail, TrainingStep) and event.done % 10 == 0:
        print(f"step {event.done}/{event.total}  loss {event.detail.loss:.3f}")


def main() -> None:
    """Train an adapter, print a summary, and answer the first question with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="hub repository, model folder, or demo")
    parser.add_argument("--data", type=Path, default=Path(str(files("mlx_personal.demo") / "stream.jsonl")))
    parser.add_argument("--adapter", type=Path, default=None, help="folder to write, default: a temporary one")
    parser.add_argument("--num-layers", type=int, default=-1, help="layers to adapt, counted from the last; -1 for all")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    arguments = parser.parse_args()

    lm = load_language_model(arguments.model)
    dialogues = [item for item in read_dialogues(arguments.data) if isinstance(item, Dialogue)]
    examples = [Example(dialogue) for dialogue in dialogues]
    config = LoRAConfig(num_layers=arguments.num_layers, epochs=arguments.epochs, learning_rate=arguments.learning_rate)
    with tempfile.TemporaryDirectory() as scratch:
        adapter = arguments.adapter or Path(scratch) / "adapter"
        report = finetune(lm, examples, config, adapter, on_progress=show)
        print(
            f"{report.samples} samples, {report.steps} steps in {report.elapsed_s:.1f} s, mode {report.forward_mode}, "
            f"peak memory {report.peak_memory_bytes / 1e9:.2f} GB, adapter in {adapter}"
        )
        lm.attach_adapter(adapter)
        prompt = lm.tokenize_prompt([{"role": "user", "content": dialogues[0].question}])
        print("".join(lm.stream(prompt, max_tokens=60)))


if __name__ == "__main__":
    main()
