"""Measure imports: the speed and memory of a large ChatGPT export, and of commands on a profile of many dialogues.

    python -m benchmarks.importing [--quick] [--bytes N] [--dialogues N] [--json] [--out FILE.md]

The export is written by this script: trees of messages with regenerated answers, hidden nodes, tool calls, thoughts and
metadata, as an app writes them. It is read, and then imported into a new profile without scoring, each in a process of
its own. The commands run on profiles whose dialogues are all scored. The exit code is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.arguments import positive_int, run_command, set_defaults
from benchmarks.report_file import heading, print_result
from benchmarks.startup import PROGRAM, command_environment
from mlx_personal import Dialogue
from mlx_personal.personalizer.import_summary import AppCounts, ImportSummary
from mlx_personal.profile import Origin, Store
from mlx_personal.reporting import markdown_table
from mlx_personal.storage.home import Home

MIN_MB_PER_S: Final = 20.0
MAX_PEAK_MB: Final = 300.0
MAX_CPU_S: Final = 0.5
COMMANDS: Final[tuple[tuple[str, ...], ...]] = (
    ("status",),
    ("buffer", "list"),
    ("imports", "list"),
    ("imports", "show", "1"),
)
REPEATS: Final = 3
# Dialogues of the small profile that the large one is compared with.
SMALL: Final = 1_000

# A process writes its own peak of memory, because what the system counts for it includes the process that started it.
PEAK_CODE: Final = """
import atexit, os, resource, sys
def write_peak():
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform != "darwin":
        with open("/proc/self/status") as file:
            peak_bytes = next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    with open(os.environ["PEAK_FILE"], "w") as file:
        file.write(str(peak_bytes))
atexit.register(write_peak)
"""
READ_CODE: Final = """
import sys
from pathlib import Path
from mlx_personal.importers import read_imports
print(sum(1 for _ in read_imports(Path(sys.argv[1]))))
"""
IMPORT_CODE: Final = """
import sys
from pathlib import Path
from mlx_personal.personalizer.importing import import_paths
from mlx_personal.profile import Store
store = Store(Path(sys.argv[2]))
print(import_paths(store, [Path(sys.argv[1])]).summary.total("new"))
"""


@dataclass(frozen=True)
class ProcessUsage:
    """What a process used.

    Attributes:
        wall_s: Seconds from its start to its end.
        cpu_s: CPU seconds of user and system.
        peak_mb: Peak of its resident memory in megabytes.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a target is missed, 2 if the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.importing", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small export and profile")
    parser.add_argument("--bytes", type=positive_int, help="size of the export; default 1,000,000,000")
    parser.add_argument("--dialogues", type=positive_int, help="size of the profile; default 300,000")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the report to this file")
    options = set_defaults(
        parser.parse_args(arguments), {"bytes": (3_000_000, 1_000_000_000), "dialogues": (2_000, 300_000)}
    )
    return run_command("benchmarks.importing", run, options)


def run(options: argparse.Namespace) -> int:
    """Measure, and print the report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export = folder / "conversations.json"
        conversations = write_export(export, options.bytes)
        size_mb = export.stat().st_size / 1e6
        stages = {
            "reading": measured(READ_CODE, [str(export)], os.environ),
            "reading and storing": measured(IMPORT_CODE, [str(export), str(folder / "new")], os.environ),
        }
        export.unlink()
        homes = {count: folder / str(count) for count in (SMALL, options.dialogues)}
        for count, home in homes.items():
            write_profile(home, count)
        commands = {command: [best_of(REPEATS, command, home) for home in homes.values()] for command in COMMANDS}
    reading_mb_per_s = size_mb / stages["reading"].cpu_s
    is_met = reading_mb_per_s >= MIN_MB_PER_S and all(usage.peak_mb <= MAX_PEAK_MB for usage in stages.values())
    is_met = is_met and all(large.cpu_s <= MAX_CPU_S for _, large in commands.values())
    values = {
        "export_mb": size_mb,
        "conversations": conversations,
        "stages": {name: vars(usage) for name, usage in stages.items()},
        "commands": {" ".join(command): [vars(usage) for usage in usages] for command, usages in commands.items()},
        "targets_met": is_met,
    }
    quick = " --quick" if options.quick else ""
    command = f"python -m benchmarks.importing{quick} --bytes {options.bytes} --dialogues {options.dialogues}"
    report = "\n".join(
        [
            heading("Imports of large exports", command),
            stages_section(stages, size_mb, conversations),
            commands_section(commands, options.dialogues),
        ]
    )
    print_result(report, values, options)
    return int(not is_met)


def stages_section(stages: dict[str, ProcessUsage], size_mb: float, conversations: int) -> str:
    """Return the section about the export."""
    rows = [
        [name, f"{size_mb / usage.cpu_s:.0f}", f"{usage.cpu_s:.1f}", f"{usage.wall_s:.1f}", f"{usage.peak_mb:.0f}"]
        for name, usage in stages.items()
    ]
    return f"""\
