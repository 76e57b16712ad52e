"""Compare the estimators of the entropy of embedding (EOE) on real dialogues and degenerate texts.

    python scripts/entropy_study.py --model MODEL --stream FILE.jsonl [--model ANOTHER] [--out FILE.md]

Besides the estimators of the package, it has `order-2`: `spectral` with the Renyi entropy of order 2, which needs no
eigenvalues and would be cheaper on a GPU.

For each model and estimator the report has the range on real texts, AUC = P(a real text scores above a degenerate one),
and the rank correlation with length. The default estimator must reach 0.95 against repetition and very short texts,
also at equal length; otherwise the exit status is 1. Boilerplate and word salad are only reported: the entropy of a
single text cannot show that other texts say the same, or that the order of the words is random.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mlx_personal import Dialogue, read_dialogues
from mlx_personal.embedding import HiddenStateEmbedder
from mlx_personal.errors import UserError
from mlx_personal.kernels.spectral_entropy import WINDOW, window_starts
from mlx_personal.models import LanguageModel, load_language_model
from mlx_personal.scoring import ESTIMATORS, ScoringConfig

REQUIRED_AUC = 0.95
MATCHED_TOKENS = 64
REQUIRED = (
    "one word repeated",
    "one sentence repeated",
    f"one word repeated, both of {MATCHED_TOKENS} tokens",
    f"one sentence repeated, both of {MATCHED_TOKENS} tokens",
    "texts of 1 to 5 words",
)
BOILERPLATE = (
    "Sure, I would be happy to help you with that.",
    "Thank you for your question.",
    "As an assistant, I do my best to give helpful answers.",
    "Please let me know if you have any other questions.",
    "I hope this helps.",
    "There are many things to consider here.",
    "It depends on your situation and on what you need.",
    "If you are not sure, it is best to ask an expert.",
    "Feel free to ask me anything else.",
    "That is a great question.",
    "Here is what you need to know.",
    "In conclusion, it is up to you.",
)


def repeat_words(unit: Sequence[str], length: int) -> str:
    """Repeat `unit` up to `length` words."""
    return " ".join(itertools.islice(itertools.cycle(unit), length))


def draw_word(text: str, rng: random.Random) -> list[str]:
    """Draw a word of a text, of more than three characters if there is one."""
    return [rng.choice([w for w in text.split() if len(w) > 3] or text.split())]


def first_words(text: str) -> list[str]:
    """Return the first 8 words: about a sentence, and repeated within a window of 64 tokens."""
    return text.split()[:8]


def draw_degenerate_texts(texts: Sequence[str], rng: random.Random) -> dict[str, list[str]]:
    """Return degenerate texts by kind: one for each real text, of its length unless the kind has a fixed one."""
    lengths = [max(len(text.split()), 24) for text in texts]
    all_words = [word for text in texts for word in text.split()]
    return {
        "one word repeated": [repeat_words(draw_word(t, rng), n) for t, n in zip(texts, lengths, strict=True)],
        "one sentence repeated": [repeat_words(first_words(t), n) for t, n in zip(texts, lengths, strict=True)],
        "texts of 1 to 5 words": [" ".join(t.split()[: 1 + i % 5]) for i, t in enumerate(texts)],
        "a passage of 120 characters, four times": [" ".join([t[:120]] * 4) for t in texts if len(t) >= 120],
        "boilerplate": [" ".join(rng.sample(BOILERPLATE, 6)) for _ in texts],
        "word salad": [" ".join(rng.choices(all_words, k=n)) for n in lengths],
    }


def draw_token_sequences(lm: LanguageModel, texts: Sequence[str], rng: random.Random) -> dict[str, list[list[int]]]:
    """Return token sequences of equal length: real texts that are long enough, and their words and sentences repeated.

    Raises:
        UserError: If no text is long enough.
    """
    long_texts = [text for text in texts if len(lm.tokenize(text)) >= MATCHED_TOKENS]
    if not long_texts:
        raise UserError(f"no dialogue has {MATCHED_TOKENS} tokens", hint="name a stream with longer ones")

    def tokenize_repeated(unit: Sequence[str]) -> list[int]:
        return lm.tokenize(repeat_words(unit, 2 * MATCHED_TOKENS))[:MATCHED_TOKENS]

    words = [tokenize_repeated(draw_word(text, rng)) for text in long_texts]
    sentences = [tokenize_repeated(first_words(text)) for text in long_texts]
    return {
        "real": [lm.tokenize(text)[:MATCHED_TOKENS] for text in long_texts],
        f"one word repeated, both of {MATCHED_TOKENS} tokens": words,
        f"one sentence repeated, both of {MATCHED_TOKENS} tokens": sentences,
    }


def order_2_entropy(states: np.ndarray) -> float:
    """Return -log sum p^2 = -log(|K|_F^2 / tr(K)^2) over log 64, the mean over the windows of `spectral`.

    Args:
        states: Token states [T, D].
    """
    entropies = []
    for start in window_starts(len(states)):
        window = states[start : start + WINDOW]
        centered = window - window.mean(axis=0)
        trace = np.square(centered).sum()
        varies = trace > 1e-12 * np.square(window).sum()
        entropies.append(-math.log(np.square(centered @ centered.T).sum() / trace**2) if varies else 0.0)
    return float(np.mean(entropies)) / math.log(WINDOW) if entropies else 0.0


CANDIDATE_ESTIMATORS = {**ESTIMATORS, "order-2": order_2_entropy}


def ranks(values: Sequence[float]) -> np.ndarray:
    """Return ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])


