"""The demo: the learning loop on the embedded model and a fictional user's conversations."""

from mlx_personal.demo.runner import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
