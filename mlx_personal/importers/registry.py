"""All importers, and the choice of one by the beginning of a file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache

from mlx_personal.errors import UserError, quoted
from mlx_personal.importers.formats.ai_studio import AIStudioImporter
from mlx_personal.importers.formats.chat_log import ChatLogImporter
from mlx_personal.importers.formats.chatgpt import ChatGPTImporter
from mlx_personal.importers.formats.claude import ClaudeImporter
from mlx_personal.importers.formats.claude_code import ClaudeCodeImporter
from mlx_personal.importers.formats.codex import CodexImporter
from mlx_personal.importers.formats.copilot import CopilotImporter
from mlx_personal.importers.formats.deepseek import DeepSeekImporter
from mlx_personal.importers.formats.gemini import GeminiImporter
from mlx_personal.importers.formats.grok import GrokImporter
from mlx_personal.importers.formats.jan import JanImporter
from mlx_personal.importers.formats.llama_cpp import LlamaCppImporter
from mlx_personal.importers.formats.llm_logs import LLMLogsImporter
from mlx_personal.importers.formats.lm_studio import LMStudioImporter
from mlx_personal.importers.formats.markdown import MarkdownImporter
from mlx_personal.importers.formats.mistral import MistralImporter
from mlx_personal.importers.formats.ollama_app import OllamaAppImporter
from mlx_personal.importers.formats.open_webui import OpenWebUIImporter
from mlx_personal.importers.formats.pi import PiImporter
from mlx_personal.importers.formats.training_set import TrainingSetImporter
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import Importer


@cache
def importers() -> Mapping[str, Importer]:
    """Return all importers by the names of their formats."""
    found: list[Importer] = [
        ChatGPTImporter(),
        ClaudeImporter(),
        GeminiImporter(),
        AIStudioImporter(),
        GrokImporter(),
        DeepSeekImporter(),
        MistralImporter(),
        CopilotImporter(),
        TrainingSetImporter(),
        OpenWebUIImporter(),
        LMStudioImporter(),
        OllamaAppImporter(),
        LLMLogsImporter(),
        LlamaCppImporter(),
        JanImporter(),
        ClaudeCodeImporter(),
        CodexImporter(),
        PiImporter(),
        ChatLogImporter(),
        MarkdownImporter(),
    ]
    return {importer.name: importer for importer in found}


def importer_named(name: str) -> Importer:
    """Return the importer of a format.

    Args:
        name: Name of the format.

    Raises:
        UserError: If there is none.
    """
    importer = importers().get(name)
    if importer is None:
        near = difflib.get_close_matches(name, importers(), 1)
        hint = f"did you mean {near[0]}?" if near else f"the formats are {', '.join(importers())}"
        raise UserError(f"{quoted(name)} is not a format", hint=hint)
    return importer


def detect(head: Head) -> Importer | None:
    """Return the importer that recognizes a file, or None.

    Args:
        head: The beginning of the file.
    """
    confidence, best = max(((importer.sniff(head), importer) for importer in importers().values()), key=lambda x: x[0])
    return best if confidence > 0 else None


def is_side_file(head: Head) -> bool:
    """Return whether a file belongs to an export of an app and has no conversations.

    Args:
        head: The beginning of the file.
    """
    return any(head.base_name in importer.side_files for importer in importers().values())
