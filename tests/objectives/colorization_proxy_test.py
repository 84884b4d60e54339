"""Colorization as a proxy task against the released layers, from sRGB to the gradient; errors."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.augment.color import from_rgb
from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.colorization_proxy import ColorizationProxy, make
from ssl_jax.objectives.parts import color_space
from tests.nets.weights import GOLDEN, assert_close, nhwc

SPEC = Spec(4, 100, 0, 10, 100)
VIEW = View(16, recipe="hue_chroma")
SMALL = {"view": VIEW, "positions": 5, "border": 2, "hidden": 8, "bins": 4, "window": 3}


class Released(ColorizationProxy):
    """The positions of a fixture; parameters that are the logits of each."""

    at = np.zeros((1, 1, 2), np.int32)

    def draw(self, key):
        return self.at.reshape(-1, 2)

    def predict(self, nets, images, positions, keys=None):
        params = nets._params
        return (params[name].reshape(*positions.shape[:2], -1) for name in ("hue", "chroma"))


class ColorizationProxyTest(absltest.TestCase):
    def made(self, **hyper):
        return make(resnet_small(4), SPEC, **(SMALL | hyper))

    def test_from_rgb_to_the_gradient(self):
        with np.load(GOLDEN / "larsson_autocolorize.npz") as file:
            data = dict(file)
        rgb, at = nhwc(data["in_rgb"]), data["in_centroids"].astype(np.int32)
        view = replace(VIEW, size=rgb.shape[1:3])
        images = color_space.normalize(view, from_rgb("hue_chroma", jnp.asarray(rgb)))
        assert_close(images[..., :1], nhwc(data["out_gray_input"]), 1e-4)  # its mean is .33333
        made = Released(resnet_small(4), SPEC, view=view, positions=at.shape[1], border=0)
        params = {"hue": data["in_logits_hue"], "chroma": data["in_logits_chroma"]}

        def loss(params, i):
            # Each image on its own, as the fixture has other positions in each.
            object.__setattr__(made, "at", at[i : i + 1])
            own = {k: v.reshape(len(at), -1, v.shape[-1])[i] for k, v in params.items()}
            batch = {"views": (images[i : i + 1, None],), "index": np.zeros(1, np.int32)}
            return made.loss(own, {"stats": {}}, batch, jax.random.key(0), jnp.int32(0))[0]

        total = lambda p: sum(loss(p, i) for i in range(len(at))) / len(at)  # noqa: E731
        value, grads = jax.value_and_grad(total)(params)
        assert_close(value, data["out_loss_total"], 1e-5)
        assert_close(grads["hue"], data["grad_logits_hue"], 1e-5)
        # Its grey is 0.33333 (r + g + b): up to 1e-5 darker, which is 3e-5 of the weight.
        assert_close(grads["chroma"], data["grad_logits_chroma"], 3e-5)

    def test_colours_do_not_reach_the_network(self):
        made = self.made()
        params, stats = made.networks.init(jax.random.key(0))
        nets = made.networks.bind(params, stats, train=False)
        images = np.random.default_rng(0).random((2, 16, 16, 3)).astype(np.float32)
        other = images.copy()
        other[..., 1:] = 1 - other[..., 1:]
        at = jnp.tile(jnp.arange(5)[:, None], (2, 1, 2))
        for one, two in zip(
            made.predict(nets, images, at), made.predict(nets, other, at), strict=True
        ):
            self.assertEqual(one.shape, (2, 5, 4))
            self.assertGreater(jnp.ptp(one), 0)
            np.testing.assert_array_equal(one, two)

    def test_positions_keep_the_border(self):
        made = self.made(positions=500, border=5, view=replace(VIEW, size=(16, 12)))
        at = made.draw(jax.random.key(0))
        np.testing.assert_array_equal(at.min(0), [5, 5])
        np.testing.assert_array_equal(at.max(0), [10, 6])

    def test_a_grey_image_trains_no_hue(self):
        made = self.made()
        params, extra = made.init(jax.random.key(0))
        grey = jnp.full((4, 1, 16, 16, 3), 0.4).at[..., 1:].set(0)
        batch = {"views": (grey,), "index": np.arange(4, dtype=np.int32)}
        run = lambda p: made.loss(p, extra, batch, jax.random.key(1), jnp.int32(0))  # noqa: E731
        (_, aux), grads = jax.value_and_grad(run, has_aux=True)(params)
        self.assertEqual(aux.metrics["hue"], 0)
        hue, chroma = jnp.split(grads["classifier"]["linear1"]["bias"], 2)
        self.assertEqual(jnp.abs(hue).max(), 0)
        self.assertGreater(jnp.abs(chroma).max(), 0)

    def test_user_errors(self):
        with self.assertRaisesRegex(UserError, "space is 'hue_chroma', and that of 'lab' is 'lab'"):
            self.made(view=View(16, recipe="lab"))
        with self.assertRaisesRegex(UserError, "window: 4 px have no middle"):
            self.made(window=4)
        with self.assertRaisesRegex(UserError, "border: 8 px .* leave no positions .* at most 7"):
            self.made(border=8)
        with self.assertRaisesRegex(UserError, "view.count: expected 1, got 2"):
            self.made(view=replace(VIEW, count=2))


if __name__ == "__main__":
    absltest.main()
