"""Transcripts: styles of markers, what is text and what is a marker, titles, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal.errors import UserError
from mlx_personal.importers import read_imports
from mlx_personal.importers.formats.markdown import MarkdownImporter
from tests.support.exports import conversations, dialogues, skipped

EXCHANGE = [("user", "Which pear keeps?"), ("assistant", "The winter pear.")]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("user", "assistant"),
    [
        ("## User\n\n", "## Assistant\n\n"),
        ("### You said:\n", "### ChatGPT said:\n"),
        ("##### 🧑 Human (2026-08-01 10:00)\n", "##### 🤖 Claude 3.5 Sonnet\n"),
        ("# Prompt ##\n", "# Response ##\n"),
        ("**User:** ", "**Assistant:** "),
        ("**You**: ", "**GPT-4o**: "),
        ("**You**\n\n", "**Gemini 1.5 Pro**\n\n"),
        ("__Human:__\n", "__AI:__\n"),
        ("User: ", "Assistant: "),
        ("You said:\n", "ChatGPT said:\n"),
        ("[2026-08-01 10:00] User: ", "[2026-08-01 10:01] Llama-3: "),
        ("## User\n> ", "## Assistant\n"),
    ],
)
def test_every_style_of_markers_is_read(tmp_path: Path, user: str, assistant: str) -> None:
    text = f"{user}Which pear keeps?\n\n---\n\n{assistant}The winter pear.\n\n* * *\n"
    assert dialogues(write(tmp_path / "chat.md", text * 2)) == [EXCHANGE * 2]


def test_markers_of_another_style_and_in_code_are_text(tmp_path: Path) -> None:
    answer = "**Answer:** see\n\n### Output\n\n```\n## User\nUser: x\n```\n\nNote: done."
    text = f"## User\nWhich pear keeps?\n## Assistant\n{answer}\n## Summary\nThe winter pear.\n"
    path = write(tmp_path / "chat.md", text)
    assert dialogues(path) == [[EXCHANGE[0], ("assistant", f"{answer}\n## Summary\nThe winter pear.")]]


def test_the_title_is_that_of_the_front_matter_the_first_heading_or_the_file(tmp_path: Path) -> None:
    turns = "## User\nWhich pear keeps?\n## Assistant\nThe winter pear.\n"
    heads = {
        "---\ntitle: 'Pears'\ntags: []\n---\n# About pears\n": "Pears",
        "# About pears\n\n*Exported*\n\n": "About pears",
        "": "chat",
    }
    for head, title in heads.items():
        path = write(tmp_path / "chat.md", head + turns)
        assert dialogues(path) == [EXCHANGE]
        [found] = conversations(path, MarkdownImporter())
        assert (found.app, found.id, found.title) == ("markdown", "", title)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_other_encodings_and_line_ends_are_read(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "chat.txt"
    path.write_bytes(f"User: Wäre er gut?{end}Assistant: Ja.{end}".encode(encoding))
    assert dialogues(path) == [[("user", "Wäre er gut?"), ("assistant", "Ja.")]]


@pytest.mark.parametrize(
    "text",
    [
        "# Notes\n\nSome text.\n",
        "## Instructions\n\nTurn it on.\n\n## Usage\n\nUse it.\n",
        "Note: this\nWarning: that\n",
        "User: a question without an answer\n",
    ],
)
def test_other_texts_are_in_no_known_format(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "notes.md", text)
    with pytest.raises(UserError, match="is in no format that can be read"):
        list(read_imports(path))
    assert skipped_as_markdown(path) == ["a text that is no transcript"]


def skipped_as_markdown(path: Path) -> list[str]:
    return [getattr(item, "reason", "") for item in read_imports(path, "markdown")]


def test_empty_turns_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "chat.md", "User:\n\nUser: Which pear keeps?\nAssistant: The winter pear.\nUser: And?\n")
    assert dialogues(path) == [EXCHANGE]
    assert skipped(path) == ["an empty user message", "a question without an answer"]


@given(
    lines=st.lists(
        st.sampled_from(["## User", "## Assistant", "User: x", "**AI:** y", "```", "---", "> q", "title: z", ""])
        | st.text(max_size=30),
        max_size=20,
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_read_or_refused_in_one_line(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "chat.md"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    try:
        list(read_imports(path, "markdown"))
    except UserError as error:
        assert "\n" not in str(error)
