"""Does the entropy of embedding tell real dialogues from degenerate ones? Every estimator, on real dialogues.

Beside the product's estimators stands `order-2`, which is `spectral` with another entropy of the same shares; it needs
no eigenvalues, so a GPU would have it for less.

    python scripts/entropy_study.py --model MODEL --stream FILE.jsonl [--model ANOTHER] [--out FILE.md]

Writes, for each model and estimator: the range on real texts, AUC = P(a real text scores above a degenerate one), and
the rank correlation with length. The default estimator must reach 0.95 against repetition and very short texts, also
at matched length; exit status 1 if it does not. Boilerplate and word salad are reported, not required: no entropy of a
single text can see that others say the same, or that words stand in no order.
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

from mlx_personal.dialogue import Dialogue, read_dialogues
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


def repeated(unit: Sequence[str], length: int) -> str:
    """`unit` over and over, `length` words in all."""
    return " ".join(itertools.islice(itertools.cycle(unit), length))


def a_word(text: str, rng: random.Random) -> list[str]:
    return [rng.choice([w for w in text.split() if len(w) > 3] or text.split())]


def a_sentence(text: str) -> list[str]:
    """The first 8 words: about a sentence, and repeated in a window of 64 tokens."""
    return text.split()[:8]


def degenerate(texts: Sequence[str], rng: random.Random) -> dict[str, list[str]]:
    """For each kind of degenerate text one for every real text, as long as it is wherever that makes sense."""
    lengths = [max(len(text.split()), 24) for text in texts]
    every_word = [word for text in texts for word in text.split()]
    return {
        "one word repeated": [repeated(a_word(t, rng), n) for t, n in zip(texts, lengths, strict=True)],
        "one sentence repeated": [repeated(a_sentence(t), n) for t, n in zip(texts, lengths, strict=True)],
        "texts of 1 to 5 words": [" ".join(t.split()[: 1 + i % 5]) for i, t in enumerate(texts)],
        "a passage of 120 characters, four times": [" ".join([t[:120]] * 4) for t in texts if len(t) >= 120],
        "boilerplate": [" ".join(rng.sample(BOILERPLATE, 6)) for _ in texts],
        "word salad": [" ".join(rng.choices(every_word, k=n)) for n in lengths],
    }


def matched(lm: LanguageModel, texts: Sequence[str], rng: random.Random) -> dict[str, list[list[int]]]:
    """Token rows of equal length: real texts that have as many, and their words and sentences repeated."""
    long = [t for t in texts if len(lm.text_tokens(t)) >= MATCHED_TOKENS]
    if not long:
        raise UserError(f"no dialogue has {MATCHED_TOKENS} tokens", hint="name a stream with longer ones")

    def tokens(unit: Sequence[str]) -> list[int]:
        return lm.text_tokens(repeated(unit, 2 * MATCHED_TOKENS))[:MATCHED_TOKENS]

    return {
        "real": [lm.text_tokens(t)[:MATCHED_TOKENS] for t in long],
        f"one word repeated, both of {MATCHED_TOKENS} tokens": [tokens(a_word(t, rng)) for t in long],
        f"one sentence repeated, both of {MATCHED_TOKENS} tokens": [tokens(a_sentence(t)) for t in long],
    }


def order_2(states: np.ndarray) -> float:
    """-log sum p^2 = -log(|K|_F^2 / tr(K)^2) over log 64, mean over the windows of `spectral`; token states [T, D]."""
    entropies = []
    for start in window_starts(len(states)):
        window = states[start : start + WINDOW]
        centered = window - window.mean(axis=0)
        trace = np.square(centered).sum()
        varies = trace > 1e-12 * np.square(window).sum()
        entropies.append(-math.log(np.square(centered @ centered.T).sum() / trace**2) if varies else 0.0)
    return float(np.mean(entropies)) / math.log(WINDOW) if entropies else 0.0


CANDIDATES = {**ESTIMATORS, "order-2": order_2}


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])


def auc(real: Sequence[float], fake: Sequence[float]) -> float:
    """P(a real value is above a fake one), ties counting half."""
    above = ranks([*real, *fake])[: len(real)].sum() - len(real) * (len(real) + 1) / 2
    return float(above / (len(real) * len(fake)))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def study(lm: LanguageModel, texts: Sequence[str], say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Figures by estimator: `p10`, `p90`, `length`, and an AUC for each kind of degenerate text."""
    rng = random.Random(0)
    embedder = HiddenStateEmbedder(lm)

    def states(texts: Sequence[str]) -> list[np.ndarray]:
        return [e.states for e in embedder.embed(texts)]

    say(f"{len(texts)} real dialogues")
    real = states(texts)
    fakes = {}
    for kind, made in degenerate(texts, rng).items():
        say(f"{len(made)} x {kind}")
        fakes[kind] = (real, states(made))
    rows = matched(lm, texts, rng)
    same_length = [s for row in rows.pop("real") for s in lm.hidden_states([row])]
    for kind, made_rows in rows.items():
        say(f"{len(made_rows)} x {kind}")
        fakes[kind] = (same_length, [s for row in made_rows for s in lm.hidden_states([row])])

    figures = {}
    for name, estimate in CANDIDATES.items():
        scores = [estimate(s.astype(np.float64)) for s in real]
        figures[name] = {
            "p10": float(np.percentile(scores, 10)),
            "p90": float(np.percentile(scores, 90)),
            "length": spearman(scores, [len(s) for s in real]),
        }
        for kind, (true, false) in fakes.items():
            above, below = ([estimate(s.astype(np.float64)) for s in group] for group in (true, false))
            figures[name][kind] = auc(above, below)
    return figures


