"""The demo world: a grammar of everyday assistant conversations, written for this project.

`rows.draw_row` draws a training row; `scene` renders questions and answers; `domains`, `intents`, `names` and `talk`
hold the words. Everything is a pure function of the random generator that it is given.
"""
