"""The sixteen intents of the demo world, each with many wordings of its question.

This module holds data only. A rewrite of a question is another wording of the same intent with the same slots, so the
rewrite task can be learned. Slots: {x} is "my red lamp", {v} and {g} are the domain's verb and gerund, {is} and {it}
agree with the topic; {trouble}, {day} and {person} are what their names say. `^` capitalizes the first letter.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Intent:
    """A reason to ask.

    Attributes:
        name: Name of the intent.
        ask: Wordings of the question.
        follow: Wordings for a later turn of a dialogue, where the topic is known.
    """

    name: str
    ask: tuple[str, ...]
    follow: tuple[str, ...] = ()


def _lines(text: str) -> tuple[str, ...]:
    """Split wordings that stand on a line each."""
    return tuple(line.strip() for line in text.strip().splitlines())


INTENTS: tuple[Intent, ...] = (
    Intent(
        "start",
        _lines("""
            How do I {v} {x}?
            How do I start with {x}?
            What is the first step when I {v} {x}?
            Where should I begin with {x}?
            Can you tell me how to {v} {x}?
            I want to {v} {x}. How do I begin?
            What is a good way to {v} {x}?
            Could you explain how to {v} {x}?
            Show me how to get started with {x}.
            I have never tried {g} {x}. How does it work?
            Tell me how one begins with {x}.
            What should I do first to {v} {x}?
            How would you {v} {x}?
            I need a beginning for {x}. What comes first?
        """),
        (
            "How do I begin?",
            "What comes first?",
            "How would I start that?",
            "Where do I start?",
            "What is the first step?",
        ),
    ),
    Intent(
        "trouble",
        _lines("""
            Why is it that {x} {trouble}?
            What is wrong when {x} {trouble}?
            {x^} {trouble}. What can I do?
            I have a problem: {x} {trouble}.
            Can you help me? {x^} {trouble}.
            What could be the reason that {x} {trouble}?
            What should I do if {x} {trouble}?
            Do you know why {x} {trouble}?
            How can I stop it? {x^} {trouble}.
            I noticed that {x} {trouble}. What is going on?
            It annoys me that {x} {trouble}. What helps?
            {x^} {trouble}, and I do not know why.
        """),
    ),
    Intent(
        "need",
        _lines("""
            What do I need for {x}?
            Which things do I need for {x}?
            What should I get ready for {x}?
            Tell me what I need for {x}.
            What do I have to buy for {x}?
            What should be on my list for {x}?
            Can you list what is needed for {x}?
            I want to {v} {x}. What do I need?
            Which tools or things are useful for {x}?
            Make a short shopping list for {x}.
            What must I have at hand for {x}?
            Before I {v} {x}, what should I buy?
        """),
        (
            "What do I need for that?",
            "Which things do I need?",
            "What should I buy?",
            "Do I need anything for it?",
            "What should be on my list?",
        ),
    ),
    Intent(
        "when",
        _lines("""
            When should I {v} {x}?
            What is the best time to {v} {x}?
            When is a good moment for {x}?
            Which time of day is best for {x}?
            Is there a right time to {v} {x}?
            At what time should I {v} {x}?
            When would you {v} {x}?
            Can you tell me when to {v} {x}?
            Is it better to {v} {x} in the morning or in the evening?
            What time do you suggest for {x}?
            I am not sure when to {v} {x}. What do you say?
            When do people usually {v} {x}?
        """),
        (
            "When should I do that?",
            "What is the best time for it?",
            "And when would be a good moment?",
            "At what time should I do it?",
            "When is it best?",
        ),
    ),
    Intent(
        "remind",
        _lines("""
            Remind me {day} to {v} {x}.
            Please remind me of {x} {day}.
            Can you set a reminder for {x} {day}?
            I must not forget {x} {day}.
            Do not let me forget {x} {day}.
            Could you remind me {day} about {x}?
            I would like a reminder for {x} {day}.
            Make a note that I {v} {x} {day}.
            Put {x} on my list {day}.
            Help me remember {x} {day}.
            Set an alarm {day} so that I {v} {x}.
            {day^} I have to {v} {x}. Remind me of it.
        """),
        (
            "Can you remind me {day}?",
            "Remind me of it {day}, please.",
            "Set a reminder {day}.",
            "Could you put that on my list {day}?",
            "Please note it {day}.",
        ),
    ),
    Intent(
        "plan",
        _lines("""
            Help me plan {x} {day}.
            Make a plan for {x} {day}.
            Can you plan my time for {x} {day}?
            What would a good plan for {x} look like {day}?
            I need a plan {day} for {x}.
            How should I organise my time {day} with {x}?
            Plan {x} with me {day}.
            Give me a simple schedule {day} for {x}.
            Could you write a plan {day} for {x}?
            What should I do {day} about {x}?
            How can {x} fit into my plans {day}?
            {day^} I have time for {x}. What is a good plan?
        """),
    ),
    Intent(
        "long",
        _lines("""
            How long does it take to {v} {x}?
            How much time do I need for {x}?
            How many hours should I plan for {x}?
            Does it take long to {v} {x}?
            What time should I allow for {x}?
            How much time goes into {g} {x}?
            How soon can I be done with {x}?
            Will {g} {x} take much time?
            Can you say how long {g} {x} takes?
            How long will I be busy with {x}?
            Tell me how much time to set aside for {x}.
            Is one hour enough to {v} {x}?
        """),
        (
            "How long does that take?",
            "How much time do I need for it?",
            "Does it take long?",
            "Will that take much time?",
            "How long will it take?",
        ),
    ),
    Intent(
        "mistakes",
        _lines("""
            What mistakes should I avoid with {x}?
            What can go wrong with {x}?
            What should I not do when I {v} {x}?
            Which mistakes do people make with {x}?
            What do beginners get wrong with {x}?
            Is there anything to avoid with {x}?
            What should I be careful about with {x}?
            Which errors are common when one tries to {v} {x}?
            How do I avoid mistakes with {x}?
            Warn me about mistakes with {x}.
            What should I watch out for with {x}?
            Name the usual mistakes with {x}.
        """),
        (
            "What should I avoid?",
            "What can go wrong?",
            "Is there a mistake I should avoid?",
            "What should I watch out for?",
            "Which mistakes are common?",
        ),
    ),
    Intent(
        "cheap",
        _lines("""
            How can I {v} {x} without spending much?
            How do I {v} {x} on a small budget?
            Is there a cheap way to {v} {x}?
            What is the cheapest way to {v} {x}?
            How do I save money with {x}?
            I have little money. How do I {v} {x}?
            Can I {v} {x} for less money?
            Which costs can I save with {x}?
            How can I keep the costs low for {x}?
            What is a low-cost way to {v} {x}?
            Can {g} {x} be cheap?
            Help me save money on {x}.
        """),
        (
            "Is there a cheap way?",
            "Can it be cheaper?",
            "How do I save money with that?",
            "What would cost less?",
            "How do I keep the costs low?",
        ),
    ),
    Intent(
        "idea",
        _lines("""
            Give me an idea for {x}.
            Do you have an idea for {x}?
            What could I try with {x}?
            I need some inspiration for {x}.
            Suggest something new for {x}.
            What would be a nice idea for {x}?
            Can you think of something for {x}?
            Any ideas for {x}?
            I have no ideas left for {x}. Can you help?
            What else could I do with {x}?
            Name one idea for {x}.
            What do you suggest for {x}?
        """),
        (
            "Do you have another idea?",
            "What else could I try?",
            "Any other ideas?",
            "Can you suggest something else?",
            "What else would you suggest?",
        ),
    ),
    Intent(
        "better",
        _lines("""
            How can I make {x} better?
            What makes {x} better?
            How do I improve {x}?
            What would help {x} the most?
            How do I get more out of {x}?
            I am not happy with {x}. How can it be better?
            Which small change would make {x} better?
            Do you have a tip for {x}?
            Give me a tip for better results with {x}.
            What is the secret of {g} {x} well?
            How do I get good at {g} {x}?
            What can I change about {x}?
        """),
        (
            "How can I make it better?",
            "Do you have one more tip?",
            "What would help the most?",
            "Is there another tip?",
            "How do I improve that?",
        ),
    ),
    Intent(
        "who",
        _lines("""
            Who can help me with {x}?
            Whom should I ask about {x}?
            Who knows a lot about {x}?
            Where do I find help with {x}?
            Is there someone who can help with {x}?
            Where can I ask about {x}?
            Who could give me advice on {x}?
            I need help with {x}. Whom do I call?
            Do you know who helps with {x}?
            Who is the right person to ask about {x}?
            Which people can advise me on {x}?
            Whom would you ask about {x}?
        """),
        (
            "Who can help me with that?",
            "Whom should I ask?",
            "Where do I find help?",
            "Is there someone I can ask?",
            "Who knows more about it?",
        ),
    ),
    Intent(
        "message",
        _lines("""
            Write a short message to {person} about {x}.
            Can you write to {person} about {x}?
            What should I write to {person} about {x}?
            Help me tell {person} about {x}.
            How do I tell {person} about {x}?
            I want to send {person} a note about {x}. What do I say?
            Draft a message for {person} about {x}.
            Write {person} a few lines about {x}.
            {person^} asks about {x}. What do I answer?
            Please word a note about {x} to {person}.
            Give me a text about {x} for {person}.
            What is a nice way to tell {person} about {x}?
        """),
    ),
    Intent(
        "today",
        _lines("""
            Should I {v} {x} today or tomorrow?
            Is it better to {v} {x} today or to wait?
            Can {x} wait until tomorrow?
            Do I have to {v} {x} today?
            Must I {v} {x} right now, or is later fine?
            Is it fine to {v} {x} tomorrow?
            Would you {v} {x} today or later?
            Is today a good day for {x}?
            Should {x} be done now, or can I wait?
            Is there a hurry with {x}?
            May I leave {x} for tomorrow?
            How urgent is {x}?
        """),
        (
            "Should I do that today?",
            "Can it wait until tomorrow?",
            "Is it urgent?",
            "Do I have to do it now?",
            "Can I do that later?",
        ),
    ),
    Intent(
        "check",
        _lines("""
            How do I know that {x} {is} fine?
            How can I tell if {x} {is} all right?
            How do I check {x}?
            What shows me that {x} {is} in order?
            Is there a way to check {x}?
            What should I look at to check {x}?
            How can I be sure about {x}?
            Which signs tell me that {x} {is} fine?
            Can you help me check {x}?
            What is a quick test for {x}?
            How do I see whether {x} {is} okay?
            I want to be sure that {x} {is} fine. How?
        """),
        (
            "How do I know that it is fine?",
            "How can I check that?",
            "How can I be sure?",
            "How do I check it?",
            "What shows me that it is fine?",
        ),
    ),
    Intent(
        "often",
        _lines("""
            How often should I {v} {x}?
            How many times a week should I {v} {x}?
            How often {is} {x} worth my time?
            Should I {v} {x} every day?
            Is once a week enough for {x}?
            How regularly do I need to {v} {x}?
            How often do people {v} {x}?
            Do I need to {v} {x} often?
            What is a good rhythm for {x}?
            How many days a week do I need for {x}?
            Can you say how often to {v} {x}?
            How often would you {v} {x}?
        """),
        (
            "How often should I do that?",
            "How many times a week?",
            "Is once a week enough?",
            "Do I need to do it often?",
            "How often is good?",
        ),
    ),
)
