"""What the strict machine raises."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class Fault(Exception):  # noqa: N818 - it is the kernel's fault, not this program's error
    """A kernel did what a GPU does not promise to survive; the message says all that is known of it.

    `line` counts from 1 in the text that MLX generates, `text` is that line; `thread` is the position in the
    threadgroup and `group` the threadgroup's in the grid; `index` counts elements of `buffer`, from the address that
    the kernel got. A race has an `other_line` too.
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
