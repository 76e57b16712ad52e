"""`lexicon`: show the domains that dialogues are scored by, and suggest new ones."""

from __future__ import annotations

import dataclasses
import itertools
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.terminal import print_lines, print_styled, printable

if TYPE_CHECKING:
    from rich.console import Console

# Words to show of a suggested domain.
_SHOWN_WORDS = 12


@click.group()
def lexicon() -> None:
    """Show the subjects (domains) that dialogues are scored by, and suggest new ones."""


@lexicon.command("list")
@json_option
def list_(cli: CommandContext) -> CommandResult:
    """List the domains, with the number of selected dialogues in each."""
    with cli.open_profile(write=False) as personalizer:
        domains = [bin_.domain for bin_ in personalizer.buffer().bins]
        lexicons = personalizer.lexicons()
        data = [{"domain": d, "words": len(words), "bins": domains.count(d)} for d, words in lexicons.items()]
        data.append({"domain": "other", "words": 0, "bins": domains.count("other")})

    def show(console: Console) -> None:
        from rich.table import Table

        table = Table("domain", "words", "bins")
        for row in data:
            table.add_row(*(printable(str(value)) for value in row.values()))
        console.print(table)
        print_lines(console, f"To add a domain, put a text file of its words into {cli.profile_folder / 'lexicons'}")

    return CommandResult(data, show)


@lexicon.command("suggest")
@click.option("--domains", type=click.IntRange(1, 50), default=8, show_default=True, help="Number of domains.")
@click.option("--write", is_flag=True, help="Write the domains to the profile's folder of lexicons.")
@json_option
def suggest(cli: CommandContext, domains: int, write: bool) -> CommandResult:
    """Suggest domains and their words from your own dialogues, in any language."""
    from mlx_personal.scoring import OTHER, suggest_lexicons
    from mlx_personal.storage.files import atomic_write

    with cli.open_profile(write=write) as personalizer:
        lexicons = personalizer.lexicons()
        # A file with a used name would replace a lexicon that the owner has edited, or a built-in one.
        used_names = [*lexicons, OTHER]
        suggestions = []
        texts = [row.dialogue.text for row in personalizer.dialogues()]
        for suggestion in suggest_lexicons(texts, max_domains=domains):
            if any(set(suggestion.words) <= words for words in lexicons.values()):
                continue  # written before
            suggestions.append(dataclasses.replace(suggestion, name=_unused_name(suggestion.name, used_names)))
            used_names.append(suggestions[-1].name)
        folder = personalizer.folder / "lexicons"
        if write:
            folder.mkdir(exist_ok=True)
            for suggestion in suggestions:
                header = f"# {suggestion.name}: suggested from {suggestion.dialogues} of your dialogues\n"
                atomic_write(folder / f"{suggestion.name}.txt", header + "\n".join(suggestion.words) + "\n")
    data = [{"domain": s.name, "dialogues": s.dialogues, "words": list(s.words)} for s in suggestions]

    def show(console: Console) -> None:
        for suggestion in suggestions:
            words = ", ".join(suggestion.words[:_SHOWN_WORDS])
            print_styled(console, suggestion.name, "bold", f" ({suggestion.dialogues} dialogues): {words}")
        if not suggestions:
            print_lines(console, "Nothing new: the lexicons in use have all of these words.")
        else:
            print_lines(console, f"Written to {folder}" if write else "Add --write to use them.")

    return CommandResult(data, show)


def _unused_name(name: str, used_names: Iterable[str]) -> str:
    """Return `name`, or the first of name_2, name_3 ... that is not used; file systems may ignore case and form."""
    used = {unicodedata.normalize("NFC", other).casefold() for other in used_names}
    numbered = itertools.chain([name], (f"{name}_{n}" for n in itertools.count(2)))
    return next(n for n in numbered if unicodedata.normalize("NFC", n).casefold() not in used)
