"""Import the modules of scripts/."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

from tests.support.paths import SCRIPTS


def import_script(name: str) -> ModuleType:
    """Import a module of scripts/, whose modules import one another from that folder."""
    folder = str(SCRIPTS)
    sys.path.insert(0, folder)
    try:
        return import_module(name)
    finally:
        sys.path.remove(folder)
