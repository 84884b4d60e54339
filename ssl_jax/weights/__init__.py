"""Import and export of weights: files of tensors, and public networks by our names."""