def auc(real: Sequence[float], fake: Sequence[float]) -> float:
    """Return P(a real value is above a fake one), where ties count half."""
    above = ranks([*real, *fake])[: len(real)].sum() - len(real) * (len(real) + 1) / 2
    return float(above / (len(real) * len(fake)))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rank correlation."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def compare_estimators(
    lm: LanguageModel, texts: Sequence[str], log: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Compute the metrics of each estimator.

    Args:
        lm: The model whose states are used.
        texts: The real texts.
        log: Receives lines of progress.

    Returns:
        By estimator: `p10` and `p90` of the real texts, `length` (the rank correlation), and an AUC for each kind of
        degenerate text.
    """
    rng = random.Random(0)
    embedder = HiddenStateEmbedder(lm)

    def states_of(texts: Sequence[str]) -> list[np.ndarray]:
        return [embedding.states for embedding in embedder.embed(texts)]

    log(f"{len(texts)} real dialogues")
    real = states_of(texts)
    # By kind, the states of real texts and of degenerate ones.
    compared = {}
    for kind, kind_texts in draw_degenerate_texts(texts, rng).items():
        log(f"{len(kind_texts)} x {kind}")
        compared[kind] = (real, states_of(kind_texts))
    sequences = draw_token_sequences(lm, texts, rng)
    same_length = [states for tokens in sequences.pop("real") for states in lm.hidden_states([tokens])]
    for kind, kind_sequences in sequences.items():
        log(f"{len(kind_sequences)} x {kind}")
        compared[kind] = (same_length, [states for tokens in kind_sequences for states in lm.hidden_states([tokens])])

    metrics = {}
    for name, estimate in CANDIDATE_ESTIMATORS.items():
        scores = [estimate(states.astype(np.float64)) for states in real]
        metrics[name] = {
            "p10": float(np.percentile(scores, 10)),
            "p90": float(np.percentile(scores, 90)),
            "length": spearman(scores, [len(states) for states in real]),
        }
        for kind, groups in compared.items():
            real_scores, fake_scores = ([estimate(states.astype(np.float64)) for states in group] for group in groups)
            metrics[name][kind] = auc(real_scores, fake_scores)
    return metrics


def metrics_table(metrics: dict[str, dict[str, float]]) -> str:
    """Return a Markdown table of the metrics, with a column per estimator."""
    columns = list(metrics.values())
    kinds = [kind for kind in columns[0] if kind not in ("p10", "p90", "length")]
    kinds.sort(key=lambda kind: REQUIRED.index(kind) if kind in REQUIRED else len(REQUIRED))
    rows = [("real texts, p10-p90", [f"{column['p10']:.3f}-{column['p90']:.3f}" for column in columns])]
    for kind in kinds:
        note = " (required)" if kind in REQUIRED else ""
        rows.append((f"AUC against {kind}{note}", [f"{column[kind]:.3f}" for column in columns]))
    rows.append(("rank correlation with length", [f"{column['length']:.2f}" for column in columns]))
    lines = ["| | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    lines += [f"| {label} | {' | '.join(cells)} |" for label, cells in rows]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and print its report; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True, help="model folder or name; can be repeated")
    parser.add_argument("--stream", type=Path, required=True, help="dialogues, as JSONL")
    parser.add_argument("--dialogues", type=int, default=200, help="number of dialogues from the start (default 200)")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    arguments = parser.parse_args(argv)

    dialogues = (line for line in read_dialogues(arguments.stream) if isinstance(line, Dialogue))
    texts = [dialogue.text for dialogue in itertools.islice(dialogues, arguments.dialogues)]
    default = ScoringConfig().entropy_estimator
    command = "python scripts/entropy_study.py " + " ".join(f"--model {Path(model).name}" for model in arguments.model)
    report = [
        "# Which estimator of the entropy of embedding separates real dialogues from degenerate texts",
        f"`{command} --stream {arguments.stream.name} --dialogues {len(texts)}`",
        "AUC is the probability that a real dialogue scores above a degenerate text; 0.5 is chance. "
        f"`{default}` is the default and must reach {REQUIRED_AUC} in the rows marked as required.",
    ]
    passed = True
    for model in arguments.model:
        metrics = compare_estimators(load_language_model(model), texts, lambda line: print(line, file=sys.stderr))
        passed &= all(metrics[default][kind] >= REQUIRED_AUC for kind in REQUIRED)
        report += [f"## {Path(model).name}", metrics_table(metrics)]
    report.append(f"Required values of `{default}`: {'all reached' if passed else 'NOT all reached'}.")
    text = "\n\n".join(report) + "\n"
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text, "utf-8")
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(error.line(), file=sys.stderr)
        sys.exit(2)
