"""The machine that everything runs on: its device, libraries, memory, energy and signals.

Modules:
    blas: Load a tuned BLAS for MLX on Linux CPUs, before MLX itself.
    blas_hook: Load that BLAS when MLX is about to be imported.
    cpu_exp: Exponential, softmax and SwiGLU for CPUs.
    cpu_ops: Attention, RMSNorm and rotary embedding for CPUs, with gradients.
    device: The device and dtype that MLX computes with, and how fast it multiplies.
    energy: Energy counters of the CPU, GPU and memory.
    machine: What a measurement was made on: the hardware, the versions and the thermal state.
    memory: How much memory a model may use, and how freed memory is handled.
    signals: Stop a long run in an orderly way on SIGTERM or Ctrl-C.

`blas` and `energy` import no MLX, so that `blas.preload` can run first.
"""
