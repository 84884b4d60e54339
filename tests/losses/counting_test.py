"""The paper's form of the loss of counting, against its closed form and by hand."""

import jax
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.counting import counting
from tests.nets.weights import GOLDEN, assert_close


def parted(phi):
    return phi[0], np.moveaxis(np.asarray(phi[2:]), 0, 1), phi[1]


class CountingTest(parameterized.TestCase):
    @parameterized.parameters(10, 2)
    def test_golden(self, margin):
        with np.load(GOLDEN / "learning_to_count.npz") as file:
            data = dict(file)
        phi = data["in_phi"]

        def loss(phi):
            return counting(phi[0], phi[2:].swapaxes(0, 1), phi[1], float(margin))

        value, grad = jax.value_and_grad(loss)(phi)
        assert_close(value, data[f"out_paper_loss_M{margin}"], 1e-5)
        assert_close(grad, data[f"grad_paper_M{margin}_phi"], 1e-5)
        whole, tiles, other = parted(phi)
        np.testing.assert_allclose(
            ((whole - tiles.sum(1)) ** 2).sum(1), data["out_paper_pair"], rtol=1e-5
        )
        same = counting(tiles.sum(1), tiles, other, 1e-9)
        np.testing.assert_allclose(same, 0, atol=1e-4)

    def test_by_hand(self):
        tiles = np.array([[[1, 0], [0, 0], [1, 0], [0, 1.0]]])
        whole, other = np.array([[2, 0.0]]), np.array([[5, 1.0]])
        np.testing.assert_allclose(counting(whole, tiles, other), 2, rtol=1e-6)

    def test_counting_nothing_costs_the_margin(self):
        zero = np.zeros((3, 5), np.float32)
        tiles = np.zeros((3, 4, 5), np.float32)
        self.assertEqual(counting(zero, tiles, zero), 10)
        self.assertEqual(counting(zero, tiles, zero + 2), 0)


if __name__ == "__main__":
    absltest.main()
