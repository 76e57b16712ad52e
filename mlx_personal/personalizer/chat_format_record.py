"""What the chat template of a profile's base model does, measured when the model is set and stored with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlx_personal.errors import UserError
from mlx_personal.profile import Store

if TYPE_CHECKING:  # importing it imports MLX, which `status` does not need
    from mlx_personal.models import LanguageModel

_KIND: Final = "chat_format"


def describe_chat_format(folder: Path) -> str:
    """Return in a line what a model's chat template does, or why it cannot be used for chats, without reading weights.

    Args:
        folder: The model's folder.

    Raises:
        UserError: If the folder cannot be loaded.
    """
    from mlx_personal.models import load_language_model

    lm = load_language_model(folder, lazy=True)
    try:
        return "; ".join(lm.chat_template.format.notes()) or "nothing notable"
    except UserError as error:
        return f"cannot be used: {error.what}"


def check_chat_format(lm: LanguageModel) -> None:
    """Check that a model can be used for chats, before anything is stored or a user is asked about anything.

    Args:
        lm: The model.

    Raises:
        UserError: If its chat template loses text or fails, or no token ends an answer.
    """
    _ = lm.chat_template.format


def record_chat_format(store: Store, lm: LanguageModel) -> None:
    """Store what the chat template of the base model does, unless that is stored already.

    Args:
        store: The profile's store, open for writing.
        lm: The base model.
    """
    record = lm.chat_template.format.to_json()
    if store.model_record(_KIND) != record:
        store.set_model_record(_KIND, record)


def chat_format_notes(store: Store) -> tuple[str, ...]:
    """Return what a user may want to know about the chat template of the base model, in short phrases.

    Args:
        store: The profile's store.
    """
    record = store.model_record(_KIND)
    return () if record is None else tuple(record["notes"])
