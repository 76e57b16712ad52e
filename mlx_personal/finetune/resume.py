"""Save checkpoints of a training run, and resume it from the newest one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_personal.errors import Action, UserError
from mlx_personal.finetune import checkpoint
from mlx_personal.finetune.checkpoint import Checkpoint
from mlx_personal.finetune.distributed import ProcessGroup
from mlx_personal.finetune.forward.equivalence import ForwardMode
from mlx_personal.finetune.identity import TrainingIdentity, check_identity
from mlx_personal.finetune.plan import TrainingPlan
from mlx_personal.finetune.planning.memory import MemoryPlan
from mlx_personal.finetune.trainer_state import TrainerState

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumedTraining:
    """An interrupted training run to resume.

    Attributes:
        checkpoint: Its newest undamaged checkpoint.
        memory: Its use of memory on this machine; None if it ran on another number of machines.
        cached_activations: Whether the outputs of the frozen layers were cached.
        notes: Notes for the user, one line each.
    """

    checkpoint: Checkpoint
    memory: MemoryPlan | None
    cached_activations: bool
    notes: tuple[str, ...]

    @property
    def forward_mode(self) -> ForwardMode:
        """Its forward mode."""
        mode: ForwardMode = self.checkpoint.metadata["way"]
        return mode

    def check_forward_mode(self, mode: ForwardMode) -> None:
        """Check that the forward mode is the same as before.

        Args:
            mode: The present forward mode.

        Raises:
            UserError: If the saved one is another.
        """
        if self.forward_mode != mode:
            saved = self.forward_mode
            what = f"cannot resume: the forward mode of this training run was {saved}, and only {mode} is exact here"
            raise UserError(what, remedy=Action.RESTART_TRAINING)


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one training run.

    Attributes:
        folder: Their folder.
        identity: Identity of the training run, which a checkpoint must match.
    """

    folder: Path
    identity: TrainingIdentity

    def load(self, process_group: ProcessGroup) -> ResumedTraining | None:
        """Read the newest undamaged checkpoint of rank 0.

        Args:
            process_group: The processes that train together; each receives the checkpoint.

        Returns:
            The training run to resume; None if there is no checkpoint.

        Raises:
            UserError: If the checkpoint belongs to another training run, or all are damaged.
        """
        latest, damage = checkpoint.load_latest(self.folder) if process_group.rank == 0 else (None, None)
        metadata = process_group.broadcast(None if latest is None else latest.metadata)
        if metadata is None:
            return None
        notes = [damage, check_identity(metadata["identity"], self.identity)]
        # Each machine has its own plan for its memory. The size of the micro-batches affects the last bits.
        plans = metadata["plans"]
        memory = _memory_from_json(plans[process_group.rank]) if len(plans) == process_group.size else None
        arrays = process_group.broadcast_arrays({} if latest is None else dict(latest.arrays))
        logger.info("resuming from step %d", metadata["step"])
        cached_activations = metadata["kept_states"]  # codespell:ignore kept_states
        return ResumedTraining(
            Checkpoint(arrays, metadata), memory, cached_activations, tuple(note for note in notes if note)
        )

    def save(
        self, state: TrainerState, plan: TrainingPlan, cached_activations: bool, process_group: ProcessGroup
    ) -> None:
        """Save a checkpoint on rank 0.

        Args:
            state: The state to save.
            plan: The plan of the training run on this machine.
            cached_activations: Whether the outputs of the frozen layers are cached.
            process_group: The processes that train together; each calls this.

        Raises:
            UserError: If the disk fails.
        """
        plans = process_group.all_gather(_memory_to_json(plan.memory))
        if process_group.rank != 0:
            return
        metadata = {
            "plans": plans,
            "way": plan.forward_mode,
            "kept_states": cached_activations,  # codespell:ignore kept_states
            "identity": self.identity.to_json(),
        }
        checkpoint.save(self.folder, state.to_checkpoint(metadata))

    def discard(self, process_group: ProcessGroup) -> None:
        """Remove all checkpoints on rank 0.

        Args:
            process_group: The processes that train together.
        """
        if process_group.rank == 0:
            checkpoint.discard(self.folder)


def _memory_to_json(memory: MemoryPlan) -> dict[str, Any]:
    """Return a memory plan with the key names of version 0.1."""
    return {
        "batch_tokens": memory.micro_batch_tokens,
        "checkpoint": memory.gradient_checkpointing,
        "cache_bytes": memory.cache_bytes,
        "estimate": memory.estimated_peak_bytes,
    }


def _memory_from_json(values: Mapping[str, Any]) -> MemoryPlan:
    return MemoryPlan(values["batch_tokens"], values["checkpoint"], values["cache_bytes"], values["estimate"])
