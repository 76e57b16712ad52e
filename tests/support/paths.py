"""Paths of the checkout, for tests in any folder."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
SCRIPTS = ROOT / "scripts"
KERNEL_SOURCES = ROOT / "kernels"
FIXTURES = TESTS / "fixtures"
