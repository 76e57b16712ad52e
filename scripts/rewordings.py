"""The word lists and patterns of `rewriter_pairs`.

Attributes:
    FRAMES: Wordings of questions and requests: a paragraph holds wordings of the same one, separated by `|`. The slots
        {x} and {y} are phrases with a noun, {p} and {q} plural ones; {v} and {w} begin with a verb, {g} with one in
        -ing; {s} is a sentence and {n} a number.
    SAME: Groups of words that can mostly replace one another.
    OPENERS: Phrases before a statement that do not change its meaning.
    QUESTION_OPENERS: Phrases before a question that do not change its meaning.
    ENDINGS: Phrases after a statement that do not change its meaning.
    ORDERS: Patterns of sentences, each with other forms of the sentence that name the pattern's groups.
"""

from __future__ import annotations

FRAMES = """
What is {x}? | Can you tell me what {x} is? | Explain {x} to me. | What exactly is {x}? | Do you know what {x} is? |
Please explain what {x} is. | I would like to know what {x} is. | Give me a definition of {x}. |
How would you define {x}? | What is meant by {x}? | what does {x} mean? | Tell me what {x} is.

Describe {x}. | Tell me about {x}. | Give a description of {x}. | What can you tell me about {x}? |
What do you know about {x}? | Can you describe {x} to me? | Write a short description of {x}. | Please describe {x}. |
Give me some information about {x}. | I want to learn more about {x}. | Describe what {x} is like. | What is {x} like?

Who is {x}? | Do you know who {x} is? | Tell me who {x} is. | Can you tell me who {x} is? | I want to know who {x} is. |
Who exactly is {x}?

Where is {x}? | Where can I find {x}? | Do you know where {x} is? | Tell me where {x} can be found. |
In which place is {x}? | Can you tell me where to find {x}?

Who was the first to {v}? | Which person was the first to {v}? | Do you know who was the first to {v}? |
Name the first person to {v}.

How do I {v}? | How can I {v}? | What is the best way to {v}? | Can you tell me how to {v}? | Explain how to {v}. |
Tell me how I can {v}. | What are the steps to {v}? | How would you {v}? | I would like to know how to {v}. |
Give me advice on how to {v}. | What should I do to {v}? | Show me how to {v}. | Describe how to {v}. |
What is a good way to {v}? | How does one {v}?

How to {v} in {x}? | What is the way to {v} in {x}? | If I am in {x}, how can I {v}? | How can I {v} in {x}?

Why is {x} important? | What makes {x} so important? | Explain why {x} matters. | Why does {x} matter? |
What is the importance of {x}? | Can you explain why {x} is important? | Tell me the reasons why {x} is important.

Why should I {v}? | What is the reason to {v}? | Give me a reason to {v}. | Why is it good to {v}? |
Explain why one should {v}. | Is there a reason to {v}?

Why do people {v}? | What makes people {v}? | For what reason do people {v}? | Can you tell me why people {v}? |
What is the reason that people {v}?

Should I {v}? | Do you think I should {v}? | Is it a good idea to {v}? | Would you advise me to {v}? |
Do you recommend that I {v}? | Tell me whether to {v}.

Should I {v} or {w}? | Is it better to {v} or to {w}? | I could {v} or {w}. What would you do? |
Would you rather {v} or {w}? | Tell me whether I should {v} or {w}.

What is the difference between {x} and {y}? | How do {x} and {y} differ? | Compare {x} and {y}. |
How is {x} different from {y}? | Explain the difference between {x} and {y}. | Compare {x} with {y}. |
What makes {x} different from {y}? | Can you tell me how {x} differs from {y}?

Which is better, {x} or {y}? | Is {x} better than {y}? | Would you choose {x} or {y}? |
What would you prefer, {x} or {y}? | Do you like {x} more than {y}? | Tell me if {x} is better than {y}.

Is {x} a kind of {y}? | Can {x} be called a kind of {y}? | Does {x} belong to {y}? | Tell me if {x} is a form of {y}. |
Would you say {x} is a type of {y}?

Name {n} {p}. | Give me {n} {p}. | List {n} {p}. | What are {n} {p}? | Can you name {n} {p}? |
Provide a list of {n} {p}. | Tell me {n} {p}. | I need a list of {n} {p}. | Suggest {n} {p}. | Think of {n} {p}.

Name {n} {p} of {x}. | What are {n} {p} of {x}? | List {n} {p} of {x}. | Give me {n} {p} of {x}. |
Tell me {n} {p} of {x}. | Which are the {n} {p} of {x}?

What are the best {p} in {x}? | Which {p} in {x} are the best? | Can you recommend some good {p} in {x}? |
What {p} should I choose in {x}? | Name the top {p} in {x}. | I am looking for good {p} in {x}.

What are some {p} for {x}? | Give me some {p} for {x}. | Suggest some {p} for {x}. | Can you think of {p} for {x}? |
What {p} are there for {x}? | List a few {p} for {x}.

How many {p} are there in {x}? | What is the number of {p} in {x}? | Do you know how many {p} {x} has? |
Tell me how many {p} can be found in {x}.

What are the benefits of {x}? | What are the advantages of {x}? | Why is {x} good? | List the benefits of {x}. |
How can {x} help us? | What good does {x} do? | Tell me the advantages of {x}.

What are the benefits of {g}? | Why is {g} good for you? | What are the advantages of {g}? | List the benefits of {g}. |
Explain how {g} can help.

What are the problems with {x}? | What is wrong with {x}? | Which problems does {x} have? |
Name the disadvantages of {x}. | What are the bad sides of {x}? | Tell me what is bad about {x}.

What happens if I {v}? | What would happen if I {v}? | Suppose I {v}. What happens then? |
Tell me what happens when I {v}. | What comes of it if I {v}?

How does {x} work? | Explain how {x} works. | Can you explain how {x} works? | Tell me how {x} works. |
In what way does {x} work? | I want to understand how {x} works.

How does {x} affect {y}? | What is the effect of {x} on {y}? | What does {x} do to {y}? |
Explain the effects of {x} on {y}. | Describe how {x} changes {y}. | In what way does {x} affect {y}?

When was {x} made? | In what year was {x} made? | Do you know when {x} was made? | Tell me when {x} was made. |
What year was {x} made?

Write a story about {x}. | Create a story about {x}. | Compose a short story on {x}. | Tell me a story about {x}. |
Come up with a story about {x}. | I need a story about {x}. | Make up a story that is about {x}.

Write a poem about {x}. | Compose a poem on {x}. | Create a short poem about {x}. | Can you write a poem about {x}? |
I would like a poem about {x}.

Write a letter about {x} to {y}. | Compose a letter to {y} about {x}. | I need a letter to {y} about {x}. |
Help me write to {y} about {x}. | Draft a letter to {y} concerning {x}.

Write a sentence about {x}. | Make a sentence with {x}. | Create a sentence using {x}. |
Construct a sentence that contains {x}. | Use {x} in a sentence. | Form a sentence with the words {x}.

Write an essay about {x}. | Write a paragraph about {x}. | Generate a text on {x}. | Produce a short text about {x}. |
Compose a paragraph on {x}. | I need a text about {x}.

Give an example of {x}. | What is an example of {x}? | Provide an example of {x}. | Can you give me an example of {x}? |
Show me an example of {x}. | Name one example of {x}.

Suggest a way to {v}. | Give me an idea how to {v}. | What could I do to {v}? | Propose a method to {v}. |
Come up with a way to {v}. | I need an idea for how to {v}. | Find a way to {v}.

{v}. | Please {v}. | Can you {v}? | Could you please {v}? | I need you to {v}. | I want you to {v}. |
I would like you to {v}. | Help me {v}. | Would you {v} for me? | Your task is to {v}.

{v} and {w}. | Please {v} and also {w}. | Can you {v} and {w}? | I need you to {v} and then {w}. |
First {v}, then {w}.

Generate a list of {p}. | Make a list of {p}. | Create a list with {p}. | Come up with some {p}. | I need some {p}. |
Write down a few {p}. | List some {p}.

Create a plan to {v}. | Make a plan for how to {v}. | Design a plan to {v}. | I need a plan to {v}. |
Develop a strategy to {v}.

Doctor, I have {x} and {y}. What could be the problem? |
I am suffering from {x} and {y}, doctor. What is wrong with me? |
Lately I have had {x} and {y}. Do you know what this could be? | Doctor, what can cause {x} and {y}? |
Hi doctor, I noticed {x} and also {y}. What should I do? |
I've been experiencing {x} along with {y}. What could it be?

I've been {g}. What should I do? | Lately I have been {g}. Can you help me? |
For some time now I've been {g}. What can I do about it? | I keep {g}. Do you have any advice? |
I have been {g} for a while. What is your advice?

I have been having trouble {g}. | Lately it has been hard for me with {g}. | I've had problems {g}. |
I find {g} difficult these days. | {g} has been difficult for me.

I was so happy when {s}. | It made me very happy that {s}. | I felt great joy because {s}. |
{s}, and I was really happy about it. | {s}. That made me so happy.

I was really sad when {s}. | It made me sad that {s}. | I felt so down because {s}. | {s}, and that made me very sad. |
{s}. I was sad about it.

I was angry because {s}. | It made me so mad that {s}. | {s}, and it made me angry. | I got really upset when {s}. |
{s}. I was furious.

I am afraid that {s}. | It scares me that {s}. | I'm scared because {s}. | I worry that {s}. |
{s}. I am worried about it.

Did you know that {s}? | Have you heard that {s}? | I heard that {s}. | It is said that {s}. | They say that {s}.

Is it true that {s}? | Do you think that {s}? | Would you say that {s}? | {s}. Is that true? |
Tell me if it is true that {s}.

Summarize this text: {s}. | Give a summary of the following: {s}. | Write a short summary of this text: {s}. |
Sum up this passage: {s}. | What is the main point of this text: {s}?

Rewrite this sentence: {s}. | Write the following sentence in another way: {s}. | Change this sentence: {s}. |
Edit the following sentence: {s}. | Make this sentence better: {s}.

Find the mistake in this sentence: {s}. | Identify the error in the following sentence: {s}. |
Which mistake does this sentence have: {s}? | Tell me what is wrong in this sentence: {s}.

Classify the following sentence: {s}. | Say what kind of sentence this is: {s}. |
Decide which type of sentence this is: {s}. | What kind of sentence is this: {s}?

Tell me whether these are {p} or {q}: {x}, {y} | Classify each as {p} or {q}: {x}, {y} |
Which of these are {p} and which are {q}? {x}, {y} | Sort the following into {p} and {q}: {x}, {y}

Given this text about {x}, {v}. | Read this text about {x} and {v}. | From the text on {x}, {v}. |
Here is a passage about {x}. Please {v}.

I love {g}. | I really enjoy {g}. | {g} is what I like to do. | I am very fond of {g}. | {g} makes me happy. |
There is nothing better than {g}.

I am looking forward to {x}. | I can't wait for {x}. | I am so excited about {x}. |
I'm really happy that {x} is coming. | {x} is coming soon and I am excited.

I want to {v}. | I would like to {v}. | My plan is to {v}. | I am hoping to {v}. | It is my wish to {v}. |
I'd love to {v}.

I have to {v}. | I need to {v}. | I must {v}. | There is no way around it, I have to {v}. | I am supposed to {v}. |
It is necessary for me to {v}.
"""

