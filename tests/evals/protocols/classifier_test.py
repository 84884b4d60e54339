"""The network's own classifier: accuracies by hand, over the mesh, and where it applies."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.core import sharding
from ssl_jax.data.label_tables import set_table
from ssl_jax.data.sources import ArraySource
from ssl_jax.evals.average_precision import mean_average_precision
from ssl_jax.evals.base import Subject
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols.classifier import Classifier
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Encoder, Heads, Probe, View


def mean_level(params, stats, images, *, train, stages=False):
    return Features(pooled=jnp.mean(images, (1, 2))), stats


NET = Net(lambda key: ({}, {}), mean_level)


def nearest(params, pooled):
    """The likeliest class is the one whose level is nearest."""
    return [-jnp.abs(pooled - params["levels"][None])]


class ClassifierTest(absltest.TestCase):
    def test_measures_the_test_set_on_every_mesh(self):
        levels = np.array([0, 0.2, 0.4, 0.6, 0.8, 1.0], np.float32)
        labels = np.array([0, 1, 2, 3, 4, 5, 5, 0, -1, 2, 2], np.int32)
        pixels = np.array([0, 1, 2, 3, 4, 5, 4, 5, 0, 2, 2])  # one off by one, one by all
        pixels = np.round(255 * levels[pixels]).astype(np.uint8)[:, None, None, None]
        source = ArraySource("levels", np.broadcast_to(pixels, (11, 4, 4, 1)), labels)
        encoder = Encoder({}, {}, NET, classifier=Heads({"levels": levels}, nearest))
        for devices in (1, 8):
            mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:devices])
            images = Images.of(
                source,
                source,
                100,
                100,
                view=View(4, recipe="none"),
                channels=1,
                batch_size=8,
                mesh=mesh,
            )
            protocol, subject = Classifier(), Subject(encoder, images, Probe())
            self.assertTrue(protocol.applies(subject))
            with jax.set_mesh(mesh):
                numbers = protocol.measure(subject)
            self.assertAlmostEqual(numbers["classifier_top1"], 8 / 10)
            self.assertAlmostEqual(
                numbers["classifier_mean_per_class"], (0.5 + 1 + 1 + 1 + 1 + 0.5) / 6
            )
            self.assertAlmostEqual(numbers["classifier_top5"], 9 / 10)
        without = dataclasses.replace(encoder, classifier=None)
        self.assertFalse(protocol.applies(Subject(without, images, Probe())))
        self.assertFalse(protocol.applies(Subject(None, images, Probe())))

    def test_several_labels_are_ranked(self):
        """The logits of an image are its level's distances, for all of its labels."""
        levels = np.array([0, 0.5, 1.0], np.float32)
        table = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1], [-1, -1, -1]])
        shown = np.array([0, 0.2, 0.9, 0.4, 0.7], np.float32)
        pixels = np.round(255 * shown).astype(np.uint8)[:, None, None, None]
        source = ArraySource("levels", np.broadcast_to(pixels, (5, 4, 4, 1)))
        set_table(source, table, ("low", "middle", "high"))
        encoder = Encoder({}, {}, NET, classifier=Heads({"levels": levels}, nearest))
        mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
        how = {"view": View(4, recipe="none"), "channels": 1, "batch_size": 8, "mesh": mesh}
        subject = Subject(encoder, Images.of(source, source, 100, 100, **how), Probe())
        with jax.set_mesh(mesh):
            numbers = Classifier().measure(subject)
        scores = -np.abs(np.round(255 * shown)[:4, None] / 255 - levels)
        expected = mean_average_precision(scores, table[:4], "classifier")
        self.assertEqual(sorted(numbers), ["classifier_11point", "classifier_map"])
        for name, value in expected.items():
            self.assertAlmostEqual(numbers[name], value, places=6)


if __name__ == "__main__":
    absltest.main()
