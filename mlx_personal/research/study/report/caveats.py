"""Notes on the limits of the results: what few seeds can show, and deviations from the paper's protocol."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from mlx_personal.research.study.report.findings import Findings
from mlx_personal.research.study.report.labels import code
from mlx_personal.research.study.report.model_study import ModelStudy
from mlx_personal.research.study.report.published import CITATION, published_results
from mlx_personal.research.study.report.statistics import FALSE_POSITIVE_RATES, MIN_SEEDS


def describe_certainty(findings: Sequence[Findings]) -> str:
    """Describe what three seeds can show, and how much seeds differ in each model's differences."""
    rates = {ratio: f"{rate:.0%}".replace("%", " %") for ratio, rate in FALSE_POSITIVE_RATES.items()}
    rate_without_seed_effect = rates.pop(0)
    *ratios, last_ratio = map(str, rates)
    text = (
        f"A verdict needs at least {MIN_SEEDS} seeds; with fewer, the value is printed with `too few seeds`. The "
        "intervals resample seeds as well as dialogues. With three seeds there is little to resample, and the method "
        "is known to find a difference too often where runs differ more by the seed than by the dialogues. In "
        "simulations with three seeds and no true difference it finds one in "
        f"{rate_without_seed_effect} of cases if the seed has no effect, and in {', '.join(rates.values())} if the "
        f"standard deviation of the seeds is {', '.join(ratios)} and {last_ratio} times the standard error of the "
        "dialogues. The nominal rate is 5 %; the rate can reach 25 %.\n\n"
        "The seed decides the order of the stream and the dialogues in it, the random choices of the policy, the "
        "synthetic dialogues and the training. Where the stream takes most of a small data set, all seeds see mostly "
        "the same dialogues. Streams of other users would differ more, so the effect of the seed, and with it the "
        "width of the intervals, is underestimated.\n"
    )
    for model_findings in findings:
        comparisons = [*model_findings.main, *model_findings.weighted]
        spreads = [d.seed_spread for c in comparisons for row in c.rows for d in row.differences]
        if known := [spread for spread in spreads if spread is not None]:
            text += (
                f"\nIn the {len(known)} differences of the main table and the second halves of "
                f"{code(model_findings.model)}, the standard deviation of the seeds is {median(known):.1f} times the "
                f"standard error of the dialogues in the median, and at most {max(known):.1f} times.\n"
            )
    return text


def describe_deviations(study: ModelStudy) -> list[str]:
    """Describe in sentences where the cells differ from the protocol of [Qin24]; empty without a trained cell."""
    cells = [group.cell for data in study.datasets for group in study.protocol(data)]
    if not cells:
        return []
    paper = published_results()["settings"]
    training = [cell.training for cell in cells]
    blocks = " or ".join(sorted({"all" if t.num_layers < 0 else f"the last {t.num_layers}" for t in training}))
    lines = [
        f"Evaluation: a fixed sample of {_distinct(cell.evaluation for cell in cells)} dialogues of each data set, the "
        f"same for every policy and seed. {CITATION} ({paper['known']}): {paper['evaluation']}.",
        f"Training: LoRA of rank {_distinct(t.rank for t in training)} on every linear layer of {blocks} blocks, batch "
        f"size {_distinct(t.batch_size for t in training)}, {_distinct(t.epochs for t in training)} epochs, samples of "
        f"at most {_distinct(t.max_seq_length for t in training)} tokens, learning rate "
        f"{_distinct(t.learning_rate for t in training)}. {CITATION} ({paper['known']}): {paper['adapted']}, batch "
        f"size {paper['batch_size']}, {paper['max_tokens']} tokens, learning rate {paper['learning_rate']:g}.",
        "At each checkpoint a new adapter is trained from the base model on the current contents of the buffer. It is "
        f"not known whether {CITATION} continue training the previous one.",
        "The policy quality ignores DSS in comparisons in which both sides have a DSS of 0. Near-duplicates are "
        f"rejected for all policies but the authors' scripts. {CITATION} are not known to do either.",
        "The training time is measured while other workers run on the same machine.",
    ]
    if any((cell.received, cell.every) != (paper["received"], paper["every"]) for cell in cells):
        received, every = _distinct(c.received for c in cells), _distinct(c.every for c in cells)
        lines.insert(
            0,
            f"Streams have {received} dialogues with a checkpoint after every {every}; those of {CITATION} have "
            f"{paper['received']:,} and {paper['every']:,}.",
        )
    return lines


def _distinct(values: Iterable[float]) -> str:
    """Return the distinct values in order."""
    return " or ".join(f"{value:,g}" for value in sorted(set(values)))
