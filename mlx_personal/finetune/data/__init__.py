"""The data of a training: examples, samples, packing, steps and batches."""
