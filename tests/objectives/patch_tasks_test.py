"""rotnet, jigsaw and context_prediction against the code of the Revisiting study: inputs and labels
(google/revisiting-self-supervised).
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.augment import patches
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.tiles import answer
from ssl_jax.objectives.rotnet import RotNet
from tests.losses.forms import load

SAME = Net(lambda key: ({}, {}), lambda p, s, x, **_: (x, s))


def questions(embeddings, order):
    """Return the inputs of the classifier (B, m, k, width): embeddings of each question's tiles.

    `answer` applies a ReLU to the embeddings, so they are moved above 0 for it.
    """
    flatten = Net(
        lambda key: ({}, {}), lambda p, s, x, **_: (Features(pooled=x.reshape(len(x), -1)), s)
    )
    nets = Networks({"backbone": flatten, "embedding": SAME, "classifier": SAME})
    bound = nets.bind({"backbone": {}, "embedding": {}, "classifier": {}}, {})
    least = embeddings.min()
    tiles = jnp.asarray(embeddings - least)[:, :, None, None, :]
    every = jnp.broadcast_to(jnp.asarray(order), (len(embeddings), *order.shape))
    read = answer(bound, tiles, every) + least
    return read.reshape(*every.shape, embeddings.shape[-1])


class RevisitingTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.data = load("revisiting_patch_tasks", False)

    def test_rotations(self):
        image = self.data["in_image"][:8, :8]
        made = RotNet(SAME, Spec(1, 1, 0, 1, 1), view=View(8))
        rotated = made.rotate(jnp.asarray(image)[None])[0]
        np.testing.assert_array_equal(rotated, self.data["out_rotations_of_8x8"])
        np.testing.assert_array_equal(self.data["out_rotation_labels"], range(4))

    def test_two_angles_are_upright_and_upside_down(self):
        image = jnp.arange(16.0).reshape(1, 4, 4, 1)
        rotated = RotNet(SAME, Spec(1, 1, 0, 1, 1), view=View(4), angles=2).rotate(image)
        np.testing.assert_array_equal(rotated[0], [image[0], image[0, ::-1, ::-1]])

    def test_patches(self):
        image, rows = jnp.asarray(self.data["in_image"]), int(self.data["hp_splits"])
        whole = patches.tiles(image, rows, rows)
        np.testing.assert_array_equal(whole, self.data["out_patches_jitter0"])
        key = jax.random.key(0)
        full = patches.jigsaw_tiles(key, image, rows, whole.shape[1])
        np.testing.assert_array_equal(full, whole)
        size = self.data["out_patches_center"].shape[1]
        offset = int(self.data["hp_jitter"]) // 2
        corners = patches.grid_corners(key, rows, rows, whole.shape[1], (offset, offset))
        centred = patches.cut(image, corners, size)
        np.testing.assert_array_equal(centred, self.data["out_patches_center"])
        standard = patches.standardize(centred)
        np.testing.assert_allclose(standard, self.data["out_patches_standardized"], atol=1e-5)

    def test_jigsaw(self):
        orders = self.data["in_perms"].astype(np.int32)
        count, tiles = orders.shape
        embeddings = self.data["in_emb"].reshape(-1, tiles, self.data["in_emb"].shape[1])
        ours = questions(embeddings, orders)
        theirs = self.data["out_jigsaw_concat"].reshape(len(embeddings), count, -1, tiles)
        # Theirs are channel-major: all tiles' first channels, then their second ones.
        np.testing.assert_allclose(ours, np.swapaxes(theirs, 2, 3), atol=1e-6)
        labels = np.tile(np.arange(count), len(embeddings))
        np.testing.assert_array_equal(self.data["out_jigsaw_labels"], labels)

    def test_context_prediction(self):
        rows = int(self.data["hp_splits"])
        pairs, labels = patches.neighbours(rows, "centre")
        # Theirs are (neighbour, centre), with the same label.
        np.testing.assert_array_equal(pairs[:, ::-1], self.data["out_relpatch_pairs"])
        embeddings = self.data["in_emb"].reshape(-1, rows**2, self.data["in_emb"].shape[1])
        np.testing.assert_array_equal(
            np.tile(labels, len(embeddings)), self.data["out_relpatch_labels"]
        )
        ours = questions(embeddings, pairs)
        theirs = self.data["out_relpatch_concat"].reshape(len(embeddings), len(pairs), -1, 2)
        np.testing.assert_allclose(ours, np.swapaxes(theirs, 2, 3)[:, :, ::-1], atol=1e-6)


if __name__ == "__main__":
    absltest.main()
