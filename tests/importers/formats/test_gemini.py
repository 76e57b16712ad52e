"""Gemini in a Google Takeout: the log as JSON and as HTML, in several languages, with and without conversations."""

from __future__ import annotations

import contextlib
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal.errors import UserError
from mlx_personal.importers import Conversation, Skipped, read_imports
from mlx_personal.importers.conversation import Alternative
from mlx_personal.importers.formats.gemini import GeminiImporter
from tests.support.exports import conversations, dialogues, mutated, skipped, write_json

QUESTION, ANSWER = "When do I sow peas?", "In March, under fleece."
EXCHANGE = [("user", QUESTION), ("assistant", ANSWER)]
START = 1762300800.0  # 2025-11-05


def activity(title: str, *answers: str, minute: int = 0, ids: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    """Return an activity of the log in JSON."""
    value: dict[str, Any] = {
        "header": "Gemini Apps",
        "title": title,
        "time": f"2025-11-05T00:{minute:02}:00.000Z",
        "products": ["Gemini Apps"],
        "activityControls": ["Gemini Apps Activity"],
    }
    if answers:
        value["safeHtmlItem"] = [{"html": f"<p>{answer}</p>"} for answer in answers]
    if ids:
        value["details"] = [{"name": "Chat", "url": f"https://gemini.google.com/app/{name}"} for name in ids]
    return value | fields


PEAS = activity(f"Prompted {QUESTION}", ANSWER)


def read(path: Path) -> list[Conversation]:
    return conversations(path, GeminiImporter())


def log(tmp_path: Path, *activities: Any) -> Path:
    return write_json(tmp_path / "MyActivity.json", list(activities))


def test_an_activity_is_a_dialogue(tmp_path: Path) -> None:
    path = log(tmp_path, PEAS)
    assert dialogues(path) == [EXCHANGE]
    (found,) = read(path)
    assert (found.app, found.id, found.time) == ("gemini", "", START)


@pytest.mark.parametrize(
    "title",
    [
        f"Prompted {QUESTION}",
        f"Prompted\xa0{QUESTION}",
        f"Live Prompt {QUESTION}",
        f"Asked Bard: {QUESTION}",
        f"Eingegebener Prompt: {QUESTION}",
        f"Prompt\xa0: {QUESTION}",
        f"Poslali ste poziv:\xa0{QUESTION}",
        f"분기된 {QUESTION}",
        QUESTION,
        f"Prompted {QUESTION} Attached 2 files.",
    ],
)
def test_the_words_before_a_question_are_removed(tmp_path: Path, title: str) -> None:
    assert dialogues(log(tmp_path, activity(title, ANSWER))) == [EXCHANGE]


@pytest.mark.parametrize("label", ["Kirjoitettu kehote: ", "送信\uff1a", "Escribiste\xa0"])
def test_the_words_of_another_language_are_what_all_titles_begin_with(tmp_path: Path, label: str) -> None:
    questions = [f"Question {number}?" for number in range(12)]
    found = read(log(tmp_path, *(activity(label + question, ANSWER) for question in questions)))
    assert sorted(conversation.turns[0].text for conversation in found) == sorted(questions)


def test_a_beginning_that_few_titles_share_belongs_to_the_question(tmp_path: Path) -> None:
    found = read(log(tmp_path, *(activity(f"Recipe: {name}", ANSWER) for name in ("peas", "beans"))))
    assert {conversation.turns[0].text for conversation in found} == {"Recipe: peas", "Recipe: beans"}


def test_activities_that_are_no_questions_are_counted(tmp_path: Path) -> None:
    path = log(
        tmp_path,
        PEAS,
        activity("Created a Gemini canvas titled Peas", "# Peas"),
        activity("Gave feedback: Good response"),
        activity("Prompted And beans?"),
        activity("Searched for peas", header="Search", products=["Search"]),
        activity(""),
        "damaged",
    )
    assert dialogues(path) == [EXCHANGE]
    assert sorted(skipped(path)) == [
        "a question without an answer",
        "an activity of another product",
        "an activity that is no question",
        "an activity that is no question",
        "an activity that is no question",
        "an activity that is no question",
    ]


def test_in_another_language_an_english_title_is_a_question(tmp_path: Path) -> None:
    path = log(tmp_path, activity("Added salt, what now?", "Rinse."), activity("분기된 콩은?", "3월."))
    assert dialogues(path)[0][0] in [("user", "Added salt, what now?"), ("user", "콩은?")]
    assert skipped(path) == []


def test_activities_of_a_conversation_are_its_turns_in_the_order_of_time(tmp_path: Path) -> None:
    path = log(
        tmp_path,
        activity("Prompted Thanks!", "Good luck.", minute=5, ids=("a1",)),
        activity("Prompted Hello?", "Hi.", minute=4, ids=("b2",)),
        activity("Prompted And beans?", "In May.", minute=3, ids=("a1",)),
        activity("Prompted unanswered", minute=2, ids=("a1",)),
        activity(f"Prompted {QUESTION}", ANSWER, minute=1, ids=("a1",)),
        activity("Prompted lonely", "Yes.", minute=0),
    )
    peas = [
        *EXCHANGE,
        ("user", "And beans?"),
        ("assistant", "In May."),
        ("user", "Thanks!"),
        ("assistant", "Good luck."),
    ]
    hello = [("user", "Hello?"), ("assistant", "Hi.")]
    assert dialogues(path) == [peas, hello, [("user", "lonely"), ("assistant", "Yes.")]]
    assert [conversation.id for conversation in read(path)] == ["a1", "b2", ""]
    assert skipped(path) == ["a question without an answer"]


def test_what_a_branch_shares_is_a_target_once(tmp_path: Path) -> None:
    path = log(
        tmp_path,
        activity("Prompted And beans?", "In May.", minute=3, ids=("b2",)),
        activity(f"Branched {QUESTION}", ANSWER, minute=1, ids=("a1", "b2", "c3")),
    )
    first, second = read(path)
    assert [(turn.text, turn.weight) for turn in first.turns] == [(QUESTION, 1), (ANSWER, 1)]
    assert [(turn.text, turn.weight) for turn in second.turns][1:] == [(ANSWER, 0), ("And beans?", 1), ("In May.", 1)]
    assert skipped(path) == ["a branch without an answer of its own"]


def test_an_answer_that_was_written_again_has_the_earlier_one_beside_it(tmp_path: Path) -> None:
    (found,) = read(log(tmp_path, activity(f"Prompted {QUESTION}", "In winter.", ANSWER)))
    assert found.turns[1].text == ANSWER
    assert found.turns[1].alternatives == (Alternative("In winter.", "regenerated"),)


def test_attached_files_are_counted(tmp_path: Path) -> None:
    files = ["peas.png", "peas.csv"]
    asked = activity("Prompted What is it?", "Peas.", attachedFiles=files, imageFile="peas.png")
    (found,) = read(log(tmp_path, asked))
    assert found.turns[0].left_out == {"file": 2}


def cell(said: str, answer: str, when: str, product: str = "Gemini Apps", chat: str = "") -> str:
    """Return an activity of the log in HTML."""
    link = f'<a href="https://gemini.google.com/app/{chat}">chat</a>' if chat else ""
    body = 'class="content-cell mdl-cell mdl-cell--6-col mdl-typography--body-1'
    return (
        '<div class="outer-cell mdl-cell mdl-cell--12-col mdl-shadow--2dp"><div class="mdl-grid">'
        f'<div class="header-cell mdl-cell"><p class="mdl-typography--title">{product}<br></p></div>'
        f'<div {body}">{said}<br>{when}<br>{answer}</div><div {body} mdl-typography--text-right"></div>'
        f'<div class="content-cell mdl-typography--caption"><b>Products:</b><br>&emsp;Gemini {link}</div></div></div>'
    )


def page(tmp_path: Path, *cells: str) -> Path:
    path = tmp_path / "MyActivity.html"
    path.write_text(
        f'<html><head><style>.x{{}}</style></head><body><div class="mdl-grid">{"".join(cells)}</div></html>'
    )
    return path


@pytest.mark.parametrize(
    ("label", "when", "seconds"),
    [
        ("Prompted", "Nov 5, 2025, 1:34:47\u202fPM CEST", START + 48_887),
        ("Prompted", "Nov 5, 2025, 12:34:47 AM UTC", START + 2_087),
        ("Eingegebener Prompt:", "05.11.2025, 13:34:47 MEZ", START + 48_887),
        ("Poslali ste poziv:", "5. nov. 2025, 01:34:47 CEST", None),
        ("Prompted", "2025. 11. 5. 오후 1:34:47 KST", None),
    ],
)
def test_a_log_in_html_is_parted_at_the_time(tmp_path: Path, label: str, when: str, seconds: float | None) -> None:
    path = page(
        tmp_path, cell(f"{label}\xa0When do I<br>sow &lt;peas&gt;?", "<p>In <b>March</b>.</p><p>Cover.</p>", when)
    )
    assert dialogues(path) == [[("user", "When do I\nsow <peas>?"), ("assistant", "In **March**.\n\nCover.")]]
    assert read(path)[0].time == seconds


def test_html_is_read_like_json(tmp_path: Path) -> None:
    path = page(
        tmp_path,
        cell("Prompted\xa0And beans?", "<p>In May.</p>", "Nov 5, 2025, 2:00:00 AM UTC", chat="a1"),
        cell("Searched for\xa0peas", "", "Nov 5, 2025, 1:30:00 AM UTC", product="Search"),
        cell("Prompted\xa0Log:<br>2025-01-01 10:00:00 sown<br>why?", "<p>Hm.</p>", "Nov 5, 2025, 1:20:00 AM UTC"),
        cell("Prompted\xa0no time", "<p>Hm.</p>", "yesterday"),
        cell(
            f'Prompted\xa0{QUESTION}<br>1 file.<br>-  <a href="a.png">a.png</a>',
            f"<p>{ANSWER}</p>",
            "Nov 5, 2025, 1:00:00 AM UTC",
            chat="a1",
        ),
    )
    assert dialogues(path) == [
        [*EXCHANGE, ("user", "And beans?"), ("assistant", "In May.")],
        [("user", "Log:\n2025-01-01 10:00:00 sown\nwhy?"), ("assistant", "Hm.")],
    ]
    assert skipped(path) == [
        "an activity of another product",
        "an activity without a time",
        "a file beside a text that is kept",
    ]
    assert read(path)[0].turns[0].left_out == {"file": 1}


def test_a_question_about_html_is_kept(tmp_path: Path) -> None:
    question = 'Is<br>- &lt;a href="peas"&gt;<br>or <a href="https://example.com">example.com</a><br>right?'
    path = page(tmp_path, cell(f"Prompted\xa0{question}", "<p>Yes.</p>", "Nov 5, 2025, 1:00:00 AM UTC"))
    assert dialogues(path)[0][0] == ("user", 'Is\n- <a href="peas">\nor example.com\nright?')


def test_a_log_in_html_is_read_in_pieces(tmp_path: Path) -> None:
    cells = [
        cell(f"Prompted\xa0{n} ä", "<p>" + "a" * 700_000 + "</p>", "Nov 5, 2025, 1:00:00 AM UTC") for n in range(4)
    ]
    found = read(page(tmp_path, *cells))
    assert {conversation.turns[0].text for conversation in found} == {f"{n} ä" for n in range(4)}


def test_a_takeout_is_read_and_other_products_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "takeout.zip", "w") as archive:
        archive.writestr("Takeout/My Activity/Gemini Apps/MyActivity.json", json.dumps([PEAS]))
        archive.writestr("Takeout/My Activity/Search/MyActivity.json", json.dumps([{"header": "Search", "title": "x"}]))
        archive.writestr("Takeout/My Activity/Gemini Apps/image-1.png", b"\x89PNG")
    assert dialogues(tmp_path / "takeout.zip") == [EXCHANGE]
    assert skipped(tmp_path / "takeout.zip") == ["a file in no known format"]


