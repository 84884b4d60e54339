"""W-MSE: its pairs of views, collapse, and sizes that do not fit."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.losses.wmse import wmse
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives import wmse as method
from ssl_jax.objectives.base import Spec, View
from tests.objectives import harness, released

PIXELS = Net(lambda key: ({}, {}), lambda p, s, x, **_: (Features(pooled=x[:, 0, 0]), s), "pixels")


class WMSETest(parameterized.TestCase):
    def test_the_loss_is_the_mean_over_all_pairs_of_views(self):
        spec = Spec(16, 100, 0, steps_per_epoch=1, total_steps=3, channels=3)
        view = View(1, count=3)
        objective = method.make(PIXELS, spec, view=view, projector=(3,), size=8)
        objective.__dict__["networks"] = objective.backbone_and(projector=released.IDENTITY)
        draw = np.random.default_rng(0).normal(size=(16, 3, 1, 1, 3))
        views = jnp.asarray(draw, jnp.float32)
        params = {"backbone": {}, "projector": {}}
        args = params, {"stats": {}}, {"views": (views,)}, None, jnp.int32(0)
        x, y, z = views[:, :, 0, 0].swapaxes(0, 1)
        expected = np.mean([wmse(a, b, 8) for a, b in ((x, y), (x, z), (y, z))])
        np.testing.assert_allclose(objective.loss(*args)[0], expected, rtol=1e-5)

    @parameterized.parameters(
        ({"size": 5}, "objective.size: .* of 5 images must divide the batch of 16"),
        ({"size": 8}, "of 8 images .* more images than the embedding's 8 features"),
        ({"view": View(16, count=1)}, "objective.view.count: expected .* of at least 2, got 1"),
    )
    def test_bad_options(self, options, message):
        with self.assertRaisesRegex(UserError, message):
            dataclasses.replace(harness.experiment("wmse").objective, **options)
