"""Tuning: successive halving, the time budget, going on after an interruption, and what is written at the end."""

from __future__ import annotations

import dataclasses
import json
import signal
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mlx_personal import Dialogue, LanguageModel, Personalizer
from mlx_personal.config import Config
from mlx_personal.errors import StoppedError, UserError
from mlx_personal.evaluation import AnswerLoss, ModelOutputs, make_parts
from mlx_personal.finetune import Example, LoRAConfig
from mlx_personal.finetune.data.samples import make_samples
from mlx_personal.memory import MemoryConfig
from mlx_personal.personalizer.settings_file import change_settings, with_settings
from mlx_personal.personalizer.tuning import score, state, trials, tuner
from mlx_personal.personalizer.tuning.budget import TimedSearch
from mlx_personal.personalizer.tuning.record import read_record
from mlx_personal.personalizer.tuning.search import (
    BRACKET_SIZE,
    MAX_BRACKETS,
    Candidate,
    SearchSpace,
    Trial,
    apply_settings,
    best_trial,
    draw_brackets,
    run_bracket,
    rung_sizes,
)
from mlx_personal.personalizer.tuning.state import PresentOutputs, TuningState, read_state, tuning_identity
from mlx_personal.personalizer.tuning.trials import HeldOutOutputs, TrialRunner
from mlx_personal.profile import NewSynthetic
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.runtime.signals import terminate_immediately
from mlx_personal.storage.files import temporary_folder

PRESENT = Candidate.of(Config())
SPACE = SearchSpace(3e-4, (("sft", 0), ("dpo", 0), ("sft+dpo", 1)))


class FakeRunner:
    """Scores a candidate by how near its learning rate is to 0.002, and takes a second for each 100 tokens."""

    rungs = 3

    def __init__(self, clock: Callable[[float], None] | None = None) -> None:
        self.scored: list[tuple[Candidate, int]] = []
        self._pass = clock or (lambda seconds: None)
        self.stop_after: int | None = None
        self.fails = False

    def tokens(self, candidate: Candidate, rung: int | None) -> int:
        return 100 * (9 if rung is None else 3**rung)

    def score(self, candidate: Candidate, rung: int, on_progress: Progress | None = None) -> float:
        if self.stop_after is not None and len(self.scored) == self.stop_after:
            raise StoppedError("stopped", signal.SIGINT)
        if self.fails:
            raise UserError("the loss is not finite")
        self._pass(self.tokens(candidate, rung) / 100)
        if on_progress is not None:
            on_progress(ProgressEvent("training", 1, 1))
        self.scored.append((candidate, rung))
        return -abs(np.log(candidate.learning_rate / 0.002))

    def compute_held_out(self, candidate: Candidate, on_progress: Progress | None = None) -> HeldOutOutputs:
        self._pass(9)
        if on_progress is not None:
            on_progress(ProgressEvent("training", 1, 1))
        return HeldOutOutputs((), (), 6.0, None)


