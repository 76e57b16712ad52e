"""Prepare and answer one user's queries on the device: inputs, training data of the adapter, and answers.

Every function here sees one user only, so no data of another user can reach an adapter or a prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from mlx_personal.augmentation.prompting import format_record
from mlx_personal.augmentation.task import Record
from mlx_personal.dialogue import Dialogue, strip_thoughts
from mlx_personal.finetune import Example
from mlx_personal.models import LanguageModel
from mlx_personal.research.lamp.lamp_config import LampConfig
from mlx_personal.research.lamp.lamp_prompts import build_retrieval_prompt
from mlx_personal.research.lamp.lamp_results import Count
from mlx_personal.research.lamp.lamp_users import LampUser
from mlx_personal.research.lamp.methods import Method
from mlx_personal.research.lamp.retrieval import ProfileRetriever
from mlx_personal.research.lamp.tasks import Item, LampTask, field_text

_SUMMARY_PROMPT: Final = Path(__file__).with_name("prompts") / "profile.txt"
# Items that the summary of a user is written from, as in OPPU, and its maximum length.
_SUMMARY_ITEMS: Final = 10
_SUMMARY_TOKENS: Final = 96


@dataclass(frozen=True)
class Answers:
    """The answers to some inputs.

    Attributes:
        texts: One answer for each input.
        tokens_read: Tokens of all prompts.
        tokens_written: Tokens of all answers.
    """

    texts: list[str]
    tokens_read: int
    tokens_written: int


def build_inputs(
    lm: LanguageModel,
    task: LampTask,
    user: LampUser,
    method: Method,
    config: LampConfig,
    counts: Counter[str],
    summary: str = "",
) -> list[str]:
    """Return the input of each query, preceded by the summary of the user if there is one, or else by items.

    Args:
        lm: Model whose tokenizer counts the tokens.
        task: Task of the queries.
        user: The user.
        method: Method that decides which items are added.
        config: Settings of the run.
        counts: Updated with what had to be left out, by `Count`.
        summary: Summary of the user; empty for none.
    """
    if summary:
        return [f"{summary}\n{query.input}" for query in user.queries]
    if method.with_summary:
        counts[Count.NO_SUMMARY] += len(user.queries)
    if not method.num_items:
        return [query.input for query in user.queries]
    if not user.profile:
        counts[Count.NO_ITEMS] += len(user.queries)
    retriever = ProfileRetriever(task, method.retriever, user.profile)
    inputs = []
    for query in user.queries:
        seed = f"{config.seed} {user.id} {query.id}"
        items = retriever.retrieve(task.query_text(query.input), method.num_items, seed=seed)
        inputs.append(_add_items(lm, task, query.input, items, config, counts))
    return inputs


def training_records(task: LampTask, user: LampUser, config: LampConfig) -> dict[int, Record]:
    """Return the training records of a user's items, by the item's index in the profile."""
    records = ((index, task.training_record(item, config.seed)) for index, item in enumerate(user.profile))
    return {index: record for index, record in records if record is not None}


def summarize_user(lm: LanguageModel, task: LampTask, user: LampUser, config: LampConfig) -> str:
    """Return a sentence about the user that the model writes from at most 10 items; empty without items."""
    records = list(training_records(task, user, config).values())
    if not records:
        return ""
    sample = Random(f"{config.seed} {user.id}").sample(records, min(_SUMMARY_ITEMS, len(records)))
    prompt = lm.tokenize_prompt(_user_message(summary_prompt(sample)))
    return strip_thoughts(lm.generate([prompt], max_tokens=_SUMMARY_TOKENS)[0]).strip()


def summary_prompt(records: Sequence[Record]) -> str:
    """Return the prompt that asks for a summary of the user with these records."""
    lines = "\n".join(map(format_record, records))
    return _SUMMARY_PROMPT.read_text(encoding="utf-8").strip("\n").replace("{records}", lines)


def training_examples(
    lm: LanguageModel,
    task: LampTask,
    user: LampUser,
    method: Method,
    config: LampConfig,
    synthetic: Sequence[Record] = (),
) -> list[Example]:
    """Return what the adapter of a user is trained on: the user's own items, and then the synthetic records.

    With a method that puts items before an input, a record of the user's own items comes after older items [Tan24], a
    synthetic record after any items. The training inputs of LaMP-1 and LaMP-7, which differ from the official inputs
    (see `LampTask.training_record`), stand alone.

    Args:
        lm: Model whose tokenizer counts the tokens.
        task: Task of the user.
        user: User whose adapter is trained.
        method: Method that decides which items are added.
        config: Settings of the run.
        synthetic: Synthetic records.
    """
    template = task.augmentation_task(user.profile)
    real = training_records(task, user, config)
    with_items = method.num_items > 0 and task.name not in ("1", "7")
    retriever = ProfileRetriever(task, method.retriever, user.profile) if with_items else None
    records: list[tuple[int | None, Record]] = [*real.items(), *((None, record) for record in synthetic)]
    examples = []
    for index, record in records:
        text = template.format_question(record.text)
        if retriever is not None:
            query = record.text if index is None else field_text(user.profile[index], task.text_field)
            seed = f"{config.seed} {query}"
            items = retriever.retrieve(query, method.num_items, seed=seed, older_than=index)
            text = _add_items(lm, task, text, items, config, Counter())
        weight = config.augment.synthetic_weight if index is None else 1.0
        examples.append(Example(Dialogue.of(text, record.answer), weight=weight))
    return examples


def answer_inputs(lm: LanguageModel, task: LampTask, inputs: Sequence[str], config: LampConfig) -> Answers:
    """Answer each input with generated text, or with the most likely label where the settings say so."""
    prompts = [lm.tokenize_prompt(_user_message(text)) for text in inputs]
    if config.choose_label and task.labels:
        likelihoods = lm.log_likelihoods(prompts, task.labels)
        texts = [task.labels[i] for i in likelihoods.argmax(axis=1)]
    else:
        texts = [strip_thoughts(text).strip() for text in lm.generate(prompts, max_tokens=config.answer_tokens)]
    return Answers(texts, sum(map(len, prompts)), sum(len(lm.tokenize(text)) for text in texts))


def _add_items(
    lm: LanguageModel, task: LampTask, text: str, items: Sequence[Item], config: LampConfig, counts: Counter[str]
) -> str:
    prompt = build_retrieval_prompt(task, text, items, config.max_length, lm.tokenize, lm.tokenizer.decode)
    counts[Count.ITEMS_LEFT_OUT] += bool(items) and not prompt.num_items
    counts[Count.ITEMS_SHORTENED] += prompt.num_shortened
    return prompt.text


def _user_message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