## An export of {size_mb:,.0f} MB

{markdown_table(["stage", "MB per CPU second", "CPU seconds", "seconds", "peak memory, MB"], rows)}
{conversations:,} conversations. Targets: reading {MIN_MB_PER_S:.0f} MB or more per CPU second, which the load of the
machine changes less than the time; at most {MAX_PEAK_MB:.0f} MB of memory. Nothing is embedded: that is the time of the
model, and `import --select-later` leaves it to the next `run`.
"""


def commands_section(commands: dict[tuple[str, ...], list[ProcessUsage]], dialogues: int) -> str:
    """Return the section about the commands."""
    columns = ["command", f"CPU s of {SMALL:,}", f"CPU s of {dialogues:,}"]
    columns += [f"peak memory of {SMALL:,}, MB", f"of {dialogues:,}, MB"]
    rows = [
        [" ".join(command), *(f"{u.cpu_s:.2f}" for u in usages), *(f"{u.peak_mb:.0f}" for u in usages)]
        for command, usages in commands.items()
    ]
    return f"""\
## Commands on a profile of {dialogues:,} dialogues

{markdown_table(columns, rows)}
All dialogues are imported and scored, 128 of them selected and annotated. The best of {REPEATS} runs counts. Target: at
most {MAX_CPU_S} CPU seconds on the large profile.
"""


def best_of(repeats: int, command: Sequence[str], home: Path) -> ProcessUsage:
    """Run a command on a profile and return what the run with the least CPU time used."""
    usages = (measured(PROGRAM[2], command, command_environment(home)) for _ in range(repeats))
    return min(usages, key=lambda usage: usage.cpu_s)


def measured(code: str, arguments: Sequence[str], environment: Mapping[str, str]) -> ProcessUsage:
    """Run Python code in a process of its own and return what it used.

    Raises:
        RuntimeError: If it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        peak_file = Path(folder) / "peak"
        process = subprocess.Popen(
            [sys.executable, "-c", PEAK_CODE + code, *arguments],
            env={**environment, "PEAK_FILE": str(peak_file)},
            stdout=subprocess.DEVNULL,
        )
        start = time.perf_counter()
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(arguments)} failed with exit code {process.returncode}")
        peak_mb = int(peak_file.read_text()) / 1e6
    return ProcessUsage(wall_s, usage.ru_utime + usage.ru_stime, peak_mb)


def write_export(path: Path, num_bytes: int) -> int:
    """Write a ChatGPT-like export of at least a size, and return its number of conversations."""
    rng = random.Random(0)
    words = [
        f"{start}{end}"
        for start in ("ka", "mo", "ri", "ste", "lu")
        for end in ("ven", "ra", "to", "\u00e9", "sing", "n")
    ]
    texts = [" ".join(rng.choices(words, k=rng.choice((8, 20, 60, 250)))) for _ in range(2000)]
    encoded = [json.dumps(text)[1:-1] for text in texts]
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        while path.stat().st_size < num_bytes:
            nodes = dict(_nodes(rng, encoded, count))
            mapping = ", ".join(f'"{key}": {node}' for key, node in nodes.items())
            file.write(f"{', ' if count else ''}{{")
            file.write(f'"title": "Chat {count}", "create_time": {1.7e9 + 600 * count}, "mapping": {{{mapping}}}, ')
            file.write('"moderation_results": [], "plugin_ids": null, "gizmo_id": null, "is_archived": false, ')
            file.write(
                f'"current_node": "{list(nodes)[-1]}", "conversation_id": "chat-{count}", "id": "chat-{count}"}}'
            )
            count += 1
        file.write("]")
    return count


