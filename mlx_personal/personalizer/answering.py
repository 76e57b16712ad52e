"""How a profile answers: the promoted adapter or the base model, with or without memory. Importable without MLX.

With `memory.use = "auto"` the memory is used if it was found to be better on the held-out dialogues. What was decided
is stored for each promotion, so that a rollback takes it back with the adapter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from mlx_personal.config import Config
from mlx_personal.evaluation.answer_modes import AnswerMode
from mlx_personal.evaluation.intervals import MetricChange
from mlx_personal.evaluation.promotion_rule import METRIC_NAMES, gain_text
from mlx_personal.memory import MemoryConfig
from mlx_personal.profile import AdapterRow, Store
from mlx_personal.reporting import counted

# A list beside the promotions on a base model: what was decided with each of them, or null.
_KIND: Final = "answer_decisions"


@dataclass(frozen=True)
class AnswerDecision:
    """Why a mode is in use. Its fields are the keys under which profiles store it.

    Attributes:
        uses_memory: Whether memory is used.
        rule: The rule that was applied; empty if nothing was compared.
        n: Number of held-out dialogues.
        gain: Change in the metric of the rule; None if nothing was compared.
        over: The mode that was in use before; None if nothing was compared.
        memory: The settings of the memory that was compared.
        compared_at: When it was compared, UTC; empty if nothing was.
    """

    uses_memory: bool
    rule: str = ""
    n: int = 0
    gain: MetricChange | None = None
    over: AnswerMode | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)
    compared_at: str = ""

    def text(self) -> str:
        """Return when it was compared and the gain, such as `2026-01-31: likelihood +0.120 nats a token, ...`."""
        assert self.gain is not None
        return f"{self.compared_at[:10]}: {METRIC_NAMES[self.rule][0]} {gain_text(self.rule, self.gain)}"

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the decision of a stored object."""
        gain, over = values["gain"], values["over"]
        return cls(
            **{
                **values,
                "gain": None if gain is None else MetricChange(**gain),
                "over": None if over is None else AnswerMode.from_json(over),
            }
        )


def decision_in_use(store: Store) -> AnswerDecision | None:
    """Return what was decided with the last promotion on the current base model; None if nothing was.

    Args:
        store: The profile's store.
    """
    decisions, count = store.model_record(_KIND) or [], len(store.promotions())
    values = decisions[count - 1] if 0 < count <= len(decisions) else None
    return None if values is None else AnswerDecision.from_json(values)


def mode_in_use(store: Store, config: MemoryConfig) -> AnswerMode:
    """Return what answers now.

    Args:
        store: The profile's store.
        config: Settings of the memory.
    """
    decision = decision_in_use(store)
    adapter = (store.promotions() or [None])[-1]
    return AnswerMode(adapter, config.is_used(decision is not None and decision.uses_memory))


def promote(store: Store, adapter_id: int | None, decision: AnswerDecision | None) -> None:
    """Promote an adapter, or the base model for None, with what was decided about the memory.

    Args:
        store: The profile's store.
        adapter_id: Id of the adapter.
        decision: What was decided; None if nothing was.
    """
    with store.transaction():
        count = len(store.promotions())
        decisions = ((store.model_record(_KIND) or []) + [None] * count)[:count]
        store.promote(adapter_id)
        store.set_model_record(_KIND, [*decisions, None if decision is None else dataclasses.asdict(decision)])


def undo_promotion(store: Store) -> None:
    """Undo the last promotion on the current base model, and what was decided with it.

    Args:
        store: The profile's store.
    """
    with store.transaction():
        store.undo_promotion()
        store.set_model_record(_KIND, (store.model_record(_KIND) or [])[: len(store.promotions())])


def adapter_decision(store: Store, adapter: AdapterRow) -> AnswerDecision | None:
    """Return what was decided about the memory when an adapter was evaluated.

    Args:
        store: The profile's store.
        adapter: The adapter.

    Returns:
        The decision. Without one, an adapter that was trained with examples is used with memory; None for any other.
    """
    modes = (adapter.evaluation or {}).get("modes")
    if modes is None or not modes["can_decide"]:
        return AnswerDecision(uses_memory=True) if is_trained_as_in_chat(store, adapter) else None
    evaluated = AnswerMode.from_json(modes["evaluated"])
    gains = [r["gain"] for r in modes["results"] if r["mode"] == modes["evaluated"] and r["gain"] is not None]
    return _decision_of(modes, evaluated.uses_memory, gains[0] if gains else None, modes["in_use"])


