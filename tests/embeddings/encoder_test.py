"""Encoders called on images: crops, layers, gradients, digests."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import ssl_jax
from ssl_jax import nets
from ssl_jax.augment.recipes import prepare
from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.decode import eval_crop
from ssl_jax.embeddings import encoder as encoder_module
from ssl_jax.embeddings.encoder import ImageEncoder
from ssl_jax.objectives import base
from ssl_jax.objectives.base import Probe
from ssl_jax.weights import conversion, files

SIZE = 16
VIT = dict(dim=16, depth=2, heads=2, patch=8)


@functools.cache
def small(name="resnet_small", channels=3, seed=0, **arch) -> ImageEncoder:
    """A tiny encoder with random weights, read at its last layer."""
    tiny = {"resnet_small": dict(width=4), "vit": VIT}
    arch = {**tiny[name], **arch} | ({"image_size": SIZE, "size": None} if name == "vit" else {})
    net = nets.make_backbone(name, channels, arch)
    params, stats = net.init(jax.random.key(seed))
    plain = base.Encoder(params, stats, net)
    config = {"objective": {"name": "of a test"}}
    return ImageEncoder.of(plain, View(SIZE), Probe(), channels, config, "random weights")


def images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


class EncoderTest(parameterized.TestCase):
    def test_it_is_what_evaluation_does(self):
        encoder, pixels = small(), images(3, 40, 30, 3)
        crops = np.stack([eval_crop(image, SIZE) for image in pixels])
        np.testing.assert_array_equal(encoder.crop(pixels), crops)
        stages = encoder.features(prepare(encoder.view, jnp.asarray(crops)))
        output = encoder(pixels)
        self.assertEqual((output.shape, output.dtype), ((3, 16), np.float32))
        np.testing.assert_allclose(output, stages.map.mean((1, 2)), rtol=1e-4, atol=1e-5)

    def test_images_of_any_form(self):
        encoder = small()
        pixels = [images(20, 33, 3), images(16, 16, 3, seed=1), images(64, 50, 1, seed=2)]
        features = encoder(pixels)
        for image, expected in zip(pixels, features, strict=True):
            np.testing.assert_allclose(encoder(image[None])[0], expected, rtol=1e-4, atol=1e-5)
        floats = encoder.preprocess(pixels)
        self.assertEqual(floats.dtype, np.float32)
        np.testing.assert_allclose(encoder(floats), features, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(encoder.crop(encoder.crop(pixels)), encoder.crop(pixels))

    def test_it_passes_into_jit_and_has_a_gradient(self):
        encoder, pixels = small(), images(2, SIZE, SIZE, 3)
        features = jax.jit(lambda e, x: e(x))(encoder, pixels)
        np.testing.assert_allclose(features, encoder(pixels), rtol=1e-4, atol=1e-5)
        slope = jax.grad(lambda x: encoder(x).sum())(encoder.preprocess(pixels))
        self.assertGreater(float(jnp.abs(slope).max()), 0)

    def test_layers(self):
        encoder = small()
        self.assertEqual(encoder.layers, ["stage1", "stage2", "stage3"])
        self.assertEqual(encoder.at("stage1").probe, Probe(-3))
        self.assertEqual(encoder.at(-2).feature_shape, (8,))
        self.assertEqual(encoder.at(-2, "grid").feature_shape, (32,))
        self.assertEqual(encoder.at("stage1", "none").feature_shape[-1], 4)
        pixels = images(2, SIZE, SIZE, 3)
        every = encoder.at(pool="none")(pixels)
        np.testing.assert_allclose(every.mean((1, 2)), encoder(pixels), rtol=1e-4, atol=1e-5)

    def test_class_token(self):
        """Each block has its own: that of a network which ends there, without the last norm."""
        encoder = small("vit", depth=3).at(pool="cls")
        pixels = images(2, SIZE, SIZE, 3)
        expected = encoder.features(encoder.preprocess(pixels)).cls
        np.testing.assert_allclose(encoder(pixels), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(encoder(pixels), encoder.at("block3")(pixels))
        for count in (1, 2):
            short = small("vit", depth=count, norm_after_pool=True)
            blocks = jax.tree.map(lambda x, n=count: x[:n], encoder.params["blocks"])
            short = dataclasses.replace(short, params=encoder.params | {"blocks": blocks})
            expected = short.features(short.preprocess(pixels)).cls
            output = encoder.at(f"block{count}")(pixels)
            np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)

    def test_the_network_s_own_output(self):
        """With the norm after the pooling, which no pooling of a map has."""
        options = {"cls_token": False, "pool": "avg", "norm_after_pool": True}
        encoder, pixels = small("vit", **options).at(pool="pooled"), images(2, SIZE, SIZE, 3)
        expected = encoder.features(encoder.preprocess(pixels)).pooled
        np.testing.assert_allclose(encoder(pixels), expected, rtol=1e-4, atol=1e-5)
        self.assertGreater(np.abs(encoder(pixels) - encoder.at(pool="avg")(pixels)).max(), 0.1)
        self.assertEqual(encoder.at("block1").probe, Probe(-2, "avg"))  # which has none
        self.assertEqual(encoder.at("block1", "grid").probe, Probe(-2, "grid"))
        with self.assertRaisesRegex(UserError, "own output, after its last stage; stage -2 has"):
            encoder.at(-2, "pooled")
        weights = conversion.flat(encoder.params, {})
        path = Path(self.create_tempdir().full_path, "timm.safetensors")
        backbone = options | {"name": "vit", "size": None, "image_size": SIZE, **VIT}
        metadata = {"format": "timm", "backbone": json.dumps(backbone), "channels": "3"}
        files.write(path, conversion.to_timm(weights, backbone), metadata)
        loaded = ssl_jax.load(path)  # which is timm's model(x)
        self.assertEqual(loaded.probe, Probe(-1, "pooled"))
        np.testing.assert_allclose(
            loaded(loaded.preprocess(pixels)),
            dataclasses.replace(encoder, view=loaded.view)(loaded.preprocess(pixels)),
            rtol=1e-4,
            atol=1e-5,
        )
        resnet = small().at(pool="pooled")
        np.testing.assert_array_equal(resnet(pixels), resnet.at(pool="avg")(pixels))

    @parameterized.parameters(
        (lambda e: e(images(16, 16, 3)), r"shape \(16, 16, 3\)"),
        (lambda e: e([]), "expected"),
        (lambda e: e(3), "of type int; expected an array"),
        (lambda e: e(None), "of type NoneType; expected an array"),
        (lambda e: e(np.zeros(3, np.float32)), r"normalised images of shape \(3,\)"),
        (lambda e: e(np.zeros((1, 16, 16, 2), np.float32)), "normalised images of shape"),
        (lambda e: e(images(1, 16, 16, 3).astype(int)), "int64; expected uint8"),
        (lambda e: e(images(1, 16, 16, 2)), "2 channels"),
        (lambda e: e.at("stage9"), "no layer .stage9.*expected one of stage1, "),
        (lambda e: e.at(7), "no stage 7"),
        (lambda e: e.at(pool="cls"), "class token"),
        (lambda e: e.at(-2, "cls"), "class token"),
        (lambda e: e.at(pool="max"), "unknown pooling"),
    )
    def test_invalid_calls(self, call, message):
        with self.assertRaisesRegex(UserError, message):
            call(small())

    def test_the_digest_is_of_the_weights_alone(self):
        encoder = small()
        self.assertEqual(encoder.digest(), small().digest())
        self.assertEqual(encoder.digest(), encoder.at("stage1").digest())
        self.assertNotEqual(encoder.digest(), small(seed=1).digest())
        mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=8, data=1))
        config = sharding.MeshConfig(fsdp=8, data=1, fsdp_min_size=1)
        placed = sharding.tree_shardings(encoder.params, config, mesh)
        split = dataclasses.replace(encoder, params=jax.device_put(encoder.params, placed))
        self.assertEqual(encoder.digest(), split.digest())
        name = "stem" if "stem" in encoder.params else next(iter(encoder.params))
        other = dict(encoder.params)
        other[name] = jax.tree.map(lambda x: x.at[(0,) * x.ndim].add(1e-6), other[name])
        self.assertNotEqual(encoder.digest(), dataclasses.replace(encoder, params=other).digest())

    def test_config(self):
        self.assertEqual(small().config, {"objective": {"name": "of a test"}})

    def test_other_weights_compile_nothing_anew(self):
        encoder, pixels = small(), images(2, SIZE, SIZE, 3)
        encoder(pixels)
        later = jax.tree.map(lambda x: x + 1, encoder)
        later = dataclasses.replace(later, origin="another step")
        compiled = encoder_module._of_crops._cache_size()
        self.assertFalse(np.allclose(later(pixels), encoder(pixels)))
        self.assertEqual(encoder_module._of_crops._cache_size(), compiled)


if __name__ == "__main__":
    absltest.main()
