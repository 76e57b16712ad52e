"""What a model of the world reads: rows of the tasks, and for a teacher also of writing records like a person's.

A student answers the tasks as people on the whole do, with or without someone's items or taste before the input. A
teacher answers them too, and writes one more record of a person, in the very words that the product asks with.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final, Literal

from lamp_world.tastes import draw_taste
from lamp_world.things import Thing, draw
from mlx_personal.augmentation.prompting import fill_prompt, read_prompt, format_record
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.research.lamp.answering import summary_prompt
from mlx_personal.research.lamp.lamp_prompts import build_retrieval_prompt
from mlx_personal.research.lamp.tasks import TASKS

Row = dict[str, list[dict[str, str]]]
Role = Literal["student", "teacher"]

# Of a hundred rows: the input alone; with items before it; with the stated taste before it; a taste told of records;
# one more record of a person.
SHARES: Final[Mapping[Role, Mapping[str, int]]] = {
    "student": {"plain": 45, "context": 30, "profile": 10, "describe": 15},
    "teacher": {"augment": 60, "context": 22, "profile": 4, "describe": 10, "plain": 4},
}
# How often each task comes. The others have the same form, but no model was trained on them.
TASK_SHARES: Final[Mapping[str, int]] = {"2M": 4, "3": 3, "4": 3}


def draw_row(rng: Random, role: Role) -> Row:
    """One random row: a person, a task, and what the row is for."""
    task = rng.choices(list(TASK_SHARES), weights=list(TASK_SHARES.values()))[0]
    taste = draw_taste(rng)
    kind = rng.choices(list(SHARES[role]), weights=list(SHARES[role].values()))[0]
    wanted = draw(task, taste, rng)
    asked = TASKS[task].input_template.format(**wanted.slots)
    if kind == "plain":
        return _row(asked, wanted.gold)
    if kind == "context":
        items = [draw(task, taste, rng).item for _ in range(rng.choice((1, 2, 4, 4)))]
        prompt = build_retrieval_prompt(TASKS[task], asked, items, 10**6, str.split, " ".join)
        return _row(prompt.text, wanted.gold)
    if kind == "profile":
        return _row(f"{taste.stated(task)}\n{asked}", wanted.gold)
    count = rng.choice((1, 2, 3, 4, 6, 6) if kind == "augment" else (2, 4, 6))
    records = [_record(draw(task, taste, rng)) for _ in range(count)]
    if kind == "describe":
        return _row(summary_prompt(records), taste.stated(task))
    request = fill_prompt(read_prompt(), Task(labels=TASKS[task].labels), records)
    return _row(request, format_record(_record(wanted)))


def _record(thing: Thing) -> Record:
    return Record(thing.slots["text"], thing.gold)


def _row(asked: str, answered: str) -> Row:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]}
