"""Rewriting by worked examples: for small instruct models, and for base models that follow no instruction.

Guided rewriting helps the model to stay with the text: sentences are rewritten one by one, a given opening decides how
the rewrite differs, and the content words that it has to keep are made likelier (`models.lexical_constraints`).
"""

from __future__ import annotations

import re
from typing import Final

from mlx_personal.dialogue import Dialogue, strip_thoughts, words
from mlx_personal.models import LanguageModel
from mlx_personal.models.lexical_constraints import LexicalConstraint
from mlx_personal.synthesis.config import SynthesisConfig
from mlx_personal.synthesis.content import content_words
from mlx_personal.synthesis.languages import Kind, Language, detect_language, kind_of, load_languages
from mlx_personal.synthesis.sentences import Sentence, can_be_reworded, material_start, split_parts, with_end_of
from mlx_personal.synthesis.units import Unit, UnitPrompt

# What is added to the logits of the original's words until they have been generated, in nats.
_CONTENT_BONUS: Final = 3.0
_FUNCTION_BONUS: Final = 1.0
# The same for the tokens that close the answer, when all words have been generated: against answers that run on.
_CLOSING_BONUS: Final = 4.0
_CLOSINGS: Final = ("]", "?]", ".]", "!]", ".", "?", "!")

_WORD = re.compile(r"[^\W_][\w'\u2019-]*")
_PUNCTUATION = re.compile(r"[^\w\s]")
_UNSPACED_END = re.compile("[\u3000-\u303f\u3040-\u30ff\u3400-\u9fff\uff00-\uffef]$")


