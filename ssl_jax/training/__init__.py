"""The train state, the one train step, the loop around it, and what it writes to disk."""
