"""Changes the Metal kernels one token at a time, and counts how many of the changes their tests notice.

    python scripts/mutate_kernels.py --markdown benchmarks/results/mutants.md
    python scripts/mutate_kernels.py --kernel nearest --all

Each mutant runs the tests of the kernels that it is a part of, in a scratch copy of the project, up to the first
failure. One that does not compile, or that does not end in time, is killed too. Fails below 95 %.
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

from mutation.mutants import Mutant, mutants, sample
from mutation.survivors import reason
from mutation.trial import Copy, Verdict, sources, tests_of

from mlx_personal.storage.files import atomic_write

ENOUGH = 0.95
# A mutant may take so many times as long as the tests of the unchanged kernels, and these seconds.
SLOWER, GRACE = 5, 30


def main() -> None:
    texts = sources()
    stems = {Path(name).stem: name for name in texts}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kernel", choices=stems, action="append", help="only this file; may be repeated")
    parser.add_argument("--count", type=int, default=80, help="how many mutants, evenly from all files and kinds")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--all", action="store_true", help="every mutant there is")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--markdown", type=Path, help="where to keep the result")
    arguments = parser.parse_args()
    files = [stems[stem] for stem in arguments.kernel or stems]
    candidates = [mutant for file in files for mutant in mutants(file, texts[file])]
    chosen = candidates if arguments.all else sample(candidates, arguments.count, arguments.seed)

    start = time.perf_counter()
    verdicts = judged(chosen, arguments.jobs)
    seconds = time.perf_counter() - start
    killed = sum(verdict.killed for verdict in verdicts.values())
    result = f"killed {killed} of {len(chosen)}"
    if arguments.markdown:
        command = "python scripts/mutate_kernels.py " + " ".join(sys.argv[1:])
        times = f"{seconds / 60:.0f} minutes with {arguments.jobs} jobs"
        atomic_write(arguments.markdown, report(verdicts, f"{result}, of {len(candidates)} candidates", times, command))
    print(f"{result} in {seconds:.0f} s")
    sys.exit(killed < ENOUGH * len(chosen))


def judged(chosen: list[Mutant], jobs: int) -> dict[Mutant, Verdict]:
    """Every mutant's verdict, printed as it comes."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(jobs) as pool:
        folder = Path(name)
        copies: SimpleQueue[Copy] = SimpleQueue()
        for job in range(jobs):
            copies.put(Copy(folder / str(job), folder / "compiled"))

        def unchanged(test_file: str) -> tuple[str, float]:
            copy = copies.get()
            verdict = copy.test([test_file])
            copies.put(copy)
            if verdict.killed:
                raise RuntimeError(f"the unchanged kernels fail already: {verdict.by}")
            return test_file, verdict.seconds

        def judge(mutant: Mutant) -> Verdict:
            copy = copies.get()
            limit = GRACE + SLOWER * sum(usual[test_file] for test_file in tests_of(mutant.file))
            verdict = copy.try_mutant(mutant, limit)
            copies.put(copy)
            outcome = f"killed by {verdict.by}" if verdict.killed else "SURVIVED"
            print(f"{mutant.file}:{mutant.number}: {mutant.shown}: {outcome} ({verdict.seconds:.0f} s)", flush=True)
            return verdict

        needed = sorted({test_file for mutant in chosen for test_file in tests_of(mutant.file)})
        usual = dict(pool.map(unchanged, needed))
        return dict(zip(chosen, pool.map(judge, chosen), strict=True))


def report(verdicts: dict[Mutant, Verdict], result: str, times: str, command: str) -> str:
    causes = Counter(verdict.cause for verdict in verdicts.values() if verdict.killed)
    survivors = sorted((m for m, verdict in verdicts.items() if not verdict.killed), key=lambda m: (m.file, m.at))
    rows = "".join(f"| {m.file} | {m.number} | `{cell(m)}` | {reason(m)} |\n" for m in survivors)
    return f"""# Mutants of the kernels

`{command}`

**{result}**, in {times}.

A mutant is a kernel with one token changed: an operator, constant, bound, index, barrier, reduction or cast. It is
killed where a test of that kernel fails. Some changes that no test could notice are left out:
`scripts/mutation/mutants.py` says which.

What gave the killed ones away: {", ".join(f"{cause} {n}" for cause, n in causes.most_common())}.

The survivors, with the change as «before → after»:

| kernel | line | change | reason |
|---|---|---|---|
{rows}"""


def cell(mutant: Mutant) -> str:
    return mutant.shown.replace("|", "\\|")


if __name__ == "__main__":
    main()
