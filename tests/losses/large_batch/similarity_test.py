"""The forms of every loss with a batch of negatives: equal, and lean where they say so."""

import contextlib
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core import sharding
from ssl_jax.cost.hlo import collectives
from ssl_jax.losses.clip import clip_loss
from ssl_jax.losses.infonce import infonce
from ssl_jax.losses.large_batch import tiles
from ssl_jax.losses.large_batch.similarity import DENSE_BYTES, log_sum_exp, sum_softplus
from ssl_jax.losses.ntxent import ntxent
from ssl_jax.losses.siglip import siglip

ROWS, NEGATIVES, DIM = 40, 56, 6  # no multiple of three; five and seven rows on each of 8 devices

SCALARS = {"ntxent": 1, "infonce": 2, "queue": 2, "clip": 2, "siglip": 2}  # where it is


def mesh(replica=2, data=2, fsdp=2):
    config = sharding.MeshConfig(replica, data, fsdp)
    return sharding.make_mesh(config, jax.devices()[: replica * data * fsdp])


def on(devices):
    return jax.set_mesh(mesh()) if devices == 8 else contextlib.nullcontext()


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def losses(similarity, dtype="float64"):
    """Return every loss as a function of its differentiable arguments; in float32 one per kind."""
    form = {"similarity": similarity}
    q, k, t = draw(ROWS, DIM), draw(ROWS, DIM, seed=1), 0.2
    queue = draw(NEGATIVES, DIM, seed=2) / 3
    made = {
        "ntxent": (lambda z, t: ntxent(z, t, **form), (q, t)),
        "infonce": (lambda q, k, t: jnp.mean(infonce(q, k, t, **form)), (q, k, t)),
        "queue": (lambda q, k, t, n: jnp.mean(infonce(q, k, t, n, **form)), (q, k, t, queue)),
        "clip": (lambda q, k, s: jnp.mean(clip_loss(q, k, s, **form)), (q, k, 1 / t)),
        "siglip": (lambda q, k, s, b: jnp.mean(siglip(q, k, s, b, **form)), (q, k, 1 / t, -2.0)),
    }
    kinds = ("ntxent", "clip", "siglip") if dtype == "float32" else made
    return {name: made[name] for name in kinds}


@functools.cache
def compiled(similarity, dtype):
    """Values and gradients of all losses, (arguments) -> {name: (value, gradients)}, jitted."""
    made = losses(similarity, dtype)

    def run(arguments):
        return {
            name: jax.value_and_grad(made[name][0], tuple(range(len(values))))(*values)
            for name, values in arguments.items()
        }

    return jax.jit(run)


@functools.cache
def observed(similarity, devices, dtype, colder=1.0):
    """Run `compiled` at temperatures `colder` times as low."""
    arguments = {name: values for name, (_, values) in losses(similarity, dtype).items()}
    arguments = {
        name: tuple(
            x * (colder if name in ("clip", "siglip") else 1 / colder) if i == SCALARS[name] else x
            for i, x in enumerate(values)
        )
        for name, values in arguments.items()
    }
    with jax.enable_x64(dtype == "float64"), on(devices), mock.patch.object(tiles, "TILE", 3):
        arguments = jax.tree.map(lambda x: jnp.asarray(x, dtype), arguments)
        if devices == 8:
            rows, whole = sharding.batch_sharding(mesh()), sharding.replicated(mesh())
            place = lambda x: jax.device_put(x, rows if x.ndim else whole)  # noqa: E731
            arguments = jax.tree.map(place, arguments)
        return jax.device_get(compiled(similarity, dtype)(arguments))


