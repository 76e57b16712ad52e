"""The vocabulary of the world, all invented: names, and phrases that express a tag, a category or a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split("; "))


TOWNS: Final = _split(
    "Arden; Belmar; Corvo; Dunmore; Elswick; Farrow; Galen; Harlow; Inver; Jarrow; Kelby; Lorne; Marlow; Norden; "
    "Orwell; Penrith; Quenby; Rosslyn; Selby; Tarran"
)
HEROES: Final = _split(
    "baker; nurse; pilot; farmer; teacher; painter; sailor; lawyer; singer; miner; clerk; doctor; widow; soldier; "
    "gardener; tailor; student; cook; driver; judge"
)
WHENS: Final = ("on Monday", "on Friday", "this week", "last night", "this morning", "in March", "in June", "today")

# A movie's description has one clause of each kind, and each clause expresses one of LaMP's tags.
MOVIE_CLAUSES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "plot": {
        "action": ("races thieves across the roofs", "leaps from a burning train", "outruns a convoy of trucks"),
        "violence": ("takes bloody revenge on a gang", "fights to the death in a pit", "faces a brutal killer"),
        "romance": ("falls in love with a stranger", "writes letters to an old flame", "marries against all advice"),
        "twist ending": (
            "learns at the end that all was staged",
            "turns out to be the ghost",
            "finds that the victim did it",
        ),
        "true story": ("saves a village as in the records", "lives through real events", "wins a trial that was held"),
    },
    "mood": {
        "comedy": ("with a joke in every scene", "full of silly mishaps", "with slapstick from start to end"),
        "dark comedy": ("with grim jokes about graves", "laughing at funerals", "with bitter wit about death"),
        "psychology": ("deep inside a troubled mind", "with dreams that a therapist reads", "as memory plays tricks"),
        "thought-provoking": (
            "asking what a life is worth",
            "leaving hard questions open",
            "making one think for days",
        ),
        "fantasy": ("with dragons and spells", "where elves keep the woods", "under a wizard's curse"),
    },
    "setting": {
        "sci-fi": ("on a moon base", "among robots and starships", "in the year 3000"),
        "dystopia": ("in a city that watches everyone", "under a ruler who bans books", "after the state took all"),
        "based on a book": ("as the novel has it", "page by page from a bestseller", "after a famous book"),
        "classic": ("in black and white of 1940", "in a film that every school shows", "in an old studio picture"),
        "social commentary": (
            "among people who cannot pay rent",
            "in a town that lost its factory",
            "where the rich build walls",
        ),
    },
}

# A news article has one clause of each kind, and each clause expresses one of LaMP's categories.
NEWS_CLAUSES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "people": {
        "women": ("a club of women", "three sisters", "mothers and daughters of the town"),
        "religion": ("two priests", "a choir of monks", "the bishop"),
        "politics": ("the mayor", "a party of ministers", "the council"),
        "business": ("a bank's directors", "shop owners", "the head of a firm"),
        "parents": ("young parents", "a father of twins", "a parents' group"),
    },
    "matter": {
        "crime": ("a theft of paintings", "a fraud trial", "a break-in"),
        "education": ("a new school book", "an exam", "a class for beginners"),
        "healthy living": ("a morning run", "a week without sugar", "better sleep"),
        "food & drink": ("a soup kitchen", "a cheese fair", "a wine tasting"),
        "science & technology": ("a solar engine", "a telescope", "a talking robot"),
    },
    "place": {
        "travel": ("at the airport", "on a night train", "in a mountain hotel"),
        "sports": ("in the stadium", "at the swimming races", "beside the football field"),
        "entertainment": ("on a talk show", "at the film premiere", "behind the circus tent"),
        "culture & arts": ("in the museum", "at the opera", "in a gallery of prints"),
        "style & beauty": ("at a fashion show", "in a hair salon", "among perfume makers"),
    },
}
NEWS_VERBS: Final = ("presented", "argued about", "celebrated", "opened", "stopped", "paid for")

PRODUCTS: Final = _split(
    "kettle; lamp; radio; chair; camera; jacket; blender; phone; drill; tent; mattress; watch; scooter; printer; "
    "pan; bag"
)
# For each aspect the sentences for a bad, a fair and a good verdict.
REVIEW_ASPECTS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]] = {
    "quality": (
        ("It broke in a week", "The parts came apart", "It stopped working at once"),
        ("It works most days", "The parts are average", "It does the job, no more"),
        ("It is built to last", "The parts are excellent", "It works perfectly"),
    ),
    "price": (
        ("It costs far too much", "The price is a scandal", "I paid twice its worth"),
        ("The price is about right", "It costs what others cost", "I paid the usual sum"),
        ("It is a real bargain", "The price is wonderful", "I paid next to nothing"),
    ),
    "looks": (
        ("It looks ugly", "The color is awful", "It is an eyesore"),
        ("It looks plain", "The color is ordinary", "One hardly notices it"),
        ("It looks beautiful", "The color is lovely", "Guests admire it"),
    ),
    "delivery": (
        ("It came a month late", "The box was crushed", "The courier lost it once"),
        ("It came on the last day", "The box had a dent", "The courier rang twice"),
        ("It came overnight", "The box was perfect", "The courier was early"),
    ),
}

THINGS: Final = _split(
    "a bridge; a night bus; a free clinic; a bee garden; a tax on dogs; a bigger harbor; a music hall; a ban on "
    "fireworks; a river swim; a town clock; a wind park; a book fair; a curfew; a new tram; a seed bank; a ferry"
)
HEADLINE_FRAMES: Final = (
    "Why {town} talks about {thing}",
    "{town}: {who} want {thing}",
    "Five questions about {thing}",
    "At last, {thing} for {town}",
    "How {thing} came to {town}",
    "Breaking: {who} get {thing}",
    "What {who} say about {thing}",
    "{thing}? Not in {town}",
    "The truth about {thing} in {town}",
    "Opinion: {town} needs {thing}",
)
HEADLINE_TAILS: Final = (".", "!", ", experts say.", " (photos).", ", at a glance.")
GROUPS: Final = ("bakers", "nurses", "pilots", "farmers", "teachers", "painters", "sailors", "lawyers", "students")

METHODS: Final = _split(
    "random forests; spectral methods; graph networks; Bayesian models; field studies; large surveys; linear "
    "programs; sparse coding; game theory; weak supervision"
)
TOPICS: Final = _split(
    "river floods; bird songs; traffic jams; crop yields; sleep loss; rumor spread; protein folding; street "
    "lighting; bank runs; machine translation"
)
FINDINGS: Final = (
    "errors fall by half",
    "costs fall by a third",
    "simple rules do as well",
    "old results do not hold",
    "small samples suffice",
    "the gain is large",
)
TITLE_FRAMES: Final = (
    "{Method} for {topic}",
    "On {topic}: a view from {method}",
    "Towards better {topic} with {method}",
    "{Topic} revisited by {method}",
    "Is {topic} a case for {method}?",
    "{Method} meet {topic}",
    "A short note on {topic} and {method}",
)

FOODS: Final = _split("pancakes; noodles; curry; soup; dumplings; tacos; pizza; stew; salad; pie")
FRIENDS: Final = _split("my sister; my boss; an old friend; my neighbor; the kids; my band; my coach; the dog")
TWEET_OPENERS: Final = ("omg", "well,", "honestly,", "ugh,", "guess what:", "dear diary,", "hey all,")
TWEET_CLOSERS: Final = ("!!!", "lol", "#blessed", "...", ":)", "no regrets", "true story")
