"""Measure how long finding examples takes, and how much later the first token of an answer comes with them.

    python -m benchmarks.memory_retrieval [--model MODEL] [--stream FILE.jsonl] [--dialogues N...] [--out FILE]

The time of finding is that of ranking the whole memory, the best of five tries of each question, without embedding the
question and without counting the tokens of the prompt. The questions are generated, and their vectors are random with
the few large variances of hidden states. The delay of the first token is the whole time from a question to the first
piece of the answer, for the first and for the second question of conversations on the model. The exit code is 1 if a
target is missed.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
import timeit
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.arguments import DEMO_STREAM, add_input_arguments, positive_int, run_command
from benchmarks.generated_stream import generate_dialogues
from benchmarks.report_file import heading, print_and_write
from mlx_personal import Dialogue, LanguageModel, load_dialogues, load_language_model
from mlx_personal.chat import ChatConfig, Conversation
from mlx_personal.embedding import Embedding
from mlx_personal.memory import Memory, MemoryConfig, MemoryEntry
from mlx_personal.reporting import markdown_table
from mlx_personal.scoring import Lexicons

# Milliseconds to find the examples of one question, by the number of dialogues.
TARGETS_MS: Final = {512: 1.0, 100_000: 20.0}
DIMENSIONS: Final = 576
QUERIES: Final = 50
# Tries of each question, of which the best counts, since other programs interrupt.
REPEATS: Final = 5
KEPT: Final = 64


class RandomEmbedder:
    """Embeds texts as random unit vectors near each other, with variances that fall as those of hidden states."""

    name = "random"

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._scales = 1 / np.arange(1, DIMENSIONS + 1)

    def embed(self, texts: Sequence[str]) -> list[Embedding]:
        """Return the embedding of each text."""
        raw = 3 + self._rng.normal(size=(len(texts), DIMENSIONS)) * self._scales
        vectors = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
        return [Embedding(vector, vector[None]) for vector in vectors]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print or write the tables; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory_retrieval", description=__doc__.partition("\n")[0]
    )
    add_input_arguments(parser)
    parser.add_argument(
        "--dialogues", type=positive_int, nargs="+", default=list(TARGETS_MS), help="sizes of the memory"
    )
    parser.add_argument("--conversations", type=positive_int, default=8, help="conversations; default 8")
    parser.add_argument("--out", type=Path, help="file of the report")
    return run_command("benchmarks.memory_retrieval", measure, parser.parse_args(arguments))


def measure(options: argparse.Namespace) -> int:
    """Measure everything, and print or write the report."""
    lm = load_language_model(options.model)
    rows, is_met = [], True
    for count in options.dialogues:
        for retrieval in ("bm25", "hidden-states", "both"):
            build_s, milliseconds = measure_retrieval(lm, count, retrieval)
            target = TARGETS_MS.get(count)
            is_met &= target is None or statistics.median(milliseconds) <= target
            median, slow = statistics.median(milliseconds), float(np.percentile(milliseconds, 95))
            cells = [f"{median:.2f}", f"{slow:.2f}", "" if target is None else f"{target:g}", f"{build_s:.1f}"]
            rows.append([f"{count:,}", retrieval, *cells])
    found = markdown_table(
        ["dialogues", "retrieval", "median, ms", "95 %, ms", "target, ms", "index built in, s"], rows
    )
    delays = measure_first_token(lm, load_dialogues(options.stream or DEMO_STREAM), options.conversations)
    command = f"python -m benchmarks.memory_retrieval --model {Path(options.model).resolve().name}"
    command += f" --stream {options.stream.name}" if options.stream else ""
    command += f" --conversations {options.conversations}"
    parts = [heading("Finding examples, and the first token with them", command), found, "## First token", delays]
    print_and_write("\n\n".join(part.strip() for part in parts) + "\n", options.out)
    return 0 if is_met else 1


def measure_retrieval(lm: LanguageModel, count: int, retrieval: str) -> tuple[float, list[float]]:
    """Return the seconds to build the index, and the milliseconds to rank the memory for each of some questions."""
    generated = generate_dialogues(Lexicons.load(), lambda: [], 0)
    dialogues = [next(generated) for _ in range(count + QUERIES)]
    entries = [MemoryEntry(i, dialogue) for i, dialogue in enumerate(dialogues[:count])]
    memory = Memory(entries, MemoryConfig(examples=3, retrieval=retrieval), lm, RandomEmbedder())
    questions = [dialogue.question for dialogue in dialogues[count:]]
    start = time.perf_counter()
    memory.nearest(questions[0], 1)
    build_s = time.perf_counter() - start
    milliseconds = []
    for question in questions:
        memory.nearest(question, 1)  # embeds the question, which is kept
        find = functools.partial(memory.nearest, question, 12)
        milliseconds.append(min(timeit.repeat(find, number=1, repeat=REPEATS)) * 1000)
    return build_s, milliseconds


def measure_first_token(lm: LanguageModel, dialogues: Sequence[Dialogue], conversations: int) -> str:
    """Return a table of the delays of the first token, by the number of examples, in turn so that all are disturbed."""
    kept, asked = dialogues[:KEPT], [dialogue.question for dialogue in dialogues[KEPT:]]
    memories = {
        (examples, retrieval): Memory(
            [MemoryEntry(i, dialogue) for i, dialogue in enumerate(kept)],
            MemoryConfig(examples=examples, retrieval=retrieval, min_similarity=-1.0, min_bm25=0.0),
            lm,
        )
        for examples, retrieval in [(0, "bm25"), (1, "bm25"), (3, "bm25"), (3, "both")]
    }
    delays: dict[tuple[int, str], tuple[list[float], list[float]]] = {key: ([], []) for key in memories}
    prompts: dict[tuple[int, str], list[int]] = {key: [] for key in memories}
    for number in range(conversations + 1):
        for key, memory in memories.items():
            conversation = Conversation(lm, ChatConfig(max_tokens=8), seed=0, memory=memory)
            for turn in range(2):
                question = asked[(2 * number + turn) % len(asked)]
                start = time.perf_counter()
                pieces = conversation.ask(question)
                next(pieces)
                if number:  # the first conversation embeds the memory and warms up
                    delays[key][turn].append((time.perf_counter() - start) * 1000)
                for _ in pieces:
                    pass
            if number and conversation.dialogue is not None:
                first = memory.with_examples(conversation.dialogue).exchanges()[0][0]
                prompts[key].append(len(lm.tokenize_prompt(first)))
    rows = [
        [
            str(examples),
            retrieval if examples else "",
            f"{statistics.median(prompts[examples, retrieval] or [0]):.0f}",
            *(f"{statistics.median(milliseconds):.0f}" for milliseconds in delays[examples, retrieval]),
        ]
        for examples, retrieval in memories
    ]
    titles = ["examples", "retrieval", "tokens of the first prompt", "first question, ms", "second question, ms"]
    return markdown_table(titles, rows)


if __name__ == "__main__":
    sys.exit(main())