def test_a_log_whose_first_entry_is_damaged_is_read(tmp_path: Path) -> None:
    assert dialogues(log(tmp_path, None, PEAS)) == [EXCHANGE]


def test_another_file_in_this_format_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<html>no activity</html>")
    found = list(read_imports(tmp_path / "a.html", "gemini"))
    assert [item.reason for item in found if isinstance(item, Skipped)] == ["no activity of the Gemini apps"]


SEED = [
    activity("Prompted And beans?", "In winter.", "In May.", minute=3, ids=("a1", "b2"), attachedFiles=["a"]),
    activity(f"Prompted {QUESTION}", ANSWER, ids=("a1",)),
    activity("Created a canvas"),
    PEAS,
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=mutated(SEED))
def test_a_damaged_log_never_raises_another_error(value: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        try:
            found = list(read_imports(write_json(Path(name) / "MyActivity.json", value), "gemini"))
        except UserError:
            return
        assert found or not value


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 1200), max_size=3),
    junk=st.sampled_from(("<", "<br>", "\0", '<div class="outer-cell', "")),
)
def test_a_damaged_page_never_raises_another_error(cuts: list[int], junk: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        text = page(
            Path(name), *[cell(f"Prompted\xa0{QUESTION}", ANSWER, "05.11.2025, 13:34:47", chat="a1")] * 2
        ).read_text()
        for cut in cuts:
            text = text[:cut] + junk + text[cut + 5 :]
        path = Path(name) / "damaged.html"
        path.write_text(text)
        with contextlib.suppress(UserError):
            list(read_imports(path, "gemini"))
