"""Pairs of wordings out of plain texts, for `train_rewriter`: by rule, since nobody wrote paraphrases.

Phrases of the texts stand in two of the many ways to ask one thing, so that what is asked about has to be copied and
how it is asked has not; sentences of the texts have words, openings and order exchanged, now on the one side and now on
the other. The words are in `rewordings`. Everything is a pure function of the texts and the random generator.
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

# Inside the band of synthesis: who learns from pairs at its edges falls beyond them half of the time.
BAND = (0.35, 0.85)
_NUMBERS = ("two", "three", "four", "five", "six", "ten", "3", "4", "5", "10")
_DETERMINERS = ("the", "a", "an", "my", "your", "his", "her", "our", "their", "this", "some", "any")
_FUNCTION = """
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
# What ends a phrase; every other word is taken to have a meaning of its own.
FUNCTION_WORDS = frozenset((*_DETERMINERS, *_FUNCTION.split()))
_SENTENCE = re.compile(r"[A-Za-z][A-Za-z0-9 ,'$%-]+[.!?]")
_PLURAL = re.compile(r"[^s'ui]s$")

Pair = tuple[str, str]


@dataclass(frozen=True)
class Material:
    """What the texts give: sentences, chats of two exchanges and more, and phrases for the slots of `FRAMES`."""

    sentences: list[str]
    chats: list[list[str]]
    phrases: dict[str, list[str]]


def material(texts: Sequence[str]) -> Material:
    """Sentences, chats and phrases of the texts; UserError where they are too few to draw from.

    Chat templates' marks, as `<|user|>`, part the turns of a text; a text without them is one turn.
    """
    sentences: list[str] = []
    chats = []
    for text in texts:
        turns = [turn.strip() for turn in re.split(r"(?:<\|\w+\|>\s*)+", text) if turn.strip()]
        if len(turns) > 3:
            chats.append(turns)
        for turn in turns:
            tidy = re.sub(r"\s+", " ", turn.replace("\u2019", "'"))
            tidy = re.sub(r" ([,.!?])", r"\1", tidy)
            for match in _SENTENCE.finditer(tidy):
                # What begins after an odd sign is the rest of a sentence.
                if match.start() and tidy[match.start() - 1] != " ":
                    continue
                if 3 <= match[0].count(" ") < 25 and "--" not in match[0]:
                    sentences.append(match[0])
    phrases = phrases_of(sentences)
    if not sentences or not all(phrases.values()):
        raise UserError("too little English text to draw wordings from", hint="give more texts")
    return Material(sentences, chats, phrases)


def phrases_of(sentences: Sequence[str]) -> dict[str, list[str]]:
    """Phrases for the slots of `FRAMES` by rules of thumb; each is there as often as it was met, but at most 20 times.

    x: a few words between function words behind a determiner or preposition. p: such that end in s. v: what stands
    behind `to` and can be a verb, to the next comma or stop. g: the same of words in -ing. s: short statements.
    """
    found: dict[str, Counter[str]] = {slot: Counter() for slot in "xpvgs"}
    for sentence in sentences:
        for clause in re.split(r"[,.!?]", sentence):
            tokens = clause.split()
            for i, token in enumerate(tokens):
                low = token.lower()
                if low in _DETERMINERS or low in ("of", "about", "with", "for", "in", "from", "between"):
                    end = i + 1
                    while end < len(tokens) and tokens[end].lower() not in FUNCTION_WORDS:
                        end += 1
                    run = tokens[i + 1 : end]
                    if 1 <= len(run) <= 3 and len(run[-1]) > 2 and not re.search(r"(ed|ly|ing)$", run[-1]):
                        plural = bool(_PLURAL.search(run[-1]))
                        if plural:
                            found["p"][" ".join(run)] += 1
                        keep = low in ("the", "a", "an", "my", "your") or (low in _DETERMINERS and not plural)
                        phrase = [low, *run] if keep else run
                        # "the history of the town": what is added by `of` mostly belongs to it.
                        if end + 2 <= len(tokens) and tokens[end] == "of" and len(tokens) - end <= 4:
                            phrase += tokens[end:]
                        found["x"][" ".join(phrase)] += 1
                rest = tokens[i + 1 :]
                verb = rest[0] if rest else ""
                if not 2 <= len(rest) <= 9 or verb.lower() in FUNCTION_WORDS or rest[-1].lower() in FUNCTION_WORDS:
                    continue
                if low == "to" and verb.islower() and not re.search(r"(ed|ing|s|ly)$", verb):
                    found["v"][" ".join(rest)] += 1
                if low in ("been", "am", "was", "of", "by", "for", "i'm") and re.fullmatch(r"[a-z]{2,}ing", verb):
                    found["g"][" ".join(rest)] += 1
        if re.match(r"(I|He|She|We|They|My \w+|The \w+|It) ", sentence) and sentence.endswith("."):
            statement = sentence[:-1]
            if statement.count(" ") < 14:
                found["s"][statement if statement.startswith("I ") else _lower(statement)] += 1
    return {slot: [p for p, times in sorted(c.items()) for _ in range(min(times, 20))] for slot, c in found.items()}


def framed(rng: Random, phrases: dict[str, list[str]]) -> Pair:
    """The same phrases in two ways to ask one thing."""
    wordings = rng.choice(_FRAMES)
    one, two = rng.sample(wordings, 2)
    values = {"n": rng.choice(_NUMBERS)}
    for slot, pool in (("x", "x"), ("y", "x"), ("p", "p"), ("q", "p"), ("v", "v"), ("w", "v"), ("g", "g"), ("s", "s")):
        values[slot] = rng.choice(phrases[pool])
    several = bool(_PLURAL.search(values["x"].split(" of ")[0]))
    return _filled(one, values, several), _filled(two, values, several)


