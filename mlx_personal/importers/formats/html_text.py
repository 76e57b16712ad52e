"""The text of answers in HTML as the Markdown that they come from: paragraphs, lists, code and tables stay readable."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Final

_PARAGRAPHS: Final = frozenset(
    {
        "p",
        "div",
        "blockquote",
        "table",
        "ul",
        "ol",
        "pre",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "section",
        "details",
    }
)
_LISTS: Final = frozenset({"ul", "ol"})
_IGNORED: Final = frozenset({"script", "style", "head", "title", "template"})
_MARKS: Final = {"strong": "**", "b": "**", "em": "*", "i": "*"}
_MAX_INDENT: Final = 20
_SPACES: Final = re.compile(r"[ \t\r\n]+")
_BLANK_LINES: Final = re.compile(r"\n{3,}")


def text_of_html(html: str) -> str:
    """Return the text of HTML as Markdown.

    Args:
        html: The HTML, which may be damaged.
    """
    parser = _TextParser()
    parser.feed(html)
    parser.close()
    return parser.text()


class _TextParser(HTMLParser):
    """Collects the text of elements."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._end = "\n\n"  # what the text ends with: nothing is written before the first word
        self._lists: list[int | None] = []  # the next number of each list that is open; None for one without numbers
        self._ignored = self._preformatted = 0
        self._cells = 0  # cells of the present row

    def text(self) -> str:
        """Return the text so far."""
        lines = (line.rstrip() for line in "".join(self._parts).split("\n"))
        return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip("\n")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin an element."""
        if tag in _IGNORED:
            self._ignored += 1
        elif tag == "br":
            self._write("\n")
        elif tag == "li":
            self._break(1)
            self._write("  " * min(len(self._lists) - 1, _MAX_INDENT) + self._bullet())
            self._end = "\n\n"  # a paragraph in an item begins on its line
        elif tag in ("td", "th"):
            self._write(" | " if self._cells else "")
            self._cells += 1
        elif tag == "tr":
            self._break(1)
            self._cells = 0
        elif tag == "code" and not self._preformatted:
            self._write("`")
        elif tag in _MARKS:
            self._write(_MARKS[tag])
        elif tag in _PARAGRAPHS:
            self._break(1 if tag in _LISTS and self._lists else 2)
            if tag in _LISTS:
                self._lists.append(1 if tag == "ol" else None)
            elif tag == "pre":
                self._preformatted += 1
                self._write("```\n")
            elif len(tag) == 2 and tag[1].isdecimal():
                self._write("#" * int(tag[1]) + " ")

    def handle_endtag(self, tag: str) -> None:
        """End an element."""
        if tag in _IGNORED:
            self._ignored = max(0, self._ignored - 1)
        elif tag == "code" and not self._preformatted:
            self._write("`")
        elif tag in _MARKS:
            self._write(_MARKS[tag])
        elif tag in _PARAGRAPHS:
            if tag in _LISTS and self._lists:
                self._lists.pop()
            elif tag == "pre" and self._preformatted:
                self._preformatted -= 1
                self._break(1)
                self._write("```")
            self._break(1 if self._lists else 2)

    def handle_data(self, data: str) -> None:
        """Add the text between elements."""
        if self._ignored:
            return
        if not self._preformatted:
            data = _SPACES.sub(" ", data)
            if self._end.endswith(("\n", " ")):
                data = data.removeprefix(" ")
            data = data.replace("\xa0", " ")
        self._write(data)

    def _bullet(self) -> str:
        if not self._lists or self._lists[-1] is None:
            return "- "
        number = self._lists[-1]
        self._lists[-1] = number + 1
        return f"{number}. "

    def _break(self, count: int) -> None:
        """End the line, or the paragraph."""
        while not self._end.endswith("\n" * count):
            self._write("\n")

    def _write(self, text: str) -> None:
        if text and not self._ignored:
            self._parts.append(text)
            self._end = (self._end + text)[-2:]
