"""Environments seen in pixels, the replay of what was done in them, and the loop that acts."""
