"""The selection study on local streams, at a size for two CPU cores and a model of a few million parameters.

    python scripts/run_selection_study.py --streams FOLDER --model MODEL --study FOLDER --out REPORT
        [--writer ADAPTER] [--chats FILE.jsonl[.gz]] [--upper MODEL] [--budget MINUTES] [--experiment NAME...]

The folder of streams holds alpaca.jsonl, dolly.jsonl, empathetic_dialogues.jsonl and meddialog.jsonl, or some of them,
in the chat format. A run that was broken off goes on where it was. What is shared by the cells: vectors by data set and
model, synthetic sets by data set and seed; see mlx_personal/research/study/scheduler.py. For the paper's own sizes there is the
command `mlx-personal study`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import tempfile
import time
import zlib
from pathlib import Path

from mlx_personal import Dialogue, UserError
from mlx_personal.errors import from_os_error
from mlx_personal.research.study import Outcome, Progress, Records, Request, run_study
from mlx_personal.research.study.report import write_report

FILES = {"alpaca": "alpaca", "dolly": "dolly", "empathetic": "empathetic_dialogues", "meddialog": "meddialog"}
# The smallest stream has 1,385 dialogues: 900 are streamed and 200 evaluate. The paper's buffer is 128 bins in a stream
# of 4,600, one bin for 36 sets; here it is one for 28.
SIZES = {"received": 900, "every": 300, "evaluation": 200, "answer_tokens": 48, "bins": 32}
# A model of a few million parameters learns little at the paper's 3e-4.
TRAINING = {"learning_rate": 3e-3, "epochs": 4, "max_tokens": 256}
SYNTHETIC = 2
SYNTHESIS = {"k": 4, "temperature": 0.3, "max_tokens": 128}
# General dialogues, the last ones of the file, that forgetting is measured on.
GENERAL = 100
TURN = re.compile(r"<\|(user|assistant)\|>\n(.*?)<\|end\|>", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", type=Path, required=True, help="folder of the streams")
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--study", type=Path, required=True, help="folder that keeps the finished cells")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--writer", type=Path, help="adapter that writes the synthetic sets (train_rewriter.py)")
    parser.add_argument("--chats", type=Path, help='general chats, {"text"} a line in the model\'s chat template')
    parser.add_argument("--upper", help="a model that is at home in the streams, for reference")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--synthetic", type=int, default=SYNTHETIC, help="synthetic sets for each kept one")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--budget", type=float, help="minutes")
    parser.add_argument("--experiment", nargs="+", default=["main", "ablation"], help="as `mlx-personal study run`")
    arguments = parser.parse_args()
    streams = {name: arguments.streams / f"{file}.jsonl" for name, file in FILES.items()}
    data: dict[str, Path | None] = {name: path for name, path in streams.items() if path.exists()}
    if not data:
        names = ", ".join(path.name for path in streams.values())
        raise UserError("there is no stream in this folder", arguments.streams, f"put some of {names} there")
    failed = 0
    end = None if arguments.budget is None else time.perf_counter() + 60 * arguments.budget
    with tempfile.TemporaryDirectory() as folder:
        general = None if arguments.chats is None else general_dialogues(arguments.chats, Path(folder, "general.jsonl"))
        for model, experiments in ((arguments.model, arguments.experiment), (arguments.upper, ["base"])):
            if model is None:
                continue
            request = Request(
                model=model,
                data=data,
                experiments=experiments,
                seeds=arguments.seeds,
                synthetic=arguments.synthetic,
                writer=arguments.writer,
                general=general,
                sizes=SIZES,
                training=TRAINING,
                synthesis=SYNTHESIS,
            )
            left = None if end is None else max(1.0, end - time.perf_counter())
            outcome = run_study(arguments.study, request, arguments.workers, None, left, on_progress)
            show(outcome)
            failed += len(outcome.failed)
    with Records(arguments.study) as records:
        for path in write_report(records.finished(), arguments.out):
            print(path)
    return 1 if failed else 0


def general_dialogues(texts: Path, out: Path) -> Path:
    """Writes the last `GENERAL` chats of a file of texts as the dialogues that `Request.general` takes."""
    opened = gzip.open if texts.suffix == ".gz" else open
    try:
        with opened(texts, "rt", encoding="utf-8") as file:
            chats = [TURN.findall(json.loads(line)["text"]) for line in file]
    except OSError as error:
        raise from_os_error(error, texts) from error
    except (EOFError, KeyError, TypeError, ValueError, zlib.error) as error:
        raise UserError(f'not chats, {{"text"}} a line ({error})', texts, "name another file") from error
    found = []
    for turns in reversed(chats):
        try:
            found.append(Dialogue.from_messages([{"role": role, "content": said} for role, said in turns]))
        except ValueError:  # a chat that ends with a question, or of one side only
            continue
        if len(found) == GENERAL:
            break
    else:
        raise UserError(f"fewer than {GENERAL} chats", texts, "name a file with more")
    out.write_text("".join(json.dumps({"messages": dialogue.to_messages()}) + "\n" for dialogue in found))
    return out


def on_progress(progress: Progress) -> None:
    left = "" if progress.remaining is None else f", {progress.remaining / 60:.1f} min left"
    which = ""
    if progress.cell is not None:
        cell = progress.cell
        which = f": {cell.policy} on {cell.data}, {cell.synthetic} synthetic, seed {cell.seed}"
    if progress.stage != "selection" or progress.done == progress.total:
        print(f"{progress.stage} {progress.done}/{progress.total}{left}{which}", flush=True)


def show(outcome: Outcome) -> None:
    print(f"{outcome.ran} cells run, {outcome.found} were there, {len(outcome.failed)} failed")
    for cell, error in outcome.failed:
        print(f"failed: {cell.policy} on {cell.data}, seed {cell.seed}: {error}")
    for block in outcome.left_out:
        print(f"left out for the budget: {block.name}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(error.line(), file=sys.stderr)
        sys.exit(2)
