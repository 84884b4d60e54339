"""Common and specific properties of jigsaw and context prediction."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment.patches import OFFSETS, neighbours
from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.context_prediction import ContextPrediction
from ssl_jax.objectives.jigsaw import Jigsaw
from ssl_jax.objectives.parts.tiles import answer

SPEC = Spec(4, 100, 0, 10, 100)
RNG = np.random.default_rng(0)
NET = resnet_small(4, stem="cifar")


def jigsaw(**hyper):
    small = {"view": View(12), "rows": 2, "tile": 5, "permutations": 24, "embedding": 6}
    return Jigsaw(NET, SPEC, **(small | hyper))


def context(**hyper):
    small = {"view": View(20), "patch": 4, "gap": 2, "jitter": 1, "embedding": 6, "hidden": (8,)}
    return ContextPrediction(NET, SPEC, **(small | hyper))


def batch_of(made, images=None):
    size = made.view.size
    if images is None:
        images = RNG.normal(size=(4, 1, size, size, 3)).astype(np.float32)
    return {"views": (images,), "index": np.arange(4, dtype=np.int32)}


class TilesTest(parameterized.TestCase):
    @parameterized.parameters((jigsaw, 24), (context, 8))
    def test_a_zero_head_has_the_loss_of_a_guess(self, method, classes):
        made = method()
        params, extra = made.init(jax.random.key(0))
        params["classifier"] = jax.tree.map(jnp.zeros_like, params["classifier"])
        loss, aux = made.loss(params, extra, batch_of(made), jax.random.key(1), jnp.int32(0))
        np.testing.assert_allclose(loss, math.log(classes), rtol=1e-6)
        self.assertLess(aux.metrics["accuracy"], 0.6)

    @parameterized.parameters((jigsaw,), (context,))
    def test_flat_images_are_all_alike(self, method):
        made = method()
        params, extra = made.init(jax.random.key(0))
        flat = np.full((4, 1, made.view.size, made.view.size, 3), 0.7, np.float32)
        losses = [
            made.loss(params, extra, batch_of(made, x), jax.random.key(1), jnp.int32(0))[0]
            for x in (flat, 0 * flat)
        ]
        self.assertTrue(np.isfinite(losses).all())
        np.testing.assert_array_equal(*losses)

    def test_the_embedder_has_no_context_and_the_head_sees_the_order(self):
        made = jigsaw()
        nets = made.networks.bind(*made.networks.init(jax.random.key(0)), train=False)
        tiles = RNG.normal(size=(2, 4, 5, 5, 3)).astype(np.float32)
        order = np.array([[0, 1, 2, 3], [2, 0, 3, 1]], np.int32)
        both = np.broadcast_to(order, (2, 2, 4))
        logits = answer(nets, tiles, both)
        # Tiles in another order, looked at in order, are the tiles looked at in that order.
        moved = answer(nets, tiles[:, order[1]], both)
        np.testing.assert_allclose(logits[:, 1], moved[:, 0], rtol=1e-4, atol=1e-5)
        self.assertGreater(np.abs(logits[:, 0] - logits[:, 1]).max(), 1e-3)

    def test_the_same_key_makes_the_same_puzzle(self):
        for made in (jigsaw(), context()):
            params, extra = made.init(jax.random.key(0))
            batch = batch_of(made)
            run = lambda seed: made.loss(params, extra, batch, jax.random.key(seed), jnp.int32(0))  # noqa: E731, B023
            self.assertEqual(run(1)[0], run(1)[0])
            self.assertNotEqual(run(1)[0], run(2)[0])

    def test_more_puzzles_of_an_image(self):
        made = jigsaw(puzzles=3)
        params, extra = made.init(jax.random.key(0))
        loss, _ = made.loss(params, extra, batch_of(made), jax.random.key(1), jnp.int32(0))
        self.assertTrue(np.isfinite(loss))

    def test_opposite_classes(self):
        for rows in (2, 3, 4):
            pairs, labels = neighbours(rows, "all")
            classes = {tuple(p): k for p, k in zip(pairs, labels, strict=True)}
            self.assertTrue(all(classes[b, a] == 7 - k for (a, b), k in classes.items()))
            self.assertLen(classes, 2 * (2 * rows * (rows - 1) + 2 * (rows - 1) ** 2))
        pairs, labels = neighbours(3, "centre")
        np.testing.assert_array_equal(pairs[:, 0], 4)
        np.testing.assert_array_equal(pairs[:, 1], [0, 1, 2, 3, 5, 6, 7, 8])
        np.testing.assert_array_equal(labels, range(len(OFFSETS)))

    @parameterized.parameters("drop", "project")
    def test_colors(self, colors):
        made = context(colors=colors)
        image = jnp.asarray(RNG.random((20, 20, 3)), jnp.float32)
        plain = context().patches(jax.random.key(0), image)
        patches = made.patches(jax.random.key(0), image)
        self.assertEqual(patches.shape, (9, 4, 4, 3))
        np.testing.assert_allclose(patches.mean((1, 2, 3)), 0, atol=1e-5)
        np.testing.assert_allclose(patches.std((1, 2, 3)), 1, atol=1e-5)
        if colors == "project":
            np.testing.assert_allclose(patches @ np.array([-1, 2, -1]), 0, atol=1e-4)
        else:  # one channel of each patch is left, the others are noise
            a, b = (x - x.mean((1, 2), keepdims=True) for x in (np.asarray(patches), plain))
            norm = np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2)))
            alike = np.abs((a * b).sum((1, 2)) / norm) > 0.999
            np.testing.assert_array_equal(alike.sum(1), 1)
            self.assertGreater(len(set(alike.argmax(1))), 1)
        grey = image[..., :1]
        np.testing.assert_array_equal(
            made.patches(jax.random.key(0), grey), context().patches(jax.random.key(0), grey)
        )

    @parameterized.parameters(
        (lambda: jigsaw(tile=7), "at most 6"),
        (lambda: jigsaw(permutations=25), "1 to 24, got 25"),
        (lambda: jigsaw(rows=4, tile=3), "1 to 9 tiles, got 16"),
        (lambda: context(gap=5), "do not fit a view of 20 px"),
        (lambda: context(rows=2), "no middle patch"),
    )
    def test_user_errors(self, make, message):
        with self.assertRaisesRegex(UserError, message):
            make()


if __name__ == "__main__":
    absltest.main()
