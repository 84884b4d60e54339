"""Every protocol on tiny data: a one-line error, or the behaviour in docs/protocols.md."""

import dataclasses
import math
from types import SimpleNamespace

import jax
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import ArraySource
from ssl_jax.evals import protocols
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.evaluator import EvalsConfig
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols.patches import Patches
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.objectives.base import Encoder, Heads, Probe
from ssl_jax.report import look

# Shorter settings of slow protocols.
QUICK = {
    "zipf": {"clusters": 3},
    "attentive": {"epochs": 2, "batch_size": 4, "heads": 2},
    "fewshot": {"draws": 2, "fractions": (0.1,)},
    "svm": {"shots": (1, 3), "draws": 1, "costs": (0.1, 1.0)},
    "clustering": {"runs": 1},
    "lidar": {"views": 2},
    "few_shot_episodes": {"episodes": 3, "shots": (1,)},
    "logistic": {"count": 3},
    "corruptions": {"examples": 4},
}
LEARN = ("linear", "logistic", "fewshot", "attentive", "svm", "corruptions", "patches")
# Protocols that need a text tower, a ViT, a probe trained along, videos or masks.
ABSENT = (
    "episodes",
    "retrieval",
    "zero_shot",
    "attention",
    "online",
    "propagation",
    "segmentation",
)
ABSENT += (
    "copy_detection",
    "instance_retrieval",
    "segmentation_heads",
    "depth",
    "normals",
    "box_patches",
    "detection",
    "shifts",
    "backgrounds",
    "cue_conflict",
)  # folders of images
ABSENT += ("translation", "linear_grid")  # and a method that translates; a class token
ABSENT += ("similarity",)  # and another run
ALL = [(f"_{name}", name) for name in protocols.known()]


def source(labels, name="squares"):
    draw = np.random.default_rng(len(labels))
    labels = np.asarray(labels)
    images = (
        draw.integers(0, 60, (len(labels), 8, 8, 1))
        + 15 * np.maximum(labels, 0)[:, None, None, None] % 150
    )
    return ArraySource(name, images.astype(np.uint8), labels)


class EdgesTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        net = resnet_small(width=4, channels=1)
        params, stats = net.init(jax.random.key(0))
        heads = Heads({}, _first_features)
        cls.encoder = Encoder(params, stats, net, clusters=heads, classifier=heads)
        cls.mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])

    def measure(self, name, train, test) -> dict[str, float] | None:
        """Measure, or return None if the protocol does not apply."""
        protocol: Protocol = EvalsConfig().protocol(name)
        protocol = dataclasses.replace(protocol, **QUICK.get(name, {}))
        how = {"view": View(8), "channels": 1, "batch_size": 4, "mesh": self.mesh}
        subject = Subject(self.encoder, Images.of(train, test, 1000, 1000, **how), Probe())
        if not protocol.applies(subject):
            return None
        numbers = protocol.measure(subject)
        self.assertNotEmpty(numbers)
        for metric, value in numbers.items():
            self.assertTrue(math.isfinite(value), f"{metric} = {value}")
        return numbers

    def check(self, name, train, test, message="", but=()):
        """Check that all numbers are present and finite; protocols in `but` fail with this line."""
        if name in ABSENT:
            self.assertIsNone(self.measure(name, train, test))
        elif name in but:
            with self.assertRaisesRegex(UserError, message) as caught:
                self.measure(name, train, test)
            self.assertLen(str(caught.exception).splitlines(), 1)
        else:
            self.assertIsNotNone(self.measure(name, train, test))

    @parameterized.named_parameters(
        (f"{suffix}_{kind}", name, kind == "test_set")
        for suffix, name in ALL
        for kind in ("test_set", "no_test_set")
    )
    def test_nothing_to_evaluate_on(self, name, has_test_set):
        train = source([0])  # nothing can be held out of one
        test = source([]) if has_test_set else None
        if name in ABSENT and name != "online":  # online needs labels first
            self.assertIsNone(self.measure(name, train, test))
            return
        with self.assertRaisesRegex(UserError, "squares: no example to evaluate on"):
            self.measure(name, train, test)

    @parameterized.named_parameters(*ALL)
    def test_one_class_to_learn_from(self, name):
        test = source(np.arange(20) % 2)
        learn = (*LEARN, "knn", "clustering", "image_retrieval", "few_shot_episodes")
        self.check(name, source(np.zeros(30, int)), test, "(one class|two classes)", learn)

    @parameterized.named_parameters(*ALL)
    def test_a_class_with_fewer_labels_than_requested(self, name):
        self.check(name, source([0] * 20 + [1] * 20 + [2] * 2), source(np.arange(20) % 3))

    @parameterized.named_parameters(*ALL)
    def test_fewer_neighbours_than_requested(self, name):
        train, test = source([0, 1, 0, 1, 0]), source(np.arange(20) % 2)
        self.check(name, train, test, "5 training examples are too few", ["logistic"])

    @parameterized.named_parameters(*ALL)
    def test_gaps_between_labels(self, name):
        gaps = np.array([0, 2, 7])
        self.check(name, source(gaps[np.arange(36) % 3]), source(gaps[np.arange(20) % 3]))

    @parameterized.named_parameters(*ALL)
    def test_labels_that_training_does_not_have(self, name):
        self.check(name, source(np.arange(36) % 3), source(np.arange(20) % 5))

    def test_unseen_classes_are_wrong(self):
        train, test = source(np.arange(36) % 3), source([4] * 19 + [0])
        for name, metric in (
            ("knn", "knn_top1"),
            ("linear", "linear_top1"),
            ("attentive", "attentive_top1"),
            ("fewshot", "fewshot5_top1"),
        ):
            self.assertLessEqual(self.measure(name, train, test)[metric], 1 / 20)
        with self.assertRaisesRegex(NotMeasurable, "no evaluation example is of a class that"):
            self.measure("knn", train, source([4] * 20))

    @parameterized.named_parameters(*ALL)
    def test_all_labels_missing(self, name):
        some, none = source(np.arange(36) % 3), source([-1] * 20)
        free = name in ("diagnostics", "lidar", "layers", "distance", "zipf")
        for train, test in ((some, none), (none, some), (none, None)):
            self.assertEqual(self.measure(name, train, test) is not None, free)

    def test_classes_go_by_their_names(self):
        """Two folders, one of which lacks a class, number their classes independently."""
        train, test = source([0, 1, 2, 0, 1, 2]), source([0, 1, 0, -1])
        train.class_names, test.class_names = ("ant", "bee", "cow"), ("bee", "dog")
        how = {"view": View(8), "channels": 1, "batch_size": 4, "mesh": self.mesh}
        images = Images.of(train, test, 1000, 1000, **how)
        labels = images.labels(images.test, np.arange(4))
        np.testing.assert_array_equal(labels, [1, 3, 1, -1])
        self.assertEqual(images.class_names, ("ant", "bee", "cow", "dog"))
        # The report's neighbours, and the patches, too.
        examples = look.examples(self.encoder, SimpleNamespace(probe=Probe()), images, images.test)
        np.testing.assert_array_equal(examples.labels, [1, 3, 1, -1])
        _, of = Patches().of_labels(Subject(None, images, Probe()), images.test)
        np.testing.assert_array_equal(of, [1, 3, 1])
        test.class_names = ("0", "1")  # matched by number
        np.testing.assert_array_equal(images.labels(images.test, np.arange(4)), [0, 1, 0, -1])


def _first_features(params, pooled):
    return [pooled[:, :3]]


if __name__ == "__main__":
    absltest.main()
