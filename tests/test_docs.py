"""README, docs and examples keep their word: commands, Python blocks, links, citation keys, scripts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_personal.models.loading import resolve_model
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("kernels", "tests/metal", "benchmarks")),
]
EXAMPLES = ["fine_tune.py", "per_user_adapters.py", "scoring_kernels.py", "whole_loop.py"]


def code_blocks(language: str, page: Path) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_front_page_is_short() -> None:
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("heading", ["Try it", "Test it"])
def test_the_two_commands_are_one_line_each(heading: str) -> None:
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    (command,) = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert command.count("\n") == 1
    assert "venv" in command


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_files_that_a_page_links_to_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [page for page in PAGES if "docs" in page.parts], ids=page_name)
def test_modules_that_the_docs_name_exist(page: Path) -> None:
    """Paths in backticks such as `finetune/loop.py`, below the package or the root."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for name in re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|md|toml|json))`", text):
        places = [
            ROOT,
            ROOT / "mlx_personal",
            ROOT / "mlx_personal" / "finetune",
            ROOT / "mlx_personal" / "augmentation",
        ]
        assert any((place / name).exists() for place in places), name


def test_every_citation_key_is_in_the_list_of_references() -> None:
    keys = set(re.findall(r"^\| ([A-Z][a-z]+\d\d[a-z]?) \|", (ROOT / "docs/references.md").read_text(), re.MULTILINE))
    assert len(keys) > 15
    sources = [*(ROOT / "mlx_personal").rglob("*.py"), *(ROOT / "docs").rglob("*.md")]
    cited = {
        (key, source.name)
        for source in sources
        for group in re.findall(
            r"\[((?:[A-Z][a-z]+\d\d[a-z]?(?: §[\d.]+)?(?:, )?)+)\]", source.read_text(encoding="utf-8")
        )
        for key in re.findall(r"[A-Z][a-z]+\d\d[a-z]?", group)
    }
    assert {key for key, _ in cited} <= keys, {pair for pair in cited if pair[0] not in keys}


def test_the_python_of_the_kernels_page_runs() -> None:
    (code,) = code_blocks("python", ROOT / "kernels/README.md")
    scope: dict[str, object] = {}
    exec(compile(code, "kernels/README.md", "exec"), scope)
    shapes = {getattr(scope[name], "shape", None) for name in ("entropies", "means", "rows")}
    assert shapes == {(8,)}


def test_the_python_of_the_front_page_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = code_blocks("python", ROOT / "README.md")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_the_python_of_the_api_page_runs_on_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = code_blocks("python", ROOT / "docs/python-api.md")
    exec(compile(first, "docs/python-api.md", "exec"), {})
    scope: dict[str, object] = {}
    code = second.replace("mlx-community/Llama-3.2-3B-Instruct-4bit", str(resolve_model("demo")))
    exec(compile(code, "docs/python-api.md", "exec"), scope)
    assert getattr(scope["embedding"], "states").shape[0] > 0  # noqa: B009 - typed as object


def test_every_public_name_is_on_the_api_page() -> None:
    import mlx_personal

    page = (ROOT / "docs/python-api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\.\. auto\w+:: mlx_personal\.(?:\w+\.)?(\w+)$", page, re.MULTILINE))
    assert documented == set(mlx_personal.__all__)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_as_it_stands(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / name)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_example_is_run() -> None:
    scripts = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert scripts == {*EXAMPLES, "answer_as_owner.py"}  # the tutorial runs that one


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("python3.11") is None, reason="the tutorial's first command names python3.11")
def test_the_tutorial_s_commands_work_as_written(tmp_path: Path) -> None:
    """In a copy of the files that a clone has, from the installation to the promoted adapter."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    script = "set -e\n" + "\n".join(code_blocks("sh", ROOT / "docs/tutorial.md"))
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MLX_PERSONAL_HOME")}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "answers from now on" in done.stdout
