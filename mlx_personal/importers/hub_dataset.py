"""Data sets on the Hugging Face hub, which are downloaded only where the owner allowed it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from mlx_personal.errors import UserError
from mlx_personal.importers.data_folder import is_test_split
from mlx_personal.importers.hub import hub_access

# More is no data set that an owner chose to import.
MAX_DOWNLOAD_BYTES: Final = 5_000_000_000
_TIMEOUT_S: Final = 10
_NAME: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_SUFFIXES: Final = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")
_ALTERNATIVE: Final = "or download it yourself and name its files"


def is_dataset_name(name: str) -> bool:
    """Return whether a text may be the name of a data set on the hub: `owner/name`, and no file of a folder here.

    Args:
        name: The text.
    """
    is_file = name.lower().endswith((*_SUFFIXES, ".zip", ".md", ".txt", ".db")) or Path(name).parent.is_dir()
    return _NAME.fullmatch(name) is not None and not is_file


def dataset_files(name: str, allow_download: bool) -> list[Path]:
    """Return the files of a data set on the hub that may contain dialogues, without its test split.

    Args:
        name: Its name, `owner/name`.
        allow_download: Whether the owner allowed to download it. If not, only files in the cache are returned, and no
            connection is opened.

    Returns:
        The files in the hub's cache.

    Raises:
        UserError: If it does not exist, has no such files or too large ones, or cannot be downloaded; or if it is not
            in the cache and must not be downloaded.
    """
    files = _downloaded(name) if allow_download else _cached(name)
    if files:
        return files
    what = "has no file in a format that can be read" if allow_download else "is not on this machine"
    raise UserError(f"this data set of the Hugging Face hub {what}", name, "allow the download, or name files")


def _chosen(names: list[str]) -> list[str]:
    """Return the names of the files that may contain dialogues, without the test split."""
    chosen = [name for name in names if name.lower().endswith(_SUFFIXES) and not is_test_split(name, names)]
    return sorted(name for name in chosen if not name.startswith(".") and "/." not in name)


def _cached(name: str) -> list[Path]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with hub_access(name, "is not on this machine", _ALTERNATIVE):
        try:
            folder = Path(snapshot_download(name, repo_type="dataset", local_files_only=True))
        except LocalEntryNotFoundError:
            return []
    return [folder / file for file in _chosen([path.relative_to(folder).as_posix() for path in folder.rglob("*.*")])]


def _downloaded(name: str) -> list[Path]:
    import huggingface_hub

    with hub_access(name, "there is no such data set on the Hugging Face hub", _ALTERNATIVE):
        information = huggingface_hub.HfApi().dataset_info(name, files_metadata=True, timeout=_TIMEOUT_S)
        sizes = {file.rfilename: file.size or 0 for file in information.siblings or ()}
        files = _chosen(list(sizes))
        size = sum(sizes[file] for file in files)
        if size > MAX_DOWNLOAD_BYTES:
            limit = f"at most {MAX_DOWNLOAD_BYTES / 1e9:.0f} GB are downloaded"
            raise UserError(f"has files of {size / 1e9:.1f} GB; {limit}", name, _ALTERNATIVE.removeprefix("or "))
        return [
            Path(huggingface_hub.hf_hub_download(name, file, repo_type="dataset", revision=information.sha))
            for file in files
        ]
