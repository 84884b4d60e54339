"""The choice of a config for fine-tuning: augmentation, network, parts of the data."""

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources.base import ArraySource
from ssl_jax.objectives.base import Probe
from ssl_jax.run.finetuning import FOLD, Start, check_classes, choose

RESNET = {"name": "resnet_small", "width": 4}


def start(view=None, probe=None, backbone=None, channels=1):
    view = view or View(16, area=(1.0, 1.0), recipe="digits", strength=0.8)
    return Start("W", view, probe or Probe(), backbone or RESNET, channels, ())


class FinetuningTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.file = f"{self.create_tempdir().full_path}/d.npz"

    def data(self, labels, channels=1):
        images = np.random.default_rng(0).integers(0, 255, (len(labels), 8, 8, channels), np.uint8)
        np.savez(self.file, images=images, labels=labels)
        return f"npz:{self.file}"

    def test_the_augmentation_is_a_milder_one_of_the_run(self):
        view = start(View(32, area=(0.08, 1.0), recipe="simclr", strength=0.5)).training_view
        self.assertEqual((view["size"], view["area"], view["strength"]), (32, (0.35, 1.0), 0.25))
        chain = view["recipe"]
        self.assertEqual((chain["flip"], chain["gray_p"], chain["blur_p"]), (0.5, 0.0, 0.0))
        self.assertEqual(chain["jitter"], (0.8, 0.8, 0.8, 0.2))
        whole = start().training_view
        self.assertEqual((whole["area"], whole["recipe"]["flip"]), ((1.0, 1.0), 0.0))

    def test_a_public_file_gets_that_of_photographs(self):
        view = start(View(32, recipe="normalize_half")).training_view
        self.assertEqual((view["recipe"]["flip"], view["recipe"]["mean"]), (0.5, (0.5,)))

    def test_the_network_gets_stochastic_depth_and_the_methods_pooling(self):
        vit = {"name": "vit", "size": "tiny"}
        made = start(probe=Probe(-1, "avg"), backbone=vit).trained_backbone
        self.assertEqual(made, vit | {"drop_path": 0.1, "pool": "avg"})
        made = start(probe=Probe(pool="pooled"), backbone=vit | {"drop_path": 0.3}).trained_backbone
        self.assertEqual(made, vit | {"drop_path": 0.3})
        self.assertEqual(start().trained_backbone, RESNET)

    def test_the_parts(self):
        """The test set of the data, else a fifth; unlabelled images are left out."""
        config, lines = choose(start(), "digits", "", 0.2, "p")
        self.assertEqual((config["data"]["fold"], config["data"]["holdout"]), ("", 0.2))
        self.assertNotIn("labelled", config["data"])
        self.assertRegex(lines[0], "898 steps of 64 of 1,150 labelled images")
        labels = np.repeat([0, 1, -1], 40)
        config, lines = choose(start(), self.data(labels), "", 0.0, "p", [("train.steps", 30)])
        self.assertEqual((config["data"]["fold"], config["data"]["labelled"]), (FOLD, "100%"))
        self.assertEqual((config["train"]["steps"], config["optim"]["warmup_steps"]), (30, 3))
        self.assertRegex(lines[0], "of 64 labelled images")
        self.assertNotRegex(lines[1], "choose")

    @parameterized.parameters(
        (np.full(40, -1), 1, "no labels; fine-tuning needs labels of two classes"),
        (np.zeros(40, int), 1, "labels of one class only"),
        (np.arange(40) % 2, 6, "has images of 6 channels, and W reads 1"),
        (np.arange(12) % 2, 1, "are too few to learn from; use at least 16"),
        (np.arange(3) % 2, 1, "3 images are too few to learn from and to test on"),
    )
    def test_data_that_cannot_be_learned_from(self, labels, channels, message):
        with self.assertRaisesRegex(UserError, message):
            choose(start(), self.data(labels, channels), "", 0.2, "p")

    def test_test_images_are_of_the_same_classes(self):
        images, labels = np.zeros((4, 8, 8, 1), np.uint8), np.arange(4) % 2
        pets, birds, both, numbers = (
            ArraySource(name, images, labels, names)
            for name, names in (
                ("pets", ("cat", "dog")),
                ("birds", ("owl", "tit")),
                ("both", ("dog", "owl")),
                ("numbers", ()),
            )
        )
        check_classes(pets, both)
        check_classes(pets, numbers)
        check_classes(numbers, pets)
        with self.assertRaisesRegex(
            UserError, r"birds: .*\(owl, tit\) are none of pets \(cat, dog"
        ):
            check_classes(pets, birds)


if __name__ == "__main__":
    absltest.main()
