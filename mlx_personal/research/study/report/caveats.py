"""What to know of the numbers beforehand: what so few seeds can tell, and where the protocol is not the paper's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from mlx_personal.research.study.report.findings import Findings
from mlx_personal.research.study.report.grouped_cells import Study
from mlx_personal.research.study.report.labels import code
from mlx_personal.research.study.report.published import published
from mlx_personal.research.study.report.statistics import FALSE_VERDICTS, LEAST_SEEDS


def certainty(found: Sequence[Findings]) -> str:
    """What three seeds can tell, in words, and how far seeds differ in each model's differences."""
    rates = {times: f"{rate:.0%}".replace("%", " %") for times, rate in FALSE_VERDICTS.items()}
    none = rates.pop(0)
    *times, last = map(str, rates)
    text = (
        f"A verdict takes at least {LEAST_SEEDS} seeds; of fewer, the figure is printed with `too few seeds`. The "
        "intervals draw seeds as well as dialogues, but of three seeds there is little to draw from, and this method "
        "is known to find a difference too often where runs differ by the seed more than by the dialogues. Simulated "
        f"with three seeds and no true difference, it finds one in {none} of cases where seeds do not matter, and in "
        f"{', '.join(rates.values())} where the seeds' standard deviation is {', '.join(times)} and {last} times the "
        "dialogues' standard error; it promises 5 %, and can get as bad as 25 %.\n\n"
        "A seed draws the order of the stream and which dialogues are in it, the policy's chances, the synthetic sets "
        "and the training. Where the stream takes most of a small data set, all seeds see mostly the same dialogues: "
        "streams of other users would differ more than these do, so what seeds differ by is understated, and the "
        "intervals with it.\n"
    )
    for findings in found:
        comparisons = [*findings.main, *findings.own]
        spreads = [d.seed_spread for c in comparisons for row in c.rows for d in row.differences]
        if known := [spread for spread in spreads if spread is not None]:
            text += (
                f"\nIn the {len(known)} differences of the main table and the second halves of {code(findings.model)} "
                f"the seeds' standard deviation is {median(known):.1f} times the dialogues' standard error in the "
                f"median, {max(known):.1f} times at most.\n"
            )
    return text


def departures(study: Study) -> list[str]:
    """Where the cells shown differ from the paper's protocol, a sentence or two each; empty without a trained cell."""
    cells = [group.cell for data in study.data for group in study.protocol(data)]
    if not cells:
        return []
    theirs = published()["settings"]
    training = [cell.training for cell in cells]
    blocks = " or ".join(sorted({"all" if t.num_layers < 0 else f"the last {t.num_layers}" for t in training}))
    lines = [
        f"Evaluation: a fixed sample of {_values(cell.evaluation for cell in cells)} dialogues of each data set, the "
        f"same for every policy and seed. The paper's ({theirs['known']}): {theirs['evaluation']}.",
        f"Training: LoRA of rank {_values(t.rank for t in training)} on every linear layer of {blocks} blocks, batch "
        f"size {_values(t.batch_size for t in training)}, {_values(t.epochs for t in training)} epochs, rows of at "
        f"most {_values(t.max_tokens for t in training)} tokens, learning rate "
        f"{_values(t.learning_rate for t in training)}. The paper's ({theirs['known']}): {theirs['adapted']}, batch "
        f"size {theirs['batch_size']}, {theirs['max_tokens']} tokens, learning rate {theirs['learning_rate']:g}.",
        "A fresh adapter is trained at each checkpoint, from the base, on what the buffer holds then; whether the "
        "paper's goes on from the one before is not known.",
        "The policy quality leaves DSS out of a comparison in which both sides have a DSS of 0, and near-duplicates "
        "are refused for it as for all policies but the authors' scripts. The paper is not known to do either.",
        "Seconds of training are measured while other workers run on the same machine.",
    ]
    if any((cell.received, cell.every) != (theirs["received"], theirs["every"]) for cell in cells):
        received, every = _values(c.received for c in cells), _values(c.every for c in cells)
        lines.insert(
            0,
            f"Streams are of {received} sets with a checkpoint after every {every}; the paper's are of "
            f"{theirs['received']:,} and {theirs['every']:,}.",
        )
    return lines


def _values(found: Iterable[float]) -> str:
    """The values that there are, each once, in order."""
    return " or ".join(f"{value:,g}" for value in sorted(set(found)))
