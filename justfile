# What CI runs, and what README and CONTRIBUTING name. `just --list` shows all.

python := env("MLX_PERSONAL_PYTHON", ".venv/bin/python")
bin := parent_directory(python)

default:
    @just --list

# The quick tests, on all cores.
test:
    {{python}} -m pytest -q -n auto --dist worksteal -m 'not slow'

# The tests that take longer.
slow:
    {{python}} -m pytest -q -m slow

# Linters, types, spelling and the lock file.
lint:
    {{bin}}/ruff check .
    {{bin}}/ruff format --check .
    {{bin}}/mypy
    {{bin}}/codespell
    {{bin}}/uv lock --check

# The documentation; every warning is an error.
docs:
    {{python}} -m sphinx -W --keep-going -q -b html docs build/docs

# The reference of the command line, written again.
cli-reference:
    {{python}} -m mlx_personal.cli.reference > docs/cli.md

# CPU time of `--help`, completion and `status`.
startup:
    {{python}} -m benchmarks.startup

all: test slow lint docs
