"""Models of Ollama: a manifest `manifests/HOST/NAMESPACE/MODEL/TAG` names the blobs that a model consists of."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mlx_personal.errors import UserError, from_os_error
from mlx_personal.models.stores.entry import StoreEntry, distinct, files, subfolders, unreadable, user_path

PREFIX = "ollama:"

_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
# Where Ollama keeps models when it runs as a service of the system.
_SERVICE_FOLDER = Path("/usr/share/ollama/.ollama/models")
_MEDIA_TYPE = "application/vnd.ollama.image."
_DIGEST = re.compile(r"sha256[:-](?P<hex>[0-9a-f]{64})")
_NAME_PART = re.compile(r"[A-Za-z0-9_][\w.-]*")
_OTHER_MODEL, _PULL = "name another model", "pull it again with Ollama"
_MAX_MANIFEST_BYTES = 2**20


def entries() -> Iterator[StoreEntry]:
    """Yield the models of all manifests."""
    for root in roots():
        yield from _folder_entries(root, root / "manifests", levels=3)


def find(name: str) -> StoreEntry | None:
    """Return the entry of a model, or None if there is no manifest of this name.

    Args:
        name: Name of the model as Ollama takes it, `[[HOST/]NAMESPACE/]MODEL[:TAG]`, without the prefix.

    Raises:
        UserError: If it is not such a name.
    """
    parts = _name_parts(name)
    for root in roots():
        manifest = root.joinpath("manifests", *parts)
        if manifest.is_file():
            return _entry(root, manifest)
    wanted = _display_name(parts).lower()
    return next((entry for entry in entries() if entry.name.lower() == wanted), None)


def digest_of(blob: Path) -> str | None:
    """Return the SHA-256 that a blob is stored under; None for any other file.

    Args:
        blob: The file of a blob.
    """
    match = _DIGEST.fullmatch(blob.name)
    return None if match is None else match["hex"]


def roots() -> list[Path]:
    """Return the folders of models that exist."""
    folders = [os.environ.get("OLLAMA_MODELS", ""), "~/.ollama/models"]
    return list(distinct([*(user_path(folder) for folder in folders if folder), _SERVICE_FOLDER]))


def _folder_entries(root: Path, folder: Path, levels: int) -> Iterator[StoreEntry]:
    """Yield the models of the manifests that are `levels` folders below a folder."""
    try:
        children = subfolders(folder) if levels else files(folder)
    except OSError as error:
        yield unreadable(folder, error)
        return
    for child in children:
        if levels:
            yield from _folder_entries(root, child, levels - 1)
        else:
            yield _entry(root, child)


def _entry(root: Path, manifest: Path) -> StoreEntry:
    """Return the model of a manifest."""
    name = _display_name(manifest.parts[-4:])
    try:
        return StoreEntry(name, _model_blob(root, manifest))
    except UserError as error:
        return StoreEntry(name, manifest, error.what, error.hint)


def _model_blob(root: Path, manifest: Path) -> Path:
    """Return the GGUF file that a manifest names.

    Raises:
        UserError: If it names none, or none that is complete.
    """
    layers = _layers(manifest)
    kinds = [kind for kind, _ in layers]
    if "adapter" in kinds:
        raise UserError("has a LoRA adapter beside its model, which is not converted", manifest, _OTHER_MODEL)
    if "tensor" in kinds:
        raise UserError("is stored by tensors and not as a GGUF file", manifest, _OTHER_MODEL)
    digests = [digest for kind, digest in layers if kind == "model"]
    if not digests:
        raise UserError("has no weights on this machine, as a cloud model has", manifest, _OTHER_MODEL)
    match = _DIGEST.fullmatch(digests[0])
    if match is None:
        raise UserError("its manifest is damaged", manifest, _PULL)
    blobs = root / "blobs"
    for blob in (blobs / f"sha256-{match['hex']}", blobs / f"sha256:{match['hex']}"):
        if blob.is_file():
            return blob
    if any(blobs.glob(f"sha256-{match['hex']}-partial*")):
        raise UserError("is still being downloaded", manifest, "wait until Ollama has pulled it")
    raise UserError("its weights are missing", manifest, _PULL)


def _layers(manifest: Path) -> list[tuple[str, str]]:
    """Return the kind, such as `model`, and the digest of each layer of a manifest.

    Raises:
        UserError: If the manifest cannot be read.
    """
    try:
        content = json.loads(manifest.read_bytes()) if manifest.stat().st_size <= _MAX_MANIFEST_BYTES else {}
        layers = [(str(layer["mediaType"]), str(layer["digest"])) for layer in content["layers"] or ()]
    except OSError as error:
        raise from_os_error(error, manifest) from error
    except (ValueError, RecursionError, TypeError, KeyError):
        raise UserError("its manifest is damaged", manifest, _PULL) from None
    # A type may have parameters, as in `...image.tensor; name=...`.
    return [(kind.split(";")[0].strip().removeprefix(_MEDIA_TYPE), digest) for kind, digest in layers]


def _name_parts(name: str) -> tuple[str, str, str, str]:
    """Return the host, namespace, model and tag that a name stands for."""
    path, _, tag = name.rpartition(":")
    if not path or "/" in tag:  # no tag: the colon is that of a port, or there is none
        path, tag = name, _TAG
    parts = path.split("/")
    host = parts[0] if len(parts) == 3 else _HOST
    namespace = parts[-2] if len(parts) > 1 else _NAMESPACE
    model = parts[-1]
    named = (namespace, model, tag, host.replace(":", ""))
    if len(parts) > 3 or not all(_NAME_PART.fullmatch(part) for part in named):
        raise UserError(
            "is not the name of an Ollama model", f"{PREFIX}{name}", "write it as ollama:MODEL or ollama:MODEL:TAG"
        )
    return host, namespace, model, tag


def _display_name(parts: tuple[str, ...]) -> str:
    """Return the shortest name of a model, with its tag."""
    host, namespace, model, tag = parts
    path = [model]
    if (host, namespace) != (_HOST, _NAMESPACE):
        path.insert(0, namespace)
    if host != _HOST:
        path.insert(0, host)
    return f"{PREFIX}{'/'.join(path)}:{tag}"
