"""Renderers of multi-host jobs; launch/README.md shows one of each."""
