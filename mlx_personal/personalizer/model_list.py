"""The models of this machine with what a user chooses by: which fit into memory, and which profiles use them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_personal.errors import UserError
from mlx_personal.finetune.planning.fit import memory_needs
from mlx_personal.models.local_models import LocalModel, find_local_model, list_local_models, local_model_names
from mlx_personal.models.model_names import suggest_names
from mlx_personal.models.stores import converted
from mlx_personal.models.stores.model_source import read_source
from mlx_personal.profile.store import base_model_of
from mlx_personal.runtime.memory import usable_memory_bytes
from mlx_personal.storage.home import Home

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedModel:
    """A model and its use on this machine.

    Attributes:
        model: The model.
        source: Name of what it was converted from; None unless it is a converted model.
        profiles: Names of the profiles with this base model.
        chat_bytes: Least memory for a chat; None if it cannot be estimated.
        training_bytes: Least memory for training; None if it cannot be estimated.
        fits_chat: Whether this machine has that memory for a chat now; None if it is not known.
        fits_training: The same for training.
    """

    model: LocalModel
    source: str | None
    profiles: tuple[str, ...]
    chat_bytes: int | None
    training_bytes: int | None
    fits_chat: bool | None
    fits_training: bool | None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as one JSON object."""
        return {**self.model.to_json(), **{name: value for name, value in vars(self).items() if name != "model"}}


def list_models(home: Home) -> list[ListedModel]:
    """Return all models of this machine.

    Args:
        home: The home folder.
    """
    profiles = _profiles_by_model(home)
    usable = usable_memory_bytes()
    return [_listed(model, profiles, usable) for model in list_local_models(home)]


def find_listed_model(home: Home, name: str) -> ListedModel:
    """Return one model of this machine.

    Args:
        home: The home folder.
        name: Its name in the list of models.

    Raises:
        UserError: If there is no model of this name.
    """
    found = find_local_model(home, name)
    if found is None:
        raise UserError("there is no such model on this machine", name, suggest_names(name, local_model_names(home)))
    return _listed(found, _profiles_by_model(home), usable_memory_bytes())


def check_deletable(home: Home, name: str, force: bool = False) -> None:
    """Check that a model can be deleted: one that was converted, and that no profile uses.

    Args:
        home: The home folder.
        name: Name of the model.
        force: Whether it may be deleted even if a profile uses it.

    Raises:
        UserError: If it cannot.
    """
    converted_names = [entry.name for entry in converted.entries(home.models)]
    if name not in converted_names:
        names = local_model_names(home)
        if name in names:
            raise UserError("belongs to another program", name, "delete it with that program")
        raise UserError("there is no converted model of this name", name, suggest_names(name, converted_names))
    users = _profiles_by_model(home).get(str((home.models / name).resolve()), ())
    if users and not force:
        profiles = f"profile{'s' if len(users) > 1 else ''} {', '.join(users)}"
        raise UserError(f"is the base model of the {profiles}", name, "give them another base model first, or force it")


def delete_model(home: Home, name: str, force: bool = False) -> int:
    """Delete a converted model. Models of other programs are never changed.

    Args:
        home: The home folder.
        name: Name of the model.
        force: Whether to delete it even if a profile uses it.

    Returns:
        The number of bytes that were freed.

    Raises:
        UserError: If it cannot be deleted; see `check_deletable`.
    """
    check_deletable(home, name, force)
    return converted.delete_converted(home.models, name)


def _listed(model: LocalModel, profiles: dict[str, tuple[str, ...]], usable_bytes: int | None) -> ListedModel:
    path = Path(model.path)
    source = read_source(path)
    try:
        needs = None if model.problem is not None else memory_needs(model.gguf or path)
    except Exception:  # files that other programs wrote can contain anything
        logger.debug("cannot estimate the memory of %s", model.name, exc_info=True)
        needs = None
    chat, training = (None, None) if needs is None else (needs.chat_bytes, needs.training_bytes)

    def fits(needed_bytes: int | None) -> bool | None:
        return None if needed_bytes is None or usable_bytes is None else needed_bytes <= usable_bytes

    return ListedModel(
        model=model,
        source=None if source is None else source.name,
        profiles=profiles.get(model.name, ()) or profiles.get(str(path.resolve()), ()),
        chat_bytes=chat,
        training_bytes=training,
        fits_chat=fits(chat),
        fits_training=fits(training),
    )


def _profiles_by_model(home: Home) -> dict[str, tuple[str, ...]]:
    """Return the names of the profiles of each base model."""
    profiles: dict[str, tuple[str, ...]] = {}
    for profile in home.profiles():
        try:
            model = base_model_of(home.profile(profile))
        except UserError:  # a damaged profile
            continue
        if model is not None:
            profiles[model] = (*profiles.get(model, ()), profile)
    return profiles
