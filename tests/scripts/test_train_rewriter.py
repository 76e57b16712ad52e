"""Pairs of wordings, training on them, and measuring the rewrites."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from mlx_personal.dialogue import rouge1, words
from mlx_personal.errors import UserError
from mlx_personal.synthesis import REWRITE_QUESTION, SynthesisConfig, parse_question
from tests.support.paths import ROOT
from tests.support.scripts import import_script

TEXTS = [
    "The old ferry crosses the wide river every morning. I want to paint the wooden fence before winter. "
    "She thanked the captain for the warm blankets. He dreamed of buying a small bakery in town.",
    "My neighbor has been feeding the hungry ducks. We need to repair the broken lantern, because nights are dark.",
    "<|user|>\nCould you water the tomato plants?<|end|>\n<|assistant|>\nOf course, where is the can?<|end|>\n"
    "<|user|>\nIt is behind the garden shed, near the apple trees.<|end|>\n<|assistant|>\nI found it there.<|end|>\n",
]


rewriter = import_script("train_rewriter")
rewriter_pairs = import_script("rewriter_pairs")


def test_the_dialogues_have_the_prompts_and_the_format_of_synthesis() -> None:
    dialogues = rewriter.draw_dialogues(rewriter_pairs.extract_material(TEXTS), 300, seed=1)
    head, tail = REWRITE_QUESTION.split("{question}")
    for dialogue in dialogues:
        assert dialogue.question.startswith(head) and dialogue.question.endswith(tail)
        assert dialogue.answer == f"[{parse_question(dialogue.answer)}]"
    assert len(dialogues) == 300
    assert any(len(dialogue.messages) > 2 for dialogue in dialogues)


def test_the_dialogues_depend_on_the_seed() -> None:
    material = rewriter_pairs.extract_material(TEXTS)
    dialogues = rewriter.draw_dialogues(material, 40, seed=1)
    assert dialogues == rewriter.draw_dialogues(rewriter_pairs.extract_material(TEXTS), 40, seed=1)
    assert dialogues != rewriter.draw_dialogues(material, 40, seed=2)


def test_the_two_wordings_of_a_pair_differ_but_not_too_much() -> None:
    pairs = rewriter_pairs.draw_pairs(rewriter_pairs.extract_material(TEXTS), Random(3))
    low, high = SynthesisConfig.band
    for _, (one, two) in (next(pairs) for _ in range(300)):
        assert low < rouge1(two, one) < high
        assert "{" not in one + two and "}" not in one + two


def test_framed_pairs_keep_the_phrases_and_fill_every_slot() -> None:
    phrases = {
        "x": ["zupple"],
        "p": ["drandles"],
        "v": ["mip the quorn"],
        "g": ["fropping a lint"],
        "s": ["it is grell"],
    }
    rng = Random(0)
    for one, two in (rewriter_pairs.draw_framed_pair(rng, phrases) for _ in range(2000)):
        for word in ("zupple", "drandles", "quorn", "fropping", "grell"):
            assert (word in words(one)) == (word in words(two)), (one, two)


def test_phrases_are_words_between_function_words() -> None:
    phrases = rewriter_pairs.extract_phrases(
        ["We want to paint the red kite with strong threads, after eating the cold soup."]
    )
    assert "the red kite" in phrases["x"] and "strong threads" in phrases["x"]
    assert phrases["p"] == ["strong threads"]
    assert phrases["v"] == ["paint the red kite with strong threads"]


def test_rewording_keeps_content_words() -> None:
    text = "I stayed at the harbour because the boats were late."
    content_words = {"stayed", "harbour", "boats"}
    rewordings = [rewriter_pairs.reword(Random(seed), text) for seed in range(30)]
    assert all(content_words <= set(words(text)) for text in rewordings)
    assert len(set(rewordings)) > 10


def test_plain_and_compressed_texts_are_read_and_an_invalid_line_is_named(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    plain, compressed, invalid = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz", tmp_path / "c.jsonl"
    plain.write_text(lines, encoding="utf-8")
    compressed.write_bytes(gzip.compress(lines.encode()))
    invalid.write_text(lines + '{"words": 1}\n', encoding="utf-8")
    assert rewriter.read_texts([plain, compressed]) == TEXTS * 2
    with pytest.raises(UserError, match=r"c\.jsonl:4: no JSON object with a text"):
        rewriter.read_texts([invalid])
    with pytest.raises(UserError, match="no such file"):
        rewriter.read_texts([tmp_path / "none.jsonl"])
    plain.rename(tmp_path / "d.jsonl.gz")
    with pytest.raises(UserError, match=r"d\.jsonl\.gz"):
        rewriter.read_texts([tmp_path / "d.jsonl.gz"])


def test_texts_without_english_sentences_are_refused() -> None:
    with pytest.raises(UserError, match="too little English text"):
        rewriter_pairs.extract_material(["1 2 3", ""])


class FixedRewrites:
    """A model that answers the prompts with fixed rewrites in turn."""

    def __init__(self, answers: list[str]) -> None:
        self.answers = answers

    def tokenize(self, text: str) -> list[int]:
        return list(range(len(text)))

    def tokenize_prompt(self, messages: list[dict[str, str]]) -> list[int]:
        return [0]

    def generate(self, prompts: list[list[int]], **_: Any) -> list[str]:
        return [self.answers[i % len(self.answers)] for i in range(len(prompts))]


def test_the_measurement_reports_shares_reasons_and_recall(tmp_path: Path) -> None:
    file = tmp_path / "owner.jsonl"
    messages = [{"role": "user", "content": "How do I sharpen a chisel?"}, {"role": "assistant", "content": "Slowly."}]
    file.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    answers = ["[What is the way to sharpen a chisel?]", "[Bananas.]", "no brackets", "[How do I sharpen a chisel?]"]
    text = rewriter.measure(FixedRewrites(answers), file, 5, SynthesisConfig(k=4), num_printed=1)
    summary, *rewrite = text.splitlines()
    assert summary.startswith("owner.jsonl: 25.0% kept of 4 rewrites of 1 dialogues (dropped: ")
    assert all(f"1 {reason}" in summary for reason in ("too far", "unparsable", "duplicate"))
    # Two of the three rewrites that parse have both content words, sharpen and chisel.
    assert summary.endswith("recall of content words: 66.7%, in the kept rewrites 100.0%")
    assert len(rewrite) == 3
    with pytest.raises(UserError, match="holds no dialogue"):
        file.write_text("\n", encoding="utf-8")
        rewriter.measure(FixedRewrites(answers), file, 5, SynthesisConfig(), num_printed=0)


@pytest.mark.slow
def test_the_script_trains_continues_and_measures_an_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, first, second = tmp_path / "texts.jsonl", tmp_path / "first", tmp_path / "second"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    stream = ROOT / "mlx_personal" / "demo" / "stream.jsonl"
    train = f"x --model demo --texts {texts} --samples 8 --rank 4"
    for command in (
        f"{train} --out {first}",
        f"{train} --out {second} --after {first} --seed 1 --measure {stream} --questions 2 --print 1",
    ):
        monkeypatch.setattr(sys, "argv", command.split())
        rewriter.main()
    output = capsys.readouterr().out
    assert output.count("8 samples, 1 steps") == 2 and "stream.jsonl: " in output
    one, both = (rewriter._load_weights(folder) for folder in (first, second))
    for name, weight in both.items():
        axis = 1 if name.endswith("lora_a") else 0
        assert weight.shape[axis] == 8
        assert np.array_equal(np.split(np.array(weight), 2, axis)[0], np.array(one[name]))
    assert any(np.split(np.array(weight), 2, 0)[1].any() for name, weight in both.items() if name.endswith("lora_b"))
