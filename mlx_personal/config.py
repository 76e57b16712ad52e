"""A profile's settings: `config.toml`, one table a room. Every default is stated in the room it belongs to.

An unknown key, a wrong type or a value out of range is an error that names the file and, for a key, the nearest one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from mlx_personal.annotation import AnnotationConfig
from mlx_personal.chat import ChatConfig
from mlx_personal.embedding import EmbeddingConfig
from mlx_personal.errors import UserError, from_os_error
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.finetune import LoRAConfig
from mlx_personal.scoring import ScoringConfig
from mlx_personal.selection import SelectionConfig
from mlx_personal.synthesis import SynthesisConfig


@dataclass(frozen=True)
class TrainingTrigger:
    """When fine-tuning is due: every so many received dialogues, or when this share of the buffer has changed."""

    received: int = 800
    buffer_changed: float = 0.5

    def __post_init__(self) -> None:
        if self.received < 1 or not 0 < self.buffer_changed <= 1:
            raise ValueError("received must be at least 1, buffer_changed above 0 and at most 1")


@dataclass(frozen=True)
class MixtureConfig:
    """What a training is mixed of. `synthetic_weight`: how much a synthetic set counts in its loss, where an annotated
    dialogue counts 1."""

    synthetic_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.synthetic_weight <= 1:
            raise ValueError(f"synthetic_weight is {self.synthetic_weight}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class Config:
    """All settings of a profile."""

    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    annotation: AnnotationConfig = field(default_factory=AnnotationConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    finetune: LoRAConfig = field(default_factory=LoRAConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    trigger: TrainingTrigger = field(default_factory=TrainingTrigger)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)

    @classmethod
    def read(cls, path: Path) -> Config:
        """The settings in a TOML file; what it does not name keeps its default, and so does a missing file."""
        try:
            tables = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise from_os_error(error, path) from error
        except UnicodeDecodeError as error:
            raise UserError("not UTF-8 text", path, "save it as UTF-8") from error
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"not TOML ({error})", path, "mend that line") from error
        _only_known(tables, [f.name for f in dataclasses.fields(cls)], "table", path)
        return cls(**{name: _section(_section_type(name), name, table, path) for name, table in tables.items()})

    def to_toml(self) -> str:
        """A TOML file with every setting for a person to edit; those at their default are commented out."""
        lines = ["# Settings of this profile. Take the # away from a line to change it."]
        default = Config()
        for section in dataclasses.fields(self):
            lines += ["", f"[{section.name}]"]
            for key, value in dataclasses.asdict(getattr(self, section.name)).items():
                unchanged = value == getattr(getattr(default, section.name), key)
                lines.append(f"{'# ' if unchanged else ''}{key} = {_toml(value)}")
        return "\n".join(lines) + "\n"


def _section_type(name: str) -> type:
    section: type = get_type_hints(Config)[name]
    return section


def _section(section: type, name: str, table: Any, path: Path) -> Any:
    if not isinstance(table, dict):
        raise UserError(f"{name} must be a table", path, f"write [{name}] on a line of its own")
    hints = get_type_hints(section)
    _only_known(table, list(hints), f"key in [{name}]", path)
    values = {key: _checked(value, hints[key], f"{name}.{key}", path) for key, value in table.items()}
    try:
        return section(**values)
    except ValueError as error:
        raise UserError(f"[{name}] {error}", path) from error


def _checked(value: Any, expected: Any, name: str, path: Path) -> Any:
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if getattr(expected, "__origin__", None) is tuple:
        if isinstance(value, list) and len(value) == len(expected.__args__):
            return tuple(_checked(v, e, name, path) for v, e in zip(value, expected.__args__, strict=True))
        raise UserError(f"{name} must be a list of {len(expected.__args__)} values", path)
    kinds = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if expected in kinds and (not isinstance(value, expected) or (expected is int and isinstance(value, bool))):
        raise UserError(f"{name} must be {kinds[expected]}, not {value!r}", path)
    return value


def _only_known(table: dict[str, Any], known: list[str], what: str, path: Path) -> None:
    for key in table:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
            raise UserError(f"unknown {what}: {key!r}", path, f"did you mean {nearest!r}?")


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are TOML's too. Only a delete character, which JSON takes as it is, is none of TOML's.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(list(value)) if isinstance(value, tuple) else str(value)
