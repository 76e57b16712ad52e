"""The exception that the host machine raises."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class Fault(Exception):  # noqa: N818 - a fault of the kernel, not an error of this program
    """A kernel did what Metal forbids or leaves undefined; the message contains everything that is known about it.

    Attributes:
        kind: Kind of the fault, as listed in README.md.
        detail: What happened.
        kernel: Name of the kernel.
        line: Line in the text that MLX generates, counted from 1.
        text: That line.
        buffer: Buffer or threadgroup variable that was accessed.
        index: Element of the buffer, counted from the address that the kernel got.
        thread: Position of the thread in its threadgroup.
        group: Position of the threadgroup in the grid.
        other_line: Line of the other access of a race.
        other_text: That line.
    """

    kind: str
    detail: str
    kernel: str = ""
    line: int | None = None
    text: str = ""
    buffer: str = ""
    index: int | None = None
    thread: tuple[int, int, int] | None = None
    group: tuple[int, int, int] | None = None
    other_line: int | None = None
    other_text: str = ""

    def __str__(self) -> str:
        place = self.buffer + (f"[{self.index}]" if self.index is not None else "")
        parts = [f"{self.kind} in kernel {self.kernel}: {place}{': ' if place else ''}{self.detail}"]
        if self.line is not None:
            parts.append(f"  line {self.line}: {self.text.strip()}")
        if self.other_line is not None:
            parts.append(f"  the other, line {self.other_line}: {self.other_text.strip()}")
        if self.thread is not None:
            parts.append(f"  thread {self.thread} of threadgroup {self.group}")
        return "\n".join(parts)
