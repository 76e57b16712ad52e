"""From conversations to token ids by a model's chat template.

Modules:
    template: Prompts and training sequences.
    format: The probe: what a chat template does.
    renderer: The files of a template; conversations as text.
    jinja_sandbox: Run a template with limits of time and size.
    text_encoder: Tokenize texts that may mention control tokens.
    long_dialogue: The prompts of all answers in one rendering.
"""
