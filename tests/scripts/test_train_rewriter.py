"""Where the pairs of wordings come from, what is trained on them, and how the rewrites are measured."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mlx_personal.dialogue import rouge1, words
from mlx_personal.errors import UserError
from mlx_personal.synthesis import REWRITE_QUESTION, SynthesisConfig, parse_question
from tests.support.paths import ROOT

TEXTS = [
    "The old ferry crosses the wide river every morning. I want to paint the wooden fence before winter. "
    "She thanked the captain for the warm blankets. He dreamed of buying a small bakery in town.",
    "My neighbour has been feeding the hungry ducks. We need to repair the broken lantern, because nights are dark.",
    "<|user|>\nCould you water the tomato plants?<|end|>\n<|assistant|>\nOf course, where is the can?<|end|>\n"
    "<|user|>\nIt is behind the garden shed, near the apple trees.<|end|>\n<|assistant|>\nI found it there.<|end|>\n",
]


@pytest.fixture(scope="module", autouse=True)
def scripts_on_path() -> Any:
    sys.path.insert(0, str(ROOT / "scripts"))
    yield
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def rewriter() -> ModuleType:
    import train_rewriter

    return train_rewriter


@pytest.fixture(scope="module")
def wordings() -> ModuleType:
    import rewriter_pairs

    return rewriter_pairs


def test_the_dialogues_ask_what_synthesis_asks_and_answer_as_it_reads(
    rewriter: ModuleType, wordings: ModuleType
) -> None:
    made = rewriter.dialogues(wordings.material(TEXTS), 300, seed=1)
    head, tail = REWRITE_QUESTION.split("{question}")
    for dialogue in made:
        assert dialogue.question.startswith(head) and dialogue.question.endswith(tail)
        assert dialogue.answer == f"[{parse_question(dialogue.answer)}]"
    assert len(made) == 300
    assert any(len(dialogue.messages) > 2 for dialogue in made)


def test_the_same_seed_gives_the_same_dialogues_and_another_seed_others(
    rewriter: ModuleType, wordings: ModuleType
) -> None:
    found = wordings.material(TEXTS)
    first = rewriter.dialogues(found, 40, seed=1)
    assert first == rewriter.dialogues(wordings.material(TEXTS), 40, seed=1)
    assert first != rewriter.dialogues(found, 40, seed=2)


def test_the_two_wordings_of_a_pair_differ_but_not_too_much(wordings: ModuleType) -> None:
    drawn = wordings.pairs(wordings.material(TEXTS), Random(3))
    low, high = SynthesisConfig.band
    for _, (one, two) in (next(drawn) for _ in range(300)):
        assert low < rouge1(two, one) < high
        assert "{" not in one + two and "}" not in one + two


def test_two_ways_to_ask_keep_the_phrases_and_every_slot_is_known(wordings: ModuleType) -> None:
    phrases = {
        "x": ["zupple"],
        "p": ["drandles"],
        "v": ["mip the quorn"],
        "g": ["fropping a lint"],
        "s": ["it is grell"],
    }
    rng = Random(0)
    for one, two in (wordings.framed(rng, phrases) for _ in range(2000)):
        for word in ("zupple", "drandles", "quorn", "fropping", "grell"):
            assert (word in words(one)) == (word in words(two)), (one, two)


def test_phrases_are_what_stands_between_function_words(wordings: ModuleType) -> None:
    found = wordings.phrases_of(["We want to mend the red kite with strong threads, after eating the cold soup."])
    assert "the red kite" in found["x"] and "strong threads" in found["x"]
    assert found["p"] == ["strong threads"]
    assert found["v"] == ["mend the red kite with strong threads"]


def test_a_sentence_in_another_order_keeps_its_words(wordings: ModuleType) -> None:
    text = "I stayed at the harbour because the boats were late."
    kept = {"stayed", "harbour", "boats"}
    changed = [wordings.reworded(Random(seed), text) for seed in range(30)]
    assert all(kept <= set(words(new)) for new in changed)
    assert len(set(changed)) > 10


def test_plain_and_packed_texts_are_read_and_a_bad_line_is_named(rewriter: ModuleType, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    plain, packed, bad = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz", tmp_path / "c.jsonl"
    plain.write_text(lines, encoding="utf-8")
    packed.write_bytes(gzip.compress(lines.encode()))
    bad.write_text(lines + '{"words": 1}\n', encoding="utf-8")
    assert rewriter.read_texts([plain, packed]) == TEXTS * 2
    with pytest.raises(UserError, match=r"c\.jsonl:4: no JSON object with a text"):
        rewriter.read_texts([bad])
    with pytest.raises(UserError, match="no such file"):
        rewriter.read_texts([tmp_path / "none.jsonl"])
    plain.rename(tmp_path / "d.jsonl.gz")
    with pytest.raises(UserError, match=r"d\.jsonl\.gz"):
        rewriter.read_texts([tmp_path / "d.jsonl.gz"])


def test_texts_without_english_sentences_are_refused(wordings: ModuleType) -> None:
    with pytest.raises(UserError, match="too little English text"):
        wordings.material(["1 2 3", ""])


class _Parrot:
    """Answers each prompt with one of a few fixed rewrites, in turn."""

    def __init__(self, answers: list[str]) -> None:
        self.answers = answers

    def text_tokens(self, text: str) -> list[int]:
        return list(range(len(text)))

    def prompt_tokens(self, messages: list[dict[str, str]]) -> list[int]:
        return [0]

    def generate(self, prompts: list[list[int]], **_: Any) -> list[str]:
        return [self.answers[i % len(self.answers)] for i in range(len(prompts))]


def test_the_measure_tells_shares_reasons_and_what_came_back(rewriter: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "owner.jsonl"
    messages = [{"role": "user", "content": "How do I sharpen a chisel?"}, {"role": "assistant", "content": "Slowly."}]
    file.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    answers = ["[What is the way to sharpen a chisel?]", "[Bananas.]", "no brackets", "[How do I sharpen a chisel?]"]
    told = rewriter.measure(_Parrot(answers), file, 5, SynthesisConfig(k=4), samples=1)
    head, *samples = told.splitlines()
    assert head.startswith("owner.jsonl: 25.0% kept of 4 rewrites of 1 dialogues (dropped: ")
    assert all(f"1 {reason}" in head for reason in ("too far", "unparsable", "duplicate"))
    # Of sharpen and chisel both came back in two of the three rewrites that parse.
    assert head.endswith("come back: 66.7%, in the kept 100.0%")
    assert len(samples) == 3
    with pytest.raises(UserError, match="holds no dialogue"):
        file.write_text("\n", encoding="utf-8")
        rewriter.measure(_Parrot(answers), file, 5, SynthesisConfig(), samples=0)


@pytest.mark.slow
def test_the_command_writes_an_adapter_goes_on_from_it_and_measures_it(
    rewriter: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, first, second = tmp_path / "texts.jsonl", tmp_path / "first", tmp_path / "second"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    stream = ROOT / "mlx_personal" / "demo" / "stream.jsonl"
    train = f"x --model demo --texts {texts} --rows 8 --rank 4"
    for command in (
        f"{train} --out {first}",
        f"{train} --out {second} --after {first} --seed 1 --measure {stream} --questions 2 --samples 1",
    ):
        monkeypatch.setattr(sys, "argv", command.split())
        rewriter.main()
    told = capsys.readouterr().out
    assert told.count("8 rows, 1 steps") == 2 and "stream.jsonl: " in told
    one, both = (rewriter._weights(folder) for folder in (first, second))
    for name, weight in both.items():
        axis = 1 if name.endswith("lora_a") else 0
        assert weight.shape[axis] == 8
        assert np.array_equal(np.split(np.array(weight), 2, axis)[0], np.array(one[name]))
    assert any(np.split(np.array(weight), 2, 0)[1].any() for name, weight in both.items() if name.endswith("lora_b"))
