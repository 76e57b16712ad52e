"""Measure how many wanted rewrites a model gets on streams of dialogues, and how much of the content they keep.

    python -m benchmarks.synthesis_quality --model MODEL FILE.jsonl... [--quick] [--dialogues N] [--rewrites K]
                                           [--attempts N] [--style STYLE] [--mode question|both] [--seed N]
                                           [--texts FILE.jsonl] [--verdicts FILE.json] [--json] [--out FILE.md]

Each stream is a file; its dialogues are drawn with a fixed seed. `--texts` writes the kept rewrites with their
originals, to be read: they are text of the data sets and belong nowhere else. `--verdicts` names a JSON object of
verdicts by the ids in that file, which the report counts and lists without the texts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Final

from benchmarks.arguments import positive_int, run_command, set_defaults
from benchmarks.report_file import heading, print_result
from mlx_personal import Dialogue, LanguageModel, UserError, load_language_model
from mlx_personal.benchmark.random_weights import public_model_name
from mlx_personal.dialogue import rouge1
from mlx_personal.errors import from_os_error
from mlx_personal.importers import read_dialogues
from mlx_personal.reporting import markdown_table
from mlx_personal.storage.files import atomic_write
from mlx_personal.synthesis import STYLES, RewriteCandidate, SynthesisConfig, calibrate, content_kept, synthesize
from mlx_personal.synthesis.config import AUTO, STYLE_NAMES
from mlx_personal.synthesis.languages import detect_language

MIN_SHARE_GOT: Final = 0.7
MIN_CONTENT_KEPT: Final = 0.6
VERDICTS: Final = ("same meaning", "drifted", "answered", "broken")


@dataclass(frozen=True)
class StreamResult:
    """What synthesis got on one stream.

    Attributes:
        stream: Name of its file.
        style: The prompt style.
        dialogues: Number of dialogues.
        wanted: Number of wanted rewrites.
        got: Number of kept rewrites.
        drawn: Number of drawn rewrites.
        content_kept: Median share of the content words of the questions that the kept rewrites have, 0..1.
        rouge1: Median ROUGE-1 of the kept rewrites against their originals.
        rouge1_between: Median ROUGE-1 between two kept rewrites of the same dialogue: how much they repeat each other.
        dropped: Numbers of the other rewrites by reason.
        seconds: Duration.
    """

    stream: str
    style: str
    dialogues: int
    wanted: int
    got: int
    drawn: int
    content_kept: float
    rouge1: float
    rouge1_between: float
    dropped: dict[str, int]
    seconds: float

    @property
    def share_got(self) -> float:
        """Share of the wanted rewrites that were got."""
        return self.got / self.wanted

    @property
    def kept_rate(self) -> float:
        """Share of the drawn rewrites that were kept."""
        return self.got / self.drawn


@dataclass(frozen=True)
class KeptText:
    """A kept rewrite, to be read.

    Attributes:
        id: Stream, number of the dialogue and number of the rewrite.
        original: The questions.
        rewrite: The rewritten questions.
    """

    id: str
    original: str
    rewrite: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a target is missed, and 2 if the input is wrong."""
    return run_command("benchmarks.synthesis_quality", run, parse(arguments))


