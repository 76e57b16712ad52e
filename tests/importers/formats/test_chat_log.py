"""Logs of messengers are refused with the reason, and other files are not taken for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlx_personal.importers import Skipped
from mlx_personal.importers.formats.chat_log import ChatLogImporter
from mlx_personal.importers.head import read_head
from mlx_personal.importers.paths import open_documents
from tests.support.exports import skipped, write_database, write_json

REFUSED = "a conversation with other people, who have not agreed that a model learns from it"
IPHONE = "[14.03.24, 18:22:10] {}: Hello\n[14.03.24, 18:23:01] Ben: Hi\n\u200e[14.03.24, 18:24:59] {}: image omitted\n"
ANDROID = "3/14/24, 6:22 PM - {}: Hello\n3/14/24, 6:23\u202fPM - Ben: Hi\nall well?\n3/14/24, 6:24 PM - {}: Yes\n"
TELEGRAM = "{}, [14.03.2024 18:22]\nHello\n\nBen, [14.03.2024 18:23]\nHi\n\n{}, [14.03.2024 18:24]\nYes\n"
IMESSAGE = "Mar 14, 2024  6:22:10 PM\n{0}\nHello\n\nMar 14, 2024  6:23:10 PM (Read by you)\nMe\nHi\n\n"


SHORT = "14/03/2024, 18:22 - {}: Hello\n14/03/2024, 18:23 - Me: Hi\n14/03/2024, 18:24 - {}: Well?\n"


@pytest.mark.parametrize("log", [IPHONE, ANDROID, TELEGRAM, IMESSAGE * 3, SHORT])
def test_a_text_log_is_refused(tmp_path: Path, log: str) -> None:
    path = tmp_path / "chat.txt"
    path.write_text(log.format("Anna", "Anna"))
    assert skipped(path) == [REFUSED]


@pytest.mark.parametrize(
    "value",
    [
        {"name": "Anna", "messages": [{"id": 1, "type": "message", "from": "Anna", "from_id": "user1", "text": "Hi"}]},
        {"participants": [{"name": "Anna"}], "messages": [{"sender_name": "Anna", "timestamp_ms": 1, "content": "Hi"}]},
        {"guild": {"id": "1"}, "channel": {"id": "2"}, "messages": [{"content": "Hi", "author": {"id": "3"}}]},
        [{"type": "message", "user": "U1", "ts": "1.0", "text": "Hi", "client_msg_id": "x"}],
    ],
)
def test_an_export_of_a_messenger_is_refused(tmp_path: Path, value: Any) -> None:
    assert skipped(write_json(tmp_path / "result.json", value)) == [REFUSED]


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE message (text, is_from_me, handle_id); CREATE TABLE handle (id);",
        "CREATE TABLE message (text_data, from_me);",
        "CREATE TABLE ZWAMESSAGE (ZTEXT, ZISFROMME);",
    ],
)
def test_a_database_of_a_messenger_is_refused(tmp_path: Path, script: str) -> None:
    assert skipped(write_database(tmp_path / "chat.db", script, {})) == [REFUSED]


@pytest.mark.parametrize(
    "text",
    [
        IPHONE.format("User", "User").replace("Ben", "Assistant"),
        "2024-03-14 18:22:10 - INFO: started\n2024-03-14 18:22:11 - ERROR: failed\n" * 3,
        "Dear Anna, [see below]\n",
        "[2026-08-01 10:00] User: Hello\n[2026-08-01 10:01] Llama-3: Hi\n" * 3,
        "What did we say?\n" + SHORT.format("Anna", "Ben"),
    ],
)
def test_transcripts_and_logs_of_programs_are_not_taken_for_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "chat.txt"
    path.write_text(text)
    [document] = open_documents(path)
    assert not isinstance(document, Skipped)
    assert ChatLogImporter().sniff(read_head(document)) == 0
