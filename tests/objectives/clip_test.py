"""CLIP: the clamp, the global batch, the joint space of its encoder, tokenizer and errors."""

import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import open_source
from ssl_jax.data.sources.digits import WORDS
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.clip import CLIP
from ssl_jax.optim.factory import NO_BIAS_NO_NORM
from ssl_jax.run.configs import load_config, override
from ssl_jax.run.experiment import Experiment

SPEC = Spec(4, 100, 0, 10, 100, vocabulary=12)
RNG = np.random.default_rng(0)


def clip(**hyper):
    small = {"view": View(8), "context": 5, "dim": 6, "text_dim": 8, "text_depth": 1}
    return CLIP(resnet_small(4), SPEC, **(small | {"text_heads": 2} | hyper))


def batch():
    images = RNG.normal(size=(4, 1, 8, 8, 3)).astype(np.float32)
    texts = np.array([[10, a, b, 11, 0] for a, b in ((1, 2), (3, 4), (5, 6), (7, 8))], np.int32)
    return {"views": (images,), "index": np.arange(4, dtype=np.int32), "text": texts}


class CLIPTest(parameterized.TestCase):
    def test_the_temperature_is_learned_and_clamped(self):
        made = clip(temperature=0.05, max_scale=30.0)
        params, extra = made.init(jax.random.key(0))
        _, aux = made.loss(params, extra, batch(), jax.random.key(1), jnp.int32(0))
        np.testing.assert_allclose(aux.metrics["scale"], 20.0, rtol=1e-5)
        for scale, expected in ((5.0, math.log(30)), (2.0, 2.0)):
            moved = dict(params, temperature={"scale": jnp.float32(scale)})
            after, _ = made.after_update(moved, extra, {}, jnp.int32(0))
            np.testing.assert_allclose(after["temperature"]["scale"], expected, rtol=1e-6)
            self.assertEqual(after["temperature"]["scale"].dtype, jnp.float32)

    def test_the_temperature_does_not_decay(self):
        rule = next(m for p, m in NO_BIAS_NO_NORM if re.search(p, "temperature/scale"))
        self.assertEqual(rule, 0)

    def test_the_encoder_embeds_as_the_loss_does(self):
        made, data = clip(), batch()
        params, extra = made.init(jax.random.key(0))
        encoder = made.encoder(params, extra)
        images, texts = data["views"][0][:, 0], data["text"]
        nets = made.networks.bind(params, extra["stats"], train=False)
        image = nets.image_projection(nets.backbone(images).pooled)
        text = nets.text_projection(nets.text(texts).pooled)
        run = jax.jit(lambda e: (e.text.image(e.features(images).pooled), e.text.text(texts)))
        for actual, expected in zip(run(encoder), (image, text), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)

    def test_a_vocabulary_of_the_data_reaches_the_network(self):
        config = load_config("clip:digits")
        override(config, [("data.tokenizer", "train:270")])
        folder = Path(self.create_tempdir().full_path)
        made = Experiment.from_config(config, folder)
        vocabulary = made.spec.vocabulary
        self.assertBetween(vocabulary, 260, 273)
        params = made.abstract_state.params
        self.assertEqual(params["text"]["embedding"].shape[0], vocabulary)
        made.keep_tokenizer(folder)
        # The run's own is used once it has a checkpoint, whatever the config would learn now.
        manifest = folder / "checkpoints" / "1" / "manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.touch()
        again = Experiment.from_config(config, folder)
        again.__dict__["source"] = None
        self.assertEqual(again.tokenizer.json, made.tokenizer.json)
        text = next(made.batches(0, 1))["text"]
        self.assertEqual(text.shape, (made.train.batch_size, made.objective.inputs().text))
        np.testing.assert_array_equal(text.max(1), vocabulary - 1)

    def test_digits_have_captions(self):
        source = open_source("digits")
        for label, captions in zip(source.labels[:50], source.captions, strict=False):
            self.assertTrue(all(WORDS[label] in caption for caption in captions))
            self.assertGreater(len(set(captions)), 2)

    @parameterized.parameters(
        ({"temperature": 0.001}, "below 1 / max_scale"), ({"context": 2}, "no room for a token")
    )
    def test_user_errors(self, hyper, message):
        with self.assertRaisesRegex(UserError, message):
            clip(**hyper)


if __name__ == "__main__":
    absltest.main()
