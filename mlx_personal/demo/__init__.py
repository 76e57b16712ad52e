"""A guest on top of the house: the embedded model, one fictional owner's conversations, and the loop run on them."""

from mlx_personal.demo.runner import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
