"""The six data sets of [Qin24 §4.1]: where they are, and how to load them.

Each data set is pinned to one commit of one repository, so that a study can be repeated. It can also be read from a
local file of the same rows, or of any rows that `importers` reads. This package contains none of the data.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

from mlx_personal.errors import UserError, quoted
from mlx_personal.importers import Skipped
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_mapping
from mlx_personal.importers.formats.parquet import import_pyarrow
from mlx_personal.importers.formats.training_set import conversation_of, read_rows
from mlx_personal.importers.head import read_head
from mlx_personal.importers.hub import hub_access
from mlx_personal.importers.json_records import Record
from mlx_personal.importers.normalize import normalize
from mlx_personal.importers.paths import file_document
from mlx_personal.research.hashing import file_hash
from mlx_personal.research.study import schemas
from mlx_personal.research.study.schemas import LabeledDialogue, Row

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
        title: Name in [Qin24].
        repo: Repository on the Hugging Face hub.
        revision: Commit of the repository.
        file: File of the repository.
        license: License of the data, which the card of a copy may not state.
        convert: Returns a row that `importers` reads for the rows of a dialogue, in order.
        grouping: If a dialogue is spread over rows: the columns of its id and of a row's position, and the position of
            its first row.
        is_csv_quoted: Whether the fields of its CSV files may be quoted.
        max_dialogues: Default limit on the number of dialogues; None for no limit.
    """

    title: str
    repo: str
    revision: str
    file: str
    license: str
    convert: Callable[[Sequence[Row]], Row] = lambda rows: rows[0]
    grouping: tuple[str, str, int] | None = None
    is_csv_quoted: bool = True
    max_dialogues: int | None = None


def load_dataset(name: str, path: Path | str | None = None, max_dialogues: int | None = None) -> LoadedDataset:
    """Load a data set. Rows without a dialogue are skipped and reported; repeated dialogues are dropped.

    Args:
        name: Name of the data set.
        path: Local file; None to load the pinned file from the Hugging Face hub.
        max_dialogues: Maximum number of dialogues; None for the default of the data set.

    Raises:
        UserError: If there is no such data set or file, the hub does not provide it, or it holds no usable row.
        ValueError: If `max_dialogues` is below 1.
    """
    dataset = find_dataset(name)
    limit = dataset.max_dialogues if max_dialogues is None else max_dialogues
    if limit is not None and limit < 1:
        raise ValueError(f"max_dialogues is {limit}; it must be at least 1")
    document = file_document(_download(dataset) if path is None else Path(path))
    source = dataset.revision if path is None else file_hash(Path(path))[:16]
    dialogues: dict[str, LabeledDialogue] = {}
    invalid_lines: list[Skipped] = []
    num_duplicates = 0
    for labeled in _read_dialogues(document, dataset):
        if isinstance(labeled, Skipped):
            invalid_lines.append(labeled)
        elif labeled.dialogue.key in dialogues:
            num_duplicates += 1
        elif len(dialogues) == limit:
            source = f"{source}:{limit}"
            break
        else:
            dialogues[labeled.dialogue.key] = labeled
    if not dialogues:
        what = f"none of its rows is usable (first: {invalid_lines[0].reason})" if invalid_lines else "it has no rows"
        raise UserError(what, document.where, f"name a file with rows of {dataset.title}, or of messages")
    return LoadedDataset(tuple(dialogues.values()), source, tuple(invalid_lines), num_duplicates)


