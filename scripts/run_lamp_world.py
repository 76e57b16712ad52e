"""Run CDCDA-PLM on the LaMP world by the number of records per user, with a student on the device and a teacher server.

    python scripts/run_lamp_world.py --student STUDENT --teacher TEACHER --work WORK --out RESULTS
        [--task 2M 4] [--records 1 2 4 8] [--users 40] [--queries 10] [--synthetic 16] [--methods NAME,...]

The models are trained with scripts/write_lamp_world.py and scripts/pretrain_model.py. The teacher runs in mlx-lm's
server on 127.0.0.1; the student is fine-tuned and answers without it. RESULTS receives curve.json, curve.svg and
report.md. Intermediate results are kept in WORK, so the same command resumes an interrupted run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx_personal  # noqa: F401 - before mlx.core, so that its BLAS is loaded first

# isort: split
import mlx.core as mx
from write_lamp_world import write_users

from mlx_personal.augmentation.config import AugmentConfig
from mlx_personal.augmentation.consent import Consent
from mlx_personal.augmentation.server import Server
from mlx_personal.finetune import LoRAConfig
from mlx_personal.progress import ProgressEvent
from mlx_personal.research.lamp import LampSpec, run_lamp
from mlx_personal.research.lamp.lamp_config import LampConfig
from mlx_personal.research.lamp.lamp_folder import LampFolder
from mlx_personal.research.lamp.lamp_report import MethodRow, method_rows, method_tables
from mlx_personal.research.lamp.metrics import METRICS
from mlx_personal.research.lamp.tasks import TASKS

METHODS = "non-personalized,bm25,oppu,cdcda,cloud"
# A model with less than a million parameters learns little at OPPU's 1e-4. Selected on users of another seed.
TRAINING = LoRAConfig(learning_rate=3e-3, epochs=8, batch_size=8)
SERVER_MODEL = "teacher"


def main() -> None:
    """Run all settings and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", nargs="+", choices=list(TASKS), default=["2M", "4"])
    parser.add_argument("--records", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--synthetic", type=int, default=16)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--seed", type=int, default=1, help="random seed of the users")
    args = parser.parse_args()
    curves: list[dict[str, Any]] = []
    tables = []
    with serve_model(args.teacher, args.work / "teacher") as url:
        for task in args.task:
            for records in args.records:
                folder = args.work / f"LaMP-{task}-{records}-records-seed-{args.seed}"
                write_users(folder, task, args.users, records, args.queries, args.seed)
                rows = run_methods(folder, task, url, args)
                tables.append(f"## LaMP-{task}, {records} records per user\n\n{method_tables(TASKS[task], rows)}")
                curves += [{"task": task, "records": records, **row.to_json()} for row in rows]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "curve.json").write_text(json.dumps(curves, indent=1) + "\n")
    (args.out / "report.md").write_text("\n".join(tables))
    plot_curves(curves, args.out / "curve.svg")


def run_methods(folder: Path, task: str, url: str, args: argparse.Namespace) -> list[MethodRow]:
    """Run all methods on the users in a folder.

    Args:
        folder: Folder of the users' files; the run is stored in its folder `run`.
        task: Name of the task.
        url: URL of the teacher's server.
        args: Options of this script.
    """
    server = Server(url, SERVER_MODEL, max_tokens=96)
    run_folder = folder / "run"
    Consent(run_folder).grant(url, SERVER_MODEL)
    name = TASKS[task].file_names[0]
    augment = AugmentConfig(num_synthetic=args.synthetic, synthetic_weight=0.5, training=TRAINING)
    spec = LampSpec(
        task=task,
        methods=args.methods.split(","),
        model=str(args.student),
        questions=folder / f"{name}_questions.json",
        outputs=folder / f"{name}_outputs.json",
        server=server,
        config=LampConfig(answer_tokens=48, augment=augment),
    )
    result = run_lamp(run_folder, spec, on_progress=print_progress)
    problem = result.failed or result.message or "complete"
    print(f"LaMP-{task}, {folder.name}: {result.num_computed} computed, {result.num_stored} stored, {problem}")
    return method_rows(LampFolder(run_folder).settings[result.setting])


@contextlib.contextmanager
def serve_model(model: Path, folder: Path) -> Iterator[str]:
    """Run mlx-lm's server with a float32 copy of a model; on a CPU half precision is many times as slow.

    Args:
        model: Folder of the model.
        folder: Folder of the copy, which is made once.

    Yields:
        URL of the server.
    """
    if not folder.exists():
        shutil.copytree(model, folder)
        weights: Any = mx.load(str(model / "model.safetensors"))
        float32_weights = {name: weight.astype(mx.float32) for name, weight in weights.items()}
        mx.save_safetensors(str(folder / "model.safetensors"), float32_weights, {"format": "mlx"})
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        port = free_socket.getsockname()[1]
    # Imports this package first for its BLAS.
    code = "import sys, mlx_personal; from mlx_lm.server import main; sys.exit(main())"
    # The server runs in the parent folder, so the folder's name is the model's name.
    command = [sys.executable, "-c", code, "--model", SERVER_MODEL, "--port", str(port), "--log-level", "ERROR"]
    log = folder.with_suffix(".log").open("w")
    process = subprocess.Popen(command, cwd=folder.parent, stderr=log)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            time.sleep(0.1)
        else:
            sys.exit(f"the server did not start: see {log.name}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()
        log.close()


def plot_curves(curves: list[dict[str, Any]], path: Path) -> None:
    """Plot the first metric of each method by the number of records, with 95 % intervals over users, a panel per task.

    Args:
        curves: The points of all curves, as in curve.json.
        path: Image file to write.
    """
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(point["task"] for point in curves))
    figure = Figure(figsize=(4.4 * len(tasks) + 1.3, 3.6), layout="constrained")
    styles = dict(zip(METHODS.split(","), zip("kCCCC", "xs^oD", ["", "1", "0", "3", "2"], strict=True), strict=True))
    for position, task in enumerate(tasks, 1):
        axes = figure.add_subplot(1, len(tasks), position)
        metric = METRICS[TASKS[task].kind][0]
        for method in dict.fromkeys(point["method"] for point in curves):
            points = [p for p in curves if p["task"] == task and p["method"] == method]
            color, marker, number = styles.get(method, ("C", "v", "4"))
            values = [p["metrics"][metric] for p in points]
            errors = [[v["value"] - v["low"] for v in values], [v["high"] - v["value"] for v in values]]
            records = [p["records"] for p in points]
            axes.errorbar(
                records,
                [v["value"] for v in values],
                errors,
                color=color + number,
                marker=marker,
                capsize=2,
                label=method,
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(records, [str(r) for r in records])
        axes.set_xlabel("records per user")
        axes.set_ylabel(metric)
        axes.set_title(f"LaMP-{task} of the world")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def print_progress(event: ProgressEvent, /) -> None:
    """Print a line for every hundredth step and the last one."""
    if event.done == event.total or event.done % 100 == 0:
        print(f"{event.stage} {event.done}/{event.total}", flush=True)


if __name__ == "__main__":
    main()