SAME = """
small, little | because, since | maybe, perhaps | really, truly, very |
a lot of, lots of, plenty of, much | I think, I believe, I guess, in my opinion | also, as well, too |
buy, purchase | start, begin | kids, children | great, wonderful, fantastic | good, nice, fine |
bad, terrible, awful | happy, glad, pleased | sad, unhappy, down | angry, mad, upset | scared, afraid, frightened |
tired, exhausted | want to, would like to, wish to | have to, need to, must, ought to | going to, about to |
try to, attempt to | can't, cannot, am not able to | don't, do not |
didn't, did not | won't, will not | isn't, is not | wasn't, was not | doesn't, does not | haven't, have not |
I'm, I am | I've, I have | I'll, I will | it's, it is | that's, that is | you're, you are |
we're, we are | they're, they are | there's, there is | what's, what is | let's, let us |
almost, nearly | quickly, fast, rapidly | often, frequently, many times | always, all the time |
sometimes, now and then, at times | now, at the moment, right now, these days |
soon, before long, shortly | again, once more |
if, in case |
many, a number of, numerous | several, a few, some | every, each | whole, entire |
hard, difficult, tough | easy, simple | important, key | beautiful, lovely, pretty | strange, odd, weird |
funny, amusing | help, assist, support | choose, pick, select |
find, discover | love, adore | hate, can't stand | look at, watch | talk, speak |
talk about, discuss | answer, reply | job, position | house, home |
car, vehicle | money, cash | friend, buddy, pal | mother, mom, mum | father, dad | movie, film | picture, photo |
trip, journey | vacation, holiday | problem, issue, trouble | idea, thought | way, manner |
people, folks, persons | person, individual | doctor, physician |
hurts, aches, is painful | pain, ache | sick, ill, unwell | finally, at last |
last night, yesterday evening | recently, lately, not long ago | a long time, ages | a little, a bit, somewhat |
enough, sufficient | only, just | at first, in the beginning | in fact, actually |
of course, certainly, sure | please, kindly | thank you, thanks | Could you, Can you, Would you |
may I, can I, could I | do you know, can you tell me | what do you think of, what is your opinion of |
how about, what about | why don't we, let us, shall we | instead of, rather than | felt, was feeling |
got, received | said, stated | went to, visited | saw, noticed | made, created |
called, phoned | happened, took place | thought, believed | wanted to, wished to, hoped to |
had to, was forced to | could, was able to | should, ought to | might, could | without, with no
"""

