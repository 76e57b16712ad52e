"""Writes the model card of the demo model from what its training and its measurement found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CARD = """---
license: mit
language: en
library_name: mlx
pipeline_tag: text-generation
---
# The embedded model of mlx-personal

A Llama of {parameters:.2f} million parameters that knows one small world: everyday questions in plain English from
sixteen domains (cooking, travel, health, money, garden, pets, school, sport, music, weather, repair, computers,
shopping, work, family, sleep). It exists so that `mlx-personal demo` runs without a download. It answers in one plain
style and rewrites a question or a dialogue in other words. Outside its world it is of no use; its advice is made of
stock phrases and is not to be relied on, least of all about health or money.

## Data
Drawn from a grammar written for this project (`scripts/demo_world/`): no text of others, no text written by a model.
{rows} rows, {tokens:.1f} million tokens, each seen once; half of them are the two rewrite tasks. One pair in twelve of
topic and intent ("soup", "how often") is held out altogether, and all figures below are taken there.

## Training
`python scripts/pretrain_demo_model.py --out mlx_personal/demo/model --rows {rows_argument} --seed {seed}`:
{steps} steps of AdamW, loss on the assistant's words, in {minutes} minutes on {device}.

| | |
|---|---|
| shape | {layers} layers, width {width}, {heads} heads ({kv_heads} for keys and values), tied embeddings |
| tokenizer | byte-level BPE, {vocabulary} entries, chat template |
| weights | float16, {megabytes:.1f} MB |

## Figures, on held-out topic and intent pairs
| | | |
|---|---|---|
| perplexity per token of the assistant's words | {perplexity:.2f} | |
| rewritten questions that parse and keep the topic | {rewrites_faithful:.1%} | {prompts} prompts, temperature 0.5 |
| rewritten questions that parse | {rewrites_parsed:.1%} | |
| rewritten questions that parse and differ from the original | {rewrites_changed:.1%} | |
| mean ROUGE-1 of a rewrite against the original | {rewrites_rouge1:.2f} | |
| different rewrites among six of one question | {rewrites_distinct_of_six:.1f} | |
| the topic is an invented word: parse and keep it | {invented_faithful:.1%} | |
| later turns that stay with the topic: parse and keep it | {later_turns_faithful:.1%} | |
| later turns that change the topic: parse and keep the new one | {other_topic_faithful:.1%} | as a fifth do |
| rewritten dialogues that parse, both speakers there, topic kept | {dialogues_faithful:.1%} | |
| answers that name the topic | {answers_on_topic:.1%} | temperature 0 |
| answers that name the same step or thing twice | {answers_repeating:.1%} | temperature 0; a fault |

Licence: MIT, as the project.
"""


def write_card(folder: Path, facts: dict[str, Any], config: dict[str, Any], figures: dict[str, float]) -> None:
    """README.md of the model folder, replaced as a whole."""
    values = (
        facts
        | figures
        | {
            "parameters": facts["parameters"] / 1e6,
            "tokens": facts["tokens"] / 1e6,
            "layers": config["num_hidden_layers"],
            "width": config["hidden_size"],
            "heads": config["num_attention_heads"],
            "kv_heads": config["num_key_value_heads"],
            "vocabulary": config["vocab_size"],
            "megabytes": (folder / "model.safetensors").stat().st_size / 1e6,
        }
    )
    temporary = folder / "writing-README.md"
    temporary.write_text(CARD.format(**values), encoding="utf-8")
    temporary.replace(folder / "README.md")
