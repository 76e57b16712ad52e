"""Writes the LaMP world: users with stated tastes in LaMP's files, and the corpora that its models are trained on.

    python scripts/write_lamp_world.py users world --task 2M --users 100 --records 8 --queries 10 --seed 1
    python scripts/write_lamp_world.py corpus teacher.jsonl --role teacher --rows 30000 --seed 1

`users` gives world/LaMP_2M_questions.json and world/LaMP_2M_outputs.json, world/LaMP_2M_history.json (the same users in
OPPU's form) and world/LaMP_2M_tastes.json with each user's taste in words. `corpus` gives {"messages": [...]} a line.
The same arguments give the same files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random
from typing import Any

from lamp_world.corpus import SHARES, draw_row
from lamp_world.tastes import draw_taste
from lamp_world.things import draw

from mlx_personal.research.lamp.tasks import TASKS


def write_users(out: Path, task: str, users: int, records: int, queries: int, seed: int) -> None:
    """The four files of a task's users, each with so many items in the profile and so many queries.

    A user of fewer records has the first ones of a user of more, and the same queries.
    """
    questions: list[dict[str, Any]] = []
    golds: list[dict[str, str]] = []
    histories: list[dict[str, Any]] = []
    tastes: dict[str, str] = {}
    for number in range(users):
        user = f"user-{seed}-{number}"
        taste = draw_taste(Random(f"{user} taste"))
        tastes[user] = taste.stated(task)
        items = Random(f"{user} items {task}")
        profile = [
            {
                "id": f"{user}-{i}",
                "date": f"2024-{i // 28 % 12 + 1:02}-{i % 28 + 1:02}",
                **draw(task, taste, items).item,
            }
            for i in range(records)
        ]
        asked = Random(f"{user} queries {task}")
        own = []
        for i in range(queries):
            thing = draw(task, taste, asked)
            query = {"id": f"{user}-q{i}", "input": TASKS[task].input_template.format(**thing.slots)}
            questions.append({**query, "user_id": user, "profile": profile})
            golds.append({"id": query["id"], "output": thing.gold})
            own.append({**query, "gold": thing.gold})
        histories.append({"user_id": user, "profile": profile, "query": own})
    out.mkdir(parents=True, exist_ok=True)
    name = TASKS[task].file_names[0]
    for part, content in (
        ("questions", questions),
        ("outputs", {"task": name, "golds": golds}),
        ("history", histories),
        ("tastes", tastes),
    ):
        (out / f"{name}_{part}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parsers = parser.add_subparsers(dest="what", required=True)
    users = parsers.add_parser("users")
    users.add_argument("out", type=Path)
    users.add_argument("--task", nargs="+", choices=list(TASKS), default=list(TASKS))
    users.add_argument("--users", type=int, default=100)
    users.add_argument("--records", type=int, default=8)
    users.add_argument("--queries", type=int, default=10)
    corpus = parsers.add_parser("corpus")
    corpus.add_argument("out", type=Path)
    corpus.add_argument("--role", choices=list(SHARES), required=True)
    corpus.add_argument("--rows", type=int, default=30_000)
    for either in (users, corpus):
        either.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.what == "users":
        for task in args.task:
            write_users(args.out, task, args.users, args.records, args.queries, args.seed)
        return
    rng = Random(args.seed)
    with args.out.open("w", encoding="utf-8") as file:
        for _ in range(args.rows):
            file.write(json.dumps(draw_row(rng, args.role), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
