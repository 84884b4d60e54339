"""Folders of translations: names, resuming, refusals; nothing that is there is lost."""

import functools
import json
from pathlib import Path
from unittest import mock

import cv2
import jax
import numpy as np
from absl.testing import absltest

from ssl_jax.augment import recipes
from ssl_jax.core import sharding
from ssl_jax.core.chain import Transform
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import open_source
from ssl_jax.embeddings import translate
from ssl_jax.embeddings.encoder import ImageEncoder
from ssl_jax.nets.backbones import resnet_generator
from ssl_jax.objectives.base import Encoder, ImageTranslator, Probe
from tests.embeddings.encoder_test import small

NAMES = ("a/x.png", "a/y.jpg", "z.bmp", "z.png")


@functools.cache
def encoder(channels=1):
    net = resnet_generator.make(1, 2, channels=channels)
    decoder = net.config.image_decoder(channels)
    params, stats = net.init(jax.random.key(0))
    translator = ImageTranslator(decoder.init(jax.random.key(1))[0], decoder)
    plain = Encoder(params, stats, net, translator=translator)
    view = View(8, recipe=Transform(mean=(0.5,), std=(0.5,)))
    return ImageEncoder.of(plain, view, Probe(), channels, {}, "random weights")


class TranslateTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        self.output = self.folder / "out"
        (self.folder / "images" / "a").mkdir(parents=True)
        for name, image in zip(NAMES, open_source("digits", "eval").arrays, strict=False):
            cv2.imwrite(str(self.folder / "images" / name), image)
        self.mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])

    def translate(self, data="", **changes):
        source = open_source(data or f"folder:{self.folder / 'images'}", "eval")
        source.read_in(())
        made = {"encoder": encoder(), "source": source, "output": self.output, "mesh": self.mesh}
        return translate.translate(translate.TranslationJob(**(made | {"batch_size": 4} | changes)))

    def test_a_folder(self):
        metadata = self.translate()
        names = ["a/x.png", "a/y.png", "z.bmp.png", "z.png.png"]  # two would be z.png
        self.assertEqual(metadata["images"], names)
        written = {str(p.relative_to(self.output)) for p in self.output.rglob("*") if p.is_file()}
        self.assertEqual(written, {*names, translate.METADATA})
        self.assertEqual(json.loads((self.output / translate.METADATA).read_text()), metadata)
        source = cv2.imread(str(self.folder / "images" / "z.png"), 0)[None, ..., None]
        made = encoder().translate(encoder().preprocess(source))
        expected = recipes.pixels(encoder().view, np.asarray(made))[0, ..., 0]
        image = cv2.imread(str(self.output / "z.png.png"), 0)
        self.assertLessEqual(np.abs(image.astype(int) - expected).max(), 1)
        with mock.patch.object(translate, "_save", mock.Mock(side_effect=AssertionError)):
            self.assertEqual(self.translate(), metadata)  # complete
        self.assertFalse(self.output.with_name("out.parts").exists())

    def test_an_interrupted_run_goes_on(self):
        save, count = translate._save, 0

        def dies(path, image):
            nonlocal count
            count += 1
            if count == 3:
                path.parent.joinpath(f".{path.name}.tmp-0").write_text("half")
                raise KeyboardInterrupt
            save(path, image)

        with (
            mock.patch.object(translate, "_save", dies),
            self.assertRaises(KeyboardInterrupt),
        ):
            self.translate()
        self.assertFalse(self.output.exists())
        with mock.patch.object(translate, "_save", mock.Mock(side_effect=save)) as saved:
            self.translate()
        self.assertEqual(saved.call_count, 2)
        self.assertLen([p for p in self.output.rglob("*") if p.is_file()], 5)

    def test_nothing_there_is_lost(self):
        self.output.mkdir()
        mine = self.output / "mine.txt"
        mine.write_text("mine")
        with self.assertRaisesRegex(UserError, "exists and holds no translations; choose another"):
            self.translate()
        self.assertEqual(mine.read_text(), "mine")
        mine.unlink()  # an empty folder is nothing
        self.translate()
        with self.assertRaisesRegex(UserError, "translations made with another data .*remove it"):
            self.translate("digits")
        (self.output / "a/x.png").unlink()
        with self.assertRaisesRegex(UserError, "a/x.png is missing; remove the folder"):
            self.translate()

    def test_corrupt_images_are_left_out(self):
        (self.folder / "images" / "z.png").write_bytes(b"no image")
        with self.assertRaisesRegex(UserError, "cannot be read"):
            self.translate(max_bad_fraction=0.0)
        metadata = self.translate(max_bad_fraction=0.5)
        self.assertEqual(metadata["images"], ["a/x.png", "a/y.png", "z.bmp.png"])
        self.assertIn("z.png", metadata["left_out"][0])

    def test_data_without_names(self):
        array = self.folder / "d.npz"
        np.savez(array, images=open_source("digits", "eval").arrays[:2])
        self.assertEqual(self.translate(f"npz:{array}")["images"], ["000000.png", "000001.png"])

    def test_encoders_that_translate_nothing(self):
        with self.assertRaisesRegex(UserError, "translates no images; use one of a method"):
            self.translate(encoder=small(channels=1))
        with self.assertRaisesRegex(UserError, "translates no images"):
            small().translate(np.zeros((1, 16, 16, 3)))
        with self.assertRaisesRegex(UserError, "5 bands are no PNG"):
            self.translate(encoder=encoder(channels=5))

    def test_names_stay_inside_of_the_folder(self):
        self.assertEqual(str(translate._safe("/etc/../x/y.jpg")), "etc/x/y.jpg")
        self.assertEqual(str(translate._safe("..")), "image")


if __name__ == "__main__":
    absltest.main()
