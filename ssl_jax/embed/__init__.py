"""Frozen encoders at work: features in files, nearest neighbours, programs for elsewhere."""
