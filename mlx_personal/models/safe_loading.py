"""Load model folders with mlx-lm and transformers without running Python code that the folders contain.

Everything in this package that reads a model's weights or tokenizer does it here.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

import mlx.nn as nn
import mlx_lm
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_model

from mlx_personal.errors import UserError, from_os_error
from mlx_personal.models.mlx_lm_compat import code_of_models_refused
from mlx_personal.models.model_folder import check_model_folder

_TOKENIZER_OPTIONS: Final = {"trust_remote_code": False, "local_files_only": True}
# mlx-lm names every missing weight in its errors.
_MAX_REASON_CHARACTERS = 160


def load_model_and_tokenizer(folder: Path, lazy: bool = False) -> tuple[nn.Module, TokenizerWrapper]:
    """Load a model and its tokenizer from a folder.

    Args:
        folder: The model's folder.
        lazy: Whether weights are read only when they are used.

    Raises:
        UserError: If the folder cannot be loaded, or would need code of its own.
    """
    check_model_folder(folder)
    try:
        with code_of_models_refused():
            model, tokenizer = mlx_lm.load(
                str(folder), lazy=lazy, trust_remote_code=False, tokenizer_config=dict(_TOKENIZER_OPTIONS)
            )[:2]
    except OSError as error:
        raise from_os_error(error, folder) from error
    except Exception as error:  # loaders raise anything from KeyError to SafetensorError for a damaged folder
        reason = textwrap.shorten(str(error), _MAX_REASON_CHARACTERS, placeholder=" ...")
        what = f"the model cannot be loaded ({reason or type(error).__name__})"
        raise UserError(what, folder, "check the folder, or name another model") from error
    return model, tokenizer


def load_unread_model(folder: Path) -> nn.Module:
    """Return the model of a folder that was loaded before; each weight is read when it is used.

    Args:
        folder: The model's folder.
    """
    return load_model(folder, lazy=True, trust_remote_code=False)[0]
