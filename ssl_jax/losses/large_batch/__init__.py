"""Implementations of losses for large global batches: tiles, ring, Sinkhorn sweeps."""
