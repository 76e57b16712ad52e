"""The memory of a training run and other requirements, computed before it starts.

Modules:
    model_spec: The sizes of a model's layers, read from its folder without loading it.
    layer_memory: Estimate the memory of the forward and backward pass of a micro-batch.
    memory: Estimate the memory of a training run, and plan the fastest use of it that fits.
    fit: Whether a model fits into the memory of this machine, before there are samples.
    estimate: Samples, steps and memory of a training run, for a dry run.
"""