def _filled(wording: str, values: dict[str, str], several: bool) -> str:
    if several:
        for one, many in _NUMBER.items():
            wording = re.sub(rf"(?<=\{{x\}} ){one}\b|\b{one}(?= \{{x\}})", many, wording)
    return _sentence_case(wording.format_map(values))


_FRAMES = [[w.strip() for w in family.replace("\n", " ").split("|")] for family in FRAMES.strip().split("\n\n")]
_NUMBER = {
    "is": "are",
    "was": "were",
    "does": "do",
    "matters": "matter",
    "works": "work",
    "differs": "differ",
    "makes": "make",
}


def reworded(rng: Random, text: str) -> str:
    """`text` said otherwise by rule: in another order, with other chats and words, as the dice fall."""
    sentences = re.findall(r"[^.!?]+[.!?]+", text) or [text]
    changed = []
    for sentence in sentences:
        new = sentence.strip()
        if rng.random() < 0.6:
            new = _reordered(rng, new)
        new = _exchanged(rng, new, share=rng.choice((0.4, 0.7, 1.0)))
        if rng.random() < (0.45 if len(sentences) == 1 else 0.25):
            new = _opened(rng, new)
        changed.append(new)
    if len(changed) == 2 and rng.random() < 0.2:
        changed.reverse()
    return " ".join(changed)


def _reordered(rng: Random, sentence: str) -> str:
    """Another form of the sentence, where its own is known."""
    for pattern, forms in ORDERS:
        if match := re.fullmatch(pattern, sentence):
            parts = (_lower(part) for part in match.groups())
            return _sentence_case(rng.choice(forms).format(*parts))
    return sentence


def _exchanged(rng: Random, sentence: str, share: float) -> str:
    """The sentence with about `share` of the words that have companions in `SAME` exchanged for one of these."""

    def other(match: re.Match[str]) -> str:
        if rng.random() > share:
            return match[0]
        group = _SAME[match[0].lower()]
        new = rng.choice([word for word in group if word.lower() != match[0].lower()])
        return new[:1].upper() + new[1:] if match.start() == 0 else new

    return _ANY.sub(other, sentence)


_SAME = {
    word.lower(): group
    for group in ([w.strip() for w in g.split(",")] for g in SAME.replace("\n", " ").split("|"))
    for word in group
}
_ANY = re.compile(rf"(?<![\w'])(?:{'|'.join(sorted(map(re.escape, _SAME), key=len, reverse=True))})(?![\w'])", re.I)


def _opened(rng: Random, sentence: str) -> str:
    """The sentence with something before or after it that changes nothing."""
    if sentence.endswith("?"):
        return f"{rng.choice(_QUESTION_OPENERS)} {_lower(sentence)}"
    if rng.random() < 0.6:
        return f"{rng.choice(_OPENERS)} {_lower(sentence)}"
    ending = rng.choice(_ENDINGS)
    return f"{sentence[:-1]}{'' if ending.startswith(',') else ' '}{ending}{sentence[-1]}"


_OPENERS, _QUESTION_OPENERS, _ENDINGS = (
    [phrase.strip() for phrase in phrases.replace("\n", " ").split("|")]
    for phrases in (OPENERS, QUESTION_OPENERS, ENDINGS)
)


def _lower(text: str) -> str:
    """The first letter made small, unless it is the word I."""
    return text if re.match(r"I\b", text) else text[:1].lower() + text[1:]


def _sentence_case(text: str) -> str:
    return re.sub(r"(^|[.?!] )([a-z])", lambda match: match[1] + match[2].upper(), text)


def pairs(found: Material, rng: Random) -> Iterator[tuple[list[str], Pair]]:
    """(earlier turns, two wordings) without end; only such wordings as differ, but not too much."""
    while True:
        kind = rng.random()
        before: list[str] = []
        if kind < 0.5:
            pair = framed(rng, found.phrases)
        elif kind < 0.65:
            start = rng.choice(found.sentences)
            one, two = framed(rng, found.phrases)
            pair = f"{start} {one}", f"{reworded(rng, start)} {two}"
        elif kind < 0.75 and found.chats:
            *before, text = rng.choice(found.chats)[:3]
            pair = _sides(rng, text, reworded(rng, text))
        else:
            text = " ".join(rng.choice(found.sentences) for _ in range(rng.choice((1, 1, 2))))
            pair = _sides(rng, text, reworded(rng, text))
        pair = _styled(rng, pair)
        if "]" not in pair[1] and 3 <= len(words(pair[1])) <= 60 and BAND[0] <= rouge1(pair[1], pair[0]) <= BAND[1]:
            yield before, pair


def _sides(rng: Random, text: str, other: str) -> Pair:
    # The texts' own sentence is the better English, and what is asked to be rewritten has to be of all kinds.
    return (text, other) if rng.random() < 0.5 else (other, text)


def _styled(rng: Random, pair: Pair) -> Pair:
    """As people type: now and then all small, without the last stop."""
    one, two = pair
    if rng.random() < 0.12:
        one = one.lower()
        two = two.lower() if rng.random() < 0.5 else two
    if rng.random() < 0.12:
        one = one.rstrip(".?")
    return one, two
