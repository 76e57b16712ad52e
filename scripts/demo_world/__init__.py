"""The demo world: a grammar of everyday assistant conversations, written for this project.

`samples.draw_sample` draws a training sample; `scene` renders questions and answers; `answers`, `domains`, `intents`,
`names` and `small_talk` hold the words. All functions depend on nothing but their arguments and the random generator.
"""
