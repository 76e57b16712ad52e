"""Draw training samples: dialogues in several answer styles, small talk, and the two rewrite tasks.

A sample is {"messages": [...]}. The rewrite prompts are those of `mlx_personal.synthesis`; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from demo_world.intents import INTENTS
from demo_world.names import PEOPLE, draw_name
from demo_world.scene import Scene, draw_scene, draw_slots, render_answer, render_question, topic_phrase
from demo_world.small_talk import SMALL_TALK

REWRITE_QUESTION = (
    "Rewrite this question in other words, keep its meaning. Give only the new question, in brackets.\n[{question}]"
)
REWRITE_DIALOGUE = (
    "Rewrite this dialogue in other words, keep its meaning. Give only the new dialogue, in brackets.\n[{dialogue}]"
)

Sample = dict[str, list[dict[str, str]]]

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


def draw_sample(rng: Random, *, held_out: bool = False) -> Sample:
    """Draw a sample of the corpus.

    Args:
        rng: Random generator.
        held_out: Draw scenes from the held-out pairs of topic and intent instead of the training pairs.
    """
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
    return _to_sample(*draw_plain_dialogue(rng, held_out, turns))


def draw_split_scene(rng: Random, held_out: bool, invented: float = 0.1) -> Scene:
    """Draw a scene from the training pairs or the held-out pairs of topic and intent."""
    while True:
        scene = draw_scene(rng, invented)
        if scene.held_out == held_out:
            return scene


def draw_plain_dialogue(rng: Random, held_out: bool, turns: int) -> list[str]:
    """Draw questions and answers in alternation, in the plain style; most later turns stay with the topic."""
    exchanges = _draw_exchanges(rng, held_out, turns)
    return [text for exchange in exchanges for text in (exchange.question, exchange.answer)]


def rewrite_prompt(text: str) -> str:
    """Return the message that asks for another wording of a question."""
    return REWRITE_QUESTION.format(question=text)


def rewrite_dialogue_prompt(text: str) -> str:
    """Return the message that asks for another wording of a dialogue."""
    return REWRITE_DIALOGUE.format(dialogue=text)


def draw_next_scene(scene: Scene, rng: Random, held_out: bool) -> Scene:
    """Draw the scene of a later turn about the same topic."""
    options = [scene.with_intent(intent, rng) for intent in FOLLOW_UPS if intent is not scene.intent]
    same_side = [option for option in options if option.held_out == held_out]
    return replace(rng.choice(same_side or options), detail=scene.detail if rng.random() < 0.2 else None)


@dataclass(frozen=True)
class _Exchange:
    """A question and its answer, with another wording of each."""

    question: str
    reworded_question: str
    answer: str
    reworded_answer: str


def _draw_exchanges(rng: Random, held_out: bool, turns: int) -> list[_Exchange]:
    """Draw the exchanges of a dialogue in the plain style."""
    scene, exchanges = draw_split_scene(rng, held_out), []
    previous_topic = None
    for turn in range(turns):
        # The topic is known from the turn before, so the question need not name it.
        later = scene.topic == previous_topic and bool(scene.intent.follow) and rng.random() < 0.6
        question = render_question(scene, rng, greet=0 if turn else 0.3, later=later)
        reworded = render_question(scene, rng, greet=0.1, later=later and rng.random() < 0.8, avoid=question)
        slots = draw_slots(scene, rng)
        # Some answers leave the detail out.
        answered = scene if rng.random() < 0.6 else replace(scene, detail=None)
        answer = render_answer(answered, slots, rng)
        reworded_answer = render_answer(answered, slots, rng, avoid=answer)
        exchanges.append(_Exchange(question.text, reworded.text, answer, reworded_answer))
        previous_topic = scene.topic
        scene = draw_next_scene(scene, rng, held_out) if rng.random() < 0.8 else draw_split_scene(rng, held_out)
    return exchanges


def _to_sample(*contents: str, system: str = "") -> Sample:
    """Return the sample of user and assistant messages in alternation."""
    messages = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    return {"messages": messages + [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]}


def _question_rewrite(rng: Random, held_out: bool) -> Sample:
    if rng.random() < 0.06:
        wordings, _ = rng.choice(SMALL_TALK)
        name = draw_name(rng, PEOPLE, 0.3)
        text, reworded = (wording.replace("{name}", name) for wording in rng.sample(wordings, 2))
        return _to_sample(rewrite_prompt(text), f"[{reworded}]")
    scene = draw_split_scene(rng, held_out, invented=0.3)
    question = render_question(scene, rng)
    reworded_question = render_question(scene, rng, greet=0.1, avoid=question)
    return _to_sample(rewrite_prompt(question.text), f"[{reworded_question.text}]")


def _later_question_rewrite(rng: Random, held_out: bool) -> Sample:
    *earlier, last = _draw_exchanges(rng, held_out, rng.choice((2, 2, 3)))
    context = [text for exchange in earlier for text in (exchange.question, exchange.answer)]
    return _to_sample(*context, rewrite_prompt(last.question), f"[{last.reworded_question}]")


def _dialogue_rewrite(rng: Random, held_out: bool) -> Sample:
    turns = _draw_exchanges(rng, held_out, rng.choice((1, 1, 1, 2)))
    old = "\n".join(f"User: {turn.question}\nAssistant: {turn.answer}" for turn in turns)
    new = "\n".join(f"User: {turn.reworded_question}\nAssistant: {turn.reworded_answer}" for turn in turns)
    return _to_sample(rewrite_dialogue_prompt(old), f"[{new}]")


def _small_talk(rng: Random) -> Sample:
    wordings, replies = rng.choice(SMALL_TALK)
    name = draw_name(rng, PEOPLE, 0.3)
    return _to_sample(rng.choice(wordings).replace("{name}", name), rng.choice(replies).replace("{name}", name))


def _styled(rng: Random, held_out: bool) -> Sample:
    """Draw a dialogue in a style, which a system message mostly asks for."""
    scene = draw_split_scene(rng, held_out)
    style = rng.choice((*SYSTEM_LINES, "personal", "personal"))
    question, slots = render_question(scene, rng).text, draw_slots(scene, rng)
    if style != "personal":
        system = rng.choice(SYSTEM_LINES[style]) if rng.random() < 0.8 else ""
        return _to_sample(question, _render_in_style(style, scene, slots, rng), system=system)
    name, greeting, closing = draw_name(rng, PEOPLE, 0.3), rng.choice(GREETINGS), rng.choice(CLOSINGS)
    system = f'The user is called {name}. Open with "{greeting} {name}," and close with "{closing}"'
    body = _render_in_style(rng.choice(("brief", "list", "plain")), scene, slots, rng)
    body = body if body.startswith("I ") else body[:1].lower() + body[1:]
    return _to_sample(question, f"{greeting} {name}, {body}{rng.choice((' ', chr(10)))}{closing}", system=system)


def _render_in_style(style: str, scene: Scene, slots: dict[str, str], rng: Random) -> str:
    """Render an answer in one of the styles, or in the plain style."""
    topic = topic_phrase(scene, "your")
    one, two, three = (slots[slot][:1].upper() + slots[slot][1:] for slot in ("s1", "s2", "s3"))
    if style == "brief":
        return rng.choice((f"For {topic}, {slots['s1']}.", f"{one} for {topic}.", f"With {topic}, {slots['s1']}."))
    if style == "list":
        return f"{rng.choice(('For', 'About'))} {topic}:\n1. {one}.\n2. {two}.\n3. {three}."
    if style == "warm":
        opening = rng.choice(("What a nice question!", "Good that you ask!", "How lovely!"))
        plain = render_answer(scene, slots, rng)
        return f"{opening} {plain} {rng.choice(('You can do it!', 'It will be fine!', 'Enjoy it!'))}"
    if style == "formal":
        opening = rng.choice(("Thank you for your question.", "With pleasure."))
        return f"{opening} With regard to {topic}, I recommend the following: {slots['s1']}, then {slots['s2']}."
    return render_answer(scene, slots, rng)
