"""The splits of a data set in a folder: `train.jsonl`, `valid.jsonl` and `test.jsonl`, or Parquet files of each."""

from __future__ import annotations

import re
from typing import Final

from mlx_personal.importers.document import Document

# Names of mlx-lm's data folders, and of the files of data sets on the Hugging Face hub.
_SPLIT: Final = re.compile(
    r"(?P<split>train|valid|validation|dev|eval|test)(?:[-_]\d+(?:-of-\d+)?)?\.(?:jsonl|json|parquet)(?:\.gz)?"
)


def split_of(name: str) -> str:
    """Return the split that a file contains by its name, such as `train` or `test`; empty if it names none.

    Args:
        name: The name, with or without its folder.
    """
    match = _SPLIT.fullmatch(name.rpartition("/")[2].lower())
    return match["split"] if match else ""


def is_test_split(document: Document) -> bool:
    """Return whether a file is the test split of a data set whose training split is beside it.

    It is for the comparison of models, so a model must not be trained on it. A file that is named itself has nothing
    beside it.

    Args:
        document: The file.
    """
    if split_of(document.name) != "test":
        return False
    folder = document.name.rpartition("/")[0]
    names = (name for name in document.siblings if name.rpartition("/")[0] == folder)
    return any(split_of(name) == "train" for name in names)
