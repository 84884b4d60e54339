"""The input pipeline: sources of examples, decoding, order, batches."""
