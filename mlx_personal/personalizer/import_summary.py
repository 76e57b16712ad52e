"""What an import read, stored and left out, counted by app and by reason."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Final

from mlx_personal.importers.conversation import Rating, Skipped

# Number of places that are named for each reason.
_PLACES: Final = 3
# What a reason quotes of a file, up to its end: a long quotation is cut off.
_QUOTATION: Final = re.compile(r"(?<!\w)['\"].*", re.DOTALL)
# Reasons with different numbers or quotations in them are of one kind. The first one stands for all.
_VARIABLE: Final = re.compile(rf"\d[\d,.]*|{_QUOTATION.pattern}", re.DOTALL)
# Beyond these, which only damaged files reach, reasons are counted together.
_MAX_KINDS: Final = 100
_OTHER: Final = "other reasons"


@dataclass
class AppCounts:
    """Counts of the conversations of one app.

    Attributes:
        conversations: Number of conversations that were read.
        dialogues: Number of these that contain a dialogue.
        new: Number of dialogues that are new in the profile.
        continued: Number of conversations that were known and have new turns.
        known: Number of conversations without anything new.
        skipped: Number of conversations that were left out.
    """

    conversations: int = 0
    dialogues: int = 0
    new: int = 0
    continued: int = 0
    known: int = 0
    skipped: int = 0


@dataclass
class SkippedCount:
    """Parts of an import that were left out for the same reason.

    Attributes:
        reason: Why.
        is_turn: Whether they are turns, or parts of them, of conversations whose rest was imported.
        is_damaged: Whether they cannot be read, rather than that they are nothing to import.
        count: How many there are.
        places: File and position of the first ones.
    """

    reason: str
    is_turn: bool
    is_damaged: bool = False
    count: int = 0
    places: list[str] = field(default_factory=list)


@dataclass
class ImportSummary:
    """What an import read, stored and left out.

    Attributes:
        apps: Counts by app.
        skipped: What was left out, by kind of reason.
        good: Number of new verdicts that follow from the export and are good.
        bad: Number of those that are bad.
        pairs: Number of new preference pairs.
    """

    apps: dict[str, AppCounts] = field(default_factory=dict)
    skipped: dict[tuple[str, bool], SkippedCount] = field(default_factory=dict)
    good: int = 0
    bad: int = 0
    pairs: int = 0

    def app(self, name: str) -> AppCounts:
        """Return the counts of an app.

        Args:
            name: Its name.
        """
        return self.apps.setdefault(name, AppCounts())

    def skip(self, skipped: Skipped) -> None:
        """Count a part that is left out.

        Args:
            skipped: The part.
        """
        kind = (_VARIABLE.sub("", skipped.reason), skipped.is_turn)
        if kind not in self.skipped and len(self.skipped) >= _MAX_KINDS:
            kind = (_OTHER, skipped.is_turn)
        flags = skipped.is_turn, skipped.is_damaged
        reason = _OTHER if kind[0] == _OTHER else skipped.reason
        counted = self.skipped.setdefault(kind, SkippedCount(reason, *flags))
        counted.count += 1
        if len(counted.places) < _PLACES:
            counted.places.append(skipped.where)
        if skipped.app and not skipped.is_turn:
            counts = self.app(skipped.app)
            counts.conversations += 1
            counts.skipped += 1

    def count_verdict(self, rating: Rating) -> None:
        """Count a verdict that follows from the export.

        Args:
            rating: The verdict.
        """
        if rating == "good":
            self.good += 1
        else:
            self.bad += 1

    def total(self, name: str) -> int:
        """Return the sum of a count over all apps.

        Args:
            name: Name of an attribute of `AppCounts`.
        """
        return sum(getattr(counts, name) for counts in self.apps.values())

    def by_count(self) -> list[SkippedCount]:
        """Return what was left out, the most frequent reason first."""
        return sorted(self.skipped.values(), key=lambda skipped: -skipped.count)

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain JSON."""
        return {
            "apps": {name: dataclasses.asdict(counts) for name, counts in self.apps.items()},
            "skipped": [dataclasses.asdict(skipped) for skipped in self.by_count()],
            "proposals": {"good": self.good, "bad": self.bad, "pairs": self.pairs},
        }

    def to_stored_json(self) -> dict[str, Any]:
        """Return the summary as plain JSON without what reasons quote of files, which is not stored."""
        stored = self.to_json()
        for skipped in stored["skipped"]:
            skipped["reason"] = _QUOTATION.sub("'...'", skipped["reason"])
        return stored
