import numpy as np
from absl.testing import absltest

from ssl_jax.evals.protocols.layers import cka


class LayersTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        draw = np.random.default_rng(0)
        self.x, self.y = draw.normal(size=(50, 6)), draw.normal(size=(50, 4))
        self.turn = np.linalg.qr(draw.normal(size=(6, 6)))[0]

    def test_by_the_kernels(self):
        """HSIC of the centred linear kernels, as the paper defines it."""
        centre = np.eye(50) - 1 / 50
        k, l = (centre @ (a @ a.T) @ centre for a in (self.x, self.y))  # noqa: E741
        expected = np.sum(k * l) / np.sqrt(np.sum(k * k) * np.sum(l * l))
        self.assertAlmostEqual(float(cka(self.x, self.y)), expected, places=6)

    def test_rotation_scale_and_shift_do_not_matter(self):
        self.assertAlmostEqual(float(cka(self.x, 3 * self.x @ self.turn + 1)), 1, places=5)

    def test_a_constant_layer_has_no_similarity(self):
        self.assertEqual(float(cka(self.x, np.ones((50, 3)))), 0)


if __name__ == "__main__":
    absltest.main()
