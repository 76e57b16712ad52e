"""The built-in lexicons as data, and the reading of lexicon files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import mlx_personal
from mlx_personal.dialogue import words
from mlx_personal.errors import UserError
from mlx_personal.scoring import Lexicons

FILES = sorted((Path(mlx_personal.__file__).parent / "lexicons").glob("*.txt"))
# Words of most texts belong to no domain; these slip in easily.
FUNCTION_WORDS = """
    the a an and or but if of to in on at by for from with as is are was were be been am i you he she it we they my your
    his her its our their this that these those what which who when where why how not no yes do does did have has had
    will would can could should may might must there here than then so very just like get got make made go going good
"""


def listed_words(file: Path) -> list[str]:
    return [word for line in file.read_text("utf-8").splitlines() if not line.startswith("#") for word in line.split()]


def test_there_are_at_least_24_domains() -> None:
    assert len(FILES) >= 24


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_built_in_lexicon_is_readable_and_clean(file: Path) -> None:
    lexicon = listed_words(file)
    assert file.read_text("utf-8").startswith("# ")
    assert len(lexicon) >= 120
    assert lexicon == sorted(set(lexicon))
    assert all(words(word) == [word] for word in lexicon)
    assert not set(FUNCTION_WORDS.split()) & set(lexicon)
    assert max(len(line) for line in file.read_text("utf-8").splitlines()) <= 120


def test_no_word_is_in_more_than_three_domains() -> None:
    counts = Counter(word for file in FILES for word in listed_words(file))
    assert not [word for word, count in counts.items() if count > 3]
    assert sum(count > 1 for count in counts.values()) < 0.05 * len(counts)


def test_the_built_in_lexicons_load_in_the_order_of_their_names() -> None:
    lexicons = Lexicons.load()
    assert list(lexicons) == [file.stem for file in FILES]
    assert lexicons["cooking"] == frozenset(listed_words(FILES[[f.stem for f in FILES].index("cooking")]))


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("How long should I roast a chicken in the oven? About an hour, with butter and garlic.", "cooking"),
        ("My cat scratches and the vet found fleas. Wash the kitten and the other pets too.", "pets"),
        ("Which airport has the cheapest flights to Lisbon? Check the airlines before you pack a suitcase.", "travel"),
        ("I cannot fall asleep. Try going to bed earlier, no caffeine, and a dark bedroom.", "sleep"),
        ("The faucet leaks. Turn off the valve, then replace the washer with a wrench.", "home_repair"),
        ("Can you explain the offside rule in football? The striker may not wait behind the defender.", "sport"),
    ],
)
def test_plain_questions_find_their_domain(text: str, domain: str) -> None:
    assert Lexicons.load().domain_specific_score(text).domain == domain


def test_a_file_in_the_users_folder_adds_or_replaces(tmp_path: Path) -> None:
    (tmp_path / "segling.txt").write_text("# Segling\nBåt ankare  SEGEL\n\nhamn # inte kommentar\n", "utf-8")
    (tmp_path / "cooking.txt").write_bytes(b"\xef\xbb\xbfonly these\r\nwords\r\n")
    (tmp_path / ".hidden.txt").write_bytes(b"\xff")
    (tmp_path / "notes.md").write_text("not a lexicon")
    lexicons = Lexicons.load(tmp_path)
    assert lexicons["segling"] == {"båt", "ankare", "segel", "hamn", "inte", "kommentar"}
    assert lexicons["cooking"] == {"only", "these", "words"}
    assert len(lexicons) == len(FILES) + 1
    assert lexicons.domain_specific_score("Båten låg i hamn med segel").domain == "segling"


def test_a_later_folder_wins_over_an_earlier_one(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text(name)
    assert Lexicons.load(tmp_path / "first", tmp_path / "second")["mine"] == {"second"}


def test_decomposed_letters_in_a_file_match_composed_ones_in_a_dialogue(tmp_path: Path) -> None:
    (tmp_path / "mat.txt").write_text("gro\u0308t", "utf-8")
    assert Lexicons.load(tmp_path).domain_specific_score("GRÖT").hits == {"mat": 1}


def test_a_missing_folder_adds_nothing(tmp_path: Path) -> None:
    assert len(Lexicons.load(tmp_path / "none")) == len(FILES)


def make(path: Path, content: bytes | None) -> None:
    path.mkdir() if content is None else path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("latin.txt", "smörgås".encode("latin-1"), r"latin\.txt: not UTF-8 text \(byte 3\)"),
        ("empty.txt", b"", r"empty\.txt: this lexicon has no words"),
        ("comments.txt", b"# nothing\n  # but comments\n", r"comments\.txt: this lexicon has no words"),
        ("folder.txt", None, r"folder\.txt: is a folder, not a lexicon file"),
        ("other.txt", b"words", r"other\.txt: the name `other` is reserved"),
    ],
)
def test_a_broken_lexicon_is_a_one_line_error_that_names_the_file(
    tmp_path: Path, name: str, content: bytes | None, complaint: str
) -> None:
    make(tmp_path / name, content)
    with pytest.raises(UserError, match=complaint) as caught:
        Lexicons.load(tmp_path)
    assert "\n" not in caught.value.line()


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "lexicons").write_text("words")
    with pytest.raises(UserError, match="is not a folder of lexicons"):
        Lexicons.load(tmp_path / "lexicons")
