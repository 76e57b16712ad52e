"""Names of files that contain no conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_DATABASES: Final = (".db", ".sqlite", ".sqlite3")
# Endings of files that contain no conversations: media, and code of a web page.
_IGNORED_SUFFIXES: Final = frozenset(
    {
        *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg", ".heic", ".ico"),
        *(".mp3", ".mp4", ".m4a", ".wav", ".ogg", ".opus", ".mov", ".webm"),
        *(".pdf", ".docx", ".xlsx", ".pptx", ".css", ".js", ".woff", ".woff2", ".ttf", ".plist", ".lock", ".log"),
        *(".dat", ".safetensors", ".gguf", ".bin", ".pyc", ".so", ".dylib"),
        *(f"{ending}-{kind}" for ending in _DATABASES for kind in ("wal", "journal", "shm")),
    }
)
# Of the scripts in an archive of X, those with the chats with Grok.
_CHATS_IN_A_SCRIPT: Final = "grok-chat-item"


def is_ignored(name: str) -> bool:
    """Return whether a file contains no conversations by its ending.

    Args:
        name: Its name, with or without its folder.
    """
    base_name = name.rpartition("/")[2].lower()
    return Path(base_name).suffix in _IGNORED_SUFFIXES and not base_name.startswith(_CHATS_IN_A_SCRIPT)


def is_database_log(name: str) -> bool:
    """Return whether a file is what a database keeps changes in, and is read with the database.

    Args:
        name: Its name, with or without its folder.
    """
    return is_ignored(name) and name.endswith(("-wal", "-journal"))


def is_hidden(name: str) -> bool:
    """Return whether a member of a zip, or a folder that it is in, is hidden.

    Args:
        name: Its name with its folder.
    """
    parts = name.split("/")
    return parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts)
