"""The machine that this process runs on: its device, libraries, memory, energy and signals.

Modules:
    blas: Load a tuned BLAS for MLX on Linux CPUs.
    blas_hook: Load that BLAS when MLX is about to be imported.
    blas_threads: Choose the number of its threads by the load of the machine.
    cpu_exp: Exponential, softmax and SwiGLU for CPUs.
    cpu_load: Measure how many processors other processes use.
    cpu_ops: Attention, RMSNorm and rotary embedding for CPUs, with gradients.
    device: The device and dtype that MLX computes with, and how fast it multiplies.
    energy: Read the energy counters of the CPU, GPU and memory.
    machine: Describe the machine of a measurement: hardware, versions and thermal state.
    memory: Usable memory, and the handling of freed memory.
    signals: Stop a long run cleanly on SIGTERM, SIGHUP or Ctrl-C.

`blas`, `blas_threads`, `cpu_load` and `energy` import no MLX, so that `blas.preload` can run first.
"""
