"""Gemini in a Google Takeout: "My Activity" of the Gemini apps, as JSON or as HTML.

An activity is one question with its answer. Since 2026 it names the conversations that it belongs to (several if the
user branched one), and without them it is a dialogue of its own. Its title begins with words in the account's language,
such as "Prompted". In HTML the time, which has a line of its own, is all that parts the question from the answer.
"""

from __future__ import annotations

import codecs
import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mlx_personal.errors import UserError
from mlx_personal.importers.conversation import REGENERATED, Alternative, Conversation, Skipped, Turn
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of
from mlx_personal.importers.formats.html_text import text_of_html
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO
from mlx_personal.importers.json_records import MAX_LINE_BYTES, read_records
from mlx_personal.importers.streams import Utf8Stream

_APP: Final = "gemini"
_PRODUCTS: Final = ("gemini", "bard")
_NO_PROMPT: Final = "an activity that is no question"
# What titles of questions begin with.
_PROMPTS: Final = (
    *("Prompted with:", "Prompted", "Live Prompt", "Asked Gemini:", "Asked Bard:", "Asked", "Said", "Branched"),
    *("Eingegebener Prompt:", "Prompt\xa0:", "Prompt :", "Prompt:", "Poslali ste poziv:", "분기된"),
)
_OTHER_ACTIVITIES: Final = (
    *("Created", "Used", "Selected preferred draft", "Gave feedback", "Shared", "Deleted", "Added", "Viewed"),
    *("Edited", "Exported", "Pinned", "Renamed"),
)
# In other languages: what nearly all of many titles begin with, up to a colon or a space that does not break.
_LABEL: Final = re.compile("[^\n:\uff1a\xa0]{1,40}(?:\xa0?[:\uff1a]|\xa0)")
_MIN_LABELS, _LABEL_SHARE = 10, 0.9
_ATTACHED: Final = re.compile(r"\s*Attached \d+ files?\.\s*\Z")
_CONVERSATION_URL: Final = re.compile(r"https://gemini\.google\.com/app/(?:c_)?([0-9a-zA-Z]+)")
# Python's parser takes quadratic time for some damaged texts, and no dialogue could hold a longer one.
_MAX_HTML_CHARS: Final = 1_000_000

_CELL: Final = '<div class="outer-cell'
_BODY: Final = re.compile(
    r'<div class="content-cell[^"]*mdl-typography--body-1">(.*?)(?=<div class="content-cell|\Z)', re.S
)
_HEADER: Final = re.compile(r'mdl-typography--title">(.*?)</p>', re.S)
_MAX_HEADER_CHARS: Final = 2_000
_BREAK: Final = re.compile(r"<br\s*/?>")
_LINK: Final = re.compile(r"</?a\b[^<>]*>")
_FILE: Final = re.compile(r"\s*-\s*(?:&nbsp;\s*)*<a ")
_BLOCK: Final = re.compile(r"<(?:p|h[1-6]|ul|ol|pre|table|blockquote|hr|div)[\s>/]")
# A short line with a year and a clock time with seconds, in any language.
_TIME_LINE: Final = re.compile(r"(?=[^<>]*\b(?:19|20)\d\d\b)[^<>]*\d{1,2}:\d\d:\d\d[^<>]*")
_MAX_TIME_CHARS: Final = 60
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_ENGLISH_TIME: Final = re.compile(r"([A-Z][a-z]{2})[a-z]* (\d+), (\d{4}),? (\d+):(\d\d):(\d\d)\s*([AP]M)?")
_GERMAN_TIME: Final = re.compile(r"(\d+)\.(\d+)\.(\d{4}),? (\d+):(\d\d):(\d\d)")


@dataclass(frozen=True)
class _Activity:
    """A question and its answer.

    Attributes:
        where: File and position in it.
        title: The question, with the words before it.
        answers: The answer in its versions, the last one as the app shows it.
        time: When it was asked.
        conversations: Ids of the conversations that it belongs to.
        left_out: Numbers of attached files by type.
    """

    where: str
    title: str
    answers: tuple[str, ...]
    time: float | None
    conversations: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


