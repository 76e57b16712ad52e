"""The LaMP benchmark [Salemi24]: an adapter for each user, compared with prompts that contain the user's items.

`run_lamp` runs methods on the users of LaMP's files, or of OPPU's files [Tan24]: retrieval-augmented prompts, adapters
on the user's items, and CDCDA-PLM [Zhong25].

- `tasks`, `lamp_users`, `predictions`, `json_stream` and `download` know the tasks and their files.
- `retrieval` and `lamp_prompts` make the official inputs, and `metrics` computes the official metrics.
- `methods` names what is compared, and `lamp_config` holds what to run and the settings.
- `answering` trains and answers for one user, and `lamp_jobs` does so in worker processes.
- `lamp_run` checks what to run, `task_adapter` makes OPPU's base model, `server_responses` asks a server, and
  `lamp_scheduler` runs all users.
- `lamp_folder` stores the `lamp_results`, and `lamp_report` makes tables of them.
"""

from mlx_personal.research.lamp.lamp_config import LampSpec
from mlx_personal.research.lamp.lamp_run import run_lamp
from mlx_personal.research.lamp.lamp_scheduler import LampResult

__all__ = ["LampResult", "LampSpec", "run_lamp"]
