"""Pieces of state and structure that several methods share; no method is looked for here."""
