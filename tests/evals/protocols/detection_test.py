"""Detection: what torch gets, and in the full set what it does with it."""

import dataclasses
import json
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.core import distributed, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.boxes import BoxedImages, Objects
from ssl_jax.data.sources import ArraySource
from ssl_jax.evals.base import Subject, measured
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols import detection
from ssl_jax.evals.protocols.detection import Detection
from ssl_jax.nets.backbones import resnet_small, vit
from ssl_jax.objectives.base import Encoder, Probe
from tests.evals.detection_stub import CRASH, ERROR
from tests.evals.protocols.box_patches_test import squares

QUICK = {"sizes": (48,), "longest": 64, "steps": 2, "batch_size": 2, "norm": "frozen"}


def subject(net):
    params, stats = net.init(jax.random.key(0))
    other = ArraySource("other", np.zeros((4, 8, 8, 3), np.uint8), None)
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    how = {"view": View(32, recipe="normalize"), "channels": 3, "batch_size": 2}
    images = Images.of(other, other, 4, 4, **how, mesh=mesh)
    return Subject(Encoder(params, stats, net), images, Probe())


class RequestTest(parameterized.TestCase):
    """Without torch."""

    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)

    def test_annotations(self):
        corners = np.array([[1, 2, 11, 7], [0, 0, 3, 3]], np.float32)
        outline = [[0, 0, 5, 0, 5, 5]]
        row = Objects(corners, np.array([1, 0]), np.array([False, True]), (outline, None))
        content = detection.to_coco(BoxedImages("x", [Path("/a.jpg")], [row], ("ant", "bee")))
        self.assertEqual(content["images"], [{"id": 0, "file_name": "/a.jpg"}])
        self.assertEqual([c["id"] for c in content["categories"]], [1, 2])
        first, second = content["annotations"]
        self.assertEqual(first["bbox"], [1, 2, 10, 5])
        self.assertEqual(first["area"], 50)
        self.assertEqual((first["category_id"], first["iscrowd"]), (2, 0))
        self.assertEqual(first["segmentation"], outline)
        self.assertEqual((second["category_id"], second["iscrowd"]), (1, 1))
        self.assertNotIn("segmentation", second)
        self.assertLen({entry["id"] for entry in content["annotations"]}, 2)

    def test_a_small_resnet_is_exported(self):
        some = subject(resnet_small.make(width=4, channels=3))
        tensors, network = detection.exported(some.encoder, 3)
        self.assertEqual(tensors["conv1.weight"].shape, (4, 3, 3, 3))
        self.assertEqual(network["stem"], "small")
        self.assertLess(len(network["stages"]), 4)

    def test_other_networks_are_refused(self):
        net = vit.make(dim=8, depth=1, heads=2, image_size=32, patch=16, channels=3)
        with self.assertRaisesRegex(NotMeasurable, "expected a ResNet of torchvision's layout"):
            detection.exported(Encoder({}, {}, net), 3)
        neck = resnet_small.make(width=4, channels=3, neck=(8,))
        with self.assertRaisesRegex(NotMeasurable, "torchvision has no network with backbone.neck"):
            detection.exported(Encoder({}, {}, neck), 3)

    def test_a_missing_package_names_the_extra(self):
        protocol = Detection(train="coco:/x")
        some = subject(resnet_small.make(width=4, channels=3))
        absent = mock.patch.object(detection, "PACKAGES", ("no_such_package", "jax"))
        message = r"no_such_package is missing; .*\.\[detection\]"
        with absent, self.assertRaisesRegex(UserError, message) as caught:
            measured([protocol], some)
        self.assertLen(str(caught.exception).splitlines(), 1)
        self.enterContext(mock.patch.object(detection, "PACKAGES", ()))
        some.images = dataclasses.replace(some.images, channels=1)
        with self.assertRaisesRegex(NotMeasurable, "expected 3 channels, got 1"):
            measured([protocol], some)

    def test_settings(self):
        with self.assertRaisesRegex(UserError, "sizes of at most longest=100"):
            Detection(longest=100)
        with self.assertRaisesRegex(UserError, "no train"):
            Detection(test="coco:/x").check(mock.MagicMock())
        squares(self.root, "train", 1, 0)
        squares(self.root, "val", 1, 1)
        some = subject(resnet_small.make(width=4, channels=3))
        spec = f"coco:{self.root}"
        with self.assertRaisesRegex(UserError, "no class 'rod'; did you mean.*red"):
            Detection(train=spec, classes=("rod",)).measure(some)
        with self.assertRaisesRegex(UserError, "mask_rcnn: coco:.* has objects without outlines"):
            Detection(train=spec, model="mask_rcnn").measure(some)

    def test_the_worker(self):
        """Its files, its numbers, its errors, and what remains of a process that fails."""
        self.enterContext(mock.patch.dict("os.environ", {"SSL_JAX_CACHE": str(self.root)}))
        self.enterContext(mock.patch.object(detection, "WORKER", "tests.evals.detection_stub"))
        self.enterContext(mock.patch.object(detection, "POLL", 0.1))
        tensors = {"v": np.full(2, 0.5), "w": np.ones(2)}
        ticks = self.enterContext(mock.patch.object(distributed, "tick"))

        def run(seed):
            return detection.run({"request": json.dumps({"settings": {"seed": seed}})}, tensors)

        self.assertEqual(run(0), {"ap": 3.0})
        self.assertGreater(ticks.call_count, 1)  # signs of progress while it works
        with self.assertRaisesRegex(NotMeasurable, "^detection: it diverged$"):
            run(ERROR)
        self.assertEmpty(list(self.root.glob("detection/*/")))
        with self.assertRaisesRegex(UserError, "exited with code 3: last line; see .*log.txt"):
            run(CRASH)
        self.assertLen(list(self.root.glob("detection/*/")), 1)
        self.assertLen((self.root / "detection" / "starts").read_text().splitlines(), 3)
        (self.root / "file").write_text("")
        with (
            mock.patch.dict("os.environ", {"SSL_JAX_CACHE": str(self.root / "file")}),
            self.assertRaisesRegex(UserError, "cannot write to the cache .*; set SSL_JAX_CACHE"),
        ):
            run(0)


