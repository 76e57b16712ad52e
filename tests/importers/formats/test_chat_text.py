"""Texts that mark who speaks, in the forms of chat templates and of transcripts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.importers.formats.chat_text import turns_of_text

QUESTION, ANSWER = "When is the pear ripe?", "In September.\nUsually."
PREAMBLE = "Below is an instruction that describes a task. Write a response.\n\n"


@pytest.mark.parametrize(
    ("text", "roles"),
    [
        (f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n{ANSWER}<|im_end|>\n", "ua"),
        (
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            f"<|start_header_id|>user<|end_header_id|>\n\n{QUESTION}<|eot_id|>"
            f"<|start_header_id|>assistant<|end_header_id|>\n\n{ANSWER}<|eot_id|>",
            "sua",
        ),
        (f"<bos><start_of_turn>user\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n{ANSWER}<end_of_turn>\n", "ua"),
        (f"<|system|>\nBe brief.</s>\n<|user|>\n{QUESTION}</s>\n<|assistant|>\n{ANSWER}</s>\n", "sua"),
        (f"<|user|>\n{QUESTION}<|end|>\n<|assistant|>\n{ANSWER}<|end|>\n", "ua"),
        (f"<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{QUESTION} [/INST] {ANSWER} </s>", "sua"),
        (f"<s>[INST] {QUESTION} [/INST] {ANSWER}</s><s>[INST] {QUESTION} [/INST] {ANSWER}</s>", "uaua"),
        (f"Input: {QUESTION}\nOutput: {ANSWER}", "ua"),
        (f"{PREAMBLE}### Instruction:\n{QUESTION}\n\n### Response:\n{ANSWER}", "ua"),
        (f"### Human: {QUESTION}### Assistant: {ANSWER}", "ua"),
        (f"### Human: {QUESTION}\n### Assistant: {ANSWER}", "ua"),
        (f"User: {QUESTION}\nAssistant: {ANSWER}", "ua"),
        (f"\n\nHuman: {QUESTION}\n\nAssistant: {ANSWER}\n\nHuman: {QUESTION}\n\nAssistant: {ANSWER}", "uaua"),
        ("The pear is ripe in September.", ""),
        ("User: a manual\nUser: another", ""),
        ("", ""),
    ],
)
def test_a_text_is_divided_where_the_speaker_changes(text: str, roles: str) -> None:
    expected = {"s": ("system", "Be brief."), "u": ("user", QUESTION), "a": ("assistant", ANSWER)}
    assert [(turn.role, turn.text) for turn in turns_of_text(text)] == [expected[role] for role in roles]


def test_an_input_belongs_to_the_instruction() -> None:
    text = f"{PREAMBLE}### Instruction:\nTranslate.\n\n### Input:\ndie Birne\n\n### Response:\nthe pear"
    assert [(turn.role, turn.text) for turn in turns_of_text(text)] == [
        ("user", "Translate."),
        ("user", "die Birne"),
        ("assistant", "the pear"),
    ]


@pytest.mark.parametrize("mark", ["[/INST][INST]", "<<SYS>>", "###", "### User", "User :", "<|im_start|>a", " \t"])
def test_the_time_is_linear_in_the_number_of_marks(mark: str) -> None:
    start = time.process_time()
    turns_of_text("[/INST]" + mark * 20_000 if "[" in mark or "<<" in mark else mark * 20_000)
    assert time.process_time() - start < 2


@given(st.lists(st.sampled_from(["User: ", "\nAssistant:", "[INST]", "[/INST]", "<|im_start|>user\n", "### ", "x"])))
def test_every_text_is_divided(parts: list[str]) -> None:
    turns_of_text("".join(parts))
