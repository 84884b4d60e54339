"""QB-Heat: what it sees, what a copy is worth, errors."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.qb_heat import QBHeat
from tests.nets import weights as torch

SPEC = Spec(4, 100, 0, 10, 100)
PLACES = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])


def qb_heat(net=None, **options):
    net = net or vit(None, 2, 8, dim=8, depth=1, heads=2, cls_token=False, pool="avg")
    sizes = {"view": View(8, recipe="mae"), "dim": 6, "decoder_dim": 8, "decoder_depth": 1}
    return QBHeat(net, SPEC, **(sizes | options))


class QBHeatTest(parameterized.TestCase):
    def test_only_one_quadrant_is_seen(self):
        """Gradients to all other pixels are exactly 0, and a quarter of the pixels is visible."""
        made = qb_heat()
        nets = made.networks.bind(*made.init(jax.random.key(0)))
        images = torch.random_images(4, 8, 8, 3)
        visible = made.visible(PLACES)
        np.testing.assert_array_equal(visible.mean((1, 2, 3)), 0.25)
        for image, place, shown in zip(images, PLACES, visible, strict=True):
            cut = made.quadrant(image[None], place[None])[0]
            np.testing.assert_array_equal(cut, image[shown[..., 0] == 1].reshape(4, 4, 3))

        def total(images):
            z = made.encode(nets, made.quadrant(images, PLACES))
            return jnp.sum(jnp.square(made.predict(nets, z, PLACES)))

        slope = np.abs(torch.jit(jax.grad(total))(images))
        np.testing.assert_array_equal(slope * (1 - visible), 0)
        self.assertTrue((slope.max((1, 2, 3)) > 0).all())

    def test_with_zero_matrices_the_prediction_is_a_copy(self):
        """Features are then equal in all quadrants, so a decoder of single places copies."""
        made = qb_heat(decoder_depth=0)
        params, extra = made.init(jax.random.key(0))
        self.assertEqual(count(params["heat"]), 2 * made.dim**2)
        images = torch.random_images(4, 8, 8, 3)

        def run(params):
            nets = made.networks.bind(params, extra["stats"])
            z = made.encode(nets, made.quadrant(images, PLACES))
            batch = {"views": (images[:, None],), "index": jnp.arange(4)}
            loss, aux = made.loss(params, extra, batch, jax.random.key(1), jnp.int32(0))
            return made.predict(nets, z, PLACES), loss, aux.metrics

        prediction, loss, metrics = torch.jit(run)(params)
        np.testing.assert_allclose(
            prediction, np.tile(prediction[:, :4, :4], (1, 2, 2, 1)), atol=1e-6
        )
        self.assertEqual(metrics["commutator"], 0)
        self.assertGreater(loss, 0)

    def test_every_quadrant_is_drawn_equally_often(self):
        row, column = qb_heat().places(jax.random.split(jax.random.key(0), 10_000)).T
        share = np.bincount(2 * row + column, minlength=4) / 10_000
        np.testing.assert_allclose(share, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 10_000))

    def test_the_error_of_a_copy(self):
        made = qb_heat()
        images = torch.random_images(4, 8, 8, 3)
        errors = []
        for image, (row, column) in zip(images, PLACES, strict=True):
            tiles = image.reshape(2, 4, 2, 4, 3).transpose(0, 2, 1, 3, 4).reshape(4, 4, 4, 3)
            others = np.delete(tiles, 2 * row + column, axis=0)
            errors.append(np.mean((others - tiles[2 * row + column]) ** 2))

        class Placed(QBHeat):
            def places(self, keys):
                return jnp.asarray(PLACES)

        placed = Placed(made.backbone, SPEC, view=made.view, dim=6, decoder_dim=8, decoder_depth=0)
        params, extra = placed.init(jax.random.key(0))
        batch = {"views": (images[:, None],), "index": jnp.arange(4)}
        _, aux = torch.jit(lambda p: placed.loss(p, extra, batch, jax.random.key(0), 0))(params)
        np.testing.assert_allclose(aux.metrics["copy_error"], np.mean(errors), rtol=1e-6)

    @parameterized.parameters(
        ({"view": View(7)}, "view.size: expected an even side, got 7"),
        ({"view": View((8, 16))}, "view.size: expected a square view, got 8 x 16"),
        ({"view": View(40), "net": resnet_small(8)}, "a quadrant of 20 px is not a multiple"),
        ({"view": View(12), "net": vit(None, 4, 12, dim=8, depth=1, heads=2)}, "6 x 6"),
    )
    def test_user_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            _ = qb_heat(**options).networks
        self.assertNotIn("\n", str(caught.exception))


if __name__ == "__main__":
    absltest.main()
