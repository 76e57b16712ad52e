"""A folder of users as it is read, and the owner of a profile as the one user."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import Dialogue, LanguageModel, Personalizer
from mlx_personal.annotation import AnnotationConfig
from mlx_personal.augmentation.augment_profile import FOLDER, augment_profile, preview_profile
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.augmentation.user_files import Of, read_users, record_of
from mlx_personal.config import Config, MixtureConfig
from mlx_personal.dialogue import rouge1
from mlx_personal.errors import UserError
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.selection import SelectionConfig
from tests.support.augmentation import CONFIG, NOUNS, TRAINING, consented, server_at
from tests.support.fake_server import Fault


def write(file: Path, *lines: object) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


def pair(prompt: str, completion: str) -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    write(tmp_path / "users" / "bob.jsonl", pair("one", "comedy"), pair("two", "drama"))
    return tmp_path / "users"


def test_every_file_is_a_user_and_every_single_turn_dialogue_a_record(folder: Any) -> None:
    write(folder / "ann.jsonl", pair("a", "b"), {"messages": Dialogue.of("c", "<think>hm</think>d").to_messages()})
    write(folder / ".hidden.jsonl", pair("e", "f"))
    (folder / "notes.txt").write_text("no user")
    read = read_users(folder)
    assert read.task == Task() and not read.bad and not read.left_out
    assert read.users == {
        "ann": Of((Record("a", "b"), Record("c", "d")), {}),
        "bob": Of((Record("one", "comedy"), Record("two", "drama")), {}),
    }


def test_what_is_no_record_is_counted_by_reason_and_bad_lines_are_named(folder: Any) -> None:
    (folder / "task.json").write_text('{"question": "Which? {text}", "labels": ["comedy", "drama"]}')
    turns = Dialogue.of("one", "comedy").to_messages()
    several = [turns[0], {"role": "assistant", "content": "well"}, *turns]
    system = [{"role": "system", "content": "Be brief."}, *turns]
    thoughts = [turns[0], {"role": "assistant", "content": "<think>comedy</think>"}]
    lines = [
        pair("one", "comedy"),
        pair("one", "comedy"),
        "{",
        pair("two", "farce"),
        several,
        system,
        thoughts,
        several,
    ]
    write(folder / "ann.jsonl", *lines, pair("two", "comedy"))
    read = read_users(folder)
    assert read.users["ann"].records == (Record("one", "comedy"), Record("two", "comedy"))
    assert read.users["ann"].skipped == {
        "there already": 1,
        "a bad line": 1,
        "an answer that is no label": 1,
        "several turns": 2,
        "a system turn": 1,
        "nothing but thoughts": 1,
    }
    [bad] = read.bad
    assert bad.where.endswith("ann.jsonl:3") and bad.reason.startswith("not JSON")
    assert read.task == Task("Which? {text}", ("comedy", "drama"))


def test_a_user_with_one_record_or_none_is_left_out_and_said_to_be(folder: Any) -> None:
    write(folder / "one.jsonl", pair("a", "b"), "no JSON")
    write(folder / "none.jsonl", "no JSON")
    write(folder / "empty.jsonl")
    read = read_users(folder)
    assert list(read.users) == ["bob"]
    assert read.left_out == {
        "empty": "no record",
        "none": "no record, 1 skipped: a bad line",
        "one": "one record, 1 skipped: a bad line",
    }


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ('{"lables": []}', "task.json: unknown key 'lables'; did you mean 'labels'?"),
        ('{"question": "Which?"}', "task.json: the question has no {text}"),
        ('{"question": 1}', "task.json: the question is not a text"),
        ('{"labels": "comedy"}', "task.json: the labels are not a list of texts"),
        ('{"labels": ["comedy", 2]}', "task.json: the labels are not a list of texts"),
        ('{"labels": ["comedy", "comedy"]}', "task.json: the labels are not different"),
        ("[]", "task.json: not a JSON object"),
        ('{"labels": ', "task.json: not a JSON object"),
    ],
)
def test_a_bad_task_is_one_line(task: str, says: str, folder: Any) -> None:
    (folder / "task.json").write_text(task)
    with pytest.raises(UserError) as error:
        read_users(folder)
    assert says in error.value.line()


def test_a_folder_without_a_user_to_go_on_with_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        read_users(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no user in this folder"):
        read_users(tmp_path)
    write(tmp_path / "ann.jsonl", pair("a", "b"))
    with pytest.raises(UserError, match=r"no user has 2 records or more \(ann has one record\)"):
        read_users(tmp_path)


def test_a_label_counts_only_as_the_task_writes_it() -> None:
    task = Task(labels=("US", "us"))
    assert record_of(Dialogue.of("a", "us"), task) == Record("a", "us")
    with pytest.raises(ValueError, match="no label"):
        record_of(Dialogue.of("a", "Us"), task)


# The owner of a profile.

PROFILE = Config(
    selection=SelectionConfig(bins=16),
    annotation=AnnotationConfig(questions_per_day=99),
    evaluation=EvaluationConfig(share=0.3, max_tokens=8),
    finetune=TRAINING,
)


def profile(folder: Any, model_folder: Any, model: Any, config: Any = PROFILE) -> Any:
    """A profile whose owner has accepted what was selected of 20 dialogues."""
    me = Personalizer.create(folder, model_folder, config, model)
    me.observe(
        Dialogue.of(f"What about {NOUNS[i % 10]} and {NOUNS[i * 7 % 9]} {i}?", f"Take the {NOUNS[i % 10]} of {i}.")
        for i in range(20)
    )
    for question in me.annotations.questions():
        me.annotations.record(question.dialogue_id, "accept")
    return me


@pytest.fixture
def me(tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel) -> Iterator[Any]:
    with profile(tmp_path / "profile", tiny_model_folder, tiny_model) as me:
        yield me


def test_the_owners_dialogues_are_enlarged_and_learnt_by_the_next_training(me: Any, fake: Any) -> None:
    server = server_at(fake.url)
    consented(me.folder / FOLDER, server)
    done = augment_profile(me, server, CONFIG)
    assert done.kept == done.counts["kept"] > 0 and not (done.left or done.found)
    own = {a.id: a.preferred for a in me.store.preferred(held_out=False)}
    held_out = [dialogue.question for dialogue in me.judge.held_out()]
    assert held_out and done.records == len(own)
    bodies = b"\n".join(received.body for received in fake.received).decode()
    assert not any(question in bodies for question in held_out)
    rows = me.store.synthetic()
    assert len(rows) == done.kept and all(row.kept and row.reason == "kept" for row in rows)
    for row in rows:
        # The server's answers begin with the first demonstration's text.
        original = own[row.annotation_id]
        assert row.dialogue.question.startswith(original.question)
        assert row.rouge1 == pytest.approx(rouge1(row.dialogue.question, original.question))
    trained = me.train()
    sources = me.store.training_sources(trained.adapter.run_id)
    assert sum(source["synthetic_id"] is not None for source in sources) == done.kept
    # The device itself rewrites only what has no synthetic set yet.
    assert me.synthesize().dialogues == len(own) - len({row.annotation_id for row in rows})


def test_nothing_is_asked_or_stored_twice_for_the_owner(me: Any, fake: Any) -> None:
    server = server_at(fake.url)
    consented(me.folder / FOLDER, server)
    shown = preview_profile(me, server, CONFIG)
    first = augment_profile(me, server, CONFIG)
    assert sorted(body.text.encode() for body in shown) == sorted(received.body for received in fake.received)
    rows = me.store.synthetic()
    second = augment_profile(me, server, CONFIG)
    assert second.found and (second.kept, second.counts) == (first.kept, first.counts)
    assert me.store.synthetic() == rows and len(fake.received) == 4
    assert preview_profile(me, server, CONFIG) == []


def test_the_owners_run_goes_on_after_a_dead_server(me: Any, fake: Any) -> None:
    server = server_at(fake.url)
    consented(me.folder / FOLDER, server)
    fake.misbehave(None)
    fake.always = Fault(status=503)
    first = augment_profile(me, dataclasses.replace(server, tries=1), CONFIG, concurrency=1)
    assert first.left and not me.store.synthetic()
    fake.always = None
    assert augment_profile(me, server, CONFIG).kept > 0
    assert len(fake.answered) == len(set(fake.answered)) == 4


def test_the_owner_is_asked_before_anything_leaves(me: Any, fake: Any) -> None:
    with pytest.raises(UserError, match="without your consent"):
        augment_profile(me, server_at(fake.url), CONFIG)
    assert not fake.received


def test_a_profile_without_annotations_has_nothing_to_send(
    tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel, fake: Any
) -> None:
    server = server_at(fake.url)
    with Personalizer.create(tmp_path / "profile", tiny_model_folder, PROFILE, tiny_model) as me:
        consented(me.folder / FOLDER, server)
        with pytest.raises(UserError, match="no annotated dialogue to send"):
            augment_profile(me, server, CONFIG)


def test_the_weight_of_synthetic_sets_decides_the_adapter_and_1_changes_nothing(
    tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel, fake: Any
) -> None:
    """The reference: `finetune` without weights, which is the plain mean over all targets."""
    from mlx_personal.finetune import finetune

    server, found = server_at(fake.url), {}
    for weight in (1.0, 0.25):
        config = dataclasses.replace(PROFILE, mixture=MixtureConfig(weight))
        with profile(tmp_path / str(weight), tiny_model_folder, tiny_model, config) as me:
            consented(me.folder / FOLDER, server)
            augment_profile(me, server, CONFIG)
            folder = me.folder / me.train().adapter.folder
            found[weight] = (folder / "adapters.safetensors").read_bytes()
            originals = {a.id: a.preferred for a in me.store.preferred(held_out=False)}
            rows = [s for s in me.store.synthetic() if s.kept]
    dialogues = [*originals.values(), *(row.dialogue for row in rows)]
    sources = [*originals, *(row.annotation_id for row in rows)]
    finetune(tiny_model, dialogues, PROFILE.finetune, tmp_path / "plain", sources=sources)
    assert found[1.0] == (tmp_path / "plain" / "adapters.safetensors").read_bytes() != found[0.25]


@pytest.mark.parametrize("weight", [0, -1, 1.5, float("nan")])
def test_a_weight_that_makes_no_sense_is_refused(weight: Any) -> None:
    with pytest.raises(ValueError, match="synthetic_weight"):
        MixtureConfig(weight)
