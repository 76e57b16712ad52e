"""One user's part on the device: what is asked, what an adapter learns, and the answers.

Nothing here sees a second user: whatever is learnt comes from the user that is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from mlx_personal.augmentation.prompting import record_line
from mlx_personal.augmentation.task import Record
from mlx_personal.dialogue import Dialogue, strip_thoughts
from mlx_personal.models import LanguageModel
from mlx_personal.research.lamp.lamp_prompts import augment
from mlx_personal.research.lamp.methods import Method
from mlx_personal.research.lamp.retrieval import Retrieval
from mlx_personal.research.lamp.run_config import RunConfig
from mlx_personal.research.lamp.tasks import Item, LampTask, field
from mlx_personal.research.lamp.user_profiles import User

_PROFILE_PROMPT: Final = Path(__file__).with_name("prompts") / "profile.txt"
# Items that a sentence about a user is written of (OPPU), and the longest sentence.
_DESCRIBED: Final = 10
_SENTENCE: Final = 96


@dataclass(frozen=True)
class Asked:
    """A user's queries as one method puts them to a model, and what had to be left out, by what it was."""

    inputs: tuple[str, ...]
    counts: Counter[str]


def asked(lm: LanguageModel, task: LampTask, user: User, method: Method, config: RunConfig, about: str = "") -> Asked:
    """The input of each query, with the user's items before it or, if there is one, the sentence `about` the user.

    `lm` counts the tokens. Counted are `no items`: queries of a user whose profile is empty, asked by a method that
    wants items; `no sentence`: queries asked without the one that `method` wants; `items left out`: queries whose items
    do not fit; `items shortened`.
    """
    counts: Counter[str] = Counter()
    if about:
        return Asked(tuple(f"{about}\n{query.input}" for query in user.queries), counts)
    if method.profile:
        counts["no sentence"] = len(user.queries)
    if not method.items:
        return Asked(tuple(query.input for query in user.queries), counts)
    if not user.profile:
        counts["no items"] = len(user.queries)
    retrieval = Retrieval(task, method.retriever, user.profile)
    inputs = []
    for query in user.queries:
        text, seed = task.query_text(query.input), f"{config.seed} {user.id} {query.id}"
        inputs.append(_with_items(lm, task, query.input, retrieval.best(text, method.items, seed=seed), config, counts))
    return Asked(tuple(inputs), counts)


def records(task: LampTask, user: User, config: RunConfig) -> dict[int, Record]:
    """What there is to learn of a user's items, by their place in the profile."""
    found = ((place, task.record(item, config.seed)) for place, item in enumerate(user.profile))
    return {place: record for place, record in found if record is not None}


def described(lm: LanguageModel, task: LampTask, user: User, config: RunConfig) -> str:
    """A sentence about the user, which the model writes of at most 10 of the user's items; empty for a user without."""
    known = list(records(task, user, config).values())
    if not known:
        return ""
    chosen = Random(f"{config.seed} {user.id}").sample(known, min(_DESCRIBED, len(known)))
    written = lm.generate([lm.prompt_tokens(_question(profile_prompt(chosen)))], max_tokens=_SENTENCE)[0]
    return strip_thoughts(written).strip()


def profile_prompt(records: Sequence[Record]) -> str:
    """What asks for a sentence about the person whose records these are."""
    lines = "\n".join(map(record_line, records))
    return _PROFILE_PROMPT.read_text(encoding="utf-8").strip("\n").replace("{records}", lines)


def lessons(
    lm: LanguageModel,
    task: LampTask,
    user: User,
    method: Method,
    config: RunConfig,
    synthetic: Sequence[Record] = (),
) -> tuple[list[Dialogue], int]:
    """What an adapter of this user learns: first the user's own items, then the synthetic ones; and how many are own.

    With a method that puts items before an input, an own item is learnt behind items that are older than itself (OPPU),
    a synthetic one behind any. Inputs that are no inputs of the task (LaMP-1's and LaMP-7's, see `LampTask.record`) are
    learnt as they are.
    """
    wording, own = task.collaboration_task(user.profile), records(task, user, config)
    behind = method.items > 0 and task.name not in ("1", "7")
    retrieval = Retrieval(task, method.retriever, user.profile) if behind else None
    learnt = [*own.items(), *((None, record) for record in synthetic)]
    found = [
        _lesson(lm, task, record, wording.ask(record.text), retrieval, method, config, place)
        for place, record in learnt
    ]
    return found, len(own)


def answers(
    lm: LanguageModel,
    task: LampTask,
    inputs: Sequence[str],
    config: RunConfig,
    on_tokens: Callable[[int, int], None] = lambda read, written: None,
) -> list[str]:
    """An answer to each input: what the model writes, or the label that it finds likeliest.

    `on_tokens(read, written)` is told the tokens of the prompts, and of the answers.
    """
    prompts = [lm.prompt_tokens(_question(text)) for text in inputs]
    if config.choose and task.labels:
        likelihoods = lm.log_likelihoods_of_each(prompts, task.labels)
        found = [task.labels[i] for i in likelihoods.argmax(axis=1)]
    else:
        written = lm.generate(prompts, max_tokens=config.answer_tokens)
        found = [strip_thoughts(text).strip() for text in written]
    on_tokens(sum(map(len, prompts)), sum(len(lm.text_tokens(text)) for text in found))
    return found


def _lesson(
    lm: LanguageModel,
    task: LampTask,
    record: Record,
    question: str,
    retrieval: Retrieval | None,
    method: Method,
    config: RunConfig,
    place: int | None,
) -> Dialogue:
    if retrieval is not None:
        query = record.text if place is None else field(retrieval.profile[place], task.text)
        items = retrieval.best(query, method.items, seed=f"{config.seed} {query}", before=place)
        question = _with_items(lm, task, question, items, config, Counter())
    return Dialogue.of(question, record.answer)


def _with_items(
    lm: LanguageModel, task: LampTask, text: str, items: Sequence[Item], config: RunConfig, counts: Counter[str]
) -> str:
    found = augment(task, text, items, config.max_length, lm.text_tokens, lm.tokenizer.decode)
    counts["items left out"] += bool(items) and not found.items
    counts["items shortened"] += found.shortened
    return found.text


def _question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
