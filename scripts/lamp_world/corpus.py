"""Training samples for the models of the world, a student and a teacher.

Both learn to answer the tasks, with or without a person's items or taste before the input. The teacher also learns to
write one more record of a person, from the same prompt as `mlx_personal.augmentation` sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final, Literal

from lamp_world.items import DrawnItem, draw_item
from lamp_world.tastes import draw_taste
from mlx_personal.augmentation.prompting import fill_prompt, format_record, read_prompt
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.research.lamp.answering import summary_prompt
from mlx_personal.research.lamp.lamp_prompts import build_retrieval_prompt
from mlx_personal.research.lamp.tasks import TASKS

Sample = dict[str, list[dict[str, str]]]
Role = Literal["student", "teacher"]

# Percentage of each kind of sample: `plain`, the input alone; `context`, items before it; `profile`, the stated taste
# before it; `describe`, state the taste behind records; `augment`, write one more record of a person.
KIND_WEIGHTS: Final[Mapping[Role, Mapping[str, int]]] = {
    "student": {"plain": 45, "context": 30, "profile": 10, "describe": 15},
    "teacher": {"augment": 60, "context": 22, "profile": 4, "describe": 10, "plain": 4},
}
# Relative frequency of each task. The other tasks have the same form, but no model was trained on them.
TASK_WEIGHTS: Final[Mapping[str, int]] = {"2M": 4, "3": 3, "4": 3}


def draw_sample(rng: Random, role: Role) -> Sample:
    """Draw a random training sample in the chat format.

    Args:
        rng: Source of the random draws.
        role: The model to train, which decides the kinds of samples.
    """
    task = rng.choices(list(TASK_WEIGHTS), weights=list(TASK_WEIGHTS.values()))[0]
    taste = draw_taste(rng)
    kind = rng.choices(list(KIND_WEIGHTS[role]), weights=list(KIND_WEIGHTS[role].values()))[0]
    target = draw_item(task, taste, rng)
    task_input = TASKS[task].input_template.format(**target.slots)
    if kind == "plain":
        return _sample(task_input, target.gold)
    if kind == "context":
        items = [draw_item(task, taste, rng).item for _ in range(rng.choice((1, 2, 4, 4)))]
        prompt = build_retrieval_prompt(TASKS[task], task_input, items, 10**6, str.split, " ".join)
        return _sample(prompt.text, target.gold)
    if kind == "profile":
        return _sample(f"{taste.statement(task)}\n{task_input}", target.gold)
    count = rng.choice((1, 2, 3, 4, 6, 6) if kind == "augment" else (2, 4, 6))
    records = [_record(draw_item(task, taste, rng)) for _ in range(count)]
    if kind == "describe":
        return _sample(summary_prompt(records), taste.statement(task))
    request = fill_prompt(read_prompt(), Task(labels=TASKS[task].labels), records)
    return _sample(request, format_record(_record(target)))


def _record(drawn: DrawnItem) -> Record:
    return Record(drawn.slots["text"], drawn.gold)


def _sample(question: str, answer: str) -> Sample:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