OPENERS = """
Well, | You know, | To be honest, | Honestly, | Actually, | Let me tell you: | I have to say that | I must say |
It seems that | The thing is, | As it happens, | I think that | I just want to say that | You see, | By the way, |
Guess what, | The truth is that | In my case, | It so happens that
"""

QUESTION_OPENERS = """
Can you tell me: | Please tell me, | I would like to know: | Let me ask you, | Do you know, | Tell me, |
My question is: | I wonder, | I have a question: | Say,
"""

ENDINGS = """
, you know | these days | right now | at the moment | to be honest | if you ask me | and that is how it is |
, I think | , I must say | after all
"""

ORDERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        r"(What|Who|Where|When) (is|are|was|were) ([^?,]+)\?",
        (
            "Can you tell me {0} {2} {1}?",
            "Do you know {0} {2} {1}?",
            "I'd like to know {0} {2} {1}.",
            "Tell me {0} {2} {1}.",
            "I wonder {0} {2} {1}.",
            "Please explain {0} {2} {1}.",
        ),
    ),
    (
        r"How (?:do|can|should) (I|you|we|they) ([^?]+)\?",
        (
            "What is the best way to {1}?",
            "Can you tell me how to {1}?",
            "Tell me how {0} can {1}.",
            "In what way can {0} {1}?",
            "I want to know how to {1}.",
        ),
    ),
    (
        r"Why (are|is|was|were|did|do|does|can't|don't|didn't) (I|you|he|she|it|we|they|that|this) ([^?]+)\?",
        (
            "What is the reason {1} {0} {2}?",
            "Tell me why {1} {0} {2}.",
            "For what reason {0} {1} {2}?",
            "Can you explain why {1} {0} {2}?",
        ),
    ),
    (
        r"(?:Can|Could|Would|Will) you (?:please )?([^?]+)\?",
        (
            "Please {0}.",
            "I would like you to {0}.",
            "Would you be able to {0}?",
            "Is it possible for you to {0}?",
            "Could you please {0}?",
            "I'd be happy if you could {0}.",
            "Would you be so kind as to {0}?",
        ),
    ),
    (
        r"(?:Can|Could|May) I ([^?]+)\?",
        (
            "Is it all right if I {0}?",
            "Am I allowed to {0}?",
            "Would it be possible to {0}?",
            "I would like to {0}, please.",
            "Do you mind if I {0}?",
            "Would you let me {0}?",
        ),
    ),
    (
        r"Do you (?:want|like) to ([^?]+)\?",
        (
            "Would you like to {0}?",
            "Do you feel like it, to {0}?",
            "Are you in the mood to {0}?",
            "How about it, shall we {0}?",
        ),
    ),
    (
        r"(?:Do|Did|Have|Are|Were) you (?:ever )?([^?]+) (before|now|yet|today|tomorrow|yesterday|often)\?",
        ("Is it so that you {0} {1}?", "Tell me, do you {0} {1}?", "{1}, do you {0}?"),
    ),
    (
        r"([^.?!]{8,}) because ([^.?!]{8,})([.!])",
        ("Because {1}, {0}.", "{1}, so {0}.", "{1}. That is why {0}.", "Since {1}, {0}."),
    ),
    (r"([^.?!]{8,}), so ([^.?!]{8,})([.!])", ("{1} because {0}.", "Because {0}, {1}.", "{0}. That is why {1}.")),
    (
        r"([^.?!]{8,}), (?:but|and) ([^.?!]{8,})([.!])",
        ("{0}. {1}.", "{1}. {0}.", "Although {0}, {1}.", "{0}, while {1}."),
    ),
    (r"(?:When|If) ([^.?!,]{6,}), ([^.?!]{8,})([.!])", ("{1} when {0}.", "{1} if {0}.", "{1}, at least when {0}.")),
    (r"([^.?!]{8,}) (?:when|if) ([^.?!,]{6,})([.!])", ("When {1}, {0}.", "If {1}, then {0}.")),
    (
        r"([^.?!,]{8,}) (today|yesterday|tomorrow|last night|last week|this morning|next week|every day|lately)([.!])",
        ("{1}, {0}.", "{1} it was so that {0}."),
    ),
    (
        r"I (?:want|need|would like|have) to ([^.?!]+)([.!])",
        (
            "It is my plan to {0}.",
            "What I want is to {0}.",
            "I am hoping to {0}.",
            "I really should {0}.",
            "My wish is to {0}.",
        ),
    ),
    (
        r"I (?:have been|was|am|'ve been) (\w+ing [^.?!]+)([.!])",
        ("Lately I have been {0}.", "For some time I have been {0}.", "I kept {0}.", "I spent my time {0}."),
    ),
    (r"(.{12,}[.!?]) ([A-Z].{12,}[.!?])", ("{1} {0}", "{1} {0}")),
)
