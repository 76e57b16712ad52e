"""The six data sets of the paper (paper 1, 4.1): where they are, and what their rows say.

Each is pinned to one commit of one repository, so that a study can be repeated; or it is read from a local file of the
same schema, or of chats as this project imports them (`{"messages": [...]}` a line). Nothing of them is stored here.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import errors as hub_errors
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

from mlx_personal.dialogue import InvalidLine
from mlx_personal.errors import UserError, from_os_error, quoted
from mlx_personal.research.study.file_formats import check_readable, read_rows
from mlx_personal.research.study.schemas import (
    ALPACA,
    CHATS,
    DOLLY,
    EMPATHETIC,
    MEDDIALOG,
    OPENORCA,
    PROSOCIAL,
    Row,
    Sample,
    Schema,
)

# Seconds that the hub may take to answer at all.
_PATIENCE: Final = 10


@dataclass(frozen=True)
class Loaded:
    """What a data set gave: samples in the order of the file, no two with the same dialogue.

    Args:
        source: the revision or the hash of the file, with `:n` behind it where only the first n samples were taken.
        bad: what was passed over, each with its place and reason.
        duplicates: how many dialogues were there before.
    """

    samples: tuple[Sample, ...]
    source: str
    bad: tuple[InvalidLine, ...]
    duplicates: int


@dataclass(frozen=True)
class Dataset:
    """Where a data set of the paper is.

    Args:
        title: as the paper prints it.
        repo, revision, files: on the Hugging Face hub.
        licence: of the data, whatever a copy's card says.
        schemas: the hub's first.
        most: samples that are read unless told otherwise; None: all.
        quotes: whether its CSV quotes.
    """

    name: str
    title: str
    repo: str
    revision: str
    files: tuple[str, ...]
    licence: str
    schemas: tuple[Schema, ...]
    most: int | None = None
    quotes: bool = True


def load(name: str, path: Path | str | None = None, most: int | None = None) -> Loaded:
    """The samples of a data set, from its repository or from the local file `path`.

    What holds no dialogue is passed over and named; a dialogue that was there before is dropped. At most `most`
    samples are taken, the data set's own limit where None is given.

    UserError where there is no such data set or file, the hub does not give it, the file has another schema, or
    nothing in it is usable.
    """
    dataset = find(name)
    most = dataset.most if most is None else most
    if most is not None and most < 1:
        raise ValueError(f"most is {most}; it must be at least 1")
    if path is None:
        for file in dataset.files:
            check_readable(Path(file))
        files, source = [_download(dataset, file) for file in dataset.files], dataset.revision
    else:
        check_readable(Path(path))
        files, source = [Path(path)], _hash(Path(path))
    samples: dict[str, Sample] = {}
    bad: list[InvalidLine] = []
    strange: list[str] = []
    duplicates, cut = 0, False
    for found in (found for file in files for found in _samples(file, dataset, strange)):
        if isinstance(found, InvalidLine):
            bad.append(found)
        elif found.dialogue.key in samples:
            duplicates += 1
        elif len(samples) == most:
            cut = True
            break
        else:
            samples[found.dialogue.key] = found
    if not samples:
        raise _unusable(files[0], dataset, strange, bad)
    return Loaded(tuple(samples.values()), f"{source}:{most}" if cut else source, tuple(bad), duplicates)


def find(name: str) -> Dataset:
    """The data set of that name; UserError where there is none."""
    if name not in DATASETS:
        raise UserError(f"no data set is called {quoted(name)}", hint=f"name one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _download(dataset: Dataset, file: str) -> Path:
    """The one function through which a study opens the network; what was fetched once is not asked for again."""
    where = f"{dataset.repo}/{file}"
    local = "or name a local file"
    try:
        with _quiet_hub():
            return Path(_fetched(dataset.repo, file, dataset.revision))
    except hub_errors.GatedRepoError as error:
        raise UserError("its owners ask for a login", where, f"accept their terms on the hub, {local}") from error
    except (
        hub_errors.RepositoryNotFoundError,
        hub_errors.RevisionNotFoundError,
        hub_errors.RemoteEntryNotFoundError,
    ) as error:
        raise UserError(f"not on the hub any more at {dataset.revision[:8]}", where, "name a local file") from error
    except OSError as error:
        if error.errno:
            raise from_os_error(error, where) from error
        raise UserError("cannot be fetched from the hub", where, f"check the network, {local}") from error
    except Exception as error:  # the hub's client raises its HTTP library's own errors when there is no network
        raise UserError("cannot be fetched from the hub", where, f"check the network, {local}") from error


def _fetched(repo: str, file: str, revision: str) -> str:
    cached = try_to_load_from_cache(repo, file, repo_type="dataset", revision=revision)
    if isinstance(cached, str):
        return cached
    # Asked once first: a download tries again for half a minute where there is no network.
    get_hf_file_metadata(hf_hub_url(repo, file, repo_type="dataset", revision=revision), timeout=_PATIENCE)
    return hf_hub_download(repo, file, repo_type="dataset", revision=revision)


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """The hub's client logs each trouble it meets as well as raising it, which would be two messages for one."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise from_os_error(error, path) from error


