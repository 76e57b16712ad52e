"""The parts of `mutate_kernels.py`: generate mutants, run the tests of one, and explain the survivors."""
