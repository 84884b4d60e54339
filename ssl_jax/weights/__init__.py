"""Weights in and out: files of tensors, and the networks of public ones by our names."""