def _samples(path: Path, dataset: Dataset, strange: list[str]) -> Iterator[Sample | InvalidLine]:
    """What a file holds, in its order; dialogues over several rows come last, in the order of their first rows.

    The keys of the first row of no known schema are put into `strange`.
    """
    groups: dict[tuple[Schema, str], tuple[str, dict[int, Row]]] = {}
    for row in read_rows(path, dataset.quotes):
        if isinstance(row, InvalidLine):
            yield row
            continue
        where, value = row
        if isinstance(value, list):  # a chat file may leave the name of its one key out
            value = {"messages": value}
        schema = next((schema for schema in (*dataset.schemas, *CHATS) if schema.fits(value)), None)
        if schema is None:
            strange[:] = strange or [", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__]
            yield InvalidLine(where, "not of the data set's schema")
        elif schema.group is None:
            yield _read(schema, where, [value])
        else:
            try:
                name, place = schema.group.of(value)
            except ValueError as error:
                yield InvalidLine(where, str(error))
                continue
            groups.setdefault((schema, name), (where, {}))[1].setdefault(place, value)
    for (schema, _), (where, rows) in groups.items():
        whole = schema.whole(rows)
        yield _read(schema, where, whole) if whole else InvalidLine(where, "a dialogue without its beginning")


def _read(schema: Schema, where: str, rows: Sequence[Row]) -> Sample | InvalidLine:
    try:
        return schema.read(rows)
    except ValueError as error:
        return InvalidLine(where, str(error))


def _unusable(path: Path, dataset: Dataset, strange: Sequence[str], bad: Sequence[InvalidLine]) -> UserError:
    if strange:
        schemas = " or ".join(", ".join(schema.keys) for schema in (*dataset.schemas, *CHATS))
        return UserError(f"no rows of {dataset.title}: they have {strange[0][:200]}", path, f"expected {schemas}")
    what = f"none of its rows is usable, the first for {bad[0].reason}" if bad else "no rows in it"
    return UserError(what, path, "name another file")


# The revisions are those that others' pinned code and the hub's own pages name, with the files in them.
DATASETS: Final[Mapping[str, Dataset]] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="alpaca",
            title="ALPACA",
            repo="tatsu-lab/alpaca",
            revision="dce01c9b08f87459cf36a430d809084718273017",
            files=("data/train-00000-of-00001-a09b74b3ef9c3b56.parquet",),
            licence="CC BY-NC 4.0",
            schemas=ALPACA,
        ),
        Dataset(
            name="dolly",
            title="DOLLY",
            repo="databricks/databricks-dolly-15k",
            revision="bdd27f4d94b9c1f951818a7da7fd7aeea5dbff1a",
            files=("databricks-dolly-15k.jsonl",),
            licence="CC BY-SA 3.0",
            schemas=DOLLY,
        ),
        Dataset(
            name="prosocial",
            title="Prosocial-Dialog",
            repo="allenai/prosocial-dialog",
            revision="d77d7ad3c624c51030f2f32c83e892b3d620b3d4",
            files=("train.json",),
            licence="CC BY 4.0",
            schemas=PROSOCIAL,
        ),
        # The data's own repository (facebook/empathetic_dialogues) holds a script, no data; this copy holds all of it.
        Dataset(
            name="empathetic",
            title="Empathetic-Dialog",
            repo="Estwld/empathetic_dialogues_llm",
            revision="9661f063ed1ee3a2a4cb5b86bef3852fe91c3e2a",
            files=("data/train-00000-of-00001.parquet",),
            licence="CC BY-NC 4.0",
            schemas=EMPATHETIC,
            # The original CSV spells its commas `_comma_` and has bare quotes, which would swallow its lines.
            quotes=False,
        ),
        # Of its two parts the answers of GPT-4; the file is 1 GB, of a million rows in no order.
        Dataset(
            name="openorca",
            title="OPENORCA",
            repo="Open-Orca/OpenOrca",
            revision="4db284c5eba9378dae839634f54abce4a0a7cfdf",
            files=("1M-GPT4-Augmented.parquet",),
            licence="MIT",
            schemas=OPENORCA,
            most=20_000,
        ),
        # Likewise: UCSD26/medical_dialog holds a script and asks for a download by hand; this is its English part.
        Dataset(
            name="meddialog",
            title="MedDialog",
            repo="lighteval/med_dialog",
            revision="ce8a234c92ea9a37743ad8154253ba897a4a70a5",
            files=("healthcaremagic/train-00000-of-00001.parquet",),
            licence="none stated; the texts are healthcaremagic.com's",
            schemas=MEDDIALOG,
            most=20_000,
        ),
    )
}
