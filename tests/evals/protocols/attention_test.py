"""Attention maps against NumPy; distances and entropies against closed forms."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import open_source
from ssl_jax.evals.base import Subject
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols.attention import AttentionMaps, attention_maps, distance, entropy
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.nets.positions import relative_index
from ssl_jax.objectives.base import Encoder, Probe
from tests.nets import weights

HEADS, DEPTH = 2, 3


def network(depth=DEPTH, **options):
    return vit(None, 4, 16, dim=8, depth=depth, heads=HEADS, **options)


def encoder(**options):
    net = network(**options)
    params, stats = weights.random_variables(net)
    return Encoder(params, stats, net)


def naive(block, x, bias):
    """Compute the block's attention to tokens (B, T, D), one image, head and token at a time."""
    norm, qkv = block["norm1"], block["attn"]["qkv"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = (x * norm["scale"] + norm["bias"]) @ qkv["kernel"] + qkv["bias"]
    batch, tokens, dim = *x.shape[:2], x.shape[2] // 3
    out, size = np.zeros((batch, HEADS, tokens, tokens)), dim // HEADS
    for b, h, t in np.ndindex(batch, HEADS, tokens):
        q, k = (x[b, :, start + h * size : start + (h + 1) * size] for start in (0, dim))
        weight = np.exp(k @ q[t] / size**0.5 + bias[h, t])
        out[b, h, t] = weight / weight.sum()
    return out


class MapsTest(parameterized.TestCase):
    @parameterized.parameters(
        {}, {"cls_token": False, "pool": "avg"}, {"position": "relative"}, {"remat": "full"}
    )
    def test_equal_numpy(self, **options):
        made = encoder(**options)
        images = weights.random_images(2, 16, 16, 3)
        maps = attention_maps(made, images)
        tokens = 16 + options.get("cls_token", True)
        self.assertEqual(maps.shape, (DEPTH, 2, HEADS, tokens, tokens))
        np.testing.assert_allclose(maps.sum(-1), 1.0, rtol=1e-5)
        bias = np.zeros((HEADS, tokens, tokens))
        if "relative" in made.params:
            table = np.asarray(made.params["relative"]["table"], np.float64)
            bias = np.moveaxis(table[relative_index((4, 4), True)], -1, 0)
            self.assertGreater(np.ptp(bias), 0.1)
        for i in range(1, DEPTH):  # a net of i blocks, without its final norm, is the input of next
            shorter = network(i, norm_after_pool=True, **options)
            blocks = jax.tree.map(lambda x, i=i: x[:i], made.params["blocks"])
            x = shorter.apply(made.params | {"blocks": blocks}, {}, images, train=False)[0].tokens
            block = jax.tree.map(lambda x, i=i: np.asarray(x[i], np.float64), made.params["blocks"])
            expected = naive(block, np.asarray(x, np.float64), bias)
            np.testing.assert_allclose(maps[i], expected, rtol=1e-4, atol=1e-6)

    def test_the_other_outputs_are_the_same_with_and_without(self):
        made, images = encoder(), weights.random_images(2, 16, 16, 3)
        plain, more = (
            made.net.apply(made.params, {}, images, train=False, stages=True, **options)[0]
            for options in ({}, {"attention": True})
        )
        self.assertIsNone(plain.attention)
        self.assertIsNotNone(more.attention)
        chex.assert_trees_all_equal(plain, dataclasses.replace(more, attention=None))

    def test_a_network_without_attention_is_an_error(self):
        net = resnet_small(width=4)
        made = Encoder(*net.init(jax.random.key(0)), net)
        with self.assertRaisesRegex(UserError, "need a ViT"):
            attention_maps(made, jnp.zeros((1, 16, 16, 3)))


class StatisticsTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_uniform_attention(self, cls_token):
        """The mean distance of two points of a 3 x 3 grid of patches of 5 pixels, by hand."""
        tokens = 9 + cls_token
        maps = jnp.full((2, HEADS, tokens, tokens), 1 / tokens)
        pairs = {0: 9, 1: 24, 2**0.5: 16, 2: 12, 5**0.5: 16, 8**0.5: 4}  # distance: ordered pairs
        self.assertEqual(sum(pairs.values()), 81)
        mean = 5 * sum(d * n for d, n in pairs.items()) / 81
        np.testing.assert_allclose(distance(maps, 15), np.full((2, HEADS), mean), rtol=1e-6)
        np.testing.assert_allclose(entropy(maps), np.log(tokens), rtol=1e-6)

    @parameterized.parameters(16, 17)
    def test_identity_attention(self, tokens):
        maps = jnp.eye(tokens)[None, None]
        self.assertEqual(float(distance(maps, 16)[0, 0]), 0.0)
        self.assertEqual(float(entropy(maps)[0, 0]), 0.0)

    def test_attention_one_patch_to_the_right(self):
        """Around the border: three patches of four look one patch far, one looks three back."""
        row, column = np.divmod(np.arange(16), 4)
        maps = jnp.asarray(np.eye(16)[row * 4 + (column + 1) % 4])[None, None]
        self.assertAlmostEqual(float(distance(maps, 64)[0, 0]), 16 * (3 * 1 + 3) / 4, places=4)

    def test_the_class_token_neither_looks_nor_is_looked_at(self):
        patches = np.random.default_rng(0).dirichlet(np.ones(16), 16)
        whole = np.zeros((17, 17))
        whole[1:, 1:], whole[1:, 0], whole[0] = 0.3 * patches, 0.7, 1 / 17
        with_token, without = (distance(jnp.asarray(m), 16) for m in (whole, patches))
        self.assertAlmostEqual(float(with_token), float(without), places=5)


class ProtocolTest(parameterized.TestCase):
    def subject(self, net, devices=1):
        source = open_source("digits", "train")
        mesh = sharding.make_mesh(sharding.MeshConfig(data=devices), jax.devices()[:devices])
        images = Images.of(
            source, None, 40, 40, view=View(16), channels=1, batch_size=256, mesh=mesh
        )
        params, stats = weights.random_variables(net)
        return Subject(Encoder(params, stats, net), images, Probe())

    def test_numbers_of_each_layer_and_head_are_equal_on_eight_devices(self):
        numbers = []
        for devices in (1, 8):
            subject = self.subject(network(channels=1), devices)
            protocol = AttentionMaps(examples=24)
            self.assertTrue(protocol.applies(subject))
            numbers.append(protocol.measure(subject))
        one, eight = numbers
        self.assertLen(one, DEPTH * (2 * HEADS + 2))
        for name, value in one.items():
            self.assertAlmostEqual(value, eight[name], places=5)
        for i in range(DEPTH):
            heads = [one[f"attention_distance_{i}_{h}"] for h in range(HEADS)]
            self.assertAlmostEqual(one[f"attention_distance_{i}"], np.mean(heads), places=5)
            self.assertBetween(min(heads), 0.0, 16.0)
            self.assertBetween(one[f"attention_entropy_{i}"], 0.0, np.log(17))
            heads = [one[f"attention_entropy_{i}_{h}"] for h in range(HEADS)]
            self.assertAlmostEqual(one[f"attention_entropy_{i}"], np.mean(heads), places=5)

    def test_other_backbones_are_left_out(self):
        self.assertFalse(AttentionMaps().applies(self.subject(resnet_small(width=4, channels=1))))


if __name__ == "__main__":
    absltest.main()
