"""Remove what killed training runs left in a profile: adapters without a row, and checkpoints that nothing resumes."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Final

from mlx_personal.storage.database import Database

logger = logging.getLogger(__name__)

# A training run writes to folders with its id as name.
_RUN_FOLDER: Final = re.compile(r"\d{4,}")
# The training runs whose adapter is recorded.
_RECORDED: Final = "SELECT run_id FROM adapters"
# The latest training run on each base model, which is resumed if its adapter is not recorded.
_LATEST: Final = "SELECT max(id) FROM runs WHERE kind = 'training' GROUP BY model"


def remove_leftovers(folder: Path, database: Database) -> None:
    """Remove the adapters that no row names, and the checkpoints of training runs that cannot be resumed.

    An adapter without a row is written again from the last checkpoint of its run. Folders of ids that the database does
    not have stay, because it may be an older copy. Only the process that has locked the profile may call this.

    Args:
        folder: The profile's folder.
        database: Its database.
    """
    unrecorded = f"SELECT id FROM runs WHERE kind = 'training' AND id NOT IN ({_RECORDED})"
    obsolete = f"SELECT id FROM runs WHERE id IN ({_RECORDED}) OR id NOT IN ({_LATEST})"
    for parent, query in ((folder / "adapters", unrecorded), (folder / "training", obsolete)):
        folders = _run_folders(parent)
        if folders:
            for run_id in folders.keys() & {row[0] for row in database.fetch_all(query)}:
                logger.info("removing %s, which a killed training run left", folders[run_id])
                shutil.rmtree(folders[run_id], ignore_errors=True)


def _run_folders(parent: Path) -> dict[int, Path]:
    """Return the folders of training runs by the id of the run."""
    if not parent.is_dir():
        return {}
    return {int(path.name): path for path in parent.iterdir() if _RUN_FOLDER.fullmatch(path.name) and path.is_dir()}
