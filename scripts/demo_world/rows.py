"""Turns scenes into training rows: dialogues in several answer styles, small talk, and the two rewrite tasks.

A row is {"messages": [...]}. The rewrite prompts are the very texts that `mlx_personal.synthesis` sends; a test of the
project compares them.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from demo_world.intents import INTENTS
from demo_world.names import PEOPLE, a_name
from demo_world.scene import Scene, answer, draw_scene, question, slots, topic_phrase
from demo_world.talk import SMALL_TALK

REWRITE_QUESTION = (
    "Rewrite this question in other words, keep its meaning. Give only the new question, in brackets.\n[{question}]"
)
REWRITE_DIALOGUE = (
    "Rewrite this dialogue in other words, keep its meaning. Give only the new dialogue, in brackets.\n[{dialogue}]"
)

Row = dict[str, list[dict[str, str]]]

SYSTEM_LINES = {
    "brief": ("Answer in one short sentence.", "Be brief.", "Keep your answers very short."),
    "list": ("Answer with three numbered steps.", "Answer as a numbered list.", "Use numbered steps."),
    "warm": ("Be warm and friendly.", "Answer in a warm way.", "Be kind and cheerful."),
    "formal": ("Be formal.", "Answer in a formal tone.", "Use formal language."),
}
GREETINGS = ("Hello", "Hi", "Hej", "Dear", "Moin", "Ciao", "Ahoy", "Good day", "Hey", "Welcome back")
CLOSINGS = (
    "All the best!",
    "Kettle on!",
    "You can do it!",
    "Onwards!",
    "Take it easy.",
    "Have a good ride!",
    "Cheers!",
    "Until soon.",
    "Tea first!",
    "One step at a time.",
    "Sleep well.",
    "Go gently.",
)
FOLLOW_UPS = tuple(intent for intent in INTENTS if intent.follow)


def draw_row(rng: Random, *, held_out: bool = False) -> Row:
    """One random row of the corpus; `held_out` says from which side of the topic and intent split its scenes come."""
    share = rng.random()
    if share < 0.34:
        return _question_rewrite(rng, held_out)
    if share < 0.42:
        return _later_question_rewrite(rng, held_out)
    if share < 0.50:
        return _dialogue_rewrite(rng, held_out)
    if share < 0.55:
        return _small_talk(rng)
    if share < 0.65:
        return _styled(rng, held_out)
    turns = 1 if share < 0.87 else rng.choice((2, 2, 2, 3))
    return _row(*plain_dialogue(rng, held_out, turns))


def scene_of(rng: Random, held_out: bool, invented: float = 0.1) -> Scene:
    """A scene from the training side or from the held-out side of the split."""
    while True:
        scene = draw_scene(rng, invented)
        if scene.held_out == held_out:
            return scene


def plain_dialogue(rng: Random, held_out: bool, turns: int) -> list[str]:
    """User and assistant contents in turn, in the plain style; later turns mostly ask more about the same topic."""
    return [said for asked, _, answered, _ in _exchanges(rng, held_out, turns) for said in (asked, answered)]


def rewrite_prompt(text: str) -> str:
    """The message that asks for a question in other words."""
    return REWRITE_QUESTION.format(question=text)


def rewrite_dialogue_prompt(text: str) -> str:
    """The message that asks for a whole dialogue in other words."""
    return REWRITE_DIALOGUE.format(dialogue=text)


def _exchanges(rng: Random, held_out: bool, turns: int) -> list[tuple[str, str, str, str]]:
    """For each turn: the question, another wording of it, the answer, another wording of it."""
    scene, made = scene_of(rng, held_out), []
    before = None
    for turn in range(turns):
        leaning = scene.topic == before and bool(scene.intent.follow) and rng.random() < 0.6
        asked = question(scene, rng, greet=0 if turn else 0.3, later=leaning)
        again = question(scene, rng, greet=0.1, later=leaning and rng.random() < 0.8, avoid=asked)
        chosen = slots(scene, rng)
        # A detail need not be said in every answer.
        spoken = scene if rng.random() < 0.6 else replace(scene, detail=None)
        answered = answer(spoken, chosen, rng)
        made.append((asked.text, again.text, answered, answer(spoken, chosen, rng, avoid=answered)))
        before = scene.topic
        scene = next_scene(scene, rng, held_out) if rng.random() < 0.8 else scene_of(rng, held_out)
    return made


def next_scene(scene: Scene, rng: Random, held_out: bool) -> Scene:
    """What a later turn asks about the same topic."""
    options = [scene.with_intent(intent, rng) for intent in FOLLOW_UPS if intent is not scene.intent]
    same_side = [option for option in options if option.held_out == held_out]
    return replace(rng.choice(same_side or options), detail=scene.detail if rng.random() < 0.2 else None)


def _row(*said: str, system: str = "") -> Row:
    messages = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    return {"messages": messages + [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]}


def _question_rewrite(rng: Random, held_out: bool) -> Row:
    if rng.random() < 0.06:
        wordings, _ = rng.choice(SMALL_TALK)
        name = a_name(rng, PEOPLE, 0.3)
        one, other = (text.replace("{name}", name) for text in rng.sample(wordings, 2))
        return _row(rewrite_prompt(one), f"[{other}]")
    scene = scene_of(rng, held_out, invented=0.3)
    asked = question(scene, rng)
    return _row(rewrite_prompt(asked.text), f"[{question(scene, rng, greet=0.1, avoid=asked).text}]")


def _later_question_rewrite(rng: Random, held_out: bool) -> Row:
    *before, (asked, again, _, _) = _exchanges(rng, held_out, rng.choice((2, 2, 3)))
    context = [said for turn in before for said in (turn[0], turn[2])]
    return _row(*context, rewrite_prompt(asked), f"[{again}]")


def _dialogue_rewrite(rng: Random, held_out: bool) -> Row:
    turns = _exchanges(rng, held_out, rng.choice((1, 1, 1, 2)))
    old = "\n".join(f"User: {asked}\nAssistant: {answered}" for asked, _, answered, _ in turns)
    new = "\n".join(f"User: {again}\nAssistant: {reply}" for _, again, _, reply in turns)
    return _row(rewrite_dialogue_prompt(old), f"[{new}]")


def _small_talk(rng: Random) -> Row:
    wordings, replies = rng.choice(SMALL_TALK)
    name = a_name(rng, PEOPLE, 0.3)
    return _row(rng.choice(wordings).replace("{name}", name), rng.choice(replies).replace("{name}", name))


def _styled(rng: Random, held_out: bool) -> Row:
    """A dialogue with a system message that sets a style; now and then the style comes unasked."""
    scene = scene_of(rng, held_out)
    style = rng.choice((*SYSTEM_LINES, "personal", "personal"))
    asked, chosen = question(scene, rng).text, slots(scene, rng)
    if style != "personal":
        system = rng.choice(SYSTEM_LINES[style]) if rng.random() < 0.8 else ""
        return _row(asked, _in_style(style, scene, chosen, rng), system=system)
    name, greeting, closing = a_name(rng, PEOPLE, 0.3), rng.choice(GREETINGS), rng.choice(CLOSINGS)
    system = f'The user is called {name}. Open with "{greeting} {name}," and close with "{closing}"'
    body = _in_style(rng.choice(("brief", "list", "plain")), scene, chosen, rng)
    body = body if body.startswith("I ") else body[:1].lower() + body[1:]
    return _row(asked, f"{greeting} {name}, {body}{rng.choice((' ', chr(10)))}{closing}", system=system)


def _in_style(style: str, scene: Scene, chosen: dict[str, str], rng: Random) -> str:
    thing = topic_phrase(scene, "your")
    one, two, three = (chosen[slot][:1].upper() + chosen[slot][1:] for slot in ("s1", "s2", "s3"))
    if style == "brief":
        return rng.choice((f"For {thing}, {chosen['s1']}.", f"{one} for {thing}.", f"With {thing}, {chosen['s1']}."))
    if style == "list":
        return f"{rng.choice(('For', 'About'))} {thing}:\n1. {one}.\n2. {two}.\n3. {three}."
    if style == "warm":
        opening = rng.choice(("What a nice question!", "Good that you ask!", "How lovely!"))
        plain = answer(scene, chosen, rng)
        return f"{opening} {plain} {rng.choice(('You can do it!', 'It will be fine!', 'Enjoy it!'))}"
    if style == "formal":
        opening = rng.choice(("Thank you for your question.", "With pleasure."))
        return f"{opening} With regard to {thing}, I recommend the following: {chosen['s1']}, then {chosen['s2']}."
    return answer(scene, chosen, rng)
