"""The forward and backward passes of training: faster than mlx-lm's, and checked against them on each model.

Modules:
    split_model: Run a model in parts: frozen layers, trained layers, and the output head at target positions.
    patching: Temporarily patch the `__call__` of individual modules.
    lora_forward: Compute LoRA layers in fewer operations.
    packed_attention: Compute attention over a packed sequence, in buckets of similar length.
    permutation: Permute rows, with a permutation as gradient.
    losses: Cross entropy in chunks at the target positions, and the reference loss of mlx-lm.
    activation_cache: Cache the outputs of the frozen layers, in memory or in a file.
    dropout: Dropout with reproducible random numbers.
    gradient_checkpointing: Recompute layers in the backward pass to save memory.
    gradients: Compute losses and gradients of any samples, accumulated over micro-batches.
    equivalence: Select the fastest forward mode that agrees with the reference forward.
"""