def table(figures: dict[str, dict[str, float]]) -> str:
    kinds = [kind for kind in next(iter(figures.values())) if kind not in ("p10", "p90", "length")]
    kinds.sort(key=lambda kind: REQUIRED.index(kind) if kind in REQUIRED else len(REQUIRED))
    lines = ["| | " + " | ".join(figures) + " |", "|---" * (len(figures) + 1) + "|"]
    lines.append(
        "| real texts, p10-p90 | " + " | ".join(f"{f['p10']:.3f}-{f['p90']:.3f}" for f in figures.values()) + " |"
    )
    for kind in kinds:
        note = " (required)" if kind in REQUIRED else ""
        lines.append(f"| AUC against {kind}{note} | " + " | ".join(f"{f[kind]:.3f}" for f in figures.values()) + " |")
    lines.append(
        "| rank correlation with length | " + " | ".join(f"{f['length']:.2f}" for f in figures.values()) + " |"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True, help="a model folder or name; may be given again")
    parser.add_argument("--stream", type=Path, required=True, help="dialogues, as JSONL")
    parser.add_argument("--dialogues", type=int, default=200, help="how many of the stream's first (default 200)")
    parser.add_argument("--out", type=Path, help="a Markdown file for the figures")
    given = parser.parse_args(arguments)

    dialogues = (d for d in read_dialogues(given.stream) if isinstance(d, Dialogue))
    texts = [d.text for d in itertools.islice(dialogues, given.dialogues)]
    default = ScoringConfig().entropy
    command = "python scripts/entropy_study.py " + " ".join(f"--model {Path(m).name}" for m in given.model)
    report = [
        "# Which entropy of embedding tells real dialogues from degenerate ones",
        f"`{command} --stream {given.stream.name} --dialogues {len(texts)}`",
        "AUC is the chance that a real dialogue scores above a degenerate text; 0.5 is a guess. "
        f"`{default}` is the default and must reach {REQUIRED_AUC} where it says required.",
    ]
    passed = True
    for model in given.model:
        figures = study(load_language_model(model), texts, lambda line: print(line, file=sys.stderr))
        passed &= all(figures[default][kind] >= REQUIRED_AUC for kind in REQUIRED)
        report += [f"## {Path(model).name}", table(figures)]
    report.append(f"Required figures of `{default}`: {'all reached' if passed else 'NOT all reached'}.")
    text = "\n\n".join(report) + "\n"
    print(text)
    if given.out is not None:
        given.out.write_text(text, "utf-8")
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(error.line(), file=sys.stderr)
        sys.exit(2)
