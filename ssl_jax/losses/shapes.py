"""Shapes of the arguments of losses: one line names the function, the expected and the actual."""

import chex
import jax

Array = jax.Array


def check_matrices(function: str, **arrays: Array) -> None:
    """Require matrices (B, d) of one shape; `ValueError` names them and `function`."""
    expected = f"{function}: expected {' and '.join(arrays)} of one shape (B, d)"
    values = list(arrays.values())
    chex.assert_rank(values, 2, custom_message=expected, exception_type=ValueError)
    chex.assert_equal_shape(values, custom_message=expected, exception_type=ValueError)


def check_pairs(function: str, z: Array) -> None:
    """Require a matrix (2B, d), rows 2i and 2i + 1 being the two views of example i."""
    expected = f"{function}: expected shape (2B, d) with two rows per example, got {z.shape}"
    chex.assert_rank(z, 2, custom_message=expected, exception_type=ValueError)
    chex.assert_is_divisible(z.shape[0], 2, custom_message=expected, exception_type=ValueError)
