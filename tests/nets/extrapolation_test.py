"""The closed forms of dz/dx = A z, dz/dy = B z, on quadrants of a map."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from ssl_jax.core.tree import count
from ssl_jax.nets.extrapolation import commutator, extrapolate, linear_extrapolator

RNG = np.random.default_rng(0)
PLACES = list(itertools.product((0, 1), (0, 1)))
run = jax.jit(extrapolate)


def exponential(matrix):
    """e^M of a diagonalisable matrix, float64."""
    values, vectors = np.linalg.eig(matrix)
    return (vectors * np.exp(values)) @ np.linalg.inv(vectors)


def commuting(dim):
    """A and B with the same eigenvectors."""
    vectors = np.eye(dim) + 0.2 * RNG.normal(size=(dim, dim))
    make = lambda: vectors @ np.diag(RNG.uniform(-1, 1, dim)) @ np.linalg.inv(vectors)  # noqa: E731
    return make(), make()


def field(a, b, rows, columns):
    """z(x, y) = e^(xA + yB) z(0, 0) at rows y and columns x, in units of a quadrant."""
    start = RNG.normal(size=len(a))
    return np.stack([[exponential(x * a + y * b) @ start for x in columns] for y in rows])


def quadrants(whole):
    """The four quadrants (4, h, w, C) of one map, in the order of PLACES."""
    h, w = (n // 2 for n in whole.shape[:2])
    return np.stack([whole[r * h : (r + 1) * h, c * w : (c + 1) * w] for r, c in PLACES])


def copies(z):
    return np.tile(z, (1, 2, 2, 1))


class ExtrapolationTest(parameterized.TestCase):
    @parameterized.parameters((False, 1e-5), (True, 1e-12))
    def test_each_quadrant_recovers_the_whole_map(self, wide, tolerance):
        a, b = commuting(5)
        whole = field(a, b, np.arange(8) / 4, np.arange(4) / 2)  # 8 x 4 places
        with jax.enable_x64(wide):
            dtype = jnp.float64 if wide else jnp.float32
            args = (jnp.asarray(x, dtype) for x in (quadrants(whole), a, b))
            z, across, down = args
            made = run(z, jnp.asarray(PLACES), across, down)
        scale = np.abs(whole).max()
        np.testing.assert_allclose(made, np.stack([whole] * 4), atol=tolerance * scale)

    def test_orders_of_the_steps(self):
        """For A and B that do not commute the diagonal is the mean of both orders."""
        a, b = (jnp.array(m, jnp.float32) for m in ([[0, 1], [0, 0]], [[0, 0], [1, 0]]))
        z = jnp.eye(2).reshape(2, 1, 1, 2)  # columns of the product, one per example
        made = run(z, jnp.zeros((2, 2), jnp.int32), a, b)
        np.testing.assert_allclose(made[:, 0, 1].T, [[1, 1], [0, 1]], atol=1e-6)
        np.testing.assert_allclose(made[:, 1, 0].T, [[1, 0], [1, 1]], atol=1e-6)
        both = (np.array([[2, 1], [1, 1]]) + np.array([[1, 1], [1, 2]])) / 2
        np.testing.assert_allclose(made[:, 1, 1].T, both, atol=1e-6)
        np.testing.assert_allclose(commutator(a, b), math.sqrt(2), rtol=1e-6)
        a, b = commuting(4)
        self.assertLess(commutator(jnp.asarray(a), jnp.asarray(b)), 1e-5)
        self.assertEqual(commutator(jnp.zeros((2, 2)), jnp.zeros((2, 2))), 0)

    def test_nilpotent_matrix_has_a_finite_series(self):
        """A^2 = 0: k steps of Euler's method are exact."""
        a = np.zeros((4, 4))
        a[0, 2], a[1, 3] = 0.7, -2.0
        z = RNG.normal(size=(4, 1, 1, 4))
        made = run(z, jnp.asarray(PLACES), a, 0 * a)
        for (_, column), whole, own in zip(PLACES, made, z[:, 0, 0], strict=True):
            step = np.linalg.matrix_power(np.eye(4) + (1 - 2 * column) * a / 3, 3)
            np.testing.assert_allclose(whole[0, 1 - column], step @ own, atol=1e-5)

    def test_zero_matrices_copy_the_quadrant(self):
        z, zero = RNG.normal(size=(4, 2, 3, 4)).astype(np.float32), np.zeros((4, 4))
        np.testing.assert_array_equal(run(z, jnp.asarray(PLACES), zero, zero), copies(z))

    def test_rotations(self):
        turn = np.array([[0.0, -1.0], [1.0, 0.0]])
        z = RNG.normal(size=(4, 2, 2, 2))
        with jax.enable_x64(True):
            places = jnp.asarray(PLACES)
            made = run(z, places, 0.7 * turn, -0.3 * turn)
            whole_turn = run(z, places, 2 * np.pi * turn, 2 * np.pi * turn)
        norm = lambda x: np.linalg.norm(x, axis=-1)  # noqa: E731
        np.testing.assert_allclose(norm(made), norm(copies(z)), rtol=1e-12)
        self.assertGreater(np.abs(made - copies(z)).max(), 0.1)
        np.testing.assert_allclose(whole_turn, copies(z), atol=1e-11)

    def test_linear_in_z(self):
        a, b = RNG.normal(size=(2, 3, 3))
        places = jnp.asarray(PLACES)
        x, y = RNG.normal(size=(2, 4, 2, 2, 3))
        want = 2 * run(x, places, a, b) - 3 * run(y, places, a, b)
        np.testing.assert_allclose(run(2 * x - 3 * y, places, a, b), want, atol=2e-4)
        np.testing.assert_array_equal(run(0 * x, places, a, b), 0)

    def test_second_order_equation(self):
        """z_xx = A^2 B^-2 z_yy: the error of central differences is quadratic in the step h."""
        a, b = (m + 2 * np.eye(3) for m in commuting(3))  # B is invertible
        ratio = a @ a @ np.linalg.inv(b @ b)
        z = np.tile(RNG.normal(size=3), (4, 1, 1, 1))

        def error(h):
            with jax.enable_x64(True):
                made = np.asarray(run(z, jnp.asarray(PLACES), h * a, h * b))
            own = z[0, 0, 0]
            xx = made[0, 0, 1] - 2 * own + made[1, 0, 0]  # right of the first, left of the second
            yy = made[0, 1, 0] - 2 * own + made[2, 0, 0]
            return np.linalg.norm(xx - ratio @ yy) / h**2

        self.assertLess(error(0.01), 0.01 * np.linalg.norm(a @ a @ z[0, 0, 0]))
        np.testing.assert_allclose(error(0.02) / error(0.01), 4, rtol=0.01)

    def test_parameters(self):
        params, _ = linear_extrapolator(6).init(jax.random.key(0))
        self.assertEqual(count(params), 2 * 6 * 6)

    def test_training_reaches_least_squares(self):
        """With fixed features, the best step is the least-squares map, and training finds it."""
        a = 0.3 * RNG.normal(size=(3, 3))
        z = RNG.normal(size=(64, 1, 1, 3))
        z[:, 0, 0, 0] *= 2
        target = z[:, 0, 0] @ exponential(a).real.T + 0.1 * RNG.normal(size=(64, 3))
        best = np.linalg.lstsq(z[:, 0, 0], target)[0]
        optimum = np.mean(np.square(z[:, 0, 0] @ best - target))
        places, optimizer = jnp.zeros((64, 2), jnp.int32), optax.adam(0.05)

        def loss(matrix):
            return jnp.mean((extrapolate(z, places, matrix, 0 * matrix)[:, 0, 1] - target) ** 2)

        def update(state, _):
            matrix, moments = state
            value, slope = jax.value_and_grad(loss)(matrix)
            change, moments = optimizer.update(slope, moments)
            return (matrix + change, moments), value

        start = jnp.zeros((3, 3))
        train = jax.jit(lambda x: jax.lax.scan(update, (x, optimizer.init(x)), length=300))
        losses = train(start)[1]
        self.assertGreater(losses[0], 1.5 * optimum)
        self.assertGreaterEqual(losses.min(), optimum * (1 - 1e-5))
        self.assertLess(losses[-1], optimum * 1.001)


if __name__ == "__main__":
    absltest.main()
