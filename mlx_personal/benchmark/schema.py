"""Checks data against `schema.json`: the part of JSON Schema that it uses, which is not worth a dependency."""

from __future__ import annotations

import functools
import json
import math
from importlib.resources import files
from typing import Any

from mlx_personal.errors import quoted

_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
_WORDS = {
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
def schema() -> dict[str, Any]:
    """The published schema."""
    loaded: dict[str, Any] = json.loads((files("mlx_personal.benchmark") / "schema.json").read_text("utf-8"))
    return loaded


def check(data: Any) -> None:
    """ValueError that names the first place where `data` is not what the schema says."""
    _check(data, schema(), schema(), "")


def _check(data: Any, rule: dict[str, Any], root: dict[str, Any], place: str) -> None:
    if unknown := set(rule) - _WORDS:
        raise NotImplementedError(f"schema.json uses {sorted(unknown)}, which this does not check")
    where = place or "the whole"
    if "$ref" in rule:
        _check(data, root["$defs"][rule["$ref"].removeprefix("#/$defs/")], root, place)
    if "const" in rule and data != rule["const"]:
        raise ValueError(f"{where} is not {rule['const']!r}")
    if "type" in rule:
        wanted = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
        if not any(_is(data, kind) for kind in wanted):
            raise ValueError(f"{where} is no {' or '.join(wanted)}")
    if isinstance(data, float) and not math.isfinite(data):
        raise ValueError(f"{where} is not finite")
    if "minimum" in rule and _is(data, "number") and data < rule["minimum"]:
        raise ValueError(f"{where} is below {rule['minimum']}")
    if "maximum" in rule and _is(data, "number") and data > rule["maximum"]:
        raise ValueError(f"{where} is above {rule['maximum']}")
    if isinstance(data, str) and len(data) > rule.get("maxLength", len(data)):
        raise ValueError(f"{where} is longer than {rule['maxLength']} characters")
    if isinstance(data, list):
        if len(data) < rule.get("minItems", 0):
            raise ValueError(f"{where} has fewer than {rule['minItems']} items")
        for number, item in enumerate(data):
            _check(item, rule.get("items", {}), root, f"{place}[{number}]")
    if isinstance(data, dict):
        _check_object(data, rule, root, place)


def _check_object(data: dict[str, Any], rule: dict[str, Any], root: dict[str, Any], place: str) -> None:
    known = rule.get("properties", {})
    for name in rule.get("required", []):
        if name not in data:
            raise ValueError(f"{place or 'the whole'} lacks {name}")
    others = rule.get("additionalProperties", True)
    for name, value in data.items():
        # A name of the schema's, or one from outside.
        inner = f"{place}.{name if name in known else quoted(name)}".removeprefix(".")
        if name not in known and others is False:
            raise ValueError(f"{inner} is not known")
        _check(value, known.get(name, others if isinstance(others, dict) else {}), root, inner)


def _is(data: Any, kind: str) -> bool:
    # A bool is an int to Python, not to JSON.
    return isinstance(data, _TYPES[kind]) and (kind == "boolean" or not isinstance(data, bool))
