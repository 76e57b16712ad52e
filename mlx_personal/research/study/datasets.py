"""The six data sets of [Qin24 §4.1]: where they are, and how to load them.

Each data set is pinned to one commit of one repository, so that a study can be repeated. It can also be read from a
local file of the same schema, or of chats (`{"messages": [...]}` per line). This package contains none of the data.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

from mlx_personal.errors import UserError, quoted
from mlx_personal.importers import Skipped
from mlx_personal.importers.hub import hub_access
from mlx_personal.research.hashing import file_hash
from mlx_personal.research.study.file_formats import check_readable, read_rows
from mlx_personal.research.study.schemas import (
    ALPACA,
    CHATS,
    DOLLY,
    EMPATHETIC,
    MEDDIALOG,
    OPENORCA,
    PROSOCIAL,
    DataRow,
    LabeledDialogue,
    Schema,
)

logger = logging.getLogger(__name__)

_HUB_TIMEOUT_S: Final = 10


@dataclass(frozen=True)
class LoadedDataset:
    """The contents of a data set.

    Attributes:
        dialogues: Dialogues in the order of the file, without repetitions.
        source: Revision of the repository, or hash of the file, followed by `:n` if only the first n were taken.
        invalid_lines: Rows that were skipped, with location and reason.
        num_duplicates: Number of repeated dialogues that were dropped.
    """

    dialogues: tuple[LabeledDialogue, ...]
    source: str
    invalid_lines: tuple[Skipped, ...]
    num_duplicates: int


@dataclass(frozen=True)
class Dataset:
    """The description of a data set.

    Attributes:
        name: Name in this package.
        title: Name in [Qin24].
        repo: Repository on the Hugging Face hub.
        revision: Commit of the repository.
        files: Files of the repository.
        license: License of the data, which the card of a copy may not state.
        schemas: Accepted schemas; the first one is that of the hub.
        max_dialogues: Default limit on the number of dialogues; None for no limit.
        csv_quoting: Whether its CSV files quote their fields.
    """

    name: str
    title: str
    repo: str
    revision: str
    files: tuple[str, ...]
    license: str
    schemas: tuple[Schema, ...]
    max_dialogues: int | None = None
    csv_quoting: bool = True


def load_dataset(name: str, path: Path | str | None = None, max_dialogues: int | None = None) -> LoadedDataset:
    """Load a data set. Rows without a dialogue are skipped and reported; repeated dialogues are dropped.

    Args:
        name: Name of the data set.
        path: Local file; None to load the pinned files from the Hugging Face hub.
        max_dialogues: Maximum number of dialogues; None for the default of the data set.

    Raises:
        UserError: If there is no such data set or file, the hub does not provide it, or it holds no usable row.
        ValueError: If `max_dialogues` is below 1.
    """
    dataset = find_dataset(name)
    max_dialogues = dataset.max_dialogues if max_dialogues is None else max_dialogues
    if max_dialogues is not None and max_dialogues < 1:
        raise ValueError(f"max_dialogues is {max_dialogues}; it must be at least 1")
    if path is None:
        for file in dataset.files:
            check_readable(Path(file))
        files, source = [_download(dataset, file) for file in dataset.files], dataset.revision
    else:
        check_readable(Path(path))
        files, source = [Path(path)], file_hash(Path(path))[:16]
    dialogues: dict[str, LabeledDialogue] = {}
    invalid_lines: list[Skipped] = []
    unknown_keys: list[str] = []
    num_duplicates, limited = 0, False
    for labeled in (labeled for file in files for labeled in _read_dialogues(file, dataset, unknown_keys)):
        if isinstance(labeled, Skipped):
            invalid_lines.append(labeled)
        elif labeled.dialogue.key in dialogues:
            num_duplicates += 1
        elif len(dialogues) == max_dialogues:
            limited = True
            break
        else:
            dialogues[labeled.dialogue.key] = labeled
    if not dialogues:
        raise _unusable(files[0], dataset, unknown_keys, invalid_lines)
    source = f"{source}:{max_dialogues}" if limited else source
    return LoadedDataset(tuple(dialogues.values()), source, tuple(invalid_lines), num_duplicates)


def find_dataset(name: str) -> Dataset:
    """Return the description of a data set.

    Raises:
        UserError: If there is no data set of that name.
    """
    if name not in DATASETS:
        raise UserError(f"no data set is called {quoted(name)}", hint=f"name one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _download(dataset: Dataset, file: str) -> Path:
    """Return the path of a file in the hub's cache, downloading it first if needed.

    This is the only function through which a study downloads data.
    """
    location, missing = f"{dataset.repo}/{file}", f"revision {dataset.revision[:8]} is no longer on the hub"
    with hub_access(location, missing, "or name a local file"):
        return Path(_cached_or_downloaded(dataset.repo, file, dataset.revision))


def _cached_or_downloaded(repo: str, file: str, revision: str) -> str:
    cached = try_to_load_from_cache(repo, file, repo_type="dataset", revision=revision)
    if isinstance(cached, str):
        return cached
    # This request fails fast; without a network the download itself retries for half a minute.
    get_hf_file_metadata(hf_hub_url(repo, file, repo_type="dataset", revision=revision), timeout=_HUB_TIMEOUT_S)
    logger.info("downloading %s of %s", file, repo)
    return hf_hub_download(repo, file, repo_type="dataset", revision=revision)


def _read_dialogues(path: Path, dataset: Dataset, unknown_keys: list[str]) -> Iterator[LabeledDialogue | Skipped]:
    """Yield the dialogues of a file in its order; dialogues spread over several rows come last.

    The keys of the first row that matches no schema are stored in `unknown_keys`.
    """
    groups: dict[tuple[Schema, str], tuple[str, dict[int, DataRow]]] = {}
    for row in read_rows(path, dataset.csv_quoting):
        if isinstance(row, Skipped):
            yield row
            continue
        location, value = row
        if isinstance(value, list):  # a chat file may hold bare lists of messages
            value = {"messages": value}
        schema = next((schema for schema in (*dataset.schemas, *CHATS) if schema.matches(value)), None)
        if schema is None:
            keys = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
            unknown_keys[:] = unknown_keys or [keys]
            yield Skipped(location, "not of the data set's schema")
        elif schema.grouping is None:
            yield _read_dialogue(schema, location, [value])
        else:
            try:
                dialogue_id, position = schema.grouping.locate(value)
            except ValueError as error:
                yield Skipped(location, str(error))
                continue
            groups.setdefault((schema, dialogue_id), (location, {}))[1].setdefault(position, value)
    for (schema, _), (location, rows) in groups.items():
        contiguous = schema.contiguous(rows)
        if contiguous:
            yield _read_dialogue(schema, location, contiguous)
        else:
            yield Skipped(location, "a dialogue without its beginning")


def _read_dialogue(schema: Schema, location: str, rows: Sequence[DataRow]) -> LabeledDialogue | Skipped:
    try:
        return schema.read(rows)
    except ValueError as error:
        return Skipped(location, str(error))


def _unusable(path: Path, dataset: Dataset, unknown_keys: Sequence[str], invalid_lines: Sequence[Skipped]) -> UserError:
    if unknown_keys:
        schemas = " or ".join(", ".join(schema.keys) for schema in (*dataset.schemas, *CHATS))
        return UserError(
            f"its rows are not those of {dataset.title}: they have {unknown_keys[0][:200]}",
            path,
            f"expected {schemas}",
        )
    what = f"none of its rows is usable (first: {invalid_lines[0].reason})" if invalid_lines else "it has no rows"
    return UserError(what, path, "name another file")


# Revisions and files as named by other projects' pinned code and by the hub's own pages.
DATASETS: Final[Mapping[str, Dataset]] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="alpaca",
            title="ALPACA",
            repo="tatsu-lab/alpaca",
            revision="dce01c9b08f87459cf36a430d809084718273017",
            files=("data/train-00000-of-00001-a09b74b3ef9c3b56.parquet",),
            license="CC BY-NC 4.0",
            schemas=ALPACA,
        ),
        Dataset(
            name="dolly",
            title="DOLLY",
            repo="databricks/databricks-dolly-15k",
            revision="bdd27f4d94b9c1f951818a7da7fd7aeea5dbff1a",
            files=("databricks-dolly-15k.jsonl",),
            license="CC BY-SA 3.0",
            schemas=DOLLY,
        ),
        Dataset(
            name="prosocial",
            title="Prosocial-Dialog",
            repo="allenai/prosocial-dialog",
            revision="d77d7ad3c624c51030f2f32c83e892b3d620b3d4",
            files=("train.json",),
            license="CC BY 4.0",
            schemas=PROSOCIAL,
        ),
        # The original repository (facebook/empathetic_dialogues) holds only a script; this copy holds all of the data.
        Dataset(
            name="empathetic",
            title="Empathetic-Dialog",
            repo="Estwld/empathetic_dialogues_llm",
            revision="9661f063ed1ee3a2a4cb5b86bef3852fe91c3e2a",
            files=("data/train-00000-of-00001.parquet",),
            license="CC BY-NC 4.0",
            schemas=EMPATHETIC,
            # The original CSV writes commas as `_comma_` and contains bare quotes, which CSV quoting would misread.
            csv_quoting=False,
        ),
        # One of its two parts, the answers of GPT-4: a file of 1 GB with a million unordered rows.
        Dataset(
            name="openorca",
            title="OPENORCA",
            repo="Open-Orca/OpenOrca",
            revision="4db284c5eba9378dae839634f54abce4a0a7cfdf",
            files=("1M-GPT4-Augmented.parquet",),
            license="MIT",
            schemas=OPENORCA,
            max_dialogues=20_000,
        ),
        # The original repository (UCSD26/medical_dialog) needs a manual download; this copy holds its English part.
        Dataset(
            name="meddialog",
            title="MedDialog",
            repo="lighteval/med_dialog",
            revision="ce8a234c92ea9a37743ad8154253ba897a4a70a5",
            files=("healthcaremagic/train-00000-of-00001.parquet",),
            license="none stated; the texts are healthcaremagic.com's",
            schemas=MEDDIALOG,
            max_dialogues=20_000,
        ),
    )
}
