"""Run `mlx-personal demo` and save its screen as a picture.

python scripts/picture_demo.py benchmarks/results/demo.svg
"""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 110


def main() -> None:
    """Run the demo and write the picture to the file named on the command line."""
    out = Path(sys.argv[1])
    environment = {**os.environ, "COLUMNS": str(WIDTH), "FORCE_COLOR": "1"}
    command = [str(Path(sys.executable).parent / "mlx-personal"), "demo"]
    process = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    # Hides the name of the home folder.
    screen = process.stdout.replace(str(Path.home()), "~")
    console = Console(record=True, width=WIDTH, file=StringIO())
    console.print(Text("$ mlx-personal demo"))
    console.print(Text.from_ansi(screen))
    console.save_svg(str(out), title="mlx-personal demo")


if __name__ == "__main__":
    main()
