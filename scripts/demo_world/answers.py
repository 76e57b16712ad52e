"""The assistant's answers in its plain style: five wordings per intent, which say the same.

This module holds data only. Slots: {x} is "your red lamp", {mine} "my red lamp", {v} and {trouble} are the domain's
verb and trouble; {s1} {s2} {s3} are steps, {n1} {n2} {n3} things; {tip}, {cause}, {time}, {helper}, {when}, {often},
{day} and {person} are what their names say. `^` capitalizes the first letter.
"""

from __future__ import annotations

ANSWERS: dict[str, tuple[str, ...]] = {
    "start": (
        "To {v} {x}, first {s1}. Then {s2}, and after that {s3}.",
        "Start with {x} like this: {s1}, then {s2}. At the end, {s3}.",
        "For {x}, begin simply: {s1} and {s2}. After that, {s3}.",
        "The first step with {x} is easy: {s1}. Next, {s2} and {s3}.",
        "With {x}, it is best to {s1} before anything else. Then {s2} and {s3}.",
    ),
    "trouble": (
        "If {x} {trouble}, often {cause}. It helps to {s1} and {s2}.",
        "When {x} {trouble}, the usual reason is that {cause}. First {s1}, then {s2}.",
        "{x^} {trouble}: perhaps {cause}. Try to {s1}, and {s2}.",
        "Maybe {cause}. For {x}, {s1} first, and then {s2}.",
        "The trouble with {x} may be that {cause}. You can {s1} and {s2}.",
    ),
    "need": (
        "For {x}, you need {n1}, {n2} and {n3}. It also helps to {s1}.",
        "{x^} will need {n1}, {n2} and {n3}. Before you begin, {s1}.",
        "Get {n1}, {n2} and {n3} for {x}. Then {s1}.",
        "The list for {x} is short: {n1}, {n2} and {n3}. After that, {s1}.",
        "You should have {n1}, {n2} and {n3} at hand for {x}. Then {s1}.",
    ),
    "when": (
        "A good time for {x} is {when}. Plan {time} and {s1}.",
        "{when^} is the best time for {x}. Before that, {s1}.",
        "Most people {v} {x} {when}. Take {time}, and {s1}.",
        "For {x}, {when} is best. You need about {time}, and {tip}.",
        "It is best to {v} {x} {when}, because {tip}.",
    ),
    "remind": (
        "I have noted {x} {day}. Before that, {s1}.",
        "The reminder for {x} is set {day}. It helps to {s1} first.",
        "{day^}, I will remind you of {x}. Until then, {s1}.",
        "{x^} is on your list {day}. Please {s1} before.",
        "Done: a reminder for {x} {day}. You can {s1} already.",
    ),
    "plan": (
        "Here is a plan for {x} {day}: first {s1}, then {s2}, and {s3} at the end.",
        "{day^}, begin with {x} early: {s1} and {s2}. Later, {s3}.",
        "For {x} {day}, take {time}. First {s1}, then {s2}.",
        "A simple plan for {x} {day} is to {s1}, then {s2}, and last {s3}.",
        "Keep things simple {day} with {x}: {s1}, {s2}, and then {s3}.",
    ),
    "long": (
        "{x^} will take about {time}. It goes faster if you {s1}.",
        "Plan about {time} for {x}. To save time, {s1}.",
        "You need about {time} for {x}. First {s1}, then {s2}.",
        "About {time} is normal for {x}. If you {s1}, it goes faster.",
        "To {v} {x}, allow {time}. It helps to {s1} before.",
    ),
    "mistakes": (
        "With {x}, the usual mistake is that {cause}. It is better to {s1}.",
        "A common mistake with {x} is to forget this: {s1}. Remember that {tip}.",
        "Be careful with {x}: often {cause}. So {s1} and {s2}.",
        "Most mistakes with {x} come from haste. First {s1}, and remember that {tip}.",
        "For {x}, avoid haste. Always {s1}, then {s2}.",
    ),
    "cheap": (
        "To save money on {x}, {s1} and {s2}. All you need is {n1}.",
        "{x^} can be cheap: use {n1}, and {s1}. Remember that {tip}.",
        "A cheap way for {x} is to {s1}. You only need {n1} and {n2}.",
        "Keep costs low for {x}: {s1}, and borrow {n1}.",
        "You can {v} {x} for little money. First {s1}, then {s2}.",
    ),
    "idea": (
        "One idea for {x}: {s1} and {s2}. Remember that {tip}.",
        "For {x}, you could {s1} with {n1}. Then {s2}.",
        "Try something new with {x}: {s1}, then {s2}.",
        "An easy idea for {x} is to use {n1} and to {s1}.",
        "You could {s1} for {x}. It works because {tip}.",
    ),
    "better": (
        "To make {x} better, {s1} and {s2}. Remember that {tip}.",
        "{x^} will be better if you {s1}. Also, {s2}.",
        "A small change helps {x}: {s1}. Then {s2}, because {tip}.",
        "For better results with {x}, {s1}, then {s2}.",
        "My tip for {x} is to {s1}. Remember that {tip}.",
    ),
    "who": (
        "{helper^} can help you with {x}. Before you ask, {s1}.",
        "For {x}, ask {helper}. It helps to {s1} first.",
        "You could ask {helper} about {x}. Before that, {s1}.",
        "The best help with {x} is {helper}. Until then, {s1}.",
        "Ask {helper} for advice on {x}, and {s1}.",
    ),
    "message": (
        "You could write: Dear {person}, I have to {v} {mine} soon. Can we talk about it? Best wishes.",
        "Here is a message: Dear {person}, it is about {mine}. Do you have {time} for me? Thank you.",
        "Write this: Hello {person}, I want to {v} {mine}. Would you like to help? See you soon.",
        "A short text: Hello {person}, {mine} is on my mind. I will {s1} first. What do you think?",
        "You can say: Dear {person}, today I want to {v} {mine} and {s1}. Best wishes.",
    ),
    "today": (
        "Begin with {x} today if you have {time}. If not, {s1} now and do the rest tomorrow.",
        "{x^} can wait until tomorrow, but {s1} today.",
        "It is better to start today with {x}: {s1}. Tomorrow, {s2}.",
        "There is no hurry with {x}. Today {s1}, and tomorrow {s2}.",
        "Today is a good day for {x}. Take {time}, and {s1}.",
    ),
    "check": (
        "To check {x}, {s1} and then {s2}. If something looks wrong, ask {helper}.",
        "{x^} should be fine if you {s1}. If not, often {cause}.",
        "Look at {x} closely: {s1}, then {s2}. Remember that {tip}.",
        "A quick test for {x} is to {s1}. If in doubt, ask {helper}.",
        "You can check {x} in {time}: {s1} and {s2}.",
    ),
    "often": (
        "{often^} is a good rhythm for {x}. Each time, {s1} and {s2}.",
        "For {x}, {often} is enough. Remember that {tip}.",
        "You should {v} {x} {often}. Each time, {s1}.",
        "Plan {x} {often}, and {s1}. Remember that {tip}.",
        "Most people {v} {x} {often}. Take {time} and {s1}.",
    ),
}
