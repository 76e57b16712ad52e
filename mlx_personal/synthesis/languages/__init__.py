"""The languages that synthesis has worked examples for, one JSON file each."""

from mlx_personal.synthesis.languages.detection import detect_language, kind_of, opening_of
from mlx_personal.synthesis.languages.language import KINDS, Kind, Language, load_languages

__all__ = ["KINDS", "Kind", "Language", "detect_language", "kind_of", "load_languages", "opening_of"]
