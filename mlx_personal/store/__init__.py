"""The one writer to disk: a profile's SQLite database and the files beside it."""

from mlx_personal.store.database import Database, holds_profile, now
from mlx_personal.store.home import Home
from mlx_personal.store.records import AdapterRow, AnnotationRow, BinRow, DialogueRow, RunRow, SyntheticRow
from mlx_personal.store.store import Store

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