def find_dataset(name: str) -> Dataset:
    """Return the description of a data set.

    Raises:
        UserError: If there is no data set of that name.
    """
    if name not in DATASETS:
        raise UserError(f"no data set is called {quoted(name)}", hint=f"name one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _download(dataset: Dataset) -> Path:
    """Return the path of a data set in the hub's cache, downloading it first if needed.

    This is the only function through which a study downloads data.
    """
    repo, file, revision = dataset.repo, dataset.file, dataset.revision
    location = f"{repo}/{file}"
    if file.endswith(".parquet"):
        import_pyarrow(location)  # without it a download would be of no use
    with hub_access(location, f"revision {revision[:8]} is no longer on the hub", "or name a local file"):
        path = try_to_load_from_cache(repo, file, repo_type="dataset", revision=revision)
        if not isinstance(path, str):
            # This request fails fast; without a network the download itself retries for half a minute.
            url = hf_hub_url(repo, file, repo_type="dataset", revision=revision)
            get_hf_file_metadata(url, timeout=_HUB_TIMEOUT_S)
            logger.info("downloading %s of %s", file, repo)
            path = hf_hub_download(repo, file, repo_type="dataset", revision=revision)
    return Path(path)


def _read_dialogues(document: Document, dataset: Dataset) -> Iterator[LabeledDialogue | Skipped]:
    """Yield the dialogues of a file in its order, those of several rows last, and the rows that are none.

    A dialogue of several rows ends at the first gap, because later turns may answer a missing one.
    """
    head = read_head(document)
    id_key, position_key, first = dataset.grouping or ("", "", 0)
    groups: dict[str, tuple[str, dict[int, Row]]] = {}
    for record in () if head.kind == "empty" else read_rows(document, head, dataset.is_csv_quoted):
        row = {} if isinstance(record, Skipped) else as_mapping(record.value)
        if isinstance(record, Skipped):
            yield record
        elif dataset.grouping is None or not {id_key, position_key} <= row.keys():
            yield _dialogue(dataset.convert([row]) if row else record.value, record.where)
        elif row[id_key] is None or not re.fullmatch(r"[0-9]{1,9}", str(row[position_key])):
            yield Skipped(record.where, f"a row without its {id_key} or {position_key}")
        else:
            _, rows = groups.setdefault(str(row[id_key]), (record.where, {}))
            rows.setdefault(int(row[position_key]), row)
    for where, rows in groups.values():
        contiguous = [rows[position] for position in itertools.takewhile(rows.__contains__, itertools.count(first))]
        missing = Skipped(where, "a dialogue without its beginning")
        yield _dialogue(dataset.convert(contiguous), where) if contiguous else missing


def _dialogue(row: Any, where: str) -> LabeledDialogue | Skipped:
    conversation = conversation_of(Record(row, where))
    normalized = conversation if isinstance(conversation, Skipped) else normalize(conversation)
    if isinstance(normalized, Skipped):
        return normalized
    return LabeledDialogue(normalized.dialogue, schemas.topic_of(as_mapping(row)))


# Revisions and files as named by other projects' pinned code and by the hub's own pages.
DATASETS: Final[Mapping[str, Dataset]] = {
    "alpaca": Dataset(
        title="ALPACA",
        repo="tatsu-lab/alpaca",
        revision="dce01c9b08f87459cf36a430d809084718273017",
        file="data/train-00000-of-00001-a09b74b3ef9c3b56.parquet",
        license="CC BY-NC 4.0",
    ),
    "dolly": Dataset(
        title="DOLLY",
        repo="databricks/databricks-dolly-15k",
        revision="bdd27f4d94b9c1f951818a7da7fd7aeea5dbff1a",
        file="databricks-dolly-15k.jsonl",
        license="CC BY-SA 3.0",
    ),
    "prosocial": Dataset(
        title="Prosocial-Dialog",
        repo="allenai/prosocial-dialog",
        revision="d77d7ad3c624c51030f2f32c83e892b3d620b3d4",
        file="train.json",
        license="CC BY 4.0",
        convert=schemas.prosocial,
        grouping=("dialogue_id", "response_id", 0),
    ),
    # The original repository (facebook/empathetic_dialogues) holds only a script; this copy holds all of the data.
    "empathetic": Dataset(
        title="Empathetic-Dialog",
        repo="Estwld/empathetic_dialogues_llm",
        revision="9661f063ed1ee3a2a4cb5b86bef3852fe91c3e2a",
        file="data/train-00000-of-00001.parquet",
        license="CC BY-NC 4.0",
        convert=schemas.empathetic,
        grouping=("conv_id", "utterance_idx", 1),
        is_csv_quoted=False,  # the original CSV file has bare quotation marks
    ),
    # One of its two parts, the answers of GPT-4: a file of 1 GB with a million unordered rows.
    "openorca": Dataset(
        title="OPENORCA",
        repo="Open-Orca/OpenOrca",
        revision="4db284c5eba9378dae839634f54abce4a0a7cfdf",
        file="1M-GPT4-Augmented.parquet",
        license="MIT",
        convert=schemas.openorca,
        max_dialogues=20_000,
    ),
    # The original repository (UCSD26/medical_dialog) needs a manual download; this copy holds its English part.
    "meddialog": Dataset(
        title="MedDialog",
        repo="lighteval/med_dialog",
        revision="ce8a234c92ea9a37743ad8154253ba897a4a70a5",
        file="healthcaremagic/train-00000-of-00001.parquet",
        license="none stated; the texts are healthcaremagic.com's",
        convert=schemas.meddialog,
        max_dialogues=20_000,
    ),
}