class Clock:
    """A clock that moves only when it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


def search(
    runner: FakeRunner, clock: Clock, budget_s: float, state: TuningState | None = None, seed: int = 0
) -> tuple[Trial | None, TuningState]:
    state = state or TuningState("")
    timed = TimedSearch(runner, state, lambda: None, budget_s, clock)
    return timed.run(SPACE, PRESENT, [], seed), state


# Successive halving


def test_the_best_of_known_scores_reaches_the_last_rung() -> None:
    candidates = next(draw_brackets(SPACE, [PRESENT], 0))
    runner, trials = FakeRunner(), []

    def run_trial(candidate: Candidate, rung: int) -> Trial:
        trials.append(Trial(candidate, rung, runner.score(candidate, rung), 1, 1.0))
        return trials[-1]

    assert run_bracket(candidates, 3, run_trial)
    assert [sum(trial.rung == rung for trial in trials) for rung in range(3)] == [9, 3, 1]
    expected = min(candidates, key=lambda c: abs(np.log(c.learning_rate / 0.002)))
    best = best_trial(trials)
    assert best is not None and (best.candidate, best.rung) == (expected, 2)
    thirds = sorted(candidates, key=lambda c: abs(np.log(c.learning_rate / 0.002)))[:3]
    assert {trial.candidate for trial in trials if trial.rung == 1} == set(thirds)


def test_a_failed_candidate_never_goes_on() -> None:
    candidates = next(draw_brackets(SPACE, [], 0))[:3]
    rungs: list[tuple[Candidate, int]] = []

    def run_trial(candidate: Candidate, rung: int) -> Trial:
        rungs.append((candidate, rung))
        return Trial(candidate, rung, None if candidate != candidates[2] else -9.0, 1, 1.0)

    assert run_bracket(candidates, 2, run_trial)
    assert rungs[3:] == [(candidates[2], 1)]
    assert run_bracket(candidates[:2], 3, run_trial) and len(rungs) == 6
    assert best_trial([]) is None and best_trial([Trial(PRESENT, 0, None, 1, 1.0)]) is None


def test_candidates_depend_on_the_seed_alone_and_are_never_drawn_twice() -> None:
    brackets = list(draw_brackets(SPACE, [PRESENT, PRESENT], 3))
    assert brackets == list(draw_brackets(SPACE, [PRESENT], 3)) != list(draw_brackets(SPACE, [PRESENT], 4))
    everything = [candidate for bracket in brackets for candidate in bracket]
    assert everything[0] == PRESENT and len(set(everything)) == len(everything) == BRACKET_SIZE * MAX_BRACKETS
    assert {(candidate.objective, candidate.negatives) for candidate in everything} == set(SPACE.objectives)
    assert {candidate.memory_examples for candidate in everything} == {0, 1, 2, 3, 4}
    assert all(3e-4 / 16.5 < candidate.learning_rate < 3e-4 * 16.5 for candidate in everything)
    for candidate in everything:
        config = candidate.apply(Config())
        assert Candidate.of(config, config.memory.is_used(decided=False)) == candidate
        assert candidate.memory_examples or candidate.trained_after == "none"


@pytest.mark.parametrize(
    ("groups", "sizes"), [(3, [3]), (8, [8]), (9, [8, 9]), (30, [8, 10, 30]), (900, [100, 300, 900])]
)
def test_rungs_grow_threefold_but_have_at_least_eight_groups(groups: int, sizes: list[int]) -> None:
    assert rung_sizes(groups) == sizes


# The time budget


@pytest.mark.parametrize("budget_s", [20.0, 30.0, 57.0, 150.0, 1000.0])
def test_the_search_leaves_the_time_that_the_comparison_will_take(budget_s: float) -> None:
    clock = Clock()
    runner = FakeRunner(clock.move)
    best, state = search(runner, clock, budget_s)
    # The present settings take 9 s on all dialogues, and so will the best ones.
    assert clock.now <= budget_s - 9
    # Nearly all of the rest is used: the last rung of a trial takes 9 s, and all brackets together 9 times 27 s.
    assert clock.now > min(budget_s - 9 - 9, 9 + MAX_BRACKETS * 27 - 1)
    assert best == best_trial(state.trials)
    assert len(runner.scored) == len(state.trials)


def test_with_little_time_fewer_candidates_reach_the_last_rung() -> None:
    clock = Clock()
    _, state = search(FakeRunner(clock.move), clock, 9 + 15 + 9)
    # Three candidates take 3 + 3 + 9 s, nine of them would take 27 s.
    assert [trial.rung for trial in state.trials] == [0, 0, 0, 1, 2]


def test_a_candidate_that_takes_too_long_leaves_its_time_to_others() -> None:
    clock = Clock()
    slow = dataclasses.replace(PRESENT, epochs=1000)

    class WithASlowOne(FakeRunner):
        def tokens(self, candidate: Candidate, rung: int | None) -> int:
            return super().tokens(candidate, rung) * (1000 if candidate == slow else 1)

    state = TuningState("")
    TimedSearch(WithASlowOne(clock.move), state, lambda: None, 60, clock).run(SPACE, PRESENT, [slow], 0)
    assert len(state.trials) > 9 and slow not in {trial.candidate for trial in state.trials}


def test_a_trial_that_takes_longer_than_estimated_is_stopped_and_forgotten() -> None:
    clock = Clock()
    runner = FakeRunner(lambda seconds: clock.move(9 if seconds == 9 else 100))
    best, state = search(runner, clock, 60)
    assert best is None and state.trials == [] and runner.scored == []


def test_a_budget_below_the_present_settings_own_training_is_too_short() -> None:
    clock = Clock()
    with pytest.raises(UserError, match=r"0\.1 minutes are too few"):
        search(FakeRunner(clock.move), clock, 6)


def test_candidates_that_cannot_be_trained_are_recorded_with_the_problem() -> None:
    runner = FakeRunner()
    runner.fails = True
    best, state = search(runner, Clock(), 60)
    assert best is None
    assert {(trial.score, trial.problem) for trial in state.trials} == {(None, "the loss is not finite")}


def test_a_candidate_without_data_in_a_rung_fails_alone() -> None:
    class WithoutPairs(FakeRunner):
        def tokens(self, candidate: Candidate, rung: int | None) -> int:
            if (candidate, rung) in [(others[0], None), (others[1], 0), (PRESENT, 0)]:
                raise UserError("there is no preference pair to train on")
            return super().tokens(candidate, rung)

    others = [dataclasses.replace(PRESENT, objective="dpo"), dataclasses.replace(PRESENT, objective="orpo")]
    clock, state = Clock(), TuningState("")
    runner = WithoutPairs(clock.move)
    best = TimedSearch(runner, state, lambda: None, 60, clock).run(SPACE, PRESENT, others, 0)
    failed = [trial for trial in state.trials if trial.score is None]
    assert [(trial.candidate, trial.rung) for trial in failed] == [(c, 0) for c in (PRESENT, *others)]
    assert {trial.problem for trial in failed} == {"there is no preference pair to train on"}
    assert best is not None and best.rung == 2 and len(runner.scored) == len(state.trials) - 3


# Going on after an interruption


def test_an_interrupted_search_goes_on_with_the_same_candidates(tmp_path: Path) -> None:
    whole, parts = FakeRunner(), FakeRunner()
    expected, state = search(whole, Clock(), 60)
    parts.stop_after = 5
    stored = TuningState("same")
    with pytest.raises(StoppedError):
        TimedSearch(parts, stored, lambda: stored.write(tmp_path), 60, Clock()).run(SPACE, PRESENT, [], 0)
    again, is_discarded = read_state(tmp_path, "same")
    assert not is_discarded and again == stored and len(again.trials) == 5
    parts.stop_after = None
    assert search(parts, Clock(), 60, again)[0] == expected
    assert parts.scored == whole.scored and again.trials == state.trials


def test_outputs_are_read_as_they_were_stored(tmp_path: Path) -> None:
    outputs = ModelOutputs([["In May."]], [AnswerLoss(2.5, 3)], np.array([[0.5, np.nan]]))
    state = TuningState("same")
    state.present = PresentOutputs((outputs,), 7, 1.5, 0.5)
    state.write(tmp_path)
    again = read_state(tmp_path, "same")[0].present
    assert again is not None and (again.tokens, again.training_s, again.evaluation_s) == (7, 1.5, 0.5)
    (stored,) = again.outputs
    assert (stored.answers, stored.losses) == (outputs.answers, outputs.losses)
    assert np.array_equal(stored.likelihoods, outputs.likelihoods, equal_nan=True)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"identity": "same", "trials": [1], "present": null}']
)
def test_a_damaged_file_or_one_of_other_data_is_started_anew(tmp_path: Path, content: bytes) -> None:
    assert read_state(tmp_path, "same") == (TuningState("same"), False)
    (tmp_path / "tuning.json").write_bytes(content)
    assert read_state(tmp_path, "same") == (TuningState("same"), True)
    TuningState("other").write(tmp_path)
    assert read_state(tmp_path, "same") == (TuningState("same"), True)


# A profile

TOPICS = [
    "soup",
    "tomatoes",
    "tax",
    "guitar",
    "mortgage",
    "kittens",
    "chess",
    "sailing",
    "cement",
    "opera",
    "bees",
    "snow",
]
CONFIG = Config(
    finetune=LoRAConfig(learning_rate=2e-3, epochs=1),
    memory=MemoryConfig(retrieval="bm25", min_bm25=0.0),
    evaluation=dataclasses.replace(Config().evaluation, choices=0, other_questions=0, max_tokens=4),
)


def dialogue(topic: str, number: int) -> Dialogue:
    return Dialogue.of(f"How {topic}, {topic} {number}?", f"So {topic}.")


@pytest.fixture
def personalizer(tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel) -> Iterator[Personalizer]:
    """A profile of 12 groups of two annotated dialogues each, of which three groups are held out."""
    with Personalizer.create(tmp_path / "profile", tiny_model_folder, CONFIG, tiny_model) as personalizer:
        store = personalizer.store
        dialogues = [dialogue(topic, number) for topic in TOPICS for number in (1, 2)]
        store.add_dialogues(dialogues, "test")
        for i, preferred in enumerate(dialogues):
            store.add_annotation(i + 1, "accept", preferred, i // 2, held_out=i < 6)
        run = store.begin_run("synthesis", "", {})
        rewrites = [NewSynthetic(i + 1, dialogue(f"old {TOPICS[i // 2]}", i), "", 0.5, True, "") for i in range(6, 24)]
        store.add_synthetic(run, rewrites)
        store.finish_run(run, {})
        yield personalizer


class FakeTrials(TrialRunner):
    """Scores candidates by their learning rate, the higher the better, without training them.

    Attributes:
        gain: How much likelier the held-out answers are with other settings than the present ones.
        present: The present settings.
    """

    gain = 0.5
    present = Candidate.of(CONFIG)

    def tokens(self, candidate: Candidate, rung: int | None) -> int:
        return 1

    def score(self, candidate: Candidate, rung: int, on_progress: Progress | None = None) -> float:
        return candidate.learning_rate

    def compute_held_out(self, candidate: Candidate, on_progress: Progress | None = None) -> HeldOutOutputs:
        dialogues = self._held_out_dialogues()
        parts = make_parts(self._lm, dialogues, [False] * len(dialogues), CONFIG.evaluation)
        gain = 0.0 if candidate == self.present else self.gain
        losses = [AnswerLoss((3 + i / 10 - gain) * 4, 4) for i in range(len(dialogues))]
        answers = [["Only time."] for _ in dialogues]
        return HeldOutOutputs(parts, [ModelOutputs(answers, losses, np.full((6, 6), np.nan))], 0.0, None)


@pytest.fixture
def fake_trials(monkeypatch: pytest.MonkeyPatch) -> type[FakeTrials]:
    """Lets `tune` use `FakeTrials`."""
    monkeypatch.setattr(tuner, "TrialRunner", FakeTrials)
    monkeypatch.setattr(FakeTrials, "gain", 0.5)
    return FakeTrials


def rows(personalizer: Personalizer) -> list[int]:
    """Return the number of rows of each table of a profile."""
    database = personalizer.store.database
    tables = database.fetch_all("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    return [database.fetch_int(f"SELECT count(*) FROM {row[0]}") for row in tables if row[0] != "model_records"]


def test_what_wins_is_written_with_its_figures(personalizer: Personalizer, fake_trials: type[FakeTrials]) -> None:
    file, before = personalizer.folder / "config.toml", rows(personalizer)
    file.write_text(f"# mine\n{file.read_text()}")
    result = tuner.tune(personalizer, 1)
    assert result.best is not None and result.evaluation is not None and result.evaluation.log_likelihood is not None
    assert result.best.candidate.learning_rate == max(trial.candidate.learning_rate for trial in result.trials)
    assert (result.written, result.is_better, result.evaluation.n) == (True, True, 6)
    assert result.evaluation.log_likelihood.gain == pytest.approx(0.5)
    text = file.read_text()
    assert Config.read(file) == result.best.candidate.apply(CONFIG)
    assert text.startswith("# mine\n") and "likelihood +0.500 nats a token" in text and "n=6" in text
    record = personalizer.status().tuning
    assert record is not None and record.text() in text
    assert rows(personalizer) == before and not (personalizer.folder / "tuning.json").exists()
    assert "only 6 dialogues are held out, which is weak evidence" in result.notes[-1]


def test_the_number_of_examples_is_written_with_their_use(
    personalizer: Personalizer, fake_trials: type[FakeTrials], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_trials, "score", lambda self, candidate, *_: float(candidate.memory_examples == 3))
    result = tuner.tune(personalizer, 1)
    config = Config.read(personalizer.folder / "config.toml")
    assert result.written and (config.memory.use, config.memory.examples) == ("always", 3)
    # The tuned settings are the present ones of the next search, in which the best one has no memory.
    assert result.best is not None
    personalizer.config = config
    monkeypatch.setattr(fake_trials, "present", result.best.candidate)
    assert tuner.plan_tuning(personalizer).candidates[0] == result.best.candidate
    monkeypatch.setattr(fake_trials, "score", lambda self, candidate, *_: -float(candidate.memory_examples))
    result = tuner.tune(personalizer, 1)
    assert result.written and Config.read(personalizer.folder / "config.toml").memory.use == "never"
    assert result.notes[-1].startswith("these held-out dialogues decided once before")
    record = personalizer.status().tuning
    assert record is not None and "n=6 (decided once before)" in record.text()


def test_the_gain_is_that_of_the_rule(
    personalizer: Personalizer, fake_trials: type[FakeTrials], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = dataclasses.replace(CONFIG.evaluation, promotion="rouge1")
    personalizer.config = dataclasses.replace(CONFIG, evaluation=evaluation)
    result = tuner.tune(personalizer, 1)
    record = personalizer.status().tuning
    assert record is not None and result.reason == "ROUGE-1 did not rise: +0.000"
    assert "the best candidate: ROUGE-1 +0.000 (95 % interval +0.000 to +0.000), n=6" in record.text()
    assert result.notes[-1].endswith("gains below about 0.00 in ROUGE-1 may be chance")


def test_better_settings_that_cannot_be_written_are_recorded_as_such(
    personalizer: Personalizer, fake_trials: type[FakeTrials]
) -> None:
    file = personalizer.folder / "config.toml"
    file.write_text("finetune = {rank = 4}\n")
    result = tuner.tune(personalizer, 1)
    assert (result.is_better, result.written) == (True, False)
    assert file.read_text() == "finetune = {rank = 4}\n" and "write them yourself" in result.notes[-1]
    record = personalizer.status().tuning
    assert record is not None and record.is_better
    assert record.text().endswith("; not written: the settings cannot be changed in this file")
    assert read_state(personalizer.folder, tuning_identity(personalizer.store, CONFIG, 0))[0].trials


@pytest.mark.parametrize("gain", [0.0, -0.5])
def test_nothing_is_written_when_nothing_wins(
    personalizer: Personalizer, fake_trials: type[FakeTrials], monkeypatch: pytest.MonkeyPatch, gain: float
) -> None:
    monkeypatch.setattr(fake_trials, "gain", gain)
    file = personalizer.folder / "config.toml"
    text, before = file.read_bytes(), rows(personalizer)
    result = tuner.tune(personalizer, 1)
    assert (result.written, result.is_better) == (False, False)
    assert ("may be chance" if gain == 0 else "fell") in result.reason
    assert file.read_bytes() == text and rows(personalizer) == before
    record = read_record(personalizer.store)
    assert record is not None and "nothing was better than the settings before" in record.text()
    assert read_state(personalizer.folder, tuning_identity(personalizer.store, CONFIG, 0))[0].trials
    # More time goes on with the stored trials: all of them were run before.
    again = tuner.tune(personalizer, 1)
    assert (again.trials, again.plan.stored_trials) == (result.trials, len(result.trials))


def test_the_present_settings_may_be_the_best_ones(
    personalizer: Personalizer, fake_trials: type[FakeTrials], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_trials, "score", lambda self, candidate, *_: float(candidate == Candidate.of(CONFIG)))
    result = tuner.tune(personalizer, 1)
    assert (result.evaluation, result.written) == (None, False)
    assert result.reason == "the present settings scored best in the search"


def test_changed_data_start_a_search_anew(personalizer: Personalizer, fake_trials: type[FakeTrials]) -> None:
    store = personalizer.store
    TuningState(tuning_identity(store, CONFIG, 0), [Trial(Candidate.of(CONFIG), 0, 9.0, 1, 1.0)]).write(store.folder)
    assert tuner.plan_tuning(personalizer).stored_trials == 1
    assert tuner.plan_tuning(personalizer, restart=True).stored_trials == 0
    assert tuner.plan_tuning(personalizer, seed=1).stored_trials == 0
    store.add_annotation(24, "edit", dialogue("snow", 9), 11, held_out=False)
    plan = tuner.plan_tuning(personalizer)
    assert plan.stored_trials == 0
    assert plan.notes == ("the dialogues or the settings are not those of the stored trials, which are discarded",)


def test_stored_trials_are_only_used_with_what_they_depend_on(
    personalizer: Personalizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, general = personalizer.store, tmp_path / "general.jsonl"
    config = dataclasses.replace(CONFIG, finetune=dataclasses.replace(CONFIG.finetune, general_data=str(general)))

    def write_general(*topics: str) -> None:
        lines = [json.dumps({"messages": dialogue(topic, 1).to_messages()}) for topic in topics]
        general.write_text("\n".join(lines))

    write_general("bread", "trains")
    identities = [tuning_identity(store, config, 0)]
    assert tuning_identity(store, config, 0) == identities[0]
    # Of the same number and size.
    write_general("trains", "bread")
    identities.append(tuning_identity(store, config, 0))
    store.add_dialogues([dialogue("chairs", 1)], "test")
    store.add_annotation(25, "skip", None, 99, held_out=False)
    identities.append(tuning_identity(store, config, 0))
    with store.transaction() as connection:
        connection.execute("UPDATE annotations SET verdict = 'edit' WHERE id = 24")
    identities.append(tuning_identity(store, config, 0))
    monkeypatch.setattr(state, "version", lambda _: "0.0")
    identities.append(tuning_identity(store, config, 0))
    assert len(set(identities)) == len(identities)
    general.unlink()
    with pytest.raises(UserError, match="general"):
        tuning_identity(store, config, 0)


def test_candidates_are_scored_on_groups_that_no_trial_is_trained_on(
    personalizer: Personalizer, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[list[Example]] = []
    scored: list[list[Dialogue]] = []

    def finetune(lm: LanguageModel, examples: list[Example], *_: object, **__: object) -> None:
        trained.append(examples)

    def answer_losses(lm: LanguageModel, dialogues: list[Dialogue]) -> list[AnswerLoss]:
        scored.append(dialogues)
        return [AnswerLoss(2.0, 4)] * len(dialogues)

    monkeypatch.setattr(trials, "finetune", finetune)
    monkeypatch.setattr(score, "answer_losses", answer_losses)
    monkeypatch.setattr(LanguageModel, "attach_adapter", lambda self, folder: None)
    runner = TrialRunner(personalizer.store, CONFIG, tiny_model, 0)
    candidate = dataclasses.replace(Candidate.of(CONFIG), memory_examples=1, trained_after="as in chat")
    assert [runner.score(candidate, rung) for rung in range(runner.rungs)] == [-0.5] * runner.rungs
    assert runner.rung_sizes == [7] and runner.validation_count == 4

    def topics(dialogues: list[Dialogue]) -> set[str]:
        text = " ".join(message.content for d in dialogues for message in d.messages)
        return {topic for topic in TOPICS if topic in text}

    held_out, (validation,) = set(TOPICS[:3]), scored
    asked = {topic for d in validation for topic in TOPICS if topic in d.question}
    assert len(asked) == 2 and all(len(d.messages) > 2 for d in validation), "examples stand before the questions"
    for seen in (topics([example.dialogue for example in trained[0]]), topics(validation) - asked):
        assert seen and not seen & (asked | held_out)
    assert len(trained[0]) == 7 * 4, "two dialogues and two rewrites of each group"
    lengths = [
        sum(map(len, make_samples(tiny_model, d, 256).samples)) for d in ([e.dialogue for e in trained[0]], validation)
    ]
    for epochs in (1, 4):
        tokens = runner.tokens(dataclasses.replace(candidate, epochs=epochs), 0)
        assert tokens == 3 * epochs * lengths[0] + lengths[1]


def test_no_trial_leaves_files_or_an_adapter(
    personalizer: Personalizer, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> list[AnswerLoss]:
        raise KeyboardInterrupt

    runner = TrialRunner(personalizer.store, CONFIG, tiny_model, 0)
    files = set(personalizer.folder.rglob("*"))
    assert runner.score(Candidate.of(CONFIG), 0) < 0
    monkeypatch.setattr(score, "answer_losses", fail)
    with pytest.raises(KeyboardInterrupt):
        runner.score(Candidate.of(CONFIG), 0)
    assert set(personalizer.folder.rglob("*")) - {personalizer.folder / "adapters"} == files
    assert "lora" not in str(dict(tiny_model.model.named_modules()).keys())


def test_a_signal_in_the_only_step_of_a_trial_stops_the_search(
    personalizer: Personalizer, tiny_model: LanguageModel
) -> None:
    def on_progress(event: ProgressEvent, /) -> None:
        if event.stage == "training" and event.done == event.total:
            signal.raise_signal(signal.SIGTERM)

    runner = TrialRunner(personalizer.store, CONFIG, tiny_model, 0)
    with terminate_immediately(), pytest.raises(StoppedError, match="training was stopped after step"):
        runner.score(Candidate.of(CONFIG), 0, on_progress)


def test_what_a_killed_trial_left_is_removed_when_the_profile_is_opened(personalizer: Personalizer) -> None:
    trial = temporary_folder(personalizer.folder / "adapters")
    (trial.__enter__() / "adapter").mkdir()
    personalizer.close()
    Personalizer(personalizer.folder).close()
    assert list((personalizer.folder / "adapters").iterdir()) == []


@pytest.mark.parametrize(
    ("held_out", "total", "message"),
    [
        (0, 0, "no annotated dialogue to tune on"),
        (0, 9, "no annotated dialogue is held out"),
        (1, 12, "only 1 annotated dialogue is held out, too few to compare settings at the end; at least 5"),
        (4, 12, "only 4 annotated dialogues are held out"),
        (5, 8, "only 3 groups of different annotated dialogues can be tuned on; at least 4 are needed"),
    ],
)
def test_too_few_dialogues_are_reported(
    tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel, held_out: int, total: int, message: str
) -> None:
    with Personalizer.create(tmp_path / "profile", tiny_model_folder, CONFIG, tiny_model) as personalizer:
        for i in range(total):
            personalizer.store.add_dialogues([dialogue(TOPICS[i], 1)], "test")
            personalizer.store.add_annotation(i + 1, "accept", dialogue(TOPICS[i], 1), i, held_out=i < held_out)
        with pytest.raises(UserError, match=message):
            tuner.tune(personalizer, 1)
        assert not (personalizer.folder / "tuning.json").exists()


@pytest.mark.slow
def test_the_tiny_model_is_tuned_from_end_to_end(personalizer: Personalizer) -> None:
    before = rows(personalizer)
    result = tuner.tune(personalizer, 0.2)
    assert result.trials and result.best is not None
    assert all(trial.score is not None and trial.score < 0 for trial in result.trials)
    assert result.written is result.is_better
    assert rows(personalizer) == before
    assert json.dumps(tuner.summary(result))
    # Only what differs is written: `auto` stays if the best candidate answers without memory, as the present one.
    changes = result.best.candidate.changes_from(result.present) if result.written else {}
    assert Config.read(personalizer.folder / "config.toml") == apply_settings(CONFIG, changes)


# The settings file

CHANGES: dict[str, dict[str, object]] = {"finetune": {"rank": 16, "objective": "dpo"}, "memory": {"examples": 3}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", '\n[finetune]\n# Tuned: x\nobjective = "dpo"\nrank = 16\n\n[memory]\n# Tuned: x\nexamples = 3\n'),
        (
            '# mine\n[finetune]  # training\nrank = 4  # small\n# objective = my own\n# objective = "sft"\nepochs = 2\n'
            "[memory]\nexamples=1\n",
            "# mine\n[finetune]  # training\n# Tuned: x\nrank = 16  # small\n"
            '# objective = my own\nobjective = "dpo"\nepochs = 2\n'
            "[memory]\n# Tuned: x\nexamples = 3\n",
        ),
        (
            "[finetune]\r\n# Tuned: before\r\nrank = 4\r\nobjective = 'sft'\r\n[chat]\r\n[memory]\r\nexamples = 1",
            '[finetune]\r\n# Tuned: x\r\nrank = 16\r\nobjective = "dpo"\r\n[chat]\r\n[memory]\r\n# Tuned: x\r\n'
            "examples = 3\r\n",
        ),
    ],
)
def test_settings_are_changed_in_their_place(tmp_path: Path, text: str, expected: str) -> None:
    assert with_settings(text, CHANGES, "x") == expected
    assert Config.parse(expected, tmp_path).finetune.objective == "dpo"


@pytest.mark.parametrize("value", ["'sft'", '"sft"', '"a # b"', "'a # b\\'", r'"a \" # b"'])
@pytest.mark.parametrize("remark", ["", "  # don't touch", '\t# the "best"', "# it's", " # one # two"])
def test_a_remark_behind_a_value_stays(value: str, remark: str) -> None:
    text = f"[finetune]\nobjective = {value}{remark}\n"
    assert list(tomllib.loads(text)["finetune"]) == ["objective"]
    expected = f'[finetune]\n# Tuned: x\nobjective = "dpo"{remark}\n'
    assert with_settings(text, {"finetune": {"objective": "dpo"}}, "x") == expected


def test_the_file_that_a_profile_begins_with_can_be_changed(tmp_path: Path) -> None:
    path, config = tmp_path / "config.toml", Config()
    path.write_text(config.to_toml())
    finetune = dataclasses.replace(config.finetune, rank=16, objective="dpo")
    expected = dataclasses.replace(config, finetune=finetune, memory=dataclasses.replace(config.memory, examples=3))
    change_settings(path, CHANGES, expected, "x")
    assert Config.read(path) == expected
    changed = [line for line in path.read_text().splitlines() if line not in config.to_toml().splitlines()]
    assert changed == ["# Tuned: x", "rank = 16", 'objective = "dpo"', "# Tuned: x", "examples = 3"]


def test_a_file_of_another_form_stays_and_the_settings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("finetune = {rank = 4}\n")
    with pytest.raises(UserError, match=r"write them yourself: finetune.rank = 16, finetune.objective = \"dpo\""):
        change_settings(path, CHANGES, Config(), "x")
    assert path.read_text() == "finetune = {rank = 4}\n"
