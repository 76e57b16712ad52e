"""The forward and backward passes of training: faster than mlx-lm's, and checked against them on each model.

Modules:
    split_model: Run a model in parts: frozen layers, trained layers, output head on target positions.
    patching: Temporarily patch the `__call__` of individual modules.
    lora_forward: LoRA layers in fewer operations.
    packed_attention: Attention over a packed sequence, in buckets of similar length.
    permutation: Permute rows, with a gradient that is a permutation too.
    losses: Cross entropy in chunks at the target positions, and the reference loss of mlx-lm.
    activation_cache: Keep the outputs of the frozen layers, in memory or in a file.
    dropout: Dropout with reproducible random numbers.
    gradient_checkpointing: Compute layers again in the backward pass to save memory.
    gradients: Losses and gradients of any samples, accumulated over micro-batches.
    equivalence: Select the fastest forward mode that agrees with the reference forward.
"""
