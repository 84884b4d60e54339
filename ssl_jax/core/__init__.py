"""Path-named trees, sharding rules, random keys and checked configuration.

Imports nothing from the rest of ssl_jax.
"""
