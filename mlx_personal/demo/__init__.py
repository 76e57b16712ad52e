"""The demo: the embedded model, a fictional user's conversations, and the loop run on them."""

from mlx_personal.demo.runner import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
