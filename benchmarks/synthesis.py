"""Compare the synthesis of rewrites with a loop of `mlx_lm.generate`: speed, and equality of the greedy texts.

    python -m benchmarks.synthesis [--quick] [--model MODEL | --shape 135m] [--stream FILE.jsonl] [--dialogues N]
                                   [--rewrites K] [--rounds N] [--json] [--out FILE.md]

Both get the same prompts, limits and temperature, in turn. Ours is the whole synthesis, which also parses and filters
the rewrites; the loop only generates them. Then both generate each rewrite once more, greedily. The texts must be
equal, except after a step whose two highest logits are so close that rounding decides. The exit code is 1 if any other
text differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx_lm.sample_utils import make_sampler

from benchmarks.arguments import DEMO_STREAM, positive_int, run_command, set_defaults
from benchmarks.mlx_lm_loop import generate_text
from benchmarks.report_file import heading, print_result
from benchmarks.timing import Effort, Timings, time_in_turn
from mlx_personal import Dialogue, LanguageModel, UserError, load_language_model, read_dialogues
from mlx_personal.benchmark.random_weights import SHAPES, model_folder, public_model_name
from mlx_personal.models import generation
from mlx_personal.models.sampling import SamplingParams
from mlx_personal.reporting import markdown_table
from mlx_personal.synthesis import STYLES, SynthesisConfig, synthesize
from mlx_personal.synthesis.config import PUBLISHED_METHOD

MIN_SPEEDUP = 4
# Rounding may swap logits that are closer than this.
TIE_GAP = 1e-4
OURS, LOOP = "ours", "loop of mlx_lm.generate"


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt and its limit.

    Attributes:
        prompt: Tokens of the prompt.
        max_tokens: Maximum number of generated tokens.
    """

    prompt: list[int]
    max_tokens: int


@dataclass(frozen=True)
class Speed:
    """The speed of both.

    Attributes:
        timings: Seconds of each round.
        tokens: Tokens generated in the last round.
    """

    timings: Timings
    tokens: dict[str, int]

    @property
    def speedup(self) -> float:
        """Time of the loop divided by ours."""
        return self.timings.ratio(LOOP, OURS)

    @property
    def speedups(self) -> list[float]:
        """Speedup of each round."""
        return [a / b for a, b in zip(self.timings.seconds[LOOP], self.timings.seconds[OURS], strict=True)]

    def tokens_per_s(self, name: str) -> float:
        """Return the tokens per second of the last round."""
        return self.tokens[name] / self.timings.seconds[name][-1]


