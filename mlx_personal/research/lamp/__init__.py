"""The LaMP benchmark: one adapter a user, beside prompts with the user's items, and CDCDA-PLM (papers.md of LaMP, OPPU;
paper 2).

From the ground up: `tasks`, `streaming`, `predictions` and `reading` know the files; `retrieval` and `prompting` the
official inputs; `metrics` the official figures; `methods` says what is compared. `answering` does one user's part on
the device, `jobs` wraps it for worker processes, `records` keeps what came of it, `run` drives all users, and `report`
turns it into tables. `download` gets the files. A guest: it uses the product's rooms and none uses it.
"""

from mlx_personal.research.lamp.lamp_run import Request, run_lamp
from mlx_personal.research.lamp.scheduler import Outcome

__all__ = ["Outcome", "Request", "run_lamp"]
