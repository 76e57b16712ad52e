"""What a training will need, computed before it starts.

Modules:
    model_spec: The sizes of a model's layers, read from its folder without loading it.
    memory: Estimate the memory of a training, and plan the fastest use of it that fits.
    estimate: Samples, steps and memory of a training, for a dry run.
"""
