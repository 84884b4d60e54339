"""Sinkhorn-Knopp on eight devices: rows, columns and both; what travels between them."""

import collections
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.experimental import pallas as pl
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.cost.hlo import collectives
from ssl_jax.losses.large_batch import sinkhorn_sweeps
from ssl_jax.losses.sinkhorn import sinkhorn

ROWS, COLUMNS = 48, 24
SPECS = {
    "by_default": None,
    "rows": P(("a", "b")),
    "columns": P(None, ("a", "b")),
    "both": P("a", "b"),
    "one_axis": P("b"),
}


def mesh():
    return jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)


def compiled(spec, iterations, dtype, **options):
    """Compile `sinkhorn` over eight devices, as a function of scores and valid rows."""
    over = mesh()
    spread = NamedSharding(over, spec or P(("a", "b")))
    valid = NamedSharding(over, P(spread.spec[0]))
    with jax.set_mesh(over), mock.patch.object(sinkhorn_sweeps, "BLOCK", 2 * COLUMNS):
        run = jax.jit(
            lambda s, v: sinkhorn(s, 0.3, iterations, valid=v, spec=spec, **options),
            in_shardings=(spread, valid),
            out_shardings=spread,
        )
        shapes = ((ROWS, COLUMNS), dtype), ((ROWS,), bool)
        return run.lower(*(jax.ShapeDtypeStruct(*s) for s in shapes)).compile()


def draw(dtype):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(ROWS, COLUMNS)).astype(dtype)
    return scores, rng.permutation(ROWS) < ROWS - 5


class ShardingTest(parameterized.TestCase):
    @parameterized.parameters(
        ("by_default", "scaling", 3, None),
        ("one_axis", "scaling", 3, None),
        *((w, "scaling", 12, None) for w in ("rows", "columns", "both")),
        *((w, "scaling", 40, 1e-3) for w in ("rows", "columns", "both")),
        *((w, "log", 40, 1e-3) for w in ("rows", "columns", "both")),
    )
    def test_equals_one_device(self, where, form, iterations, tolerance):
        options = {"form": form, "tolerance": tolerance}
        with jax.enable_x64(True):
            scores, valid = draw(np.float64)
            q = compiled(SPECS[where], iterations, np.float64, **options)(scores, valid)
            expected = sinkhorn(jnp.asarray(scores), 0.3, iterations, valid=valid, **options)
        np.testing.assert_allclose(q, expected, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(np.asarray(q)[~valid], 0)

    def test_kernel_equals_one_device(self):
        scores, valid = draw(np.float32)
        interpreted = functools.partial(pl.pallas_call, interpret=True)
        with mock.patch.object(pl, "pallas_call", interpreted):
            q = compiled(SPECS["rows"], 3, np.float32, form="kernel")(scores, valid)
        expected = sinkhorn(scores, 0.3, 3, valid=valid, form="scaling")
        np.testing.assert_allclose(q, expected, rtol=0, atol=1e-6)
        with self.assertRaisesRegex(ValueError, "whole rows"):
            compiled(SPECS["columns"], 3, np.float32, form="kernel")

    @parameterized.parameters(("rows", COLUMNS), ("columns", ROWS))
    def test_an_iteration_exchanges_one_vector(self, where, length):
        """Two iterations, without a loop around them: nothing longer than a vector."""
        operations = collectives(compiled(SPECS[where], 2, np.float32, form="scaling").as_text())
        self.assertEqual({c.kind for c in operations}, {"all-reduce"})
        sizes = collections.Counter(c.elements for c in operations)
        self.assertLessEqual(max(sizes), length)
        # One of them twice, as logarithms, whose maximum comes before their sum: the first of rows;
        # that of the assignments, which only columns need.
        self.assertEqual(sizes[length], 3)


if __name__ == "__main__":
    absltest.main()