class GeminiImporter:
    """Reads the questions and answers of a Google Takeout with the activity in the Gemini apps."""

    name = _APP
    refuses = False
    side_files: frozenset[str] = frozenset()

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file has the activity in the Gemini apps."""
        text = head.text.lower()
        if not any(product in text for product in _PRODUCTS):
            return NO
        if head.is_json:
            is_activity = head.has("title", "time") and head.keys & {"header", "products", "safeHtmlItem"}
            return CERTAIN if is_activity else NO
        return CERTAIN if head.kind == "text" and _CELL in head.text else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the conversations of a file: in order of their first question, then the single questions."""
        activities: list[_Activity] = []
        for item in _read_json(document, head) if head.is_json else _read_html(document, head.encoding):
            if isinstance(item, Skipped):
                yield item
            else:
                activities.append(item)
        label = _common_label([activity.title for activity in activities if activity.answers])
        is_english = any(activity.title.startswith("Prompted") for activity in activities)
        # The log begins with the latest activity.
        activities = sorted(reversed(activities), key=lambda activity: activity.time or 0.0)
        by_conversation: dict[str, list[_Activity]] = {}
        single: list[_Activity] = []
        for activity in activities:
            if activity.title.startswith(_OTHER_ACTIVITIES) and (is_english or not activity.answers):
                yield Skipped(activity.where, _NO_PROMPT, _APP)
                continue
            if not activity.answers:
                yield Skipped(activity.where, "a question without an answer", _APP, bool(activity.conversations))
                continue
            if not activity.conversations:
                single.append(activity)
            for identity in activity.conversations:
                by_conversation.setdefault(identity, []).append(activity)
        targets: set[int] = set()  # answers that another conversation has as well: in its branches they are context
        for identity, members in by_conversation.items():
            if targets.issuperset(map(id, members)):
                yield Skipped(members[0].where, "a branch without an answer of its own", _APP)
            else:
                yield _conversation(members, label, targets, identity)
            targets.update(map(id, members))
        for activity in single:
            yield _conversation([activity], label, targets)


def _conversation(members: list[_Activity], label: str, targets: set[int], identity: str = "") -> Conversation:
    turns: list[Turn] = []
    for activity in members:
        question = _question(activity.title, label)
        turns.append(Turn("user", question, activity.time, left_out=activity.left_out))
        *others, answer = activity.answers
        alternatives = tuple(Alternative(text, REGENERATED) for text in others)
        weight = 0 if id(activity) in targets else 1
        turns.append(Turn("assistant", answer, activity.time, weight=weight, alternatives=alternatives))
    return Conversation(tuple(turns), _APP, members[0].where, identity, time=members[0].time)


def _read_json(document: Document, head: Head) -> Iterator[_Activity | Skipped]:
    for record in read_records(document, head):
        if isinstance(record, Skipped):
            yield record
            continue
        value = as_mapping(record.value)
        products = " ".join(text_of(name) for name in (value.get("header"), *as_list(value.get("products")))).lower()
        if products.strip() and not any(product in products for product in _PRODUCTS):
            yield Skipped(record.where, "an activity of another product", _APP)
            continue
        items = (text_of(as_mapping(item).get("html")) for item in as_list(value.get("safeHtmlItem")))
        urls = (text_of(as_mapping(detail).get("url")) for detail in as_list(value.get("details")))
        yield _activity(
            record.where,
            text_of(value.get("title")),
            items,
            as_time(value.get("time")),
            _conversation_ids(urls),
            {"file": len(as_list(value.get("attachedFiles"))) or bool(value.get("imageFile"))},
        )


def _activity(
    where: str,
    title: str,
    answers: Iterable[str],
    time: float | None,
    conversations: tuple[str, ...],
    left_out: Mapping[str, int],
) -> _Activity | Skipped:
    """Return an activity, or why it is left out."""
    if not title.strip():
        return Skipped(where, _NO_PROMPT, _APP)
    texts = (text if len(text) > _MAX_HTML_CHARS else text_of_html(text) for text in answers)
    counts = {kind: int(count) for kind, count in left_out.items() if count}
    return _Activity(where, title, tuple(text for text in texts if text), time, conversations, counts)


