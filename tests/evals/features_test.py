"""Collected features are equal in memory and in a file."""

import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.evals import features, neighbours
from ssl_jax.evals.protocols import knn


def batches(count=23, size=8):
    """Yield images i filled with i, the last batch padded."""
    for start in range(0, count, size):
        index = np.arange(start, start + size)
        images = np.broadcast_to(index.astype(np.uint8)[:, None, None, None], (size, 2, 2, 1))
        yield images, np.where(index < count, index, -1).astype(np.int32)


def read(images, _):
    mean = jnp.mean(images.astype(jnp.float32), (1, 2))
    return {"wide": jnp.tile(mean, 5), "half": mean.astype(jnp.bfloat16)}


class CollectTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:8])

    # All in memory; the wide ones in a file from the second batch on; all in files.
    @parameterized.parameters(10**6, 500, 0)
    def test_rows_are_the_same_wherever_they_lie(self, most):
        with mock.patch.object(features, "MEMORY", most):
            outputs, index = features.collect(jax.jit(read), batches(), self.mesh)
        np.testing.assert_array_equal(index, np.arange(23))
        np.testing.assert_array_equal(outputs["wide"], np.tile(np.arange(23.0)[:, None], 5))
        np.testing.assert_array_equal(outputs["half"][:, 0], np.arange(23, dtype="f4"))
        self.assertEqual(outputs["half"].dtype, jnp.bfloat16)
        self.assertEqual(isinstance(outputs["wide"], np.memmap), most < 10**6)
        self.assertEqual(isinstance(outputs["half"], np.memmap), most == 0)

    def test_neighbours_of_a_set_that_lies_in_a_file(self):
        rng = np.random.default_rng(0)
        rows, labels = rng.normal(size=(300, 6)).astype(np.float32), rng.integers(0, 3, 300)
        column = features.Column(1000)
        for part in np.array_split(rows, 7):
            column.append(part)
        mapped = column.whole()
        self.assertIsInstance(mapped, np.memmap)
        whole = knn.knn_classes(rows, labels, rows[:20], 3, [5])
        with mock.patch.multiple(neighbours, TRAIN_ROWS=64, TEST_ROWS=7):
            classes = knn.knn_classes(mapped, labels, mapped[:20], 3, [5])
        np.testing.assert_array_equal(classes[5, 0.07], whole[5, 0.07])

    def test_labelled_rows_of_a_file_stay_in_a_file(self):
        column, rows = features.Column(0), np.arange(40.0).reshape(20, 2)
        column.append(rows)
        mask = np.arange(20) % 3 > 0
        with mock.patch.multiple(features, MEMORY=0, SELECTED=6):
            selected = features.select(column.whole(), mask)
        self.assertIsInstance(selected, np.memmap)
        np.testing.assert_array_equal(selected, rows[mask])
        self.assertNotIsInstance(features.select(rows, mask), np.memmap)

    def test_no_room(self):
        column = features.Column(0)
        full = OSError(28, "No space left on device")
        with (
            mock.patch.object(tempfile, "TemporaryFile", side_effect=full),
            self.assertRaisesRegex(UserError, "No space left on device; set TMPDIR"),
        ):
            column.append(np.zeros((2, 2)))


if __name__ == "__main__":
    absltest.main()