@dataclass(frozen=True)
class Agreement:
    """The comparison of the greedy texts.

    Attributes:
        num_texts: Number of texts that were compared.
        gaps: For each text that differs, the gap between the two highest logits at the first different token;
            infinite where the tokens are equal and only the texts differ.
    """

    num_texts: int
    gaps: tuple[float, ...]

    @property
    def ties(self) -> int:
        """Number of texts that differ by rounding."""
        return sum(gap < TIE_GAP for gap in self.gaps)

    @property
    def failures(self) -> int:
        """Number of texts that differ for another reason."""
        return len(self.gaps) - self.ties


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if rounding does not explain a difference, and 2 if the input is wrong."""
    return run_command("benchmarks.synthesis", run, parse(arguments))


def run(options: argparse.Namespace) -> int:
    """Measure the speed, compare the texts and print the report."""
    lm = load_language_model(model_folder(options.shape) if options.shape else options.model)
    dialogues = distinct_dialogues(options.stream, options.dialogues)
    config = SynthesisConfig(k=options.rewrites, **PUBLISHED_METHOD)
    speed = measure_speed(lm, dialogues, config, options.rounds, is_text=not options.shape)
    agreement = compare_greedy(lm, build_requests(lm, dialogues, config), is_text=not options.shape)
    report = make_report(options, len(dialogues), config, speed, agreement)
    print_result(report, to_json(options, len(dialogues), config, speed, agreement), options)
    return 1 if agreement.failures else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synthesis", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="8 dialogues, 3 rewrites, 1 round: to check that it works")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", default="demo", help="name or folder of a model; default the embedded one")
    which.add_argument("--shape", choices=list(SHAPES), help="a model of this shape with random weights")
    parser.add_argument("--stream", type=Path, help="dialogues as JSON Lines; default the demo's")
    parser.add_argument("--dialogues", type=positive_int, help="number of dialogues; default 64")
    parser.add_argument("--rewrites", type=positive_int, help="rewrites of each dialogue; default 6")
    parser.add_argument("--rounds", type=positive_int, help="number of measurements; default 3")
    parser.add_argument("--json", action="store_true", help="print the values as JSON")
    parser.add_argument("--out", type=Path, help="write the report to this file, as Markdown")
    options = parser.parse_args(arguments)
    return set_defaults(options, {"dialogues": (8, 64), "rewrites": (3, 6), "rounds": (1, 3)})


def distinct_dialogues(stream: Path | None, count: int) -> list[Dialogue]:
    """Return the first `count` different dialogues of a stream.

    Raises:
        UserError: If the stream has fewer.
    """
    path = stream or DEMO_STREAM
    distinct: dict[Dialogue, None] = {}
    for dialogue in read_dialogues(path):
        if isinstance(dialogue, Dialogue):
            distinct[dialogue] = None
        if len(distinct) == count:
            return list(distinct)
    raise UserError(f"has {len(distinct)} different dialogues, not {count}", path, "choose fewer with --dialogues")


def build_requests(
    lm: LanguageModel, dialogues: Sequence[Dialogue], config: SynthesisConfig
) -> list[GenerationRequest]:
    """Return the prompts of the synthesis, each once."""
    originals = [dialogue.without_thoughts() for dialogue in dialogues]
    method = STYLES["zero-shot"].method(lm, config)
    prompts = [method.prompt(dialogue, unit, 0) for dialogue in originals for unit in method.units(dialogue)]
    return [GenerationRequest(prompt.tokens, prompt.max_tokens) for prompt in prompts]


def measure_speed(
    lm: LanguageModel, dialogues: Sequence[Dialogue], config: SynthesisConfig, rounds: int, is_text: bool
) -> Speed:
    """Time both in turn.

    Tokens are counted in the texts. A model of random weights generates no text and always reaches its limits.
    """
    texts: dict[str, list[str]] = {}

    def ours() -> None:
        texts[OURS] = [candidate.raw_text for candidate in synthesize(lm, dialogues, config)]

    def loop() -> None:
        sampler = make_sampler(temp=config.temperature)
        requests = [request for request in build_requests(lm, dialogues, config) for _ in range(config.k)]
        texts[LOOP] = [generate_text(lm, request.prompt, request.max_tokens, sampler) for request in requests]

    timings = time_in_turn({OURS: ours, LOOP: loop}, Effort(duration_s=0, min_repeats=rounds, max_repeats=rounds))
    limit = config.k * sum(request.max_tokens for request in build_requests(lm, dialogues, config))
    counts = {name: sum(len(lm.tokenize(text)) for text in of_method) for name, of_method in texts.items()}
    return Speed(timings, counts if is_text else dict.fromkeys(texts, limit))


def compare_greedy(lm: LanguageModel, requests: Sequence[GenerationRequest], is_text: bool = True) -> Agreement:
    """Compare our greedy texts with those that mlx-lm generates one by one.

    Args:
        lm: The model.
        requests: Prompts with their limits.
        is_text: Whether the model generates text. One with random weights generates tokens that its tokenizer does not
            know, so that only the tokens are compared.
    """
    prompts, limits = [request.prompt for request in requests], [request.max_tokens for request in requests]
    texts = lm.generate(prompts, max_tokens=limits)
    different = [
        i
        for i, request in enumerate(requests)
        if generate_text(lm, request.prompt, request.max_tokens).strip() != texts[i]
    ]
    tokens = (
        generation.generate(lm.model, lm.tokenizer, prompts, limits, SamplingParams(), 0, lm.end_token_ids)
        if different
        else []
    )
    gaps = (logit_gap(lm, requests[i], tokens[i]) for i in different)
    return Agreement(len(requests), tuple(gap for gap in gaps if is_text or gap < float("inf")))


def logit_gap(lm: LanguageModel, request: GenerationRequest, ours: Sequence[int]) -> float:
    """Return the gap between the two highest logits where our tokens first differ from mlx-lm's.

    Args:
        lm: The model.
        request: The prompt with its limit.
        ours: Our tokens.

    Returns:
        The gap; infinite where all tokens are equal.
    """
    theirs = [
        r.token for r in mlx_lm.stream_generate(lm.model, lm.tokenizer, request.prompt, max_tokens=request.max_tokens)
    ]
    while theirs and theirs[-1] in lm.tokenizer.eos_token_ids:
        theirs.pop()
    if theirs == list(ours):
        return float("inf")
    pairs = zip(theirs, ours, strict=False)
    shared = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(theirs), len(ours)))
    logits = lm.model(mx.array([[*request.prompt, *theirs[:shared]]]))[0, -1].astype(mx.float32)
    second, first = np.sort(np.array(logits))[-2:]
    return float(first - second)


def to_json(
    options: argparse.Namespace, dialogues: int, config: SynthesisConfig, speed: Speed, agreement: Agreement
) -> dict[str, Any]:
    """Return the values by name; an infinite gap is null."""
    return {
        "model": options.shape or public_model_name(options.model),
        "dialogues": dialogues,
        "rewrites": config.k,
        "temperature": config.temperature,
        "speedup": speed.speedup,
        "seconds": {"ours": speed.timings.seconds[OURS], "mlx_lm": speed.timings.seconds[LOOP]},
        "tokens_per_second": {"ours": speed.tokens_per_s(OURS), "mlx_lm": speed.tokens_per_s(LOOP)},
        "greedy": {
            "texts": agreement.num_texts,
            "equal": agreement.num_texts - len(agreement.gaps),
            "ties": agreement.ties,
            "failures": agreement.failures,
            "gaps": [gap if gap < float("inf") else None for gap in agreement.gaps],
        },
    }


def make_report(
    options: argparse.Namespace, dialogues: int, config: SynthesisConfig, speed: Speed, agreement: Agreement
) -> str:
    """Return the report as Markdown."""
    rows = [
        (name, f"{speed.timings.median(name):.2f}", speed.tokens[name], f"{speed.tokens_per_s(name):.0f}")
        for name in (LOOP, OURS)
    ]
    low, high = min(speed.speedups), max(speed.speedups)
    gaps = ", ".join(f"{gap:.1e}" for gap in agreement.gaps)
    return "\n".join(
        [
            heading("Synthesis and a loop of mlx_lm.generate", command_line(options)),
            f"{dialogues} dialogues, {config.k} rewrites of each at temperature {config.temperature}; "
            f"model: {options.shape or public_model_name(options.model)}.\n",
            markdown_table(["", "seconds, median", "tokens, last round", "tokens/s, last round"], rows),
            "## Comparison with the targets\n",
            f"- The loop takes {speed.speedup:.1f} times as long as ours (rounds: {low:.1f} to {high:.1f}; "
            f"target at least {MIN_SPEEDUP})",
            f"- Of {agreement.num_texts} greedy texts {agreement.num_texts - len(agreement.gaps)} are equal; "
            f"{agreement.ties} differ after a step whose two highest logits are within {TIE_GAP:.0e}, "
            f"{agreement.failures} elsewhere (target 0){': ' + gaps if gaps else ''}\n",
        ]
    )


def command_line(options: argparse.Namespace) -> str:
    """Return the command that repeats this report, without paths."""
    model = f" --shape {options.shape}" if options.shape else " --model MODEL" if options.model != "demo" else ""
    stream = " --stream FILE.jsonl" if options.stream else ""
    sizes = f" --dialogues {options.dialogues} --rewrites {options.rewrites} --rounds {options.rounds}"
    return f"python -m benchmarks.synthesis{model}{stream}{sizes}"


if __name__ == "__main__":
    sys.exit(main())
