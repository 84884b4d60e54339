"""Cost of a step before it runs: FLOPs, bytes, memory, collectives."""