@pytest.mark.full
class TorchTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        for name in detection.PACKAGES:
            pytest.importorskip(name)
        self.root = Path(self.create_tempdir().full_path)
        squares(self.root, "train", 3, 0)
        squares(self.root, "val", 2, 1)
        environment = {"SSL_JAX_CACHE": str(self.root / "cache"), "OMP_NUM_THREADS": "1"}
        self.enterContext(mock.patch.dict("os.environ", environment))
        self.subject = subject(resnet_small.make(width=4, channels=3))

    @parameterized.parameters(
        ("faster_rcnn", "frozen"), ("faster_rcnn", "batch"), ("retinanet", "frozen")
    )
    def test_detectors_run(self, model, norm):
        protocol = Detection(train=f"coco:{self.root}", **QUICK | {"model": model, "norm": norm})
        numbers = dataclasses.replace(protocol, classes=("red",)).measure(self.subject)
        names = {"ap", "ap50", "ap75", "agnostic_ap50", "ap_red", "ap50_red"}
        self.assertEqual(set(numbers), {f"detection_{name}" for name in names})
        for value in numbers.values():
            self.assertBetween(value, 0, 1)

    def test_c4_needs_four_stages(self):
        protocol = Detection(train=f"coco:{self.root}", **QUICK | {"model": "faster_rcnn_c4"})
        with self.assertRaisesRegex(NotMeasurable, "needs a ResNet of four stages, this has 3"):
            protocol.measure(self.subject)

    def test_divergence(self):
        protocol = Detection(train=f"coco:{self.root}", **QUICK | {"lr": 1e30, "warmup": 0})
        with self.assertRaisesRegex(NotMeasurable, "diverged at step 1; lower lr"):
            protocol.measure(self.subject)


def truth(*rows):
    """COCO's annotations of one class and one image: (box, crowd)."""
    annotations = [
        {"id": i, "image_id": 0, "category_id": 1, "bbox": box, "area": box[2] * box[3]}
        | {"iscrowd": crowd}
        for i, (box, crowd) in enumerate(rows, 1)
    ]
    categories = [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}]
    return {"images": [{"id": 0}], "categories": categories, "annotations": annotations}


@pytest.mark.full
class ScoresTest(absltest.TestCase):
    """Average precision by hand: 101 recalls, IoU .5, .55, ..., .95."""

    def setUp(self):
        super().setUp()
        pytest.importorskip("pycocotools")

    def score(self, annotations, *rows, **options):
        from ssl_jax.evals.detection_scores import average_precisions

        predictions = [
            {"image_id": 0, "category_id": kind, "bbox": box, "score": score}
            for box, kind, score in rows
        ]
        return average_precisions(annotations, predictions, **options)

    def test_one_of_two(self):
        boxes = truth(([0, 0, 10, 10], 0), ([50, 50, 10, 10], 0))
        numbers = self.score(boxes, ([0, 0, 10, 10], 1, 0.9))
        self.assertAlmostEqual(numbers["ap50"], 51 / 101)  # recalls 0 to .5
        self.assertAlmostEqual(numbers["ap"], 51 / 101)

    def test_overlap(self):
        numbers = self.score(truth(([0, 0, 10, 10], 0)), ([0, 0, 10, 6.2], 1, 0.9))  # IoU .62
        self.assertAlmostEqual(numbers["ap"], 3 / 10)
        self.assertAlmostEqual(numbers["ap50"], 1)
        self.assertEqual(numbers["ap75"], 0)

    def test_a_false_positive_before_the_true_one(self):
        rows = ([30, 30, 10, 10], 1, 0.9), ([0, 0, 10, 10], 1, 0.8)
        self.assertAlmostEqual(self.score(truth(([0, 0, 10, 10], 0)), *rows)["ap50"], 0.5)

    def test_crowds_count_for_nothing(self):
        boxes = truth(([0, 0, 10, 10], 0), ([30, 30, 20, 20], 1))
        rows = ([32, 32, 10, 10], 1, 0.9), ([0, 0, 10, 10], 1, 0.8)
        self.assertAlmostEqual(self.score(boxes, *rows)["ap50"], 1)

    def test_classes(self):
        boxes = truth(([0, 0, 10, 10], 0))
        numbers = self.score(boxes, ([0, 0, 10, 10], 2, 0.9), classes=("ant", "bee"))
        self.assertEqual(numbers["ap50"], 0)
        self.assertAlmostEqual(numbers["agnostic_ap50"], 1)
        self.assertEqual(numbers["ap_ant"], 0)
        self.assertTrue(np.isnan(numbers["ap_bee"]))  # no object
        none = self.score(boxes, classes=("ant", "bee"))
        self.assertEqual((none["ap"], none["ap_ant"]), (0, 0))
        self.assertTrue(np.isnan(none["ap_bee"]))


if __name__ == "__main__":
    absltest.main()
