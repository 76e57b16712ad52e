"""The interface of an importer: one file format of one app or kind of dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from mlx_personal.importers.conversation import Conversation, Skipped
from mlx_personal.importers.document import Document
from mlx_personal.importers.head import Head

# Confidences of `sniff`. The importer with the highest one reads the file.
CERTAIN: Final = 1.0
LIKELY: Final = 0.7
POSSIBLE: Final = 0.3
NO: Final = 0.0


class Importer(Protocol):
    """Reads the conversations of one file format.

    Attributes:
        name: Name of the format, by which a user can force it.
        refuses: Whether it recognizes files in order to leave them out.
        side_files: Base names of files of the same export that contain no conversations and are not reported.
    """

    name: str
    refuses: bool
    side_files: frozenset[str]

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file has this format, from 0 to 1.

        Args:
            head: The beginning of the file.
        """
        ...

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the conversations of a file in its order, and what is left out of it.

        Args:
            document: The file.
            head: Its beginning.

        Raises:
            UserError: If the file cannot be read.
        """
        ...
