"""How much longer a loop of `mlx_lm.generate` takes to rewrite dialogues than synthesis does, and who writes what.

    python -m benchmarks.synthesis [--quick] [--model MODEL | --shape 135m] [--stream FILE.jsonl] [--dialogues N]
                                   [--rewrites K] [--rounds N] [--json] [--out FILE.md]

Both are given the same prompts, limits and temperature, in turn. Ours is the whole of synthesis, with what reads and
judges the rewrites; the loop only writes them. Then both write each rewrite once more, greedily: the texts must be
equal, except after a step whose two best logits are so near each other that rounding decides. Exit status 1 if any
other text differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx_lm.sample_utils import make_sampler

from benchmarks.arguments import DEMO_STREAM, ended, fill, positive
from benchmarks.mlx_lm_loop import text_after
from benchmarks.report_file import deliver, heading
from benchmarks.timing import Effort, Timings, in_turn
from mlx_personal import Dialogue, LanguageModel, UserError, load_language_model
from mlx_personal.benchmark.workloads import SHAPES, model_folder, public_name
from mlx_personal.dialogue.readers import read_dialogues
from mlx_personal.models import generation
from mlx_personal.reporting import markdown_table
from mlx_personal.storage.files import atomic_write
from mlx_personal.synthesis import SynthesisConfig, rewrite_prompts, synthesize

LEAST_SPEEDUP = 4
# Logits nearer to each other than this may change places by rounding.
TIE = 1e-4
OURS, LOOP = "ours", "loop of mlx_lm.generate"


@dataclass(frozen=True)
class Ask:
    """One prompt of tokens, and the most that may be written after it."""

    prompt: list[int]
    limit: int


@dataclass(frozen=True)
class Speed:
    """The seconds of both in each round, and how many tokens each wrote in the last one."""

    timings: Timings
    tokens: dict[str, int]

    @property
    def speedup(self) -> float:
        """How many times as long the loop takes."""
        return self.timings.ratio(LOOP, OURS)

    @property
    def speedups(self) -> list[float]:
        """Of each round."""
        return [a / b for a, b in zip(self.timings.seconds[LOOP], self.timings.seconds[OURS], strict=True)]

    def rate(self, name: str) -> float:
        """Tokens a second."""
        return self.tokens[name] / self.timings.seconds[name][-1]


@dataclass(frozen=True)
class Agreement:
    """How many greedy texts were compared, and of each that differs, the gap between the two best logits there.

    A gap is infinite where the tokens are the same and only the texts differ.
    """

    texts: int
    gaps: tuple[float, ...]

    @property
    def ties(self) -> int:
        return sum(gap < TIE for gap in self.gaps)

    @property
    def failures(self) -> int:
        return len(self.gaps) - self.ties


def main(arguments: Sequence[str] | None = None) -> int:
    """0, 1 if a greedy text differs where rounding does not explain it, or 2 where the input is wrong."""
    return ended("benchmarks.synthesis", run, parse(arguments))


def run(options: argparse.Namespace) -> int:
    lm = load_language_model(model_folder(options.shape) if options.shape else options.model)
    dialogues = distinct_dialogues(options.stream, options.dialogues)
    config = SynthesisConfig(k=options.rewrites)
    speed = measure_speed(lm, dialogues, config, options.rounds, is_text=not options.shape)
    agreement = compare_greedy(lm, asks_of(lm, dialogues, config), is_text=not options.shape)
    report = report_of(options, len(dialogues), config, speed, agreement)
    if options.json:
        print(json.dumps(as_json(options, len(dialogues), config, speed, agreement)))
        if options.out is not None:
            atomic_write(options.out, report)
    else:
        deliver(report, options.out)
    return 1 if agreement.failures else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synthesis", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="8 dialogues, 3 rewrites, 1 round: to see that it works")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", default="demo", help="a name or a folder; default the embedded model")
    which.add_argument("--shape", choices=list(SHAPES), help="a model of this shape with random weights")
    parser.add_argument("--stream", type=Path, help="dialogues as JSON Lines; default the demo's")
    parser.add_argument("--dialogues", type=positive, help="how many of them; default 64")
    parser.add_argument("--rewrites", type=positive, help="rewrites of each; default 6")
    parser.add_argument("--rounds", type=positive, help="how often each is measured; default 3")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--out", type=Path, help="keep the report in this file, as Markdown")
    options = parser.parse_args(arguments)
    return fill(options, {"dialogues": (8, 64), "rewrites": (3, 6), "rounds": (1, 3)})


def distinct_dialogues(stream: Path | None, count: int) -> list[Dialogue]:
    """The first `count` dialogues of a stream, each once; UserError where there are fewer."""
    path = stream or DEMO_STREAM
    found: dict[Dialogue, None] = {}
    for dialogue in read_dialogues(path):
        if isinstance(dialogue, Dialogue):
            found[dialogue] = None
        if len(found) == count:
            return list(found)
    raise UserError(f"holds {len(found)} different dialogues, not {count}", path, "ask for fewer with --dialogues")


def asks_of(lm: LanguageModel, dialogues: Sequence[Dialogue], config: SynthesisConfig) -> list[Ask]:
    """What synthesis asks the model for, each once."""
    spoken = [dialogue.without_thoughts() for dialogue in dialogues]
    prompts = [prompt for dialogue in spoken for prompt in rewrite_prompts(lm, dialogue, config)]
    return [Ask(lm.tokenize_prompt(prompt.messages), prompt.max_tokens) for prompt in prompts]


def measure_speed(
    lm: LanguageModel, dialogues: Sequence[Dialogue], config: SynthesisConfig, rounds: int, is_text: bool
) -> Speed:
    """Both sides in turn. Tokens are counted in the texts; where there are none, all rewrites reach their limits."""
    written: dict[str, list[str]] = {}

    def ours() -> None:
        written[OURS] = [candidate.raw_text for candidate in synthesize(lm, dialogues, config)]

    def loop() -> None:
        sampler = make_sampler(temp=config.temperature)
        asks = [ask for ask in asks_of(lm, dialogues, config) for _ in range(config.k)]
        written[LOOP] = [text_after(lm, ask.prompt, ask.limit, sampler) for ask in asks]

    timings = in_turn({OURS: ours, LOOP: loop}, Effort(seconds=0, least=rounds, most=rounds))
    limits = config.k * sum(ask.limit for ask in asks_of(lm, dialogues, config))
    counts = {name: sum(len(lm.tokenize(text)) for text in texts) for name, texts in written.items()}
    return Speed(timings, counts if is_text else dict.fromkeys(written, limits))


def compare_greedy(lm: LanguageModel, asks: Sequence[Ask], is_text: bool = True) -> Agreement:
    """Both sides' greedy texts of every prompt, the loop's by mlx-lm one by one.

    A model of random weights writes tokens its tokenizer does not know, which are no text: then the tokens decide.
    """
    prompts, limits = [ask.prompt for ask in asks], [ask.limit for ask in asks]
    texts = lm.generate(prompts, max_tokens=limits)
    different = [i for i, ask in enumerate(asks) if text_after(lm, ask.prompt, ask.limit).strip() != texts[i]]
    tokens = generation.generate(lm.model, lm.tokenizer, prompts, limits, 0.0, 0) if different else []
    gaps = (logit_gap(lm, asks[i], tokens[i]) for i in different)
    return Agreement(len(asks), tuple(gap for gap in gaps if is_text or gap < float("inf")))


def logit_gap(lm: LanguageModel, ask: Ask, ours: Sequence[int]) -> float:
    """Between the two best logits of the step where our tokens leave mlx-lm's; infinite where they never do."""
    plain = [r.token for r in mlx_lm.stream_generate(lm.model, lm.tokenizer, ask.prompt, max_tokens=ask.limit)]
    while plain and plain[-1] in lm.tokenizer.eos_token_ids:
        plain.pop()
    if plain == list(ours):
        return float("inf")
    pairs = zip(plain, ours, strict=False)
    shared = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(plain), len(ours)))
    logits = lm.model(mx.array([[*ask.prompt, *plain[:shared]]]))[0, -1].astype(mx.float32)
    second, first = np.sort(np.array(logits))[-2:]
    return float(first - second)


