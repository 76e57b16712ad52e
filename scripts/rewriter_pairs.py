"""Make pairs of wordings from plain texts by rule, for `train_rewriter`, since there are no paraphrase data.

Two wordings of a question are filled with the same phrases of the texts, so the phrases have to be copied and the rest
has to be reworded. Sentences of the texts have words, openings and their order replaced, in either of the two wordings.
The word lists are in `rewordings`. All functions depend on nothing but their arguments and the random generator.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from rewordings import ENDINGS, FRAMES, OPENERS, ORDERS, QUESTION_OPENERS, SAME

from mlx_personal.dialogue import rouge1, words
from mlx_personal.errors import UserError

# Narrower than the band of synthesis: of a model trained on pairs at its edges, half of the rewrites lie outside.
BAND = (0.35, 0.85)
_NUMBERS = ("two", "three", "four", "five", "six", "ten", "3", "4", "5", "10")
_DETERMINERS = ("the", "a", "an", "my", "your", "his", "her", "our", "their", "this", "some", "any")
_OTHER_FUNCTION_WORDS = """
i you he she it we they me him us them who whom which that what where when why how and or but nor so because if
though although while as than then of to in on at by for from with about into over under after before between
through during without within against among upon is am are was were be been being do does did done have has had
having will would shall should can could may might must not no yes there here these those all both each every
either neither such very too also just only even ever never still yet again once more most much many few other
another same own don doesn didn isn aren wasn weren won t s ll re ve d m don't doesn't didn't isn't aren't wasn't
weren't won't can't i'm i've i'll it's that's you're he's she's we're they're let's out up down off away back
now well oh get got go going gone went come came make made made let like said say says see seem seems its i'd
one ones anything something nothing everything anyone someone everyone really quite rather
"""
# Words that end a phrase. All others count as content words.
FUNCTION_WORDS = frozenset((*_DETERMINERS, *_OTHER_FUNCTION_WORDS.split()))
_SENTENCE = re.compile(r"[A-Za-z][A-Za-z0-9 ,'$%-]+[.!?]")
_PLURAL = re.compile(r"[^s'ui]s$")

Pair = tuple[str, str]


@dataclass(frozen=True)
class Material:
    """What pairs of wordings are drawn from.

    Attributes:
        sentences: Sentences of the texts.
        chats: The turns of each chat of at least two exchanges.
        phrases: The phrases for each slot of `FRAMES`.
    """

    sentences: list[str]
    chats: list[list[str]]
    phrases: dict[str, list[str]]


def extract_material(texts: Sequence[str]) -> Material:
    """Extract sentences, chats and phrases from texts.

    The marks of chat templates, such as `<|user|>`, separate the turns of a text; a text without them is one turn.

    Raises:
        UserError: If the texts have too few sentences to draw from.
    """
    sentences: list[str] = []
    chats = []
    for text in texts:
        turns = [turn.strip() for turn in re.split(r"(?:<\|\w+\|>\s*)+", text) if turn.strip()]
        if len(turns) > 3:
            chats.append(turns)
        for turn in turns:
            normalized = re.sub(r"\s+", " ", turn.replace("\u2019", "'"))
            normalized = re.sub(r" ([,.!?])", r"\1", normalized)
            for match in _SENTENCE.finditer(normalized):
                # After another character than a space, it is the rest of a sentence.
                if match.start() and normalized[match.start() - 1] != " ":
                    continue
                if 3 <= match[0].count(" ") < 25 and "--" not in match[0]:
                    sentences.append(match[0])
    phrases = extract_phrases(sentences)
    if not sentences or not all(phrases.values()):
        raise UserError("too little English text to draw wordings from", hint="give more texts")
    return Material(sentences, chats, phrases)


def extract_phrases(sentences: Sequence[str]) -> dict[str, list[str]]:
    """Extract phrases for the slots of `FRAMES` by heuristics.

    Args:
        sentences: The sentences.

    Returns:
        The phrases by slot, each as often as it occurs, at most 20 times. x: up to three words between function words,
        after a determiner or preposition. p: those of them with a plural in -s. v: the words after `to` that can begin
        with a verb, up to the next comma or stop. g: those that begin with a word in -ing. s: short statements.
    """
    counts: dict[str, Counter[str]] = {slot: Counter() for slot in "xpvgs"}
    for sentence in sentences:
        for clause in re.split(r"[,.!?]", sentence):
            tokens = clause.split()
            for i, token in enumerate(tokens):
                lower = token.lower()
                if lower in _DETERMINERS or lower in ("of", "about", "with", "for", "in", "from", "between"):
                    end = i + 1
                    while end < len(tokens) and tokens[end].lower() not in FUNCTION_WORDS:
                        end += 1
                    content = tokens[i + 1 : end]
                    if 1 <= len(content) <= 3 and len(content[-1]) > 2 and not re.search(r"(ed|ly|ing)$", content[-1]):
                        plural = bool(_PLURAL.search(content[-1]))
                        if plural:
                            counts["p"][" ".join(content)] += 1
                        with_first = lower in ("the", "a", "an", "my", "your") or (lower in _DETERMINERS and not plural)
                        phrase = [lower, *content] if with_first else content
                        # "The history of the town": a short addition with `of` mostly belongs to the phrase.
                        if end + 2 <= len(tokens) and tokens[end] == "of" and len(tokens) - end <= 4:
                            phrase += tokens[end:]
                        counts["x"][" ".join(phrase)] += 1
                rest = tokens[i + 1 :]
                verb = rest[0] if rest else ""
                if not 2 <= len(rest) <= 9 or verb.lower() in FUNCTION_WORDS or rest[-1].lower() in FUNCTION_WORDS:
                    continue
                if lower == "to" and verb.islower() and not re.search(r"(ed|ing|s|ly)$", verb):
                    counts["v"][" ".join(rest)] += 1
                if lower in ("been", "am", "was", "of", "by", "for", "i'm") and re.fullmatch(r"[a-z]{2,}ing", verb):
                    counts["g"][" ".join(rest)] += 1
        if re.match(r"(I|He|She|We|They|My \w+|The \w+|It) ", sentence) and sentence.endswith("."):
            statement = sentence[:-1]
            if statement.count(" ") < 14:
                counts["s"][statement if statement.startswith("I ") else _lowercase_first(statement)] += 1
    return {
        slot: [phrase for phrase, count in sorted(counter.items()) for _ in range(min(count, 20))]
        for slot, counter in counts.items()
    }


def draw_pairs(material: Material, rng: Random) -> Iterator[tuple[list[str], Pair]]:
    """Yield pairs of wordings without end.

    Args:
        material: What they are drawn from.
        rng: Random generator.

    Yields:
        The earlier turns of the dialogue, and two wordings whose ROUGE-1 lies within `BAND`.
    """
    while True:
        kind = rng.random()
        earlier_turns: list[str] = []
        if kind < 0.5:
            pair = draw_framed_pair(rng, material.phrases)
        elif kind < 0.65:
            first_sentence = rng.choice(material.sentences)
            one, two = draw_framed_pair(rng, material.phrases)
            pair = f"{first_sentence} {one}", f"{reword(rng, first_sentence)} {two}"
        elif kind < 0.75 and material.chats:
            *earlier_turns, text = rng.choice(material.chats)[:3]
            pair = _in_random_order(rng, text, reword(rng, text))
        else:
            text = " ".join(rng.choice(material.sentences) for _ in range(rng.choice((1, 1, 2))))
            pair = _in_random_order(rng, text, reword(rng, text))
        pair = _typed_carelessly(rng, pair)
        if "]" not in pair[1] and 3 <= len(words(pair[1])) <= 60 and BAND[0] <= rouge1(pair[1], pair[0]) <= BAND[1]:
            yield earlier_turns, pair


def _in_random_order(rng: Random, text: str, reworded: str) -> Pair:
    # The sentences of the texts are the better English, but inputs of all kinds have to be rewritten.
    return (text, reworded) if rng.random() < 0.5 else (reworded, text)


def _typed_carelessly(rng: Random, pair: Pair) -> Pair:
    """Put some wordings in lower case, and leave out some final marks."""
    one, two = pair
    if rng.random() < 0.12:
        one = one.lower()
        two = two.lower() if rng.random() < 0.5 else two
    if rng.random() < 0.12:
        one = one.rstrip(".?")
    return one, two


def draw_framed_pair(rng: Random, phrases: dict[str, list[str]]) -> Pair:
    """Draw two wordings of a question or request from `FRAMES`, filled with the same phrases."""
    wordings = rng.choice(_FRAMES)
    one, two = rng.sample(wordings, 2)
    values = {"n": rng.choice(_NUMBERS)}
    for slot, pool in (("x", "x"), ("y", "x"), ("p", "p"), ("q", "p"), ("v", "v"), ("w", "v"), ("g", "g"), ("s", "s")):
        values[slot] = rng.choice(phrases[pool])
    plural = bool(_PLURAL.search(values["x"].split(" of ")[0]))
    return _fill(one, values, plural), _fill(two, values, plural)


def _fill(wording: str, values: dict[str, str], plural: bool) -> str:
    """Fill the slots of a wording; verbs next to {x} agree with it."""
    if plural:
        for singular_verb, plural_verb in _PLURAL_VERBS.items():
            pattern = rf"(?<=\{{x\}} ){singular_verb}\b|\b{singular_verb}(?= \{{x\}})"
            wording = re.sub(pattern, plural_verb, wording)
    return _capitalize_sentences(wording.format_map(values))


_FRAMES = [[w.strip() for w in group.replace("\n", " ").split("|")] for group in FRAMES.strip().split("\n\n")]
_PLURAL_VERBS = {
    "is": "are",
    "was": "were",
    "does": "do",
    "matters": "matter",
    "works": "work",
    "differs": "differ",
    "makes": "make",
}


def reword(rng: Random, text: str) -> str:
    """Reword a text by rule: reorder sentences, replace words, add openings and endings, each with some probability."""
    sentences = re.findall(r"[^.!?]+[.!?]+", text) or [text]
    reworded = []
    for sentence in sentences:
        new = sentence.strip()
        if rng.random() < 0.6:
            new = _reorder(rng, new)
        new = _replace_words(rng, new, share=rng.choice((0.4, 0.7, 1.0)))
        if rng.random() < (0.45 if len(sentences) == 1 else 0.25):
            new = _add_phrase(rng, new)
        reworded.append(new)
    if len(reworded) == 2 and rng.random() < 0.2:
        reworded.reverse()
    return " ".join(reworded)


def _reorder(rng: Random, sentence: str) -> str:
    """Return another form of the sentence if it fits a pattern of `ORDERS`."""
    for pattern, forms in ORDERS:
        if match := re.fullmatch(pattern, sentence):
            groups = (_lowercase_first(group) for group in match.groups())
            return _capitalize_sentences(rng.choice(forms).format(*groups))
    return sentence


def _replace_words(rng: Random, sentence: str, share: float) -> str:
    """Replace about `share` of the words that are in a group of `SAME` by another of the group."""

    def replacement(match: re.Match[str]) -> str:
        if rng.random() > share:
            return match[0]
        group = _GROUPS[match[0].lower()]
        new = rng.choice([word for word in group if word.lower() != match[0].lower()])
        return new[:1].upper() + new[1:] if match.start() == 0 else new

    return _REPLACEABLE.sub(replacement, sentence)


_GROUPS = {
    word.lower(): group
    for group in ([w.strip() for w in g.split(",")] for g in SAME.replace("\n", " ").split("|"))
    for word in group
}
_LONGEST_FIRST = sorted(map(re.escape, _GROUPS), key=len, reverse=True)
_REPLACEABLE = re.compile(rf"(?<![\w'])(?:{'|'.join(_LONGEST_FIRST)})(?![\w'])", re.I)


def _add_phrase(rng: Random, sentence: str) -> str:
    """Add an opening or an ending that does not change the meaning."""
    if sentence.endswith("?"):
        return f"{rng.choice(_QUESTION_OPENERS)} {_lowercase_first(sentence)}"
    if rng.random() < 0.6:
        return f"{rng.choice(_OPENERS)} {_lowercase_first(sentence)}"
    ending = rng.choice(_ENDINGS)
    return f"{sentence[:-1]}{'' if ending.startswith(',') else ' '}{ending}{sentence[-1]}"


_OPENERS, _QUESTION_OPENERS, _ENDINGS = (
    [phrase.strip() for phrase in phrases.replace("\n", " ").split("|")]
    for phrases in (OPENERS, QUESTION_OPENERS, ENDINGS)
)


def _lowercase_first(text: str) -> str:
    """Return the text with a small first letter, unless it begins with the word I."""
    return text if re.match(r"I\b", text) else text[:1].lower() + text[1:]


def _capitalize_sentences(text: str) -> str:
    return re.sub(r"(^|[.?!] )([a-z])", lambda match: match[1] + match[2].upper(), text)
