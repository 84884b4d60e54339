"""Where examples come from, and how they become batches: sources, decoding, order, pipeline."""
