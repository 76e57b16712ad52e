"""Augmentation of a profile: from its annotated dialogues to its next training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_personal import Dialogue, LanguageModel, Personalizer
from mlx_personal.annotation import AnnotationConfig
from mlx_personal.augmentation.augment_profile import FOLDER, augment_profile, preview_profile
from mlx_personal.config import Config, MixtureConfig
from mlx_personal.dialogue import rouge1
from mlx_personal.errors import Action, UserError
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.finetune import Example, finetune
from mlx_personal.selection import SelectionConfig
from tests.support.augmentation import CONFIG, NOUNS, TRAINING, grant_consent, make_server
from tests.support.fake_server import FakeServer, Fault

PROFILE = Config(
    selection=SelectionConfig(bins=16),
    annotation=AnnotationConfig(questions_per_day=99),
    evaluation=EvaluationConfig(holdout_ratio=0.3, max_tokens=8),
    finetune=TRAINING,
)


def create_profile(folder: Path, model_folder: Path, model: LanguageModel, config: Config = PROFILE) -> Personalizer:
    """Create a profile whose owner has accepted the dialogues that were selected from 20."""
    personalizer = Personalizer.create(folder, model_folder, config, model)
    personalizer.observe(
        Dialogue.of(f"What about {NOUNS[i % 10]} and {NOUNS[i * 7 % 9]} {i}?", f"Take the {NOUNS[i % 10]} of {i}.")
        for i in range(20)
    )
    for question in personalizer.annotations.questions():
        personalizer.annotations.record(question.dialogue_id, "accept")
    return personalizer


@pytest.fixture
def personalizer(tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel) -> Iterator[Personalizer]:
    with create_profile(tmp_path / "profile", tiny_model_folder, tiny_model) as personalizer:
        yield personalizer


@pytest.mark.slow
def test_synthetic_dialogues_are_used_by_the_next_training(personalizer: Personalizer, fake_server: FakeServer) -> None:
    server = make_server(fake_server.url)
    grant_consent(personalizer.folder / FOLDER, server)
    result = augment_profile(personalizer, server, CONFIG)
    assert result.kept == result.outcome_counts["kept"] > 0 and not (result.incomplete or result.up_to_date)
    originals = {a.id: a.preferred for a in personalizer.training_annotations()}
    held_out = [dialogue.question for dialogue in personalizer.held_out_dialogues()]
    assert held_out and result.records == len(originals)
    bodies = b"\n".join(received.body for received in fake_server.received).decode()
    assert not any(question in bodies for question in held_out)
    rows = personalizer.store.synthetic()
    assert len(rows) == result.kept and all(row.kept and row.reason == "kept" for row in rows)
    for row in rows:
        original = originals[row.annotation_id]
        assert row.dialogue is not None and original is not None
        # The server's responses begin with the text of the first demonstration.
        assert row.dialogue.question.startswith(original.question)
        assert row.rouge1 == pytest.approx(rouge1(row.dialogue.question, original.question))
    trained = personalizer.train()
    sources = personalizer.store.training_sources(trained.adapter.run_id)
    assert sum(source.synthetic_id is not None for source in sources) == result.kept
    # The device model only rewrites dialogues without synthetic ones.
    assert personalizer.synthesize().dialogues == len(originals) - len({row.annotation_id for row in rows})


def test_a_second_run_sends_and_stores_nothing(personalizer: Personalizer, fake_server: FakeServer) -> None:
    server = make_server(fake_server.url)
    grant_consent(personalizer.folder / FOLDER, server)
    bodies = preview_profile(personalizer, server, CONFIG)
    first = augment_profile(personalizer, server, CONFIG)
    assert sorted(body.text.encode() for body in bodies) == sorted(received.body for received in fake_server.received)
    rows = personalizer.store.synthetic()
    second = augment_profile(personalizer, server, CONFIG)
    assert second.up_to_date
    assert (second.kept, second.outcome_counts) == (first.kept, first.outcome_counts)
    assert personalizer.store.synthetic() == rows and len(fake_server.received) == 4
    assert preview_profile(personalizer, server, CONFIG) == []


def test_a_run_resumes_after_the_server_died(personalizer: Personalizer, fake_server: FakeServer) -> None:
    server = make_server(fake_server.url)
    grant_consent(personalizer.folder / FOLDER, server)
    fake_server.queue_faults(None)
    fake_server.default_fault = Fault(status=503)
    first = augment_profile(personalizer, dataclasses.replace(server, max_attempts=1), CONFIG, concurrency=1)
    assert first.incomplete and not personalizer.store.synthetic()
    fake_server.default_fault = None
    assert augment_profile(personalizer, server, CONFIG).kept > 0
    assert len(fake_server.answered_prompts) == len(set(fake_server.answered_prompts)) == 4


def test_nothing_is_sent_without_consent(personalizer: Personalizer, fake_server: FakeServer) -> None:
    with pytest.raises(UserError, match="without your consent"):
        augment_profile(personalizer, make_server(fake_server.url), CONFIG)
    assert not fake_server.received


def test_a_profile_without_annotations_has_nothing_to_send(
    tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel, fake_server: FakeServer
) -> None:
    server = make_server(fake_server.url)
    with Personalizer.create(tmp_path / "profile", tiny_model_folder, PROFILE, tiny_model) as personalizer:
        grant_consent(personalizer.folder / FOLDER, server)
        with pytest.raises(UserError, match="no annotated dialogue to send") as error:
            augment_profile(personalizer, server, CONFIG)
    assert error.value.remedy is not None and error.value.remedy.action is Action.ANNOTATE


@pytest.mark.slow
def test_a_weight_of_1_trains_as_without_weights_and_another_does_not(
    tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel, fake_server: FakeServer
) -> None:
    """Compare with `finetune` without weights, where the loss is the plain mean over all targets."""
    server = make_server(fake_server.url)
    adapters: dict[float, bytes] = {}
    for weight in (1.0, 0.25):
        config = dataclasses.replace(PROFILE, mixture=MixtureConfig(weight))
        with create_profile(tmp_path / str(weight), tiny_model_folder, tiny_model, config) as personalizer:
            grant_consent(personalizer.folder / FOLDER, server)
            augment_profile(personalizer, server, CONFIG)
            folder = personalizer.folder / personalizer.train().adapter.folder
            adapters[weight] = (folder / "adapters.safetensors").read_bytes()
            originals = {a.id: a.preferred for a in personalizer.training_annotations()}
            rows = [s for s in personalizer.store.synthetic() if s.kept]
    dialogues = [*originals.values(), *(row.dialogue for row in rows)]
    groups = [*originals, *(row.annotation_id for row in rows)]
    examples = [Example(dialogue, group) for dialogue, group in zip(dialogues, groups, strict=True) if dialogue]
    assert len(examples) == len(dialogues)
    finetune(tiny_model, examples, PROFILE.finetune, tmp_path / "plain")
    assert adapters[1.0] == (tmp_path / "plain" / "adapters.safetensors").read_bytes() != adapters[0.25]


@pytest.mark.parametrize("weight", [0, -1, 1.5, float("nan")])
def test_an_invalid_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="synthetic_weight"):
        MixtureConfig(weight)
