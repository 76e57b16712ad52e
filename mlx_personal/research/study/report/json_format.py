"""The form of `report.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from mlx_personal.research.study.report import findings
from mlx_personal.research.study.report.base_models import BaseModelScores
from mlx_personal.research.study.report.inventory import Inventory
from mlx_personal.research.study.report.statistics import PairedDifference

# Fields that `report.json` has under another key. The keys are those of version 0.1, so that reports can be compared
# across versions.
JSON_KEYS: Final[Mapping[type, Mapping[str, str]]] = {
    PairedDifference: {"p_value": "p", "adjusted_p_value": "adjusted"},
    findings.SyntheticCounts: {
        "per_selected": "each",
        "requested": "wanted",
        "available": "got",
        "shortfalls": "short",
        "none_available": "none",
    },
    findings.ComparisonEntry: {"is_best": "best", "synthetic_counts": "sets"},
    findings.ComparisonRow: {"constant_answer": "one_answer"},
    findings.Comparison: {"family_size": "family"},
    findings.OtherMetrics: {"synthetic_counts": "sets", "not_comparable": "unequal"},
    findings.SweepPoint: {"seconds_per_epoch": "seconds_an_epoch", "synthetic_counts": "sets"},
    findings.WeightTuning: {"relative_gains": "gains", "best_weight": "best", "num_seeds": "seeds"},
    findings.Findings: {
        "weighted": "own",
        "other_metrics": "beyond",
        "weighted_other_metrics": "own_beyond",
        "failed_synthesis": "unwritten",
        "weighted_failed_synthesis": "own_unwritten",
    },
    BaseModelScores: {
        "only_base": "alone",
        "num_dialogues": "dialogues",
        "num_tokens": "tokens",
        "constant_answer": "one_answer",
    },
    Inventory: {
        "num_cells": "cells",
        "num_base_cells": "base_cells",
        "seed_range": "seeds",
        "compute_s": "seconds",
        "num_hidden": "hidden",
        "deviations": "departures",
    },
}


def to_json(value: Any) -> Any:
    """Return dataclasses, mappings and sequences as JSON values.

    Keys that are values of a setting become text; None becomes `none`. Differences get their verdict.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        keys = JSON_KEYS.get(type(value), {})
        fields = {
            keys.get(field.name, field.name): to_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return fields | {"verdict": value.verdict} if isinstance(value, PairedDifference) else fields
    if isinstance(value, Mapping):
        return {_key_text(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def _key_text(key: Any) -> str:
    if isinstance(key, tuple):
        return " ".join(map(str, key))
    return "none" if key is None else str(key)
