"""Play the owner of the demo's stream: answer today's questions with the ideal answers in its file.

mlx-personal review --json > questions.json
python examples/answer_as_owner.py chats.jsonl questions.json > verdicts.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(chats: str, questions: str) -> None:
    """Print a verdict for each question whose dialogue has preferred answers.

    Args:
        chats: JSON Lines file of dialogues with `messages` and `preferred`, a list of answers.
        questions: Output of `mlx-personal review --json`.
    """
    dialogues = [json.loads(line) for line in Path(chats).read_text(encoding="utf-8").splitlines()]
    preferred = {json.dumps(dialogue["messages"]): dialogue["preferred"] for dialogue in dialogues}
    for question in json.loads(Path(questions).read_text(encoding="utf-8"))["questions"]:
        answers = preferred.get(json.dumps(question["messages"]))
        if answers is not None:
            print(json.dumps({"dialogue": question["dialogue"], "verdict": "rewrite", "answers": answers}))


if __name__ == "__main__":
    main(*sys.argv[1:])
