"""Propose questions in the manner of a profile's owner, and store them for the owner to answer or to reject."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import cast

from mlx_personal.dialogue import Dialogue
from mlx_personal.models import LanguageModel
from mlx_personal.profile import Store
from mlx_personal.progress import Progress
from mlx_personal.synthesis.questions import MIN_OWN_QUESTIONS, QUESTION_STYLES, QuestionStyle, propose_questions

# The style that was found to work with a base model, in `Store.model_record`.
_STYLE_RECORD = "question_style"


@dataclass(frozen=True)
class ProposalResult:
    """The result of proposing questions.

    Attributes:
        proposed: Number of questions that were proposed.
        generated: Number of generated questions.
        dropped: Numbers of the other ones by reason.
        needed: Number of the owner's questions that are still needed before any can be proposed.
    """

    proposed: int
    generated: int
    dropped: dict[str, int]
    needed: int = 0


def propose_for_profile(
    store: Store,
    lm: LanguageModel,
    count: int,
    held_out: list[Dialogue],
    seed: int,
    on_progress: Progress | None = None,
) -> ProposalResult:
    """Propose questions in the manner of the annotated ones.

    Only the owner's own questions that are trained on are shown to the model: not those of held-out dialogues, and not
    those that were proposed themselves.

    Args:
        store: The profile's store.
        lm: The base model.
        count: Number of wanted questions.
        held_out: The held-out dialogues.
        seed: Random seed of the profile's synthesis.
        on_progress: See `propose_questions`.
    """
    earlier = store.proposed.all()
    answered = {row.dialogue_id for row in earlier}
    own = [
        annotation.preferred.user_turns[0]
        for annotation in store.preferred_annotations(held_out=False)
        if annotation.preferred is not None and annotation.dialogue_id not in answered
    ]
    if len(own) < MIN_OWN_QUESTIONS:
        return ProposalResult(0, 0, {}, MIN_OWN_QUESTIONS - len(own))
    stored_style = store.model_record(_STYLE_RECORD)
    style = cast(QuestionStyle, stored_style) if stored_style in QUESTION_STYLES else None
    candidates = propose_questions(
        lm,
        own,
        count,
        known=[*(row.question for row in earlier), *_asked(store)],
        held_out=held_out,
        style=style,
        # The same seed would only give the questions that were proposed before.
        seed=seed + len(earlier),
        on_progress=on_progress,
    )
    kept = [candidate for candidate in candidates if candidate.kept]
    dropped = Counter(candidate.reason for candidate in candidates if not candidate.kept)
    with store.transaction():
        store.proposed.add([candidate.text for candidate in kept], store.fingerprint())
        if kept:
            store.set_model_record(_STYLE_RECORD, kept[0].style)
    return ProposalResult(len(kept), len(candidates), dict(dropped))


def _asked(store: Store) -> list[str]:
    """Return the first questions of the buffer's dialogues, which `review` asks about anyway."""
    return [row.dialogue.user_turns[0] for row in store.bins()]