class FormsTest(parameterized.TestCase):
    @parameterized.product(case=(("tiled", 1), ("ring", 8)), colder=(1.0, 16.0))
    def test_equal_to_dense_in_float64(self, case, colder):
        self.check(case, "float64", colder, 1e-12)

    @parameterized.parameters((("tiled", 8),), (("ring", 8),))
    def test_equal_to_dense_in_float32(self, case):
        self.check(case, "float32", 1.0, 1e-6)

    def check(self, case, dtype, colder, tolerance):
        expected = observed("dense", 1, dtype, colder)
        actual = observed(*case, dtype, colder)
        for name, (value, gradients) in expected.items():
            self.assertEqual(actual[name][0].dtype, np.dtype(dtype))
            np.testing.assert_allclose(actual[name][0], value, rtol=tolerance, err_msg=name)
            for i, (a, e) in enumerate(zip(actual[name][1], gradients, strict=True)):
                self.assertGreater(np.abs(e).max(), 0)
                atol = tolerance * np.abs(e).max()
                np.testing.assert_allclose(a, e, rtol=0, atol=atol, err_msg=f"{name} {i}")

    @parameterized.parameters("tiled", "ring")
    def test_huge_similarities_and_twins_stay_finite(self, form):
        """They are in the thousands, float32 exponentials overflow at 89; each row has a twin."""
        x = jnp.asarray(30 * np.repeat(draw(8, DIM), 2, axis=0), jnp.float32)

        def total(similarity, x, y):
            sums = log_sum_exp(x, y, columns=True, similarity=similarity)
            return sum(jnp.sum(v) for v in (*sums, log_sum_exp(x, similarity=similarity)))

        run = jax.jit(jax.value_and_grad(total, (1, 2)), static_argnums=0)
        with on(8), mock.patch.object(tiles, "TILE", 3):
            actual, expected = run(form, x, x[::-1]), run("dense", x, x[::-1])
        for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            self.assertTrue(np.isfinite(a).all())
            np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5 * np.abs(e).max())

    def test_one_pair_of_two_towers_and_one_example_of_two_views(self):
        single = jnp.asarray(draw(1, DIM), jnp.float32)
        two = jnp.concatenate([single, single])

        @jax.jit
        def run(single, two):
            loss = lambda z: ntxent(z, 0.1, similarity="tiled")  # noqa: E731
            return infonce(single, single, 0.1, similarity="tiled"), jax.value_and_grad(loss)(two)

        rows, (value, grad) = run(single, two)
        np.testing.assert_allclose([*rows, value], [0.0, 0.0], atol=1e-6)
        self.assertTrue(np.isfinite(grad).all())

    @parameterized.parameters(1, 5)
    def test_a_ring_of_any_number_of_devices(self, devices):
        x, y = (jnp.asarray(draw(20, DIM, seed=i), jnp.float32) for i in (0, 1))
        with jax.set_mesh(mesh(1, devices, 1)):
            sums = jax.jit(lambda x, y: log_sum_exp(x, y, columns=True, similarity="ring"))(x, y)
        for actual, axis in zip(sums, (1, 0), strict=True):
            np.testing.assert_allclose(actual, jax.nn.logsumexp(x @ y.T, axis), rtol=1e-5)

    @parameterized.parameters(log_sum_exp, sum_softplus)
    def test_few_rows_and_many_columns_on_many_devices(self, sums):
        """A ring gathers the rows where they are no more than a device's block of columns."""
        x, y = (jnp.asarray(draw(n, DIM, seed=n), jnp.float32) for n in (8, 64))

        def total(form, x, y):
            if sums is sum_softplus:
                return jnp.mean(sums(x, y, similarity=form) ** 2)
            return sum(jnp.mean(v**2) for v in sums(x, y, columns=True, similarity=form))

        run = jax.jit(jax.value_and_grad(total, (1, 2)), static_argnums=0)
        with on(8), mock.patch.object(tiles, "TILE", 3):
            rows = sharding.batch_sharding(mesh())
            x, y = jax.device_put((x, y), rows)
            actual, expected = run("ring", x, y), run("dense", x, y)
            kinds = {c.kind for c in collectives(run.lower("ring", x, y).compile().as_text())}
        for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5 * np.abs(e).max())
        self.assertNotIn("collective-permute", kinds)

    @parameterized.parameters("tiled", "ring")
    def test_inside_a_callers_shard_map(self, form):
        """In a `shard_map` only the device's rows count, in every form."""
        x = jnp.asarray(draw(16, DIM), jnp.float32)
        rows = P(sharding.AXES)
        with jax.set_mesh(mesh()):
            local = lambda x: log_sum_exp(x, x, similarity=form)  # noqa: E731
            sums = jax.jit(jax.shard_map(local, in_specs=rows, out_specs=rows, check_vma=False))(x)
        expected = [jax.nn.logsumexp(p @ p.T, 1) for p in x.reshape(8, 2, DIM)]
        np.testing.assert_allclose(sums, np.concatenate(expected), rtol=1e-5)


