"""The selection study on local streams, at a size for two CPU cores and a model of a few million parameters.

    python scripts/run_selection_study.py --streams FOLDER --model MODEL --study FOLDER --out REPORT
        [--writer ADAPTER] [--chats FILE.jsonl[.gz]] [--upper MODEL] [--budget MINUTES] [--experiment NAME...]

The folder of streams holds alpaca.jsonl, dolly.jsonl, empathetic_dialogues.jsonl and meddialog.jsonl, or some of them,
in the chat format. An interrupted run continues where it stopped. Cells share the embeddings of a data set and model,
and the synthetic dialogues of a data set and seed; see mlx_personal/research/study/study_scheduler.py. For the sizes of
[Qin24], use the command `mlx-personal study`.
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
from mlx_personal.progress import ProgressEvent
from mlx_personal.research.study import Cell, StudyDatabase, StudyResult, StudySpec, run_study
from mlx_personal.research.study.report import write_report

FILES = {"alpaca": "alpaca", "dolly": "dolly", "empathetic": "empathetic_dialogues", "meddialog": "meddialog"}
# The smallest stream has 1,385 dialogues: 900 are streamed and 200 evaluate. The buffer of [Qin24] has 128 bins for a
# stream of 4,600, one bin for 36 dialogues; here it is one for 28.
CELL_SETTINGS = {"received": 900, "every": 300, "evaluation": 200, "answer_tokens": 48, "bins": 32}
# A model of a few million parameters learns little with the learning rate of 3e-4 of [Qin24].
TRAINING_SETTINGS = {"learning_rate": 3e-3, "epochs": 4, "max_seq_length": 256}
SYNTHESIS_SETTINGS = {"k": 4, "temperature": 0.3, "max_tokens": 128}
SYNTHETIC = 2
# General dialogues to measure forgetting on: the last ones of the file.
NUM_GENERAL = 100
TURN = re.compile(r"<\|(user|assistant)\|>\n(.*?)<\|end\|>", re.DOTALL)


def main() -> int:
    """Run the study and write its report; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", type=Path, required=True, help="folder of the streams")
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--study", type=Path, required=True, help="folder of the finished cells")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--writer", type=Path, help="adapter that generates synthetic dialogues (train_rewriter.py)")
    parser.add_argument("--chats", type=Path, help='general chats, {"text"} per line in the model\'s chat template')
    parser.add_argument("--upper", help="a model trained on the domain of the streams, as an upper reference")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--synthetic", type=int, default=SYNTHETIC, help="synthetic dialogues per selected one")
    parser.add_argument("--workers", type=int, help="worker processes")
    parser.add_argument("--budget", type=float, help="time limit in minutes")
    parser.add_argument("--experiment", nargs="+", default=["main", "ablation"], help="as for `mlx-personal study run`")
    arguments = parser.parse_args()
    streams = {name: arguments.streams / f"{file}.jsonl" for name, file in FILES.items()}
    data: dict[str, Path | None] = {name: path for name, path in streams.items() if path.exists()}
    if not data:
        names = ", ".join(path.name for path in streams.values())
        raise UserError("there is no stream in this folder", arguments.streams, f"put some of {names} there")
    num_failed = 0
    end = None if arguments.budget is None else time.perf_counter() + 60 * arguments.budget
    with tempfile.TemporaryDirectory() as folder:
        general = None
        if arguments.chats is not None:
            general = write_general_dialogues(arguments.chats, Path(folder, "general.jsonl"))
        for model, experiments in ((arguments.model, arguments.experiment), (arguments.upper, ["base"])):
            if model is None:
                continue
            spec = StudySpec(
                model=model,
                data=data,
                experiments=experiments,
                num_seeds=arguments.seeds,
                synthetic=arguments.synthetic,
                writer=arguments.writer,
                general=general,
                cell_settings=CELL_SETTINGS,
                training_settings=TRAINING_SETTINGS,
                synthesis_settings=SYNTHESIS_SETTINGS,
            )
            time_limit_s = None if end is None else max(1.0, end - time.perf_counter())
            result = run_study(arguments.study, spec, arguments.workers, None, time_limit_s, print_progress)
            print_result(result)
            num_failed += len(result.failed)
    with StudyDatabase(arguments.study) as database:
        for path in write_report(database.finished_cells(), arguments.out):
            print(path)
    return 1 if num_failed else 0


def write_general_dialogues(texts: Path, out: Path) -> Path:
    """Write the last `NUM_GENERAL` chats of a file of texts in the form of `StudySpec.general`."""
    open_file = gzip.open if texts.suffix == ".gz" else open
    try:
        with open_file(texts, "rt", encoding="utf-8") as file:
            chats = [TURN.findall(json.loads(line)["text"]) for line in file]
    except OSError as error:
        raise from_os_error(error, texts) from error
    except (EOFError, KeyError, TypeError, ValueError, zlib.error) as error:
        raise UserError(f'not chats, {{"text"}} per line ({error})', texts, "name another file") from error
    dialogues: list[Dialogue] = []
    for turns in reversed(chats):
        try:
            dialogues.append(Dialogue.from_messages([{"role": role, "content": text} for role, text in turns]))
        except ValueError:  # a chat that ends with a question, or has only one speaker
            continue
        if len(dialogues) == NUM_GENERAL:
            break
    else:
        raise UserError(f"fewer than {NUM_GENERAL} chats", texts, "name a file with more")
    out.write_text("".join(json.dumps({"messages": dialogue.to_messages()}) + "\n" for dialogue in dialogues))
    return out


def print_progress(event: ProgressEvent, /) -> None:
    """Print the progress of a study."""
    remaining = "" if event.remaining_s is None else f", {event.remaining_s / 60:.1f} min left"
    cell_text = ""
    if isinstance(event.detail, Cell):
        cell = event.detail
        cell_text = f": {cell.policy} on {cell.data}, {cell.synthetic} synthetic, seed {cell.seed}"
    if event.stage != "selection" or event.done == event.total:
        print(f"{event.stage} {event.done}/{event.total}{remaining}{cell_text}", flush=True)


def print_result(result: StudyResult) -> None:
    """Print the outcome of a run."""
    print(f"{result.num_computed} cells run, {result.num_stored} were there, {len(result.failed)} failed")
    for cell, error in result.failed:
        print(f"failed: {cell.policy} on {cell.data}, seed {cell.seed}: {error}")
    for block in result.skipped:
        print(f"skipped because of the time limit: {block.name}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(error.line(), file=sys.stderr)
        sys.exit(2)
