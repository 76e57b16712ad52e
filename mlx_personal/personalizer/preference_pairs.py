"""The preference pairs of a profile: those of imports, and the owner's corrections in reviews."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence

from mlx_personal.dialogue import Dialogue, Message, strip_thoughts
from mlx_personal.dialogue.similarity import NearDuplicateIndex
from mlx_personal.finetune.data.examples import PreferencePair
from mlx_personal.profile import AnnotationRow, PreferencePairRow, Store


def profile_pairs(store: Store, held_out: Sequence[Dialogue]) -> dict[str, PreferencePair]:
    """Return the preference pairs to train on.

    Left out are pairs of held-out dialogues and of their near-duplicates, and imported pairs of dialogues that the
    owner skipped in a review, or whose rejected answer they prefer in one.

    Args:
        store: The profile's store.
        held_out: The held-out dialogues.

    Returns:
        The pairs by keys of their content, which stay the same: imported pairs first, then corrections, each in order.
    """
    annotations = {annotation.dialogue_id: annotation for annotation in store.annotations()}
    held_out_index = NearDuplicateIndex(held_out)
    candidates = [
        *(pair for row in store.pairs.usable() for pair in _imported(store, row, annotations.get(row.dialogue_id))),
        *(pair for annotation in annotations.values() for pair in _corrections(store, annotation)),
    ]
    return {_key_of(pair): pair for pair in candidates if not held_out_index.find(pair.chosen)}


def _imported(store: Store, row: PreferencePairRow, annotation: AnnotationRow | None) -> Iterator[PreferencePair]:
    """Yield the pair of an import, unless it may not be trained on."""
    stored = store.dialogue(row.dialogue_id)
    if stored is None or row.answer >= len(stored.dialogue.turn_indices):
        return
    _, assistant = stored.dialogue.turn_indices[row.answer]
    group: Hashable = ("dialogue", row.dialogue_id)
    if annotation is not None:
        # A skip that an export implied is not the owner's: pairs are already without those that its verdicts oppose.
        is_skipped = annotation.verdict == "skip" and annotation.origin != "inferred"
        if annotation.held_out or is_skipped:
            return
        if _answer_at(annotation.preferred, assistant) == strip_thoughts(row.rejected).strip():
            return
        group = annotation.id
    yield _pair(stored.dialogue.messages[:assistant], row.chosen, row.rejected, group)


def _corrections(store: Store, annotation: AnnotationRow) -> Iterator[PreferencePair]:
    """Yield a pair for each answer that the owner corrected; if they left all answers as they were, for each one."""
    if annotation.verdict not in ("edit", "rewrite") or annotation.held_out or annotation.preferred is None:
        return
    stored = store.dialogue(annotation.dialogue_id)
    # The owner's answer to a proposed question corrects nothing.
    if stored is None or store.proposed.of_dialogue(annotation.dialogue_id) is not None:
        return
    preferred = annotation.preferred.messages
    pairs = [
        _pair(preferred[:assistant], preferred[assistant].content, rejected, annotation.id)
        for _, assistant in stored.dialogue.turn_indices
        if (rejected := _answer_at(stored.dialogue, assistant))
    ]
    yield from [pair for pair in pairs if not pair.is_equal] or pairs


def _pair(prompt: Sequence[Message], chosen: str, rejected: str, group: Hashable) -> PreferencePair:
    sides = [Dialogue((*prompt, Message("assistant", answer))) for answer in (chosen, rejected)]
    return PreferencePair(sides[0], sides[1], group)


def _answer_at(dialogue: Dialogue | None, index: int) -> str:
    """Return an answer without thoughts; empty if the dialogue has none there."""
    if dialogue is None or index >= len(dialogue.messages):
        return ""
    return strip_thoughts(dialogue.messages[index].content).strip()


def _key_of(pair: PreferencePair) -> str:
    return hashlib.sha256((pair.chosen.key + pair.rejected.key).encode()).hexdigest()
