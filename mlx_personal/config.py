"""The settings of a profile: `config.toml`, with one table for each package that has settings.

Defaults are defined by the config class of each package. A setting that is None in its class, because its default is a
property of the model, is written as "model". An unknown key, a wrong type or a value out of range is an error that
names the file and, for a key, the closest known one. Keys of version 0.1 are still read, with a notice.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, get_args, get_type_hints

from mlx_personal.annotation import AnnotationConfig
from mlx_personal.chat import ChatConfig
from mlx_personal.embedding import EmbeddingConfig
from mlx_personal.errors import UserError, from_os_error
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.finetune import LoRAConfig
from mlx_personal.finetune.config import STORED_NAMES
from mlx_personal.memory import MemoryConfig
from mlx_personal.scoring import ScoringConfig
from mlx_personal.selection import SelectionConfig
from mlx_personal.synthesis import SynthesisConfig

logger = logging.getLogger(__name__)

# Keys of version 0.1 and their present names, by table.
RENAMED_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "finetune": {old: new for new, old in STORED_NAMES.items()},
    "evaluation": {"share": "holdout_ratio"},
    "scoring": {"entropy": "entropy_estimator"},
    "trigger": {"received": "min_received", "buffer_changed": "min_buffer_change"},
}
# The value of a setting that is None, which TOML does not have.
_MODEL: Final = "model"


@dataclass(frozen=True)
class TrainingTrigger:
    """When a training run is pending.

    Attributes:
        min_received: Number of dialogues received since the last training run.
        min_buffer_change: Fraction of the buffer that has changed since then, above 0 and at most 1.

    Raises:
        ValueError: If a setting is out of its range.
    """

    min_received: int = 800
    min_buffer_change: float = 0.5

    def __post_init__(self) -> None:
        if self.min_received < 1:
            raise ValueError(f"min_received is {self.min_received}; it must be at least 1")
        if not 0 < self.min_buffer_change <= 1:
            raise ValueError(f"min_buffer_change is {self.min_buffer_change}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class MixtureConfig:
    """How annotated and synthetic dialogues are mixed in training.

    Attributes:
        synthetic_weight: Weight of a synthetic dialogue in the loss, above 0 and at most 1; an annotated one has 1.

    Raises:
        ValueError: If a setting is out of its range.
    """

    synthetic_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.synthetic_weight <= 1:
            raise ValueError(f"synthetic_weight is {self.synthetic_weight}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class Config:
    """All settings of a profile: one attribute for each table of `config.toml`.

    Attributes:
        embedding: Settings of the embedding.
        scoring: Settings of the scoring.
        selection: Settings of the selection.
        annotation: Settings of the annotation.
        synthesis: Settings of the synthesis.
        finetune: Settings of fine-tuning.
        mixture: How annotated and synthetic dialogues are mixed in training.
        trigger: When a training run is pending.
        evaluation: Settings of the evaluation.
        memory: Settings of the dialogues that are put before a question as examples.
        chat: Settings of the answers in `chat`.
        notices: Notices for the user about the file that the settings were read from, one line each.
    """

    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    annotation: AnnotationConfig = field(default_factory=AnnotationConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    finetune: LoRAConfig = field(default_factory=LoRAConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    trigger: TrainingTrigger = field(default_factory=TrainingTrigger)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    notices: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def read(cls, path: Path) -> Config:
        """Read the settings of a TOML file.

        Args:
            path: The file.

        Returns:
            The settings; defaults for missing keys, or if there is no such file.

        Raises:
            UserError: If the file cannot be read or contains anything that is not a setting.
        """
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise from_os_error(error, path) from error
        except UnicodeDecodeError as error:
            raise UserError("not UTF-8 text", path, "save it as UTF-8") from error
        config = cls.parse(text, path)
        for notice in config.notices:
            logger.warning(notice)
        return config

    @classmethod
    def parse(cls, text: str, path: Path) -> Config:
        """Return the settings of the text of a TOML file.

        Args:
            text: The text.
            path: The file, which errors name.

        Raises:
            UserError: If it contains anything that is not a setting.
        """
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"not TOML ({error})", path, "correct that line") from error
        types = _section_types()
        _check_known(tables, list(types), "table", path)
        renamed: list[str] = []
        sections = {name: _read_section(types[name], name, table, path, renamed) for name, table in tables.items()}
        notices = [f"{path}: old names of settings: {', '.join(renamed)}; they are still read"] if renamed else []
        return cls(**sections, notices=tuple(notices))

    def to_toml(self) -> str:
        """Return a TOML file of all settings for the user to edit; those at their default are commented out."""
        lines = ["# Settings of this profile. Remove the # from a line to change it."]
        default = Config()
        for section in _section_types():
            lines += ["", f"[{section}]"]
            for key, value in dataclasses.asdict(getattr(self, section)).items():
                unchanged = value == getattr(getattr(default, section), key)
                lines.append(f"{'# ' if unchanged else ''}{key} = {to_toml_value(value)}")
        return "\n".join(lines) + "\n"


def _section_types() -> dict[str, type]:
    """Return the config class of each table."""
    hints = get_type_hints(Config)
    return {f.name: hints[f.name] for f in dataclasses.fields(Config) if f.name != "notices"}


def _read_section(section: type, name: str, table: Any, path: Path, renamed: list[str]) -> Any:
    """Return the settings of one table, and add its old keys to `renamed`."""
    if not isinstance(table, dict):
        raise UserError(f"{name} must be a table", path, f"write [{name}] on a line of its own")
    table = _with_present_keys(name, table, path, renamed)
    hints = get_type_hints(section)
    _check_known(table, list(hints), f"key in [{name}]", path, RENAMED_KEYS.get(name, {}))
    values = {key: _checked(value, hints[key], f"{name}.{key}", path) for key, value in table.items()}
    try:
        return section(**values)
    except ValueError as error:
        raise UserError(f"[{name}] {error}", path) from error


def _with_present_keys(name: str, table: Mapping[str, Any], path: Path, renamed: list[str]) -> dict[str, Any]:
    """Return the table with version 0.1's keys replaced by the present ones."""
    present: dict[str, Any] = {}
    for key, value in table.items():
        new = RENAMED_KEYS.get(name, {}).get(key, key)
        if new != key:
            if new in table:
                raise UserError(
                    f"[{name}] has both {key} and {new}, which are the old and the new name of the same setting",
                    path,
                    f"remove {key}",
                )
            renamed.append(f"{name}.{key} is now {new}")
        present[new] = value
    return present


