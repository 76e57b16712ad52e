"""Train one small adapter per user on one loaded base model, and answer each user with their own adapter.

    python examples/per_user_adapters.py

The base model is loaded and verified once; each adapter takes seconds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlx_personal import Dialogue, Example, LoRAConfig, finetune, load_language_model

QUESTIONS = [
    "When should I water my tomatoes?",
    "How do I cook lentil soup?",
    "How do I begin with my agenda?",
    "What do I need for my mornings?",
]
# How each user likes to be answered.
STYLES = {
    "nora": "Tea first, Nora. Then begin slowly.",
    "omar": "Short answer, Omar: tomorrow.",
    "li": "Ask a friend, Li!",
}
CONFIG = LoRAConfig(rank=4, epochs=12, learning_rate=4e-3, batch_size=4)


def main() -> None:
    """Train three users' adapters and ask each of them the same question."""
    lm = load_language_model("demo")
    prompt = lm.tokenize_prompt([{"role": "user", "content": QUESTIONS[0]}])
    with tempfile.TemporaryDirectory() as folder:
        adapters = {}
        for user, answer in STYLES.items():
            examples = [Example(Dialogue.of(question, answer)) for question in QUESTIONS]
            adapters[user] = Path(folder) / user
            report = finetune(lm, examples, CONFIG, adapters[user])
            print(f"{user}: loss {report.losses[0]:.2f} -> {report.losses[-1]:.2f} in {report.elapsed_s:.1f} s")
        for user, adapter in adapters.items():
            lm.attach_adapter(adapter)
            print(f"{user}: {lm.generate([prompt], max_tokens=30)[0]}")


if __name__ == "__main__":
    main()
