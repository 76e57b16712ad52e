"""The probe of chat templates: what it finds out, and which models it refuses in one line."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_personal import LanguageModel, UserError, load_language_model
from mlx_personal.models.chat_template import jinja_sandbox
from mlx_personal.models.chat_template.format import ChatFormat
from tests.conftest import TEMPLATE

WithTemplate = Callable[[str | None], LanguageModel]

TURN = "'<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n'"
PROMPT = "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
DATED = "{{ 'It is ' + strftime_now('%d %B %Y') + '.' }}" + TEMPLATE
PARTS = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}{% for p in m['content'] %}{% if p['type'] == 'text' %}"
    "{{ p['text'] }}{% endif %}{% endfor %}{{ '<|end|>\n' }}{% endfor %}" + PROMPT
)
FIRST_PART = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'][0]['text'] + '<|end|>' }}{% endfor %}" + PROMPT
)
SYSTEM_REFUSED = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
SYSTEM_DROPPED = "{% for m in messages if m['role'] != 'system' %}{{ " + TURN + " }}{% endfor %}" + PROMPT
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}{{ " + TURN + " }}{% endfor %}" + PROMPT
)
NO_PROMPT = "{% for m in messages %}{{ " + TURN + " }}{% endfor %}"
THINKING = TEMPLATE.replace("<|assistant|>\\n", "<|assistant|>\\n<think>\\n").replace(
    "<|assistant|>\n'", "<|assistant|>\n<think>\n'"
)
CLOSED_BY_ROWS = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}{% if loop.last and m['role'] == 'assistant' %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n<think>\n' }}{% endif %}"
)
CHANNEL = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}{{ 'final:' }}{% endif %}"
    "{{ m['content'] + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
HEADINGS = (
    "{% for m in messages %}{{ '### ' + m['role'] + ':\n' + m['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)
DROPS_ANSWERS = (
    "{% for m in messages %}{% if m['role'] == 'user' or loop.last %}{{ " + TURN + " }}{% endif %}{% endfor %}" + PROMPT
)


def with_tokenizer(model: LanguageModel, template: str | None = TEMPLATE, **changes: Any) -> LanguageModel:
    """Return the model with another template and other special tokens."""
    tokenizer = copy.deepcopy(model.tokenizer._tokenizer)
    tokenizer.chat_template = template
    for name, token in changes.items():
        setattr(tokenizer, name, token)
    return LanguageModel(model.model, TokenizerWrapper(tokenizer))


def chat_format(model: LanguageModel) -> ChatFormat:
    return model.chat_template.format


def test_an_ordinary_template_has_no_notes(tiny_model: LanguageModel) -> None:
    found = chat_format(tiny_model)
    assert found == ChatFormat(
        source="model",
        content_parts=False,
        system_turn="supported",
        roles_alternate=False,
        has_generation_prompt=True,
        answer_start="",
        answer_space="",
        opens_thought=False,
        prompt_is_prefix=True,
        writes_date=False,
        end_of_turn="<|end|>",
        end_of_turn_id=2,
        end_token_ids=(2,),
        stop_strings=(),
    )
    assert found.notes() == ()
    stored = json.loads(json.dumps(found.to_json()))
    assert stored == found.to_json()
    assert (stored["end_of_turn"], stored["notes"]) == ("<|end|>", [])


@pytest.mark.parametrize(
    ("template", "changes", "note"),
    [
        (DATED, {"writes_date": True, "prompt_is_prefix": True}, "it writes today's date: training uses 2026-01-01"),
        (PARTS, {"content_parts": True}, "contents are sent as parts"),
        (FIRST_PART, {"content_parts": True}, "contents are sent as parts"),
        (SYSTEM_REFUSED, {"system_turn": "merged"}, "the system turn is merged into the first question"),
        (SYSTEM_DROPPED, {"system_turn": "merged"}, "the system turn is merged into the first question"),
        (ALTERNATING, {"roles_alternate": True, "system_turn": "merged"}, "the system turn is merged"),
        (
            NO_PROMPT,
            {"has_generation_prompt": False, "answer_start": "<|assistant|>\n", "prompt_is_prefix": True},
            "no generation prompt: the beginning of an answer is added",
        ),
        (THINKING, {"opens_thought": True, "answer_start": "\n</think>\n\n", "prompt_is_prefix": False}, "a thought"),
        (CLOSED_BY_ROWS, {"opens_thought": True, "answer_start": "\n</think>\n\n"}, "the prompt opens a thought"),
        (CHANNEL, {"answer_start": "final:", "has_generation_prompt": True}, None),
        (HEADINGS, {"end_token_ids": (), "end_of_turn": "<|end|>", "stop_strings": ("\n### user:",)}, "one training"),
        (DROPS_ANSWERS, {"prompt_is_prefix": False}, "one training sample for each answer"),
        (None, {"source": "none", "stop_strings": ("\nUser:",)}, "no chat template: plain `User:`"),
    ],
    ids=lambda value: "" if not isinstance(value, str) else value[:20],
)
def test_what_a_template_does_is_found_out(
    with_template: WithTemplate, template: str | None, changes: dict[str, Any], note: str | None
) -> None:
    found = chat_format(with_template(template))
    assert {name: getattr(found, name) for name in changes} == changes
    assert any(note in line for line in found.notes()) if note else found.notes() == ()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}", "has an error in line 1"),
        ("{{ raise_exception('not a chat model') }}", r"fails \(not a chat model\)"),
        ("{{ 1 // 0 }}", r"fails \(integer division"),
        ("{{ messages | shuffle }}", "No filter named 'shuffle'"),
        ("{{ 'Hello' }}", "leaves the question out of the prompt"),
        ("{{ messages[0]['content'] }}<|end|>", "leaves the answer out"),
        ("{% for m in messages[:2] %}{{ " + TURN + " }}{% endfor %}", "leaves the question of a second turn out"),
    ],
)
def test_a_template_that_loses_text_or_fails_is_refused_in_one_line(
    with_template: WithTemplate, template: str, message: str
) -> None:
    model = with_template(template)
    for use in (
        lambda: model.chat_template.format,
        lambda: model.tokenize_prompt([{"role": "user", "content": "Hi"}]),
        lambda: model.chat_template.end_token_id(),
    ):
        with pytest.raises(UserError, match=f"the model's chat template .*{message}") as caught:
            use()
        assert "\n" not in str(caught.value)
    # It can still embed texts, and continue any prompt.
    assert model.tokenize("My cat") == model.tokenizer.encode("My cat", add_special_tokens=False)
    assert len(model.generate([[5, 6]], max_tokens=2)) == 1


def test_a_template_that_never_ends_is_run_once(with_template: WithTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja_sandbox, "MAX_SECONDS", 0.2)
    model = with_template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    start = time.thread_time()
    with pytest.raises(UserError, match="the model's chat template takes too long"):
        chat_format(model)
    assert time.thread_time() - start < 0.4


def test_the_end_of_a_turn_ends_an_answer_though_it_is_no_end_of_text(tiny_model: LanguageModel) -> None:
    model = with_tokenizer(tiny_model, eos_token="<|pad|>")
    assert chat_format(model).end_of_turn == "<|end|>"
    assert model.end_token_ids == {0, 2}
    assert model.chat_template.end_token_id() == 2


def test_a_tokenizer_without_an_end_gets_the_one_that_its_template_writes(tiny_model: LanguageModel) -> None:
    model = with_tokenizer(tiny_model, eos_token=None)
    assert chat_format(model).end_of_turn == "<|end|>"
    assert model.end_token_ids == {2}
    # A template that ends no answer, but begins the next question with a token.
    starts = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}" + PROMPT
    model = with_tokenizer(tiny_model, starts, eos_token=None)
    assert chat_format(model).end_of_turn == "<|user|>"
    with pytest.raises(UserError, match="has no end-of-text token, and its chat template ends no answer"):
        chat_format(with_tokenizer(tiny_model, HEADINGS, eos_token=None))


def test_a_marker_that_the_tokenizer_has_no_token_for_ends_an_answer_as_text(tiny_model: LanguageModel) -> None:
    template = TEMPLATE.replace("<|end|>", "<|fin|>")
    found = chat_format(with_tokenizer(tiny_model, template))
    assert found.stop_strings == ("<|fin|>",)
    assert found.end_of_turn == "<|end|>"
    # No marker is a token, as where a template belongs to another tokenizer: the next turn's ends an answer, too.
    template = "{% for m in messages %}{{ '[' + m['role'] + ']\n' + m['content'] + '[fin]\n' }}{% endfor %}" + PROMPT
    assert chat_format(with_tokenizer(tiny_model, template)).stop_strings == ("[fin]", "\n[user]")


def test_tokens_beyond_the_embedding_are_refused_or_never_used(tiny_model: LanguageModel) -> None:
    model = with_tokenizer(tiny_model)
    model.tokenizer.add_special_tokens({"additional_special_tokens": ["<|extra|>"]})
    extra = model.tokenizer.convert_tokens_to_ids("<|extra|>")
    assert extra == model.vocabulary_size == 384
    assert extra not in model.tokenize("an <|extra|> token")
    model = with_tokenizer(tiny_model, TEMPLATE.replace("<|end|>", "<|extra|>"))
    model.tokenizer.add_special_tokens({"additional_special_tokens": ["<|extra|>"]})
    with pytest.raises(UserError, match=r"writes the token '<\|extra\|>', for which the model has no embedding"):
        chat_format(model)


# Files


def folder_with(tiny_model_folder: Path, folder: Path, config_template: Any = None, **files: str) -> Path:
    """Copy the tiny model with other templates: in the tokenizer's config, and in files."""
    shutil.copytree(tiny_model_folder, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["chat_template"]
    if config_template is not None:
        config["chat_template"] = config_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def prompt_of(folder: Path) -> str:
    model = load_language_model(folder)
    return str(model.tokenizer.decode(model.tokenize_prompt([{"role": "user", "content": "Hi"}])))


def named(text: str) -> str:
    return text + "{{ messages | map(attribute='content') | join('<|end|>') }}<|end|>"


def test_templates_are_read_from_all_files_that_hold_them(tiny_model_folder: Path, tmp_path: Path) -> None:
    several = [{"name": "tool_use", "template": named("T")}, {"name": "default", "template": named("D")}]
    cases: dict[str, tuple[Any, dict[str, str]]] = {
        "D": (several, {}),
        "J": (named("C"), {"chat_template_DOT_jinja": named("J")}),
        "K": (None, {"chat_template_DOT_jinja": named("K"), "additional_chat_templates__rag_DOT_jinja": named("R")}),
        "L": (None, {"chat_template_DOT_json": json.dumps({"chat_template": named("L")})}),
        "S": ([{"name": "chat", "template": named("S")}], {}),
        "C": (named("C"), {"chat_template_DOT_json": json.dumps({"chat_template": named("L")})}),
    }
    for first, (config_template, files) in cases.items():
        assert prompt_of(folder_with(tiny_model_folder, tmp_path / first, config_template, **files)).startswith(
            f"{first}Hi<|end|>"
        )
    assert prompt_of(folder_with(tiny_model_folder, tmp_path / "none")) == "User: Hi\nAssistant:"


@pytest.mark.parametrize(
    ("config_template", "files", "message"),
    [
        ([{"name": "a", "template": "x"}, {"name": "b", "template": "y"}], {}, r"none of its templates \(a, b\)"),
        (None, {"chat_template_DOT_json": "{"}, "cannot be read from chat_template.json"),
        (None, {"chat_template_DOT_json": '{"chat_template": 5}'}, "is not a text"),
    ],
)
def test_a_damaged_template_file_is_one_line(
    tiny_model_folder: Path, tmp_path: Path, config_template: Any, files: dict[str, str], message: str
) -> None:
    folder = folder_with(tiny_model_folder, tmp_path / "model", config_template, **files)
    with pytest.raises(UserError, match=message) as caught:
        prompt_of(folder)
    assert str(caught.value).startswith(str(folder))
