"""Evaluation protocols for frozen features, one file each."""