def is_trained_as_in_chat(store: Store, adapter: AdapterRow) -> bool:
    """Return whether an adapter was trained with examples before the dialogues.

    Args:
        store: The profile's store.
        adapter: The adapter.
    """
    run = store.run(adapter.run_id)
    return run is not None and run.config.get("examples") == "as in chat"


@dataclass(frozen=True)
class AnswerStatus:
    """How a profile answers now, and why.

    Attributes:
        mode: What answers.
        examples: Maximum number of examples before a question; 0 without memory.
        use: The setting `memory.use`.
        decision: What was decided when it was put to use; None if nothing was.
        has_same_settings: Whether the memory has the settings with which it was compared.
        last_comparison: The comparison of the newest adapter if it changed nothing: with what came nearest, as the
            `over` of a decision; None if there is none since the mode was put to use.
    """

    mode: AnswerMode
    examples: int
    use: str
    decision: AnswerDecision | None
    has_same_settings: bool
    last_comparison: AnswerDecision | None

    def lines(self) -> list[str]:
        """Return a line on what answers, and one on why."""
        memory = f"up to {counted(self.examples, 'example')}" if self.examples else "not used"
        setting = "" if self.use == "auto" else f' (memory.use is "{self.use}")'
        return [f"{AnswerMode(self.mode.adapter, False).text()}; memory: {memory}{setting}", self._reason()]

    def _reason(self) -> str:
        parts = []
        if self.decision is not None and self.decision.gain is not None and self.decision.over is not None:
            parts.append(f"{self.decision.text()} over {self.decision.over.text()}, n={self.decision.n}")
        if self.last_comparison is not None:
            last, runner_up = self.last_comparison, ""
            if last.gain is not None and last.over is not None:
                runner_up = f" ({last.over.text()}: {gain_text(last.rule, last.gain)})"
            parts.append(f"{last.compared_at[:10]}: nothing was better on {last.n} held-out dialogues{runner_up}")
        if not parts:
            return "nothing was decided on held-out dialogues"
        if self.examples and not self.has_same_settings:
            parts.append("the settings of the memory have changed since")
        return "; ".join(parts)


def answer_status(store: Store, config: Config) -> AnswerStatus:
    """Return how a profile answers now.

    Args:
        store: The profile's store.
        config: The profile's settings.
    """
    memory, decision = config.memory, decision_in_use(store)
    mode = mode_in_use(store, memory)
    compared = decision.memory if decision is not None else {}
    settings = compared_settings(memory)
    return AnswerStatus(
        mode=mode,
        examples=memory.examples if mode.uses_memory else 0,
        use=memory.use,
        decision=decision,
        has_same_settings=all(settings[name] == value for name, value in compared.items() if name in settings),
        last_comparison=_last_comparison(store, mode),
    )


def compared_settings(config: MemoryConfig) -> dict[str, Any]:
    """Return the settings that change which examples stand before a question.

    Args:
        config: Settings of the memory.
    """
    return {name: value for name, value in dataclasses.asdict(config).items() if name != "use"}


def _last_comparison(store: Store, mode: AnswerMode) -> AnswerDecision | None:
    """Return what came nearest to the mode in use, if the comparison of the newest adapter kept that mode."""
    newest = [adapter for adapter in store.adapters() if adapter.model == store.fingerprint()][-1:]
    modes = (newest[0].evaluation or {}).get("modes") if newest else None
    if modes is None or not modes["can_decide"] or modes["best"] != modes["in_use"]:
        return None
    if AnswerMode.from_json(modes["in_use"]) != mode:
        return None
    compared = [(r["gain"]["gain"], r) for r in modes["results"] if r["gain"] is not None]
    nearest = max(compared, key=lambda runner_up: runner_up[0], default=(0.0, None))[1]
    gain, over = (None, None) if nearest is None else (nearest["gain"], nearest["mode"])
    return _decision_of(modes, mode.uses_memory, gain, over)


def _decision_of(
    modes: Mapping[str, Any], uses_memory: bool, gain: Mapping[str, Any] | None, over: Mapping[str, Any] | None
) -> AnswerDecision:
    """Return a decision of a stored comparison of modes, with one of its stored gains and modes."""
    settings = {name: modes[name] for name in ("rule", "n", "memory", "compared_at")}
    return AnswerDecision.from_json({**settings, "uses_memory": uses_memory, "gain": gain, "over": over})
