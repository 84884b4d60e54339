"""Path-named trees, sharding rules, keys and checked configuration: imports nothing else of
ssl_jax.
"""