def _nodes(rng: random.Random, texts: list[str], number: int) -> Iterator[tuple[str, str]]:
    """Yield the ids and the nodes of a conversation; the last one is that which the app shows."""
    prefix = f"{number:08x}-0000-4000-8000"
    yield "client-created-root", _node("client-created-root", None, ["s"], None)
    yield "s", _node("s", "client-created-root", [f"{prefix}-0"], _message("s", "system", "", hidden=True))
    parent, key = "s", 0
    for exchange in range(rng.choice((1, 2, 3, 5, 12))):
        question, answer, other = f"{prefix}-{key}", f"{prefix}-{key + 1}", f"{prefix}-{key + 2}"
        thought, key = f"{prefix}-{key + 3}", key + 4
        is_regenerated, thinks = rng.random() < 0.1, rng.random() < 0.2
        text = f"{number}.{exchange} {rng.choice(texts)}"
        yield question, _node(question, parent, [other, thought], _message(question, "user", text))
        if is_regenerated:
            yield other, _node(other, question, [], _message(other, "assistant", rng.choice(texts)))
        if thinks:
            yield thought, _node(thought, question, [answer], _message(thought, "assistant", "", kind="thoughts"))
        parent = thought if thinks else question
        yield answer, _node(answer, parent, [f"{prefix}-{key}"], _message(answer, "assistant", rng.choice(texts)))
        parent = answer


def _node(key: str, parent: str | None, children: list[str], message: str | None) -> str:
    fields = f'"id": "{key}", "message": {message or "null"}, "parent": {json.dumps(parent)}'
    return f'{{{fields}, "children": {json.dumps(children)}}}'


def _message(key: str, role: str, text: str, hidden: bool = False, kind: str = "text") -> str:
    """Return a message as JSON, with the metadata that the app writes; `text` is encoded already."""
    content = '"thoughts": [], "source_analysis_msg_id": ""' if kind == "thoughts" else f'"parts": ["{text}"]'
    hidden_field = '"is_visually_hidden_from_conversation": true, ' if hidden else ""
    model = '"model_slug": "gpt-5", "default_model_slug": "auto", ' if role == "assistant" else ""
    return (
        f'{{"id": "{key}", "author": {{"role": "{role}", "name": null, "metadata": {{}}}}, '
        f'"create_time": 1700000000.123, "update_time": null, "content": {{"content_type": "{kind}", {content}}}, '
        f'"status": "finished_successfully", "end_turn": true, "weight": 1.0, "metadata": {{{hidden_field}{model}'
        '"citations": [], "content_references": [], "message_type": "next", "request_id": "9f7d2c4e8a-FRA", '
        '"timestamp_": "absolute", "serialization_metadata": {"custom_symbol_offsets": []}, '
        '"finish_details": {"type": "stop", "stop_tokens": [200002]}, "is_complete": true}, '
        '"recipient": "all", "channel": null}'
    )


def write_profile(home: Path, num_dialogues: int) -> None:
    """Write a profile on the embedded model whose dialogues are imported and scored.

    The first 128 of them are selected and annotated.
    """
    command = [*PROGRAM, "init", "--model", "demo"]
    subprocess.run(command, env=command_environment(home), check=True, stdout=subprocess.DEVNULL)
    store = Store(Home(home).profile("default"))
    vector = np.zeros(64, np.float32)
    vector[0] = 1.0
    detail: dict[str, Any] = {"reason": "it beats no bin in all scores", "bins": 128, "beaten": []}
    detail["nearest_miss"] = {"slot": 7, "dialogue_id": 9, "domain": "work", "eoe": 0.7, "dss": 0.0, "idd": 0.4}
    try:
        with store.transaction():
            import_id = store.imports.begin(["conversations.json"], {})
            for number in range(num_dialogues):
                dialogue = Dialogue.of(f"What is {number} times 7?", f"It is {7 * number}. " + "That is so. " * 60)
                origin = Origin("chatgpt", f"chat-{number}", f"Chat {number}", "gpt-5", 1.7e9 + number)
                dialogue_id = store.imports.add(import_id, dialogue, "import:conversations.json", origin) or 0
                slot = number if number < 128 else None
                action = "kept-out" if slot is None else "stored"
                store.add_decision(dialogue_id, action, "work", (0.7, 0.0, 0.4), slot, None, detail)
                if slot is not None:
                    store.put_bin(slot, dialogue_id, vector, 0.7, 0.4)
                    store.add_annotation(dialogue_id, "accept", dialogue, number, held_out=number % 5 == 0)
            counts = AppCounts(conversations=num_dialogues, dialogues=num_dialogues, new=num_dialogues)
            store.imports.finish(import_id, ImportSummary({"chatgpt": counts}).to_json())
    finally:
        store.close()


if __name__ == "__main__":
    sys.exit(main())
