"""Losses as pure maths on arrays: no state, no networks, no config; usable anywhere."""