def _conversation_ids(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the ids in the addresses of conversations, each once."""
    return tuple(dict.fromkeys(match[1] for text in texts for match in _CONVERSATION_URL.finditer(text)))


def _common_label(titles: list[str]) -> str:
    """Return what nearly all titles begin with; empty if there is nothing."""
    found = Counter(match[0] for title in titles if (match := _LABEL.match(title)))
    label, count = found.most_common(1)[0] if found else ("", 0)
    return label if count >= max(_MIN_LABELS, _LABEL_SHARE * len(titles)) else ""


def _question(title: str, label: str) -> str:
    """Return a title without the words before the question."""
    for prompt in (label, *_PROMPTS):
        rest = title.removeprefix(prompt)
        if prompt and rest != title and (not rest or rest[0].isspace() or prompt[-1] in ":\uff1a\xa0"):
            return _ATTACHED.sub("", rest).strip()
    return _ATTACHED.sub("", title).strip()


def _read_html(document: Document, encoding: str) -> Iterator[_Activity | Skipped]:
    number = 0
    for number, cell in enumerate(_cells(document, encoding), 1):
        where = f"{document.where}:{number}"
        header, body = _HEADER.search(cell[:_MAX_HEADER_CHARS]), _BODY.search(cell)
        if header is not None and not any(product in header[1].lower() for product in _PRODUCTS):
            yield Skipped(where, "an activity of another product", _APP)
            continue
        lines = _BREAK.split(body[1]) if body is not None else []
        number_of_time = _time_line(lines)
        if number_of_time is None:
            yield Skipped(where, "an activity without a time" if lines else _NO_PROMPT, _APP)
            continue
        question = lines[:number_of_time]
        files = [n for n, line in enumerate(question) if _FILE.match(line)]
        if files:  # the names of attached files are after a line with their number
            question = question[: max(files[0] - 1, 0)]
        title = "\n".join(html.unescape(_LINK.sub("", line)).strip(" \r\n\t") for line in question)
        answer = "<br>".join(lines[number_of_time + 1 :])
        time = _time(html.unescape(lines[number_of_time]).strip())
        yield _activity(where, title, [answer], time, _conversation_ids([cell]), {"file": len(files)})
    if not number:
        yield Skipped(document.where, "no activity of the Gemini apps", _APP)


def _cells(document: Document, encoding: str) -> Iterator[str]:
    """Yield the HTML of each activity."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    with document.open() as stream:
        reader: Any = Utf8Stream(stream, encoding)
        is_first = True  # what is before the first activity is none
        while chunk := reader.read(1_048_576):
            cells = (rest + decoder.decode(chunk)).split(_CELL)
            rest = cells.pop()
            yield from cells[is_first:]
            is_first = is_first and not cells
            if len(rest) > MAX_LINE_BYTES:
                raise UserError("an activity of over 64 MB", document.where, "export the activity as JSON")
    if rest and not is_first:
        yield rest


def _time_line(lines: list[str]) -> int | None:
    """Return the index of the line that parts question and answer: the last time before the first paragraph."""
    found = None
    for number, line in enumerate(lines):
        if len(line) <= _MAX_TIME_CHARS and _TIME_LINE.fullmatch(line.strip()):
            found = number
        if _BLOCK.search(line):
            break
    return found


def _time(text: str) -> float | None:
    """Return the time of a line in English or German; its time zone is taken for UTC."""
    text = text.replace("\u202f", " ")
    if match := _ENGLISH_TIME.match(text):
        month, day, year, hour, minute, second, half = match.groups()
        if month.lower() not in _MONTHS:
            return None
        number = _MONTHS.index(month.lower()) + 1
        hours = int(hour) % 12 + 12 * (half == "PM") if half else int(hour)
    elif match := _GERMAN_TIME.match(text):
        day, months, year, hour, minute, second = match.groups()
        number, hours = int(months), int(hour)
    else:
        return None
    return as_time(f"{year}-{number:02}-{int(day):02}T{hours:02}:{minute}:{second}")
