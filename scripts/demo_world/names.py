"""Names of people, animals and places in the demo world, and invented words.

Invented words teach a model to copy: a rewrite of a question about "my blorin" has to contain "blorin", which no model
can know in advance.
"""

from __future__ import annotations

from random import Random


def _split(text: str) -> list[str]:
    """Split names that are separated by white space."""
    return text.split()


WOMEN = _split("""
    Nora Mia Lena Karin Ada Ida Lina Eva Clara Ella Sofia Anna Julia Marta Rosa Greta Alma Leila Amina Yara Lucia
    Ines Bea Frida Astrid Maja Elin Pia Sara Ruth Hanna Miriam Olga Zofia Yuki Mei Priya Nina Vera Tessa Zoe Iris
    Edith Dana
""")
MEN = _split("""
    Jonas Emil Paul Oskar Tom Hugo Max Ben Leo Finn Noah Erik Anton Viktor Omar Samir Kofi Mateo Diego Rafael Otto
    Sven Lars Nils Tim Adam Peter David Ivan Marek Kenji Chen Arjun Simon Felix Liam Theo Karl Boris Abel
""")
PEOPLE = WOMEN + MEN
ANIMALS = _split("""
    Biscuit Pepper Milo Luna Rex Coco Bella Simba Socks Ginger Muffin Shadow Waffle Pickle Bruno Daisy Maple Toffee
    Bandit Olive Hazel Peanut Nugget Cleo Marble Domino
""")
TOWNS = _split("""
    Lund Bergen Malmo Turin Graz Ghent Leeds Cork Porto Basel Tartu Riga Lyon Delft Bath Siena Turku Visby Kalmar
    Odense Aarhus Nantes Utrecht Bremen York Galway Krakow Split Ronda Evora
""")
# Relations to the user, with the names that fit.
RELATIONS: tuple[tuple[tuple[str, ...], list[str]], ...] = (
    (("dog", "cat", "rabbit", "pony", "parrot"), ANIMALS),
    (("daughter", "sister", "mother", "aunt", "grandmother", "wife"), WOMEN),
    (("son", "brother", "father", "uncle", "grandfather", "husband"), MEN),
    (("neighbour", "friend", "boss", "partner", "teacher", "colleague", "cousin"), PEOPLE),
)
_STARTS = _split("b br bl c cl d dr f fl g gr h j k kl l m n p pl pr qu r s sk st t tr v w z sh th")
_MIDDLES = _split("a e i o u ai ea oo ou ie")
_ENDS = _split("b ck d ft g l m n nd nt p r rk s sh st t v x ll")


def invent_word(rng: Random) -> str:
    """Invent a pronounceable lower-case word of two or three syllables."""
    word = "".join(rng.choice(_STARTS) + rng.choice(_MIDDLES) for _ in range(rng.choice((1, 1, 2))))
    return word + rng.choice(_STARTS)[0] + rng.choice(_MIDDLES[:5]) + rng.choice(_ENDS)


def draw_name(rng: Random, pool: list[str], invented: float) -> str:
    """Draw a name from `pool`, or invent one with probability `invented`."""
    return invent_word(rng).capitalize() if rng.random() < invented else rng.choice(pool)


def draw_relation(rng: Random, invented: float, *, human: bool = False) -> tuple[str, str]:
    """Draw a person or an animal of the user.

    Args:
        rng: Random generator.
        invented: Probability that the name is invented.
        human: Draw a person only.

    Returns:
        The relation to the user, as in "sister", and the name.
    """
    relations, pool = rng.choice(RELATIONS[1:] if human else RELATIONS)
    return rng.choice(relations), draw_name(rng, pool, invented)
