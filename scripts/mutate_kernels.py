"""Change the Metal kernels one token at a time, and count how many of the changes their tests detect.

    python scripts/mutate_kernels.py --markdown benchmarks/results/mutants.md
    python scripts/mutate_kernels.py --kernel nearest --all

Each mutant runs the tests of the kernels that it is a part of, in a copy of the project, until one fails. A mutant that
does not compile or exceeds its time limit is killed too. The exit status is 1 if less than 95 % are killed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from mutation.mutants import Mutant, generate_mutants, sample
from mutation.survivors import reason
from mutation.trial import ProjectCopy, Verdict, read_sources, tests_of

from mlx_personal.storage.files import atomic_write

MIN_KILLED = 0.95
# The time limit of a mutant: so many times the duration of the unchanged kernels' tests, and so many seconds more.
TIMEOUT_FACTOR, EXTRA_TIMEOUT_S = 5, 30


def main() -> None:
    """Test mutants, print the verdicts, and exit with the status."""
    texts = read_sources()
    names = {Path(name).stem: name for name in texts}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kernel", choices=names, action="append", help="only this file; can be repeated")
    parser.add_argument("--count", type=int, default=80, help="number of mutants, in equal numbers of files and kinds")
    parser.add_argument("--seed", type=int, default=1, help="random seed")
    parser.add_argument("--all", action="store_true", help="test every mutant")
    parser.add_argument("--jobs", type=int, default=2, help="number of mutants tested at a time")
    parser.add_argument("--markdown", type=Path, help="file of the report")
    arguments = parser.parse_args()
    files = [names[stem] for stem in arguments.kernel or names]
    candidates = [mutant for file in files for mutant in generate_mutants(file, texts[file])]
    mutants = candidates if arguments.all else sample(candidates, arguments.count, arguments.seed)

    start = time.perf_counter()
    verdicts = try_mutants(mutants, arguments.jobs)
    elapsed_s = time.perf_counter() - start
    num_killed = sum(verdict.killed for verdict in verdicts.values())
    result = f"killed {num_killed} of {len(mutants)}"
    if arguments.markdown:
        command = "python scripts/mutate_kernels.py " + " ".join(sys.argv[1:])
        duration = f"{elapsed_s / 60:.0f} minutes with {arguments.jobs} jobs"
        text = make_report(verdicts, f"{result}, of {len(candidates)} candidates", duration, command)
        atomic_write(arguments.markdown, text)
    print(f"{result} in {elapsed_s:.0f} s")
    sys.exit(num_killed < MIN_KILLED * len(mutants))


def try_mutants(mutants: list[Mutant], jobs: int) -> dict[Mutant, Verdict]:
    """Test mutants and print each verdict.

    Args:
        mutants: The mutants.
        jobs: Number of mutants tested at a time, each in a copy of the project.
    """
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(jobs) as pool:
        folder = Path(name)
        copies: SimpleQueue[ProjectCopy] = SimpleQueue()
        for job in range(jobs):
            copies.put(ProjectCopy(folder / str(job), folder / "compiled"))

        def time_unchanged(test_file: str) -> tuple[str, float]:
            copy = copies.get()
            verdict = copy.run_tests([test_file])
            copies.put(copy)
            if verdict.killed:
                raise RuntimeError(f"the tests of the unchanged kernels fail: {verdict.killer}")
            return test_file, verdict.elapsed_s

        def try_mutant(mutant: Mutant) -> Verdict:
            copy = copies.get()
            usual_s = sum(durations_s[test_file] for test_file in tests_of(mutant.file))
            verdict = copy.try_mutant(mutant, EXTRA_TIMEOUT_S + TIMEOUT_FACTOR * usual_s)
            copies.put(copy)
            outcome = f"killed by {verdict.killer}" if verdict.killed else "SURVIVED"
            place = f"{mutant.file}:{mutant.line_number}"
            print(f"{place}: {mutant.marked_line}: {outcome} ({verdict.elapsed_s:.0f} s)", flush=True)
            return verdict

        test_files = sorted({test_file for mutant in mutants for test_file in tests_of(mutant.file)})
        durations_s = dict(pool.map(time_unchanged, test_files))
        return dict(zip(mutants, pool.map(try_mutant, mutants), strict=True))


def make_report(verdicts: dict[Mutant, Verdict], result: str, duration: str, command: str) -> str:
    """Return the report as Markdown.

    Args:
        verdicts: The verdict of each mutant.
        result: How many were killed.
        duration: How long it took.
        command: The command line.
    """
    causes = Counter(verdict.cause for verdict in verdicts.values() if verdict.killed)
    survivors = [mutant for mutant, verdict in verdicts.items() if not verdict.killed]
    survivors.sort(key=lambda mutant: (mutant.file, mutant.offset))
    rows = "".join(f"| {m.file} | {m.line_number} | `{table_cell(m)}` | {reason(m)} |\n" for m in survivors)
    return f"""# Mutants of the kernels

`{command}`

**{result}**, in {duration}.

A mutant is a kernel with one token changed: an operator, constant, bound, index, barrier, reduction or cast. It is
killed if a test of that kernel fails. Some changes that no test could detect are not made: see
`scripts/mutation/mutants.py`.

How the killed mutants were detected: {", ".join(f"{cause} {n}" for cause, n in causes.most_common())}.

The survivors, with the change as «before → after»:

| kernel | line | change | reason |
|---|---|---|---|
{rows}"""


def table_cell(mutant: Mutant) -> str:
    """Return the marked line as the text of a Markdown table."""
    return mutant.marked_line.replace("|", "\\|")


if __name__ == "__main__":
    main()