def run(options: argparse.Namespace) -> int:
    """Rewrite the dialogues of each stream and print the report."""
    verdicts = read_verdicts(options.verdicts) if options.verdicts else {}
    streams = {path.stem: draw_dialogues(path, options.dialogues) for path in options.files}
    lm = load_language_model(options.model)
    config = SynthesisConfig(
        k=options.rewrites, max_attempts=options.attempts, style=options.style, mode=options.mode, seed=options.seed
    )
    results, texts = [], []
    for name, dialogues in streams.items():
        result, kept = measure(lm, name, dialogues, config)
        print(f"{name}: {result.share_got:.0%} of {result.wanted} got, {result.seconds:.0f} s", file=sys.stderr)
        results.append(result)
        texts += kept
    if options.texts:
        lines = (json.dumps(asdict(text), ensure_ascii=False) + "\n" for text in texts)
        atomic_write(options.texts, "".join(lines))
    report = make_report(options, config, results, verdicts)
    values = {
        "model": public_model_name(options.model),
        "streams": [{**asdict(r), "share_got": r.share_got, "kept_rate": r.kept_rate} for r in results],
        "verdicts": verdicts,
    }
    print_result(report, values, options)
    reached = all(r.share_got >= MIN_SHARE_GOT and r.content_kept >= MIN_CONTENT_KEPT for r in results)
    return 0 if reached else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synthesis_quality", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl", help="streams of dialogues")
    parser.add_argument("--model", required=True, help="name or folder of a chat model")
    parser.add_argument("--quick", action="store_true", help="2 dialogues of each stream: to check that it works")
    parser.add_argument("--dialogues", type=positive_int, help="number of dialogues of each stream; default 20")
    parser.add_argument("--rewrites", type=positive_int, default=6, help="wanted rewrites of each; default 6")
    parser.add_argument("--attempts", type=positive_int, default=3, help="attempts for each wanted one; default 3")
    parser.add_argument("--style", default=AUTO, choices=[AUTO, *STYLE_NAMES], help="prompt style; default auto")
    parser.add_argument("--mode", default="question", choices=["question", "both"], help="what is rewritten")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the sampling; default 0")
    parser.add_argument("--texts", type=Path, help="write the kept rewrites to this file, as JSON Lines")
    parser.add_argument("--verdicts", type=Path, help="JSON object of verdicts by id, to be reported")
    parser.add_argument("--json", action="store_true", help="print the values as JSON")
    parser.add_argument("--out", type=Path, help="write the report to this file, as Markdown")
    return set_defaults(parser.parse_args(arguments), {"dialogues": (2, 20)})


def read_verdicts(path: Path) -> dict[str, str]:
    """Return the verdicts of a file by id.

    Raises:
        UserError: If the file cannot be read, or has anything but verdicts.
    """
    try:
        verdicts = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise from_os_error(error, path) from error
    except ValueError as error:
        raise UserError("not JSON", path) from error
    if not isinstance(verdicts, dict) or not all(verdict in VERDICTS for verdict in verdicts.values()):
        raise UserError("not a JSON object of verdicts", path, f"a verdict is one of: {', '.join(VERDICTS)}")
    return verdicts


def draw_dialogues(path: Path, count: int) -> list[Dialogue]:
    """Return some of the different dialogues of a stream, drawn with a fixed seed.

    Raises:
        UserError: If the stream has fewer.
    """
    distinct = list(dict.fromkeys(line for line in read_dialogues(path) if isinstance(line, Dialogue)))
    if len(distinct) < count:
        raise UserError(f"has {len(distinct)} different dialogues, not {count}", path, "choose fewer with --dialogues")
    return Random(0).sample(distinct, count)


def measure(
    lm: LanguageModel, name: str, dialogues: Sequence[Dialogue], config: SynthesisConfig
) -> tuple[StreamResult, list[KeptText]]:
    """Rewrite the dialogues of a stream; calibration, if there is one, is not timed."""
    style = STYLES[calibrate(lm, dialogues, config).style if config.style == AUTO else config.style]
    start = time.perf_counter()
    candidates = synthesize(lm, dialogues, config, style=style)
    seconds = time.perf_counter() - start
    kept = [candidate for candidate in candidates if candidate.kept]
    texts = list(kept_texts(name, dialogues, kept))
    contents = [content_kept(t.original, t.rewrite, detect_language(t.original)) for t in texts]
    result = StreamResult(
        stream=name,
        style=style.name,
        dialogues=len(dialogues),
        wanted=len(dialogues) * config.k,
        got=len(kept),
        drawn=len(candidates),
        content_kept=_median(contents),
        rouge1=_median([candidate.rouge1 or 0.0 for candidate in kept]),
        rouge1_between=_median(list(overlaps_between(texts))),
        dropped=dict(Counter(c.reason for c in candidates if not c.kept).most_common()),
        seconds=seconds,
    )
    return result, texts


def kept_texts(name: str, dialogues: Sequence[Dialogue], kept: Sequence[RewriteCandidate]) -> Iterator[KeptText]:
    """Yield the kept rewrites with their originals."""
    numbers: Counter[int] = Counter()
    for candidate in kept:
        index = candidate.original_index
        numbers[index] += 1
        if candidate.dialogue is not None:
            original, rewrite = ("\n".join(d.user_turns) for d in (dialogues[index], candidate.dialogue))
            yield KeptText(f"{name}/{index}/{numbers[index]}", original, rewrite)