class CostTest(parameterized.TestCase):
    def compiled(self, form, devices, count=2048, self_similarity=True):
        x = jax.ShapeDtypeStruct((count, DIM), jnp.float32)

        def loss(x, y):
            return jnp.mean(log_sum_exp(x, None if self_similarity else y, similarity=form))

        with on(devices), mock.patch.object(tiles, "TILE", 128):
            rows = NamedSharding(mesh(), P(sharding.AXES)) if devices == 8 else None
            jitted = jax.jit(jax.grad(loss, (0, 1)), in_shardings=rows, out_shardings=rows)
            return jitted.lower(x, x).compile()

    @parameterized.parameters(("tiled", 1), ("ring", 8))
    def test_no_matrix_is_held(self, form, devices):
        for single in (True, False):
            lean, dense = (
                self.compiled(f, devices, self_similarity=single).memory_analysis()
                for f in (form, "dense")
            )
            matrix = 4 * 2048**2 / devices
            self.assertGreaterEqual(dense.temp_size_in_bytes, matrix)
            self.assertLess(lean.temp_size_in_bytes, matrix / 4)

    @parameterized.parameters(True, False)
    def test_a_ring_passes_blocks_of_embeddings_and_gathers_nothing(self, single):
        operations = collectives(self.compiled("ring", 8, self_similarity=single).as_text())
        self.assertEqual({c.kind for c in operations}, {"collective-permute"})
        # A block, or a block and two numbers a row where its sums travel with it.
        self.assertLessEqual(max(c.elements for c in operations), 2048 // 8 * (DIM + 2))

    def test_a_constant_side_gets_no_gradient_computed(self):
        """The compiled program drops the loop's gradient of keys if it is not used."""
        x = jax.ShapeDtypeStruct((64, DIM), jnp.float32)
        loss = lambda x, y: jnp.mean(log_sum_exp(x, y, similarity="ring"))  # noqa: E731
        counts = []
        with on(8):
            for argnums in (0, (0, 1)):
                text = jax.jit(jax.grad(loss, argnums)).lower(x, x).compile().as_text()
                counts.append(sum(c.kind == "collective-permute" for c in collectives(text)))
        self.assertLess(*counts)

    def test_auto(self):
        side = int((DENSE_BYTES / 4) ** 0.5)
        cases = (
            (side, 1, "dense"),
            (side + 2, 1, "tiled"),
            (2 * side, 8, "dense"),  # half of it on each device
            (4 * side, 8, "ring"),
            (4 * side + 2, 8, "tiled"),
        )
        for count, devices, expected in cases:
            x = jax.ShapeDtypeStruct((count, DIM), jnp.float32)
            with on(devices):
                text = str(jax.make_jaxpr(log_sum_exp)(x))
            form = "ring" if "ppermute" in text else "tiled" if "scan" in text else "dense"
            self.assertEqual(form, expected, (count, devices))

    def test_errors(self):
        x = jnp.ones((12, 3))
        with self.assertRaisesRegex(ValueError, "expected 'auto', 'dense', 'tiled' or 'ring'"):
            log_sum_exp(x, similarity="sparse")
        with on(8), self.assertRaisesRegex(ValueError, "8 devices do not divide 12 rows"):
            sum_softplus(x, x, similarity="ring")


if __name__ == "__main__":
    absltest.main()
