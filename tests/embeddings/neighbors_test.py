"""Nearest neighbours of the rows of a file, compared with NumPy."""

import json
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import ArraySource
from ssl_jax.embeddings import formats, neighbors
from tests.embeddings.encoder_test import images

COUNT = 90


def features(dim=8):
    return np.random.default_rng(3).normal(size=(COUNT, dim)).astype(np.float32)


class NeighborsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def file(self, rows, end=".npz"):
        output = self.folder / f"e{end}"
        data = ArraySource("a set", images(len(rows), 4, 4, 3))
        index = np.array_split(np.arange(len(rows)), 4)
        pieces = lambda: iter([rows[i] for i in index])  # noqa: E731
        shape = rows.shape[1:]
        table = formats.Table(data, index, pieces, shape, {"shape": list(shape)})
        formats.of(output).write(output, table)
        return output

    def neighbours(self, output, k, mesh=None):
        path = neighbors.path_of(output)
        neighbors.write(output, path, k, mesh)
        with np.load(path) as content:
            return content["row"], content["cosine"], json.loads(str(content["about"]))

    @parameterized.product(end=tuple(formats.FORMATS), devices=(1, 8))
    def test_they_are_numpys(self, end, devices):
        rows = features()
        output = self.file(rows, end)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -np.inf)
        order = np.argsort(-cosines, 1)[:, :5]
        mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:devices])
        for size in (2**28, 4 * 8 * 37):  # also in chunks of 37 rows
            with mock.patch.object(neighbors, "CHUNK_BYTES", size):
                near, near_cosines, metadata = self.neighbours(output, 5, mesh)
            np.testing.assert_array_equal(near, order)
            expected = np.take_along_axis(cosines, order, 1)
            np.testing.assert_allclose(near_cosines, expected, rtol=1e-5, atol=1e-6)
            self.assertEqual((metadata["k"], metadata["of"]), (5, output.name))

    def test_no_row_is_its_own_neighbour_even_among_copies(self):
        rows = np.repeat(features()[:10], 9, axis=0)
        near, cosines, _ = self.neighbours(self.file(rows), 3)
        own = np.arange(COUNT)[:, None]
        self.assertFalse((near == own).any())
        np.testing.assert_array_equal(near // 9, np.repeat(own // 9, 3, 1))
        np.testing.assert_allclose(cosines, 1, rtol=1e-5)

    def test_invalid_requests(self):
        with self.assertRaisesRegex(UserError, "neighbors=90: expected fewer than the 90 rows"):
            self.neighbours(self.file(features()), COUNT)
        with self.assertRaisesRegex(UserError, "places"):
            self.neighbours(self.file(np.zeros((8, 2, 2, 3), np.float32)), 1)


class MappedTest(absltest.TestCase):
    def test_an_array_of_a_file(self):
        path = Path(self.create_tempdir().full_path) / "x.npz"
        arrays = {"a": np.arange(7, dtype=np.int64), "b": features()}
        pieces = {
            n: formats.Pieces(x.dtype, x.shape, np.array_split(x, 3)) for n, x in arrays.items()
        }
        formats.write_npz(path, pieces)
        for name, expected in arrays.items():
            mapped = formats.mapped(path, name)
            self.assertIsInstance(mapped, np.memmap)
            np.testing.assert_array_equal(mapped, expected)


if __name__ == "__main__":
    absltest.main()
