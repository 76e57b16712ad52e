"""The splits of a data set in a folder: `train.jsonl`, `valid.jsonl` and `test.jsonl`, or Parquet files of each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

# Names of mlx-lm's data folders, and of the files of data sets on the Hugging Face hub.
SPLITS: Final = ("train", "valid", "validation", "dev", "eval", "test")
TEST_SPLIT: Final = "test"
TEST_SPLIT_REASON: Final = "the test split of a data set"
_SPLIT: Final = re.compile(rf"(?P<split>{'|'.join(SPLITS)})(?:[-_]\d+(?:-of-\d+)?)?\.(?:jsonl|json|parquet)(?:\.gz)?")


def split_of(name: str) -> str:
    """Return the split that a file contains by its name, such as `train` or `test`; empty if it names none.

    Args:
        name: The name, with or without its folder.
    """
    match = _SPLIT.fullmatch(name.rpartition("/")[2].lower())
    return match["split"] if match else ""


def is_test_split(name: str, names: Iterable[str]) -> bool:
    """Return whether a file is the test split of a data set whose training split is in the same folder.

    It is for the comparison of models, so a model must not be trained on it.

    Args:
        name: Name of the file with its folder.
        names: Names of all files.
    """
    if split_of(name) != TEST_SPLIT:
        return False
    folder = name.rpartition("/")[0]
    return any(split_of(other) == "train" for other in names if other.rpartition("/")[0] == folder)
