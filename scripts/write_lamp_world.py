"""Write the LaMP world: users with stated tastes in LaMP's file formats, and the training corpora of its models.

    python scripts/write_lamp_world.py users world --task 2M --users 100 --records 8 --queries 10 --seed 1
    python scripts/write_lamp_world.py corpus teacher.jsonl --role teacher --samples 30000 --seed 1

`users` writes world/LaMP_2M_questions.json, world/LaMP_2M_outputs.json, world/LaMP_2M_history.json (the same users in
OPPU's format) and world/LaMP_2M_tastes.json with a statement of each user's taste. `corpus` writes one {"messages":
[...]} per line. The same arguments give the same files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random
from typing import Any

from lamp_world.corpus import KIND_WEIGHTS, draw_sample
from lamp_world.items import draw_item
from lamp_world.tastes import draw_taste

from mlx_personal.research.lamp.tasks import TASKS


def write_users(folder: Path, task: str, num_users: int, num_records: int, num_queries: int, seed: int) -> None:
    """Write the four files of a task.

    With a larger number of records a user keeps the first ones and has the same queries.

    Args:
        folder: Folder of the files, created if it is missing.
        task: Name of the task, such as `2M`.
        num_users: Number of users.
        num_records: Items in each user's profile.
        num_queries: Queries of each user.
        seed: Random seed, also part of the users' names.
    """
    questions: list[dict[str, Any]] = []
    golds: list[dict[str, str]] = []
    histories: list[dict[str, Any]] = []
    tastes: dict[str, str] = {}
    for number in range(num_users):
        user = f"user-{seed}-{number}"
        taste = draw_taste(Random(f"{user} taste"))
        tastes[user] = taste.statement(task)
        item_rng = Random(f"{user} items {task}")
        profile = [
            {
                "id": f"{user}-{i}",
                "date": f"2024-{i // 28 % 12 + 1:02}-{i % 28 + 1:02}",
                **draw_item(task, taste, item_rng).item,
            }
            for i in range(num_records)
        ]
        query_rng = Random(f"{user} queries {task}")
        user_queries = []
        for i in range(num_queries):
            drawn = draw_item(task, taste, query_rng)
            query = {"id": f"{user}-q{i}", "input": TASKS[task].input_template.format(**drawn.slots)}
            questions.append({**query, "user_id": user, "profile": profile})
            golds.append({"id": query["id"], "output": drawn.gold})
            user_queries.append({**query, "gold": drawn.gold})
        histories.append({"user_id": user, "profile": profile, "query": user_queries})
    folder.mkdir(parents=True, exist_ok=True)
    name = TASKS[task].file_names[0]
    for suffix, content in (
        ("questions", questions),
        ("outputs", {"task": name, "golds": golds}),
        ("history", histories),
        ("tastes", tastes),
    ):
        (folder / f"{name}_{suffix}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parsers = parser.add_subparsers(dest="command", required=True)
    users = parsers.add_parser("users")
    users.add_argument("out", type=Path)
    users.add_argument("--task", nargs="+", choices=list(TASKS), default=list(TASKS))
    users.add_argument("--users", type=int, default=100)
    users.add_argument("--records", type=int, default=8)
    users.add_argument("--queries", type=int, default=10)
    corpus = parsers.add_parser("corpus")
    corpus.add_argument("out", type=Path)
    corpus.add_argument("--role", choices=list(KIND_WEIGHTS), required=True)
    corpus.add_argument("--samples", type=int, default=30_000)
    for subparser in (users, corpus):
        subparser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.command == "users":
        for task in args.task:
            write_users(args.out, task, args.users, args.records, args.queries, args.seed)
        return
    rng = Random(args.seed)
    with args.out.open("w", encoding="utf-8") as file:
        for _ in range(args.samples):
            file.write(json.dumps(draw_sample(rng, args.role), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