def _checked(value: Any, expected: Any, name: str, path: Path) -> Any:
    """Return a value of the expected type; raise UserError if it has another one."""
    or_model = ""
    if isinstance(expected, UnionType):
        if value == _MODEL:
            return None
        (expected,) = (type_ for type_ in get_args(expected) if type_ is not NoneType)
        or_model = f' or "{_MODEL}"'
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if getattr(expected, "__origin__", None) is tuple:
        if expected.__args__[1:] == (...,):
            if not isinstance(value, list):
                raise UserError(f"{name} must be a list", path)
            return tuple(_checked(v, expected.__args__[0], name, path) for v in value)
        if isinstance(value, list) and len(value) == len(expected.__args__):
            return tuple(_checked(v, e, name, path) for v, e in zip(value, expected.__args__, strict=True))
        raise UserError(f"{name} must be a list of {len(expected.__args__)} values", path)
    kinds = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if expected in kinds and (not isinstance(value, expected) or (expected is int and isinstance(value, bool))):
        raise UserError(f"{name} must be {kinds[expected]}{or_model}, not {value!r}", path)
    return value


def _check_known(
    table: Mapping[str, Any], known: Sequence[str], what: str, path: Path, renamed: Mapping[str, str] | None = None
) -> None:
    """Raise a UserError that suggests the nearest known name, also if an old name is misspelled."""
    renamed = renamed or {}
    for key in table:
        if key not in known:
            nearest = difflib.get_close_matches(key, [*known, *renamed], n=1, cutoff=0)[0]
            raise UserError(f"unknown {what}: {key!r}", path, f"did you mean {renamed.get(nearest, nearest)!r}?")


def to_toml_value(value: object) -> str:
    """Return the value of a setting as it is written in a settings file."""
    if value is None:
        value = _MODEL
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are TOML's too, except that JSON leaves a delete character as it is and TOML does not allow it.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"[{', '.join(map(to_toml_value, value))}]" if isinstance(value, tuple) else str(value)
