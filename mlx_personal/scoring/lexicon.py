"""DSS, the domain-specific score, and the dominant domain of a text, from lexicons [Qin24 §3.2].

A lexicon is a UTF-8 text file named after its domain (`cooking.txt`). It contains words separated by white space; `#`
starts a comment line. Lexicons and dialogues are split by `dialogue.words`, without stemming.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from mlx_personal.dialogue import words
from mlx_personal.errors import UserError, from_os_error

OTHER: Final = "other"
"""The domain of a text without any hits."""


@dataclass(frozen=True)
class DomainScore:
    """The domain-specific score of a text.

    Attributes:
        dss: The score, 0..1.
        domain: The dominant domain, or `other`.
        hits: Number of words of the text in the lexicon of each domain that has any.
        word_count: Number of words of the text.
    """

    dss: float
    domain: str
    hits: dict[str, int]
    word_count: int


class Lexicons(Mapping[str, frozenset[str]]):
    """A mapping from each domain to its words, sorted by the domains' names.

    Args:
        lexicons: Maps each domain to its words, as `dialogue.words` returns them.
    """

    def __init__(self, lexicons: Mapping[str, Iterable[str]]):
        self._words = {domain: frozenset(lexicons[domain]) for domain in sorted(lexicons)}
        self._domains: dict[str, list[str]] = {}
        for domain, lexicon in self._words.items():
            for word in lexicon:
                self._domains.setdefault(word, []).append(domain)

    @classmethod
    def load(cls, *folders: Path | str) -> Lexicons:
        """Return the built-in lexicons together with those of the user's folders.

        Args:
            *folders: Folders of lexicon files; a file replaces an earlier one of the same name. Folders that do not
                exist are skipped.

        Raises:
            UserError: If a file cannot be read or has no words.
        """
        lexicons = _read_folder(files("mlx_personal") / "lexicons")
        for folder in folders:
            if Path(folder).exists():
                lexicons |= _read_folder(Path(folder))
        return cls(lexicons)

    def __getitem__(self, domain: str) -> frozenset[str]:
        return self._words[domain]

    def __iter__(self) -> Iterator[str]:
        return iter(self._words)

    def __len__(self) -> int:
        return len(self._words)

    def domain_specific_score(self, text: str) -> DomainScore:
        """Return the domain-specific score of a text and its dominant domain.

        DSS = 1/m * sum over the m lexicons of the fraction of the text's words that are in it, counting every
        occurrence. The dominant domain has the most hits; among equal ones it is the first by name.

        Args:
            text: The text.

        References:
            [Qin24 §3.2]
        """
        tokens = words(text)
        counts: dict[str, int] = {}
        for token in tokens:
            for domain in self._domains.get(token, ()):
                counts[domain] = counts.get(domain, 0) + 1
        hits = {domain: counts[domain] for domain in self._words if domain in counts}
        dss = sum(hits.values()) / (len(self._words) * len(tokens)) if hits else 0.0
        return DomainScore(dss, max(hits, key=lambda d: hits[d], default=OTHER), hits, len(tokens))


def _read_folder(folder: Traversable | Path) -> dict[str, list[str]]:
    if not folder.is_dir():
        raise UserError("is not a folder of lexicons", folder, "put the lexicon files into a folder")
    try:
        entries = [entry for entry in folder.iterdir() if entry.name.endswith(".txt") and entry.name[0] != "."]
    except OSError as error:
        raise from_os_error(error, folder) from error
    return {entry.name.removesuffix(".txt"): _read_file(entry) for entry in entries}


def _read_file(file: Traversable | Path) -> list[str]:
    if file.name == f"{OTHER}.txt":
        raise UserError(f"the name `{OTHER}` is reserved for dialogues of no domain", file, "rename the file")
    if file.is_dir():
        raise UserError("is a folder, not a lexicon file", file, "a lexicon is a text file of words")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text (byte {error.start + 1})", file, "save the lexicon as UTF-8") from error
    except OSError as error:
        raise from_os_error(error, file) from error
    lexicon = [word for line in text.splitlines() if not line.lstrip().startswith("#") for word in words(line)]
    if not lexicon:
        raise UserError("this lexicon has no words", file, "write its words into it, or remove the file")
    return lexicon