class FewShot:
    """Asks for each turn, or each sentence, after worked examples in its language.

    Args:
        lm: The model.
        config: Settings of the rewriting.
        in_brackets: Whether texts are in brackets, and the answer's opening bracket is part of the prompt.
        is_guided: Whether sentences are rewritten one by one, with given openings and soft lexical constraints.
        is_chat: Whether the examples are chat turns; otherwise they are plain text to be continued.
    """

    def __init__(self, lm: LanguageModel, config: SynthesisConfig, in_brackets: bool, is_guided: bool, is_chat: bool):
        self._lm, self._config = lm, config
        self._in_brackets, self._is_guided, self._is_chat = in_brackets, is_guided, is_chat
        # The tokens of a unit's prompt before the beginning of the answer, which are drawn from several times.
        self._prompts: dict[Unit, list[int]] = {}
        closings = (lm.tokenize(text) for text in _CLOSINGS if in_brackets or "]" not in text)
        self._closing_ids = tuple(dict.fromkeys(ids[0] for ids in closings if len(ids) == 1))

    def units(self, original: Dialogue) -> list[Unit]:
        """Return a unit for each rewritten turn, or for each of their sentences.

        Turns and sentences that cannot be reworded are fixed, unless all are; then the longest is reworded.
        """
        language = detect_language("\n".join(original.user_turns))
        units = []
        speakers = 2 if self._config.mode == "both" else 1
        for turn in (turn for pair in original.turn_indices for turn in pair[:speakers]):
            message = original.messages[turn]
            whole = [Sentence(message.content, "")]
            parts = split_parts(message.content, language) if self._is_guided else whole
            end, after_address, is_first = material_start(parts, language), False, True
            for index, (text, space) in enumerate((part.text, part.space) for part in parts):
                own_language = detect_language(text) or language
                is_fixed = index >= end or not can_be_reworded(text, own_language)
                kind = kind_of(text, own_language)
                units.append(Unit(text, turn, is_fixed, space, after_address, is_first, own_language, kind))
                is_first = is_first and is_fixed
                after_address = text.endswith(",")
        if all(unit.is_fixed for unit in units):
            longest = max(range(len(units)), key=lambda i: len(units[i].text))
            units[longest] = Unit(**{**vars(units[longest]), "is_fixed": False})
        longest_tokens = max(len(self._lm.tokenize(unit.text)) for unit in units)
        return units if longest_tokens <= self._config.max_tokens else []

    def prompt(self, original: Dialogue, unit: Unit, attempt: int) -> UnitPrompt:
        """Return the prompt for a unit; the opening changes with the attempt."""
        opening = _opening(unit, attempt) if self._is_guided else ""
        beginning = ("[" if self._in_brackets else "") + opening
        code = unit.language.code if unit.language else ""
        length = len(self._lm.tokenize(unit.text))
        return UnitPrompt(
            self._prompt_tokens(unit, beginning),
            min(self._config.max_tokens, (3 * length // 2 if self._is_guided else 2 * length) + 16),
            beginning,
            self._constraint(unit, opening) if self._is_guided else None,
            (code, unit.kind),
        )

    def parse(self, unit: Unit, prompt: UnitPrompt, answer: str) -> str:
        """Return the rewritten text, which ends at the closing bracket or the end of the answer."""
        answer = strip_thoughts(answer)
        if not self._in_brackets:
            text = f"{prompt.beginning}{_joint(prompt.beginning, answer)}{answer}"
        else:
            opening = prompt.beginning[1:]
            text = f"{opening}{_joint(opening, answer)}{answer}".partition("]")[0]
        text = text.strip().strip('"').strip()
        if not text:
            raise ValueError("an empty answer")
        if len(self._lm.tokenize(answer)) >= prompt.max_tokens - 1:
            raise ValueError("the answer was cut off")
        if not self._is_guided:
            return text
        return _with_case(with_end_of(text, unit.text), unit)

    def compose(self, original: Dialogue, units: list[Unit], texts: list[str]) -> Dialogue:
        """Return the dialogue with the rewritten sentences in their places."""
        by_turn: dict[int, str] = {}
        for unit, text in zip(units, texts, strict=True):
            by_turn[unit.turn or 0] = by_turn.get(unit.turn or 0, "") + text + unit.space
        messages = original.to_messages()
        for turn, text in by_turn.items():
            messages[turn]["content"] = text.strip()
        return Dialogue.from_messages(messages)

    def _prompt_tokens(self, unit: Unit, beginning: str) -> list[int]:
        if unit not in self._prompts:
            self._prompts[unit] = self._tokenize(unit)
        # In plain text, a space before the beginning is part of its first token.
        separator = "" if self._is_chat or not beginning else " "
        return self._prompts[unit] + (self._lm.tokenize(f"{separator}{beginning}") if beginning else [])

    def _tokenize(self, unit: Unit) -> list[int]:
        """Return the prompt, whose system turn and examples are the same for all units of a language and kind."""
        language = unit.language or load_languages()[0]
        examples = language.examples[unit.kind] if unit.language else _mixed_examples(unit.kind)
        if not self._is_chat:
            shown = "".join(f"- {text}\n= {rewrite}\n\n" for text, rewrite in examples)
            text = f"{language.instruction}\n\n{shown}- {unit.text}\n="
            return [*_begin_of_text(self._lm), *self._lm.tokenize(text)]
        instruction = language.bracket_instruction if self._in_brackets else language.instruction
        left, right = ("[", "]") if self._in_brackets else ("", "")
        messages = [{"role": "system", "content": language.system}]
        for text, rewrite in examples:
            messages.append({"role": "user", "content": f"{instruction}\n{left}{text}{right}"})
            messages.append({"role": "assistant", "content": f"{left}{rewrite}{right}"})
        messages.append({"role": "user", "content": f"{instruction}\n{left}{unit.text}{right}"})
        return self._lm.tokenize_prompt(messages)

    def _constraint(self, unit: Unit, opening: str) -> LexicalConstraint:
        """Return the first tokens of the words that the rewrite should contain and its opening does not."""
        if unit.language is not None and unit.language.code == "zh":
            ids = dict.fromkeys(self._lm.tokenize(unit.text), _CONTENT_BONUS)
            return LexicalConstraint(tuple(ids), tuple(ids.values()), self._closing_ids, _CLOSING_BONUS)
        used = set(words(opening))
        bonuses: dict[int, float] = {}
        for position, match in enumerate(_WORD.finditer(unit.text)):
            word = match.group()
            if not used.isdisjoint(words(word)):
                continue
            bonus = _CONTENT_BONUS if content_words(word, unit.language) else _FUNCTION_BONUS
            # The first word of a sentence may lose its capital letter.
            for form in (word, word.lower()) if position == 0 else (word,):
                for token_id in self._lm.tokenize(f" {form}")[:1]:
                    bonuses[token_id] = max(bonus, bonuses.get(token_id, 0.0))
        return LexicalConstraint(tuple(bonuses), tuple(bonuses.values()), self._closing_ids, _CLOSING_BONUS)


def _opening(unit: Unit, attempt: int) -> str:
    """Return an opening for a unit that does not begin with it already; an empty one leaves it to the model."""
    if unit.language is None:
        return ""
    openings = list(unit.language.openings[unit.kind])
    if unit.kind == "statement":
        # Parts of a statement can change places: those of the text itself come between the introducing words.
        clauses = _clause_openings(unit.text, unit.language)
        openings = openings if unit.is_introduced else [""]
        openings = [*clauses[:2], *openings[:2], *clauses[2:4], *openings[2:]]
    original = unit.text.lower()
    openings = [opening for opening in openings if not opening or not original.startswith(opening.lower())]
    return openings[attempt % len(openings)] if openings else ""


def _clause_openings(text: str, language: Language) -> list[str]:
    """Return the first two words of each part of a statement that may come first, capitalized.

    Such a part begins with an adverb, a preposition or a subordinator; with a pronoun only after a conjunction or a
    comma, because elsewhere it is an object.
    """
    matches = list(_WORD.finditer(text))
    persons = language.first_person | language.second_person | language.third_person
    openings = []
    for before, match, after in zip(matches[1:], matches[2:], matches[3:-1], strict=False):
        word = words(match.group())[0]
        begins_clause = "," in text[before.end() : match.start()] or before.group().lower() in language.conjunctions
        goes_on = after.group().lower() not in language.conjunctions
        if word in language.clause_starts and goes_on and (begins_clause or word not in persons):
            openings.append(f"{match.group()[0].upper()}{match.group()[1:]} {after.group()}")
    return list(dict.fromkeys(openings))


def _with_case(text: str, unit: Unit) -> str:
    """Return a rewrite in lower case at its beginning, if it comes after a form of address and is no name."""
    first = _WORD.match(text)
    if not unit.follows_address or first is None or unit.language is None or first.group() in unit.text:
        return text
    is_function_word = words(first.group())[0] in unit.language.function_words
    return text[0].lower() + text[1:] if is_function_word and not text.startswith(("I ", "I'")) else text


def _mixed_examples(kind: Kind) -> list[tuple[str, str]]:
    """Return an example of each language, which together show that a rewrite is in the language of its text."""
    return [language.examples[kind][0] for language in load_languages()]


def _joint(beginning: str, answer: str) -> str:
    """Return the space between a given beginning and the rest, from which generation removes outer spaces."""
    if not beginning or not answer or _PUNCTUATION.match(answer) or _UNSPACED_END.search(beginning):
        return ""
    return " "


def _begin_of_text(lm: LanguageModel) -> list[int]:
    token_id = lm.tokenizer.bos_token_id
    return [] if token_id is None else [token_id]