def overlaps_between(texts: Sequence[KeptText]) -> Iterator[float]:
    """Yield ROUGE-1 between the kept rewrites of the same dialogue, one after another."""
    for one, two in itertools.pairwise(texts):
        if one.id.rpartition("/")[0] == two.id.rpartition("/")[0]:
            yield rouge1(one.rewrite, two.rewrite)


def make_report(
    options: argparse.Namespace,
    config: SynthesisConfig,
    results: Sequence[StreamResult],
    verdicts: Mapping[str, str],
) -> str:
    """Return the report as Markdown."""
    rows = [
        (
            r.stream,
            r.style,
            f"{r.share_got:.0%} of {r.wanted}",
            f"{r.kept_rate:.0%} of {r.drawn}",
            f"{r.content_kept:.0%}",
            f"{r.rouge1:.2f}",
            f"{r.rouge1_between:.2f}",
            f"{r.seconds:.0f}",
        )
        for r in results
    ]
    titles = ["stream", "style", "wanted ones got", "drawn ones kept", "content words kept", "ROUGE-1"]
    reasons = sorted({reason for r in results for reason in r.dropped}, key=lambda name: -_total(results, name))
    dropped = [(reason, *(r.dropped.get(reason, 0) for r in results)) for reason in reasons]
    lines = [
        heading("How many rewrites a model gets", command_line(options)),
        f"Model: {public_model_name(options.model)}; {options.dialogues} dialogues of each stream, {config.k} wanted "
        f"rewrites of each, at most {config.max_attempts} attempts for each wanted one. Content words and ROUGE-1 are "
        "medians over the kept rewrites.\n",
        markdown_table([*titles, "ROUGE-1 between", "seconds"], rows),
        f"Targets: at least {MIN_SHARE_GOT:.0%} of the wanted ones got and {MIN_CONTENT_KEPT:.0%} of the content words "
        "kept, on each stream. ROUGE-1 between: of two kept rewrites of the same dialogue.\n",
        "## Drawn rewrites that were dropped, by reason\n",
        markdown_table(["reason", *(r.stream for r in results)], dropped),
        *verdict_lines(verdicts),
    ]
    return "\n".join(lines)


def verdict_lines(verdicts: Mapping[str, str]) -> list[str]:
    """Return the section on the rewrites that were read, without their texts; no lines without verdicts."""
    if not verdicts:
        return []
    streams = sorted({name.partition("/")[0] for name in verdicts})
    rows = [
        (
            stream,
            *(sum(v == verdict and n.startswith(f"{stream}/") for n, v in verdicts.items()) for verdict in VERDICTS),
        )
        for stream in streams
    ]
    total = Counter(verdicts.values())
    rows.append(("all", *(total[verdict] for verdict in VERDICTS)))
    listed = [
        f"- {verdict}: {', '.join(sorted(name for name, v in verdicts.items() if v == verdict)) or 'none'}"
        for verdict in VERDICTS
    ]
    return [
        f"## {len(verdicts)} kept rewrites, read by eye\n",
        markdown_table(["stream", *VERDICTS], rows),
        "By id (stream, number of the dialogue, number of its rewrite):\n",
        *listed,
        "",
    ]


def command_line(options: argparse.Namespace) -> str:
    """Return the command that repeats this report, without paths."""
    files = " ".join(path.name for path in options.files)
    style = "" if options.style == AUTO else f" --style {options.style}"
    sizes = f" --dialogues {options.dialogues} --rewrites {options.rewrites} --attempts {options.attempts}"
    mode = "" if options.mode == "question" else f" --mode {options.mode}"
    return f"python -m benchmarks.synthesis_quality --model MODEL {files}{sizes}{style}{mode} --seed {options.seed}"


def _total(results: Sequence[StreamResult], reason: str) -> int:
    return sum(result.dropped.get(reason, 0) for result in results)


def _median(values: Sequence[float]) -> float:
    return float(statistics.median(values)) if values else 0.0


if __name__ == "__main__":
    sys.exit(main())