def as_json(
    options: argparse.Namespace, dialogues: int, config: SynthesisConfig, speed: Speed, agreement: Agreement
) -> dict[str, Any]:
    """The figures by name; an infinite gap is null."""
    return {
        "model": options.shape or public_name(options.model),
        "dialogues": dialogues,
        "rewrites": config.k,
        "temperature": config.temperature,
        "speedup": speed.speedup,
        "seconds": {"ours": speed.timings.seconds[OURS], "mlx_lm": speed.timings.seconds[LOOP]},
        "tokens_per_second": {"ours": speed.rate(OURS), "mlx_lm": speed.rate(LOOP)},
        "greedy": {
            "texts": agreement.texts,
            "equal": agreement.texts - len(agreement.gaps),
            "ties": agreement.ties,
            "failures": agreement.failures,
            "gaps": [gap if gap < float("inf") else None for gap in agreement.gaps],
        },
    }


def report_of(
    options: argparse.Namespace, dialogues: int, config: SynthesisConfig, speed: Speed, agreement: Agreement
) -> str:
    rows = [
        (name, f"{speed.timings.median(name):.2f}", speed.tokens[name], f"{speed.rate(name):.0f}")
        for name in (LOOP, OURS)
    ]
    low, high = min(speed.speedups), max(speed.speedups)
    gaps = ", ".join(f"{gap:.1e}" for gap in agreement.gaps)
    return "\n".join(
        [
            heading("Synthesis beside a loop of mlx_lm.generate", command(options)),
            f"{dialogues} dialogues, {config.k} rewrites of each at temperature {config.temperature}; "
            f"model: {options.shape or public_name(options.model)}.\n",
            markdown_table(["", "seconds, median", "tokens, last round", "tokens/s, last round"], rows),
            "## Against the targets\n",
            f"- The loop takes {speed.speedup:.1f} times as long as ours (rounds: {low:.1f} to {high:.1f}; "
            f"target at least {LEAST_SPEEDUP})",
            f"- Of {agreement.texts} greedy texts {agreement.texts - len(agreement.gaps)} are equal; {agreement.ties} "
            f"differ after a step whose two best logits lie within {TIE:.0e}, {agreement.failures} elsewhere "
            f"(target 0){': ' + gaps if gaps else ''}\n",
        ]
    )


def command(options: argparse.Namespace) -> str:
    """The command that repeats this report; paths are left out, since they are of one machine."""
    model = f" --shape {options.shape}" if options.shape else " --model MODEL" if options.model != "demo" else ""
    stream = " --stream FILE.jsonl" if options.stream else ""
    sizes = f" --dialogues {options.dialogues} --rewrites {options.rewrites} --rounds {options.rounds}"
    return f"python -m benchmarks.synthesis{model}{stream}{sizes}"


if __name__ == "__main__":
    sys.exit(main())
