"""Validate data against `schema.json`, with the subset of JSON Schema that it uses."""

from __future__ import annotations

import functools
import json
import math
from importlib.resources import files
from typing import Any, Final

from mlx_personal.errors import quoted

_TYPES: Final[dict[str, Any]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
_KEYWORDS: Final = {
    "$defs",
    "$ref",
    "$schema",
    "additionalProperties",
    "const",
    "description",
    "items",
    "maxLength",
    "maximum",
    "minItems",
    "minimum",
    "properties",
    "required",
    "title",
    "type",
}


@functools.cache
def load_schema() -> dict[str, Any]:
    """Return the published schema."""
    loaded: dict[str, Any] = json.loads((files("mlx_personal.benchmark") / "schema.json").read_text("utf-8"))
    return loaded


def validate(data: Any) -> None:
    """Check data against the schema.

    Raises:
        ValueError: If the data do not match; the message names the first mismatch.
    """
    _validate(data, load_schema(), load_schema(), "")


def _validate(data: Any, rule: dict[str, Any], root: dict[str, Any], path: str) -> None:
    if unknown := set(rule) - _KEYWORDS:
        raise NotImplementedError(f"schema.json uses {sorted(unknown)}, which this module does not validate")
    where = path or "the whole"
    if "$ref" in rule:
        _validate(data, root["$defs"][rule["$ref"].removeprefix("#/$defs/")], root, path)
    if "const" in rule and data != rule["const"]:
        raise ValueError(f"{where} is not {rule['const']!r}")
    if "type" in rule:
        allowed = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
        if not any(_has_type(data, name) for name in allowed):
            raise ValueError(f"{where} is not of type {' or '.join(allowed)}")
    if isinstance(data, float) and not math.isfinite(data):
        raise ValueError(f"{where} is not finite")
    if "minimum" in rule and _has_type(data, "number") and data < rule["minimum"]:
        raise ValueError(f"{where} is below {rule['minimum']}")
    if "maximum" in rule and _has_type(data, "number") and data > rule["maximum"]:
        raise ValueError(f"{where} is above {rule['maximum']}")
    if isinstance(data, str) and len(data) > rule.get("maxLength", len(data)):
        raise ValueError(f"{where} is longer than {rule['maxLength']} characters")
    if isinstance(data, list):
        if len(data) < rule.get("minItems", 0):
            raise ValueError(f"{where} has fewer than {rule['minItems']} items")
        for number, item in enumerate(data):
            _validate(item, rule.get("items", {}), root, f"{path}[{number}]")
    if isinstance(data, dict):
        _validate_object(data, rule, root, path)


def _validate_object(data: dict[str, Any], rule: dict[str, Any], root: dict[str, Any], path: str) -> None:
    known = rule.get("properties", {})
    for name in rule.get("required", []):
        if name not in data:
            raise ValueError(f"{path or 'the whole'} lacks {name}")
    others = rule.get("additionalProperties", True)
    for name, value in data.items():
        # A name that is not in the schema may be of any length.
        inner = f"{path}.{name if name in known else quoted(name)}".removeprefix(".")
        if name not in known and others is False:
            raise ValueError(f"{inner} is not known")
        _validate(value, known.get(name, others if isinstance(others, dict) else {}), root, inner)


def _has_type(data: Any, name: str) -> bool:
    # A bool is an int in Python, but not in JSON.
    return isinstance(data, _TYPES[name]) and (name == "boolean" or not isinstance(data, bool))
