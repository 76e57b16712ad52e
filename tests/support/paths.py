"""Where the checkout's folders are, for tests at any depth."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
SCRIPTS = ROOT / "scripts"
KERNEL_SOURCES = ROOT / "kernels"
FIXTURES = TESTS / "fixtures"
