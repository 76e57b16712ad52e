"""The stored buffer, as selection sees it: with the domains and scores that follow from the lexicons in use."""

from __future__ import annotations

from mlx_personal.config import Config
from mlx_personal.personalizer.status import check_buffer_size
from mlx_personal.profile import Store
from mlx_personal.scoring import Lexicons
from mlx_personal.selection import Bin, Buffer


def stored_lexicons(store: Store) -> Lexicons:
    """Return the lexicons in use: the built-in ones, replaced or extended by the profile's own files.

    Args:
        store: The profile's store.
    """
    return Lexicons.load(store.folder / "lexicons")


def stored_buffer(store: Store, config: Config, lexicons: Lexicons | None = None) -> Buffer:
    """Return the stored buffer.

    Args:
        store: The profile's store.
        config: Its settings.
        lexicons: The lexicons in use; read if they are not given.

    Raises:
        UserError: If the configured buffer is smaller than the stored one.
    """
    check_buffer_size(store, config)
    lexicons = lexicons or stored_lexicons(store)
    bins = []
    for row in store.bins():
        score = lexicons.domain_specific_score(row.dialogue.text)
        bins.append(
            Bin(
                slot=row.slot,
                dialogue_id=row.dialogue_id,
                text=row.dialogue.text,
                domain=score.domain,
                vector=row.vector,
                eoe=row.eoe,
                dss=score.dss,
                idd_on_arrival=row.idd,
            )
        )
    return Buffer(config.selection.bins, bins, idd=config.selection.idd)
