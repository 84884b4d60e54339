"""LeJEPA's whole loss against its release's minimal example, and its crops."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.losses import sigreg
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives import lejepa
from ssl_jax.objectives.base import Spec, View
from tests.losses.forms import load
from tests.objectives import released

PIXELS = Net(lambda key: ({}, {}), lambda p, s, x, **_: (Features(pooled=x[:, 0, 0]), s), "pixels")


def made(width, batch, **options):
    """The method on embeddings: the images are embeddings, and all networks the identity."""
    spec = Spec(batch, 100, 0, 1, 3, channels=width)
    method = lejepa.make(PIXELS, spec, **options)
    method.__dict__["networks"] = method.backbone_and(projector=released.IDENTITY)
    return method


def loss(method, *views):
    params, extra = method.init(jax.random.key(0))
    batch = {"views": views}
    return method.loss(params, extra, batch, jax.random.key(1), jnp.int32(0))


class LeJEPATest(parameterized.TestCase):
    @parameterized.parameters((True, 1e-6), (False, 1e-5))
    def test_golden(self, wide, rtol):
        """The release stores the quadrature in float32 also in its float64 runs."""
        data = load("lejepa_sigreg", wide)
        with jax.enable_x64(wide):
            proj = jnp.asarray(data["in_proj"])
            views, rows, width = proj.shape
            method = made(
                width,
                rows,
                views=(View(1, views),),
                large=views,
                weight=released.hyper(data, "lambda"),
                points=int(data["hp_n_points"]),
                limit=float(data["hp_t_max"]),
            )
            directions = l2_normalize(jnp.asarray(data["in_A256_raw"]), axis=0)

            def run(proj):
                return loss(method, jnp.swapaxes(proj, 0, 1)[:, :, None, None])

            with mock.patch.object(sigreg, "_directions", lambda *_: directions):
                (value, aux), slope = jax.jit(jax.value_and_grad(run, has_aux=True))(proj)
        np.testing.assert_allclose(value, data["out_loss"], rtol=rtol)
        np.testing.assert_allclose(aux.metrics["sigreg"], data["out_sigreg"], rtol=rtol)
        np.testing.assert_allclose(aux.metrics["prediction_loss"], data["out_inv"], rtol=rtol)
        expected = data["grad_proj"]
        np.testing.assert_allclose(slope, expected, rtol=0, atol=10 * rtol * np.abs(expected).max())

    def test_the_centre_is_that_of_the_large_crops(self):
        method = made(4, 6, views=(View(1, 2), View(1, 3)), directions=8)
        large, small = jnp.ones((6, 2, 1, 1, 4)), jnp.full((6, 3, 1, 1, 4), 3.0)
        prediction = loss(method, large, small)[1].metrics["prediction_loss"]
        np.testing.assert_allclose(prediction, 3 / 5 * 4, rtol=1e-6)
        self.assertEqual(loss(method, large, small / 3)[1].metrics["prediction_loss"], 0)

    def test_large_crops_fill_groups(self):
        with self.assertRaisesRegex(UserError, "must fill whole groups"):
            made(4, 6, views=(View(1, 3),), large=2)


if __name__ == "__main__":
    absltest.main()
