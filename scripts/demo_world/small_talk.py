"""Small talk of the demo world: messages that ask for nothing in particular, each in several wordings."""

from __future__ import annotations

# Each entry: wordings of one message, and answers that fit all of them.
SMALL_TALK: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("Hello!", "Hi!", "Good morning!", "Good evening!", "Hey, are you there?", "Hello there."),
        (
            "Hello! What can I do for you?",
            "Hello! How can I help you today?",
            "Good to hear from you. What do you need?",
        ),
    ),
    (
        (
            "Thanks!",
            "Thank you!",
            "Thanks a lot.",
            "Many thanks.",
            "Thank you very much.",
            "ok thanks",
            "Great, thanks.",
        ),
        ("You are welcome.", "You are welcome. Ask me any time.", "Gladly. Let me know if you need more."),
    ),
    (
        ("ok", "okay", "fine", "alright", "got it", "I see.", "understood", "yes", "hm"),
        ("Good. Tell me if you need anything else.", "All right. I am here if you need me.", "Good. What is next?"),
    ),
    (
        ("Goodbye!", "Bye!", "See you later.", "Until tomorrow.", "I have to go.", "Good night!", "That was all."),
        ("Goodbye! Until next time.", "See you soon.", "Goodbye, and all the best."),
    ),
    (
        ("How are you?", "How is it going?", "Are you well?", "How do you feel today?", "Is all well with you?"),
        ("I am well, thank you. How can I help you?", "All is well here. What do you need?"),
    ),
    (
        ("Who are you?", "What are you?", "Can you say who you are?", "Are you a person?", "Tell me who you are."),
        ("I am a small assistant for everyday questions.", "I am a program that helps with everyday questions."),
    ),
    (
        ("What can you do?", "How can you help me?", "What do you know about?", "What may I ask you?"),
        (
            "I can help with everyday things: cooking, travel, home, work, school and more.",
            "Ask me about everyday things, such as food, garden, money, music or sleep.",
        ),
    ),
    (
        ("I am bored.", "I do not know what to do.", "There is nothing to do today.", "The day is so dull."),
        (
            "You could go for a walk, read a few pages or call a friend.",
            "How about a short walk, or a call to a friend?",
        ),
    ),
    (
        ("I am tired.", "I feel so tired today.", "I could fall asleep.", "Today I have no energy."),
        (
            "Take a short break and drink some water. An early night may help.",
            "Rest a little, and go to bed early today.",
        ),
    ),
    (
        ("Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Say something funny."),
        ("Why did the kettle sing? It was full of steam.", "What do you call a tired bicycle? Two-tired."),
    ),
    (
        ("I had a good day.", "Today was lovely.", "It was a good day today.", "What a nice day it was."),
        ("That is good to hear. What was the best part?", "How nice. Enjoy the evening."),
    ),
    (
        ("I had a bad day.", "Today was awful.", "What a terrible day.", "Nothing went well today."),
        ("I am sorry to hear that. Tomorrow is a new day.", "That sounds hard. Take some time to rest."),
    ),
    (
        ("My name is {name}.", "I am {name}.", "You can call me {name}.", "They call me {name}.", "{name} is my name."),
        ("Nice to meet you, {name}. How can I help?", "Hello {name}. What can I do for you?"),
    ),
    (
        ("Say hello to {name}.", "Please greet {name}.", "Can you greet {name} for me?", "Send {name} a greeting."),
        ("Hello {name}! It is nice to meet you.", "Greetings to you, {name}."),
    ),
    (
        ("test", "testing", "asdf", "123", "...", "hello hello", "aaa", "?"),
        ("I did not understand that. What do you need?", "Could you say that in other words?"),
    ),
    (
        (
            "Sorry, wrong question.",
            "Forget that.",
            "Never mind.",
            "That was a mistake, forget it.",
            "It is not important.",
        ),
        ("No problem. What else can I do?", "All right. Ask me any time."),
    ),
)
