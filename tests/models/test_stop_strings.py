"""Stop strings: an answer ends before the first one, however its text is divided into tokens or pieces."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_personal import LanguageModel
from mlx_personal.models.stop_strings import StopStrings

ALPHABET = "ab\n é"
TEXTS = st.text(ALPHABET, max_size=12)
STOPS = st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3)


def make(*stops: str) -> StopStrings:
    return StopStrings(stops, lambda tokens: "".join(map(chr, tokens)))


def cut_by_characters(text: str, stops: list[str]) -> str:
    """Return the text before the stop string that is complete first, the longest if several end there."""
    for end in range(len(text) + 1):
        ended = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if ended:
            return text[: end - max(ended)]
    return text


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=6), STOPS)
@example(["ab", "a", "b", "b"], ["abb"])
@example(["abc"], ["abc", "b"])
def test_a_stream_shows_the_text_before_the_first_stop_string_and_no_part_of_one(
    pieces: list[str], stops: list[str]
) -> None:
    text = "".join(pieces)
    expected = cut_by_characters(text, stops)
    shown = ""
    for piece in make(*stops).stream(pieces):
        shown += piece
        assert expected.startswith(shown)
    assert shown == make(*stops).cut(text) == expected


def test_a_stream_shows_what_cannot_begin_a_stop_string_at_once() -> None:
    shown = list(make("\nUser:").stream(["Hi.", "\n", "Us", "e it.", "\nUs", "er: and", " more"]))
    assert shown == ["Hi.", "", "", "\nUse it.", "", ""]


def test_a_stopped_stream_asks_for_no_further_pieces() -> None:
    pieces = iter(["a", "#", "#", "b"])
    assert list(make("##").stream(pieces)) == ["a", "", ""]
    assert list(pieces) == ["b"]


@settings(max_examples=100, deadline=None)
@given(st.text(ALPHABET + "#.", max_size=30), STOPS)
@example("a#.b", ["#."])
@example("b é", ["é"])
def test_the_token_that_completes_a_stop_string_is_found(
    tiny_model: LanguageModel, text: str, stops: list[str]
) -> None:
    decode = tiny_model.tokenizer.decode
    matcher, tokens = StopStrings(stops, decode), tiny_model.tokenize(text)
    first = next((n for n in range(1, len(tokens) + 1) if any(s in decode(tokens[:n]) for s in stops)), None)
    found = next((n for n in range(1, len(tokens) + 1) if matcher.are_complete(tokens[:n])), None)
    assert found == first


def test_only_the_end_of_a_long_answer_is_decoded() -> None:
    lengths: list[int] = []

    def decode(tokens: list[int]) -> str:
        lengths.append(len(tokens))
        return "".join(map(chr, tokens))

    stops, tokens = StopStrings(["\n\n"], decode), list(map(ord, "line\n" * 200))
    assert not any(stops.are_complete(tokens[:n]) for n in range(1, len(tokens) + 1))
    assert max(lengths) < 10
    assert stops.are_complete([*tokens, ord("\n")])


@pytest.mark.parametrize("stop", ["###", "."])
def test_a_token_without_the_last_character_is_not_decoded_again(stop: str) -> None:
    decoded: list[list[int]] = []

    def decode(tokens: list[int]) -> str:
        decoded.append(tokens)
        return "".join(map(chr, tokens))

    stops = StopStrings([stop], decode)
    assert not any(stops.are_complete([ord("a")] * n) for n in range(1, 100))
    assert decoded == [[ord("a")]]
