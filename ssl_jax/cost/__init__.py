"""What a step costs, known before it runs: FLOPs, bytes, memory, collectives."""
