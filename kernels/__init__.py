"""Metal sources of the scoring kernels, one `.metal` file each, installed as `mlx_personal.kernels`."""
