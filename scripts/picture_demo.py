"""Run `mlx-personal demo` and save its screen as a picture.

    python scripts/picture_demo.py benchmarks/results/demo.svg [--model FOLDER]

The names of this machine's folders are not shown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 114
# What the picture shows instead of the temporary home folder.
SHOWN_HOME = "~/.config/mlx-personal"


def main() -> None:
    """Run the demo and write the picture to the file named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="folder of a chat model  [the embedded model]")
    options = parser.parse_args()
    command, folder = ["mlx-personal", "demo"], Path.cwd()
    if options.model is not None:
        # Run beside the model's folder, so that the command names it without the folders above it.
        model = options.model.resolve()
        command, folder = [*command, "--model", model.name], model.parent
    screen = run(command, folder)
    console = Console(record=True, width=WIDTH, file=StringIO())
    console.print(Text(f"$ {' '.join(command)}"))
    console.print(Text.from_ansi(screen))
    console.save_svg(str(options.out), title="mlx-personal demo")


def run(command: list[str], folder: Path) -> str:
    """Run a command of this environment in a folder, and return what it prints on standard output."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "COLUMNS": str(WIDTH), "FORCE_COLOR": "1", "MLX_PERSONAL_HOME": home}
        program = Path(sys.executable).parent / command[0]
        process = subprocess.run(
            [program, *command[1:]], env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, check=True
        )
        return process.stdout.replace(home, SHOWN_HOME)


if __name__ == "__main__":
    main()
