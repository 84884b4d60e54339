"""DPT: its shapes, a residual unit and a readout by hand, and what it refuses."""

import functools

import jax
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.nets import dpt
from ssl_jax.nets.dpt import Reassemble, ResidualUnit

EQUAL = (8, 8, 8, 8)


def shape(sides, widths, **options):
    """Return the shape of the output for maps of these sides."""
    net = dpt.dpt(widths, 4, 3, **options)
    maps = [
        jax.ShapeDtypeStruct((2, *side, width), np.float32)
        for side, width in zip(sides, widths, strict=True)
    ]

    def forward(*maps):
        params, stats = net.init(jax.random.key(0))
        assert not stats
        return net.apply(params, {}, *maps, train=True)[0]

    return jax.eval_shape(forward, *maps).shape


def convolved(x, kernel):
    """Convolve a map (h, w, C) with zeros around it."""
    padded = np.pad(x, [(1, 1), (1, 1), (0, 0)])
    h, w, _ = x.shape
    return sum(padded[i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))


class DPTTest(parameterized.TestCase):
    @parameterized.parameters((4, 4), (3, 5), (1, 1))
    def test_maps_of_one_size_give_16_times_their_sides(self, *side):
        self.assertEqual(
            shape([side] * 4, EQUAL, reassemble=True), (2, 16 * side[0], 16 * side[1], 3)
        )

    def test_a_class_token_changes_no_shape(self):
        token = shape([(4, 4)] * 4, EQUAL, reassemble=True, class_token=True)
        self.assertEqual(token, (2, 64, 64, 3))

    @parameterized.parameters(
        ([(8, 8), (4, 4), (2, 2), (1, 1)],), ([(8, 12), (8, 12), (4, 6), (4, 6)],)
    )
    def test_a_pyramid_gives_4_times_its_largest_sides(self, sides):
        out = shape(sides, (3, 4, 5, 6), reassemble=False)
        self.assertEqual(out, (2, 4 * sides[0][0], 4 * sides[0][1], 3))

    @parameterized.parameters((0, 4, 1), (1, 2, 2), (2, 1, 4), (3, 0.5, 8))
    def test_reassembled_sides_and_widths(self, level, factor, width):
        make = lambda x: Reassemble(level, 8, False, nnx.Rngs(0))(x)  # noqa: E731
        out = jax.eval_shape(make, jax.ShapeDtypeStruct((1, 4, 6, 8), np.float32))
        self.assertEqual(out.shape, (1, int(4 * factor), int(6 * factor), width))

    def test_a_residual_unit_by_hand(self):
        unit = ResidualUnit(3, nnx.Rngs(0))
        x = np.random.default_rng(0).normal(size=(1, 4, 5, 3)).astype(np.float32)
        hidden = convolved(np.maximum(x[0], 0), np.asarray(unit.conv1.kernel[...]))
        expected = x[0] + convolved(np.maximum(hidden, 0), np.asarray(unit.conv2.kernel[...]))
        np.testing.assert_allclose(unit(x)[0], expected, rtol=1e-4, atol=1e-5)

    def test_the_readout_projects_a_position_with_the_class_token(self):
        block = Reassemble(2, 4, True, nnx.Rngs(0))
        x = np.random.default_rng(0).normal(size=(1, 2, 2, 8)).astype(np.float32)
        readout, project = (
            (np.asarray(layer.kernel[...])[0, 0], np.asarray(layer.bias[...]))
            for layer in (block.readout, block.project)
        )
        hidden = jax.nn.gelu(x @ readout[0] + readout[1], approximate=False)
        np.testing.assert_allclose(block(x), hidden @ project[0] + project[1], atol=1e-5)

    def test_refused(self):
        make = functools.partial(dpt.dpt, channels=4, outputs=1)
        with self.assertRaisesRegex(UserError, "the maps of 4 stages, got 3"):
            make((8, 8, 8), reassemble=True)
        with self.assertRaisesRegex(UserError, "maps of one size, not to a pyramid"):
            make(EQUAL, reassemble=False, class_token=True)


if __name__ == "__main__":
    absltest.main()
