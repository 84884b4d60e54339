"""MP3 against a third-party implementation's blocks, and its equivariance to permutations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.mp3 import MP3
from tests.losses.forms import load

SPEC = Spec(4, 100, 0, 10, 100)
RNG = np.random.default_rng(0)


def mp3(**options):
    view = options.pop("view", View(16, recipe="mae"))
    sizes = {"dim": 16, "depth": 2, "heads": 2}
    none = {"position": "none", "cls_token": False, "pool": "avg"}
    return MP3(vit(None, 4, 16, **(sizes | none | options)), SPEC, view=view, mask_ratio=0.5)


def stacked(data, name):
    """A parameter of all blocks, (depth, ...), and its gradient's layout."""
    depth = len([k for k in data if k.startswith("in_sd.blocks.") and k.endswith("norm1.bias")])
    arrays = [data[f"in_sd.blocks.{i}.{name}"] for i in range(depth)]
    return jnp.stack([jnp.asarray(x.T if x.ndim == 2 else x) for x in arrays])


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_loss_and_gradients(self, wide):
        with jax.enable_x64(wide):
            self.check(load("mp3_unofficial", wide), wide)

    def check(self, data, wide):
        dtype = np.float64 if wide else np.float32
        data = {k: v.astype(dtype) if k.startswith("in_sd") else v for k, v in data.items()}
        tokens, context = data["in_tokens"].astype(dtype), data["in_context_idx"].astype(np.int32)
        batch, count, dim = tokens.shape
        side = math.isqrt(count)

        def layer(name, kernel="kernel"):
            weight, bias = (stacked(data, f"{name}.{part}") for part in ("weight", "bias"))
            return {kernel: weight, "bias": bias}

        blocks = {
            "norm1": layer("norm1", "scale"),
            "attn": {"qkv": layer("attn.qkv"), "proj": layer("attn.proj")},
            "norm2": layer("norm2", "scale"),
            "mlp": {"fc1": layer("mlp.fc1"), "fc2": layer("mlp.fc2")},
        }
        net = vit(
            None,
            1,
            side,
            channels=dim,
            dim=dim,
            depth=blocks["norm1"]["bias"].shape[0],
            heads=int(data["hp_heads"]),
            mlp_ratio=blocks["mlp"]["fc1"]["bias"].shape[1] / dim,
            position="none",
        )
        sd = {k.removeprefix("in_sd."): jnp.asarray(v) for k, v in data.items()}
        params = {
            "backbone": {
                "blocks": blocks,
                "cls_token": sd["cls_token"],
                "norm": {"scale": sd["norm.weight"], "bias": sd["norm.bias"]},
                # Pixels are the fixture's tokens.
                "patch_embed": {
                    "kernel": jnp.eye(dim, dtype=dtype)[None, None],
                    "bias": jnp.zeros(dim, dtype),
                },
            },
            "place": {"linear1": {"kernel": sd["head.weight"].T, "bias": sd["head.bias"]}},
        }
        visible = np.zeros((batch, count + 1), bool)
        np.put_along_axis(visible, context, True, axis=1)

        class Injected(MP3):
            def context(self, keys):
                return jnp.asarray(visible[:, 1:])

            def predict(self, nets, images, unused):
                # Here the class token is one of those that may be hidden.
                return nets.place(nets.backbone(images, visible=jnp.asarray(visible)).patches)

        spec = Spec(batch, 100, 0, 10, 100, channels=dim)
        made = Injected(net, spec, view=View(side, recipe="none"))
        stats = {"backbone": {}, "place": {}}

        @jax.jit
        def run(params, tokens):
            images = tokens.reshape(batch, 1, side, side, dim)
            inputs = {"views": (images,), "index": jnp.arange(batch)}
            return made.loss(params, {"stats": stats}, inputs, jax.random.key(0), 0)[0]

        loss, (slopes, to_tokens) = jax.value_and_grad(run, (0, 1))(params, jnp.asarray(tokens))
        tolerance = 1e-7 if wide else 1e-5
        np.testing.assert_allclose(loss, data["out_loss_own"], rtol=tolerance)
        for ours, theirs in (
            (to_tokens, data["grad_tokens"]),
            (slopes["place"]["linear1"]["kernel"].T, data["grad_head"]),
            (slopes["backbone"]["blocks"]["attn"]["qkv"]["kernel"][0].T, data["grad_qkv0"]),
        ):
            np.testing.assert_allclose(ours, theirs, atol=10 * tolerance * np.abs(theirs).max())


class PropertiesTest(parameterized.TestCase):
    def test_permuted_patches_have_permuted_logits(self):
        made = mp3()
        nets = made.networks.bind(*made.networks.init(jax.random.key(0)))
        tiles = jnp.asarray(RNG.normal(size=(2, 16, 4, 4, 3)), jnp.float32)
        visible = made.context(jax.random.split(jax.random.key(1), 2))
        np.testing.assert_array_equal(visible.sum(1), 8)
        order = RNG.permutation(16)

        def image(tiles):
            return tiles.reshape(2, 4, 4, 4, 4, 3).swapaxes(2, 3).reshape(2, 16, 16, 3)

        @jax.jit
        def both(tiles):
            logits = made.predict(nets, image(tiles), visible)
            return logits, made.predict(nets, image(tiles[:, order]), visible[:, order])

        logits, permuted = both(tiles)
        np.testing.assert_allclose(permuted, logits[:, order], atol=1e-5)

        # What is hidden has no influence on the others.
        def others(tiles):
            first = visible.at[:, 0].set(False)
            return jnp.sum(jnp.square(made.predict(nets, image(tiles), first)[:, 1:]))

        slope = jax.jit(jax.grad(others))(tiles)
        np.testing.assert_array_equal(slope[:, 0], 0)
        self.assertGreater(np.abs(slope[:, 1:]).max(), 0)

    def test_flat_images_cannot_be_told(self):
        made = mp3()
        params, extra = made.init(jax.random.key(0))
        batch = {"views": (jnp.ones((4, 1, 16, 16, 3)),), "index": jnp.arange(4)}
        run = jax.jit(lambda p: made.loss(p, extra, batch, jax.random.key(1), jnp.int32(0))[0])
        self.assertGreaterEqual(run(params), math.log(16) - 1e-5)
        params["place"] = jax.tree.map(jnp.zeros_like, params["place"])
        np.testing.assert_allclose(run(params), math.log(16), rtol=1e-6)

    def test_patches_placed_rightly_are_the_image(self):
        class Solved(MP3):
            def predict(self, nets, images, visible):
                return jnp.broadcast_to(9 * jnp.eye(16)[order], (len(images), 16, 16))

        images = RNG.normal(size=(2, 16, 16, 3)).astype(np.float32)
        for order in (np.arange(16), np.roll(np.arange(16), 4)):
            made = Solved(mp3().backbone, SPEC, view=View(16, recipe="mae"), mask_ratio=0.5)
            params, extra = made.init(jax.random.key(0))
            (picture,) = made.pictures(params, extra, images, jax.random.key(1)).values()
            image, attended, placed = np.moveaxis(np.asarray(picture.images), 1, 0)
            np.testing.assert_array_equal(image, images)
            self.assertEqual(np.mean(attended == 0), 0.5)
            # A patch that belongs to the next row of patches is shown there.
            np.testing.assert_array_equal(placed, np.roll(images, order[0], axis=1))

    def test_positions_are_refused(self):
        with self.assertRaisesRegex(UserError, "'learned' gives the answer away"):
            mp3(position="learned")


if __name__ == "__main__":
    absltest.main()
