"""The one writer to disk: a profile's SQLite database and the files beside it."""

from mlx_personal.profile.home import Home
from mlx_personal.profile.records import AdapterRow, AnnotationRow, BinRow, DialogueRow, RunRow, SyntheticRow
from mlx_personal.profile.store import Store, holds_profile
from mlx_personal.storage.database import Database, now

__all__ = [
    "AdapterRow",
    "AnnotationRow",
    "BinRow",
    "Database",
    "DialogueRow",
    "Home",
    "RunRow",
    "Store",
    "SyntheticRow",
    "holds_profile",
    "now",
]
