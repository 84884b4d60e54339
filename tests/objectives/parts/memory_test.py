"""Arrays as long as the data set: padding, updates, and how they travel between devices."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.cost.hlo import collectives
from ssl_jax.objectives.parts import memory
from tests.losses.forms import load


def implied(probability, alias):
    """Probability of each row under the released alias table: a uniform row is taken with
    `probability`, else its alias.
    """
    rest = np.bincount(alias, 1 - probability, minlength=len(alias))
    return (probability + rest) / len(alias)


def frequencies(draws, count):
    return np.bincount(np.asarray(draws).ravel(), minlength=count) / draws.size


class DrawsTest(absltest.TestCase):
    """The released code draws noise by the alias method. Its tables are one of many of a
    distribution, so distributions are compared, not draws.
    """

    def test_candidates_have_the_distribution_of_the_released_table(self):
        data = load("alias_method", wide=False)
        expected = implied(data["out_uniform_prob"], data["out_uniform_alias"])
        keys, count = jax.random.split(jax.random.key(0), 1000), len(expected)
        index = jnp.arange(1000) % count
        rows = memory.candidates(keys, index, 200, count)
        np.testing.assert_array_equal(rows[:, 0], index)
        np.testing.assert_allclose(frequencies(rows[:, 1:], count), expected, atol=0.004)

    def test_categorical_draws_have_that_of_a_table_with_weights(self):
        data = load("alias_method", wide=False)
        expected = implied(data["out_prob"], data["out_alias"])
        np.testing.assert_allclose(data["out_implied_p"], expected, atol=1e-6)
        logits = jnp.log(data["in_weights"])
        np.testing.assert_allclose(jax.nn.softmax(logits), expected, atol=1e-6)
        draws = jax.random.categorical(jax.random.key(0), logits, shape=(200_000,))
        np.testing.assert_allclose(frequencies(draws, len(expected)), expected, atol=0.005)


class MemoryTest(parameterized.TestCase):
    @parameterized.parameters((1, 1024), (1024, 1024), (1437, 2048), (1_281_167, 1_282_048))
    def test_rows_are_padded(self, count, rows):
        self.assertEqual(sharding.padded_rows(count), rows)

    def test_fresh_rows_are_of_norm_one_in_the_mean(self):
        bank = memory.uniform(jax.random.key(0), 1500, 128)
        self.assertEqual((bank.shape, bank.dtype), ((2048, 128), jnp.float32))
        norms = np.linalg.norm(bank, axis=1)
        np.testing.assert_allclose(norms.mean(), 1, atol=0.01)
        self.assertEqual(int(memory.present(1500).sum()), 1500)

    @parameterized.parameters(0.0, 0.5, 0.9)
    def test_average(self, momentum):
        draw = np.random.default_rng(0)
        bank = draw.normal(size=(1024, 6)).astype(np.float32)
        rows, index = draw.normal(size=(3, 6)).astype(np.float32), np.array([900, 3, 17])
        after = np.asarray(memory.average(jnp.asarray(bank), index, rows, momentum))
        expected = momentum * bank[index] + (1 - momentum) * rows
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(after[index], expected, rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(after[index], axis=1), 1, rtol=1e-6)
        others = np.setdiff1d(np.arange(1024), index)
        np.testing.assert_array_equal(after[others], bank[others])

    def test_momentum_1_keeps_unit_rows(self):
        bank = jnp.asarray(np.eye(4, dtype=np.float32)[np.arange(1024) % 4])
        after = memory.average(bank, np.arange(5), jnp.ones((5, 4)), 1.0)
        np.testing.assert_array_equal(after, bank)

    def test_first_labels_are_balanced_and_drawn(self):
        labels = np.asarray(memory.balanced_labels(jax.random.key(0), 2000, 10))
        counts = np.bincount(labels, minlength=10)
        self.assertLessEqual(counts.max() - counts.min(), 1)
        self.assertGreater(np.mean(labels != np.arange(2048) % 10), 0.8)

    def test_too_many_clusters(self):
        with self.assertRaisesRegex(UserError, "50 clusters of 49 examples"):
            memory.check_clusters("sela", 50, 49)

    def test_reading_and_writing_moves_a_batch_not_the_memory(self):
        mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:8])
        rows = sharding.batch_sharding(mesh)

        def step(bank, index, new):
            return bank[index], memory.average(bank, index, new, 0.5)

        like = jax.ShapeDtypeStruct
        compiled = (
            jax.jit(step, in_shardings=rows, out_shardings=rows)
            .lower(
                like((8192, 16), jnp.float32), like((32,), jnp.int32), like((32, 16), jnp.float32)
            )
            .compile()
        )
        sent = collectives(compiled.as_text())
        self.assertNotEmpty(sent)
        self.assertLess(max(c.elements for c in sent), 3 * 32 * 16)


if __name__ == "__main__":
    absltest.main()
