"""Commands that Python offers too (`ssl_jax.api`): their flags, and one function each."""
