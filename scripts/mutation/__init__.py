"""What `mutate_kernels.py` is made of: the mutants, a trial of one, and why some survive."""
