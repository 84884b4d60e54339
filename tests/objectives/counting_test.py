"""Counting: its parts, its batch, its trivial solution; the loss itself is in tests/losses."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.counting import Counting
from ssl_jax.objectives.parts.networks import Networks
from tests.nets.weights import GOLDEN, assert_close

SPEC = Spec(4, 100, 0, 10, 100)


class Table(Counting):
    """A network whose parameters are the counts of the parts of each image."""

    @property
    def networks(self):
        look = lambda params, stats, x, **options: (Features(pooled=x), stats)  # noqa: E731
        count = lambda params, stats, x, **options: (params.reshape(len(x), -1), stats)  # noqa: E731
        return Networks({"backbone": Net(None, look), "head": Net(None, count)})


class CountingTest(parameterized.TestCase):
    def made(self, kind=Counting, **hyper):
        small = {"view": View(16), "counts": 6, "hidden": (8,)}
        return kind(resnet_small(4), SPEC, **(small | hyper))

    def batch(self, count=4):
        images = np.random.default_rng(0).normal(size=(count, 1, 16, 16, 3)).astype(np.float32)
        return {"views": (images,), "index": np.arange(count, dtype=np.int32)}

    def test_golden_with_each_images_neighbour_as_the_other(self):
        """The fixture's counts of the other images are those of its images, in turn."""
        with np.load(GOLDEN / "learning_to_count.npz") as file:
            phi = np.maximum(file["in_phi"], 0)
        whole, tiles = phi[0], np.moveaxis(phi[2:], 0, 1)
        params = {"backbone": {"nothing": 0.0}, "head": np.concatenate([whole[:, None], tiles], 1)}
        run = lambda p: self.made(Table).loss(  # noqa: E731
            p, {"stats": {}}, self.batch(len(whole)), jax.random.key(0), jnp.int32(0)
        )
        total = tiles.sum(1)
        same = ((whole - total) ** 2).sum(1)
        different = ((whole[np.arange(len(whole)) - 1] - total) ** 2).sum(1)
        expected = (same + np.maximum(10 - different, 0)).mean()
        assert_close(run(params)[0], expected, 1e-5)

    def test_parts_are_the_whole_and_its_quarters(self):
        made, images = self.made(), self.batch()["views"][0][:, 0]
        parts = made.parts(jax.random.split(jax.random.key(0), 4), images)
        self.assertEqual(parts.shape, (4, 5, 8, 8, 3))
        np.testing.assert_array_equal(parts[:, 2], images[:, :8, 8:])
        np.testing.assert_array_equal(parts[:, 3], images[:, 8:, :8])
        np.testing.assert_allclose(parts[:, 0].mean(), images.mean(), atol=0.02)

    def test_a_head_that_counts_nothing_has_the_margin_as_loss(self):
        made = self.made(margin=7.0)
        params, extra = made.init(jax.random.key(0))
        params["head"] = jax.tree.map(jnp.zeros_like, params["head"])
        loss, _ = made.loss(params, extra, self.batch(), jax.random.key(1), jnp.int32(0))
        self.assertEqual(loss, 7)

    def test_user_errors(self):
        with self.assertRaisesRegex(UserError, "15 x 15 px have no halves"):
            self.made(view=View(15))
        with self.assertRaisesRegex(UserError, "view.count: expected 1, got 2"):
            self.made(view=View(16, count=2))
        self.assertEqual(Counting.least_batch, 2)


if __name__ == "__main__":
    absltest.main()
