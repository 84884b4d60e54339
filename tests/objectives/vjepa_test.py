"""V-JEPA: its masks, what the loss sees and does not see, the target encoder, errors."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment.masks import block_size, tube_mask
from ssl_jax.augment.patches import patchify, unpatchify
from ssl_jax.core.errors import UserError
from ssl_jax.losses.masked import masked_token_l1
from ssl_jax.nets.backbones import vit as vits
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.nets.backbones.vit_video import make as vit_video
from ssl_jax.nets.blocks import hide
from ssl_jax.nets.positions import sincos_clip
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.vjepa import VJEPA, Tubes
from tests.nets import weights as torch

SPEC = Spec(4, 100, 0, 10, 100)
ROWS, TIMES = 8, 2


def encoder(size=16, patch=2, **options):
    sizes = {"dim": 12, "depth": 1, "heads": 2, "frames": 4}
    options = {"position": "sincos", "cls_token": False, "pool": "avg"} | options
    return vit_video(None, patch, size, **sizes | options)


def vjepa(net=None, **hyper):
    sizes = {"predictor_dim": 12, "predictor_depth": 1, "predictor_heads": 2}
    return VJEPA(net or encoder(), SPEC, **({"view": View(16)} | sizes | hyper))


def state(made):
    """Random (params, extra), whose target encoder is the encoder."""
    params = {n: torch.random_variables(net)[0] for n, net in made.networks.nets.items()}
    none = {name: {} for name in params}
    target = {"backbone": params["backbone"]}
    return params, {"stats": none, "target": target, "target_stats": {"backbone": {}}}


def batch(count=2):
    frames = np.random.default_rng(0).integers(0, 256, (count, 4, 16, 16, 3)).astype(np.uint8)
    return {"frames": jnp.asarray(frames), "index": jnp.arange(count)}


class MasksTest(parameterized.TestCase):
    def test_tubes_are_the_same_in_all_frames(self):
        """Context and targets are the two parts of every frame."""
        made = vjepa()
        for (context, targets), lengths in zip(
            jax.jit(made.masks)(jax.random.key(0), jnp.arange(32)), made.lengths, strict=True
        ):
            parts = []
            for (ids, valid), length in zip((context, targets), lengths, strict=True):
                shape = (32, TIMES, length)
                ids, valid = np.asarray(ids).reshape(shape), np.asarray(valid).reshape(shape)
                np.testing.assert_array_equal(valid[:, 0], valid[:, 1])
                np.testing.assert_array_equal(ids[:, 1], ids[:, 0] + ROWS**2)
                parts.append([set(i[v].tolist()) for i, v in zip(ids[:, 0], valid[:, 0])])  # noqa: B905
            for visible, hidden in zip(*parts, strict=True):
                self.assertEqual(visible | hidden, set(range(ROWS**2)))
                self.assertFalse(visible & hidden)
                self.assertNotEmpty(visible)

    def test_longer_lists_lose_random_tubes(self):
        made = vjepa(tubes=(Tubes(2, 0.3, context=9, targets=7),))
        ((context, targets),) = jax.jit(made.masks)(jax.random.key(0), jnp.arange(32))
        self.assertEqual(context.ids.shape, (32, TIMES * 9))
        self.assertEqual(targets.ids.shape, (32, TIMES * 7))
        self.assertTrue(targets.valid.all())
        self.assertGreater(len(np.unique(np.asarray(targets.ids[:, :7]))), 40)

    @parameterized.parameters((8, 0.15), (2, 0.7))
    def test_statistics(self, blocks, scale):
        """Visible patches of 14 x 14: those of the release's generator, written out in NumPy."""
        count, side, draw = 3000, 14, np.random.default_rng(0)
        visible = []
        while len(visible) < count:
            ratio, area = draw.uniform(0.75, 1.5), int(side * side * scale)
            h, w = (min(side, round(x**0.5)) for x in (area * ratio, area / ratio))
            frame = np.ones((side, side), bool)
            for _ in range(blocks):
                top, left = draw.integers(0, side - h + 1), draw.integers(0, side - w + 1)
                frame[top : top + h, left : left + w] = False
            if frame.any():
                visible.append(frame.mean())

        def one(key):
            size = block_size(jax.random.uniform(key), (side, side), (scale, scale), (0.75, 1.5))
            hidden = tube_mask(jax.random.fold_in(key, 0), (side, side), size, blocks)
            return 1 - hidden.mean(), hidden

        ours, hidden = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), count))
        ours, error = np.asarray(ours), np.std(visible) * (2 / count) ** 0.5
        self.assertAlmostEqual(ours.mean(), np.mean(visible), delta=4 * error)
        np.testing.assert_allclose(ours.std(), np.std(visible), rtol=0.1)
        self.assertGreater(ours.min(), 0)
        np.testing.assert_allclose(hidden.mean(0), hidden[:, ::-1, ::-1].mean(0), atol=0.06)


class LossTest(parameterized.TestCase):
    def test_hidden_pixels_do_not_reach_the_context(self):
        made = vjepa()
        params, extra = state(made)
        clips = jax.random.normal(jax.random.key(1), (2, 4, 16, 16, 3))

        @jax.jit
        def run(clips, change):
            ((context, _), _), ((tubes, _), _) = (
                f(jax.random.key(2), jnp.arange(2)) for f in (made.masks, made.tube_lists)
            )
            shown = (jax.nn.one_hot(tubes.ids, ROWS**2) * tubes.valid[..., None]).max(1)
            patches = jnp.stack([patchify(clips[:, t], 2) for t in range(4)], 1)
            for name, part in (("hidden", 1 - shown), ("visible", shown)):
                patches = patches + change[name] * part[:, None, :, None]
            other = jnp.stack([unpatchify(patches[:, t], 2) for t in range(4)], 1)
            nets, _ = made.bind(params, extra)
            return made.encode(nets, other, context) * context.valid[..., None]

        plain = run(clips, {"hidden": 0.0, "visible": 0.0})
        np.testing.assert_array_equal(run(clips, {"hidden": 5.0, "visible": 0.0}), plain)
        self.assertGreater(np.abs(run(clips, {"hidden": 0.0, "visible": 5.0}) - plain).max(), 0.1)

    def test_gradient_is_that_of_constant_targets(self):
        """Although the target encoder has the trained encoder's weights. Each kind of mask trains
        its own mask token.
        """
        made = vjepa()
        params, extra = state(made)
        inputs, key = batch(), jax.random.key(3)

        class Constant(VJEPA):
            def features(self, nets, images):
                tokens = (
                    made.networks.nets["backbone"]
                    .apply(extra["target"]["backbone"], {}, images, train=True)[0]
                    .tokens
                )
                centred = tokens - tokens.mean(-1, keepdims=True)
                return jax.lax.stop_gradient(
                    centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)
                )

        same = Constant(made.backbone, SPEC, **{k: getattr(made, k) for k in FIELDS})
        losses = [lambda p, m=m: m.loss(p, extra, inputs, key, 0)[0] for m in (made, same)]
        both = jax.jit(lambda p: [jax.value_and_grad(loss)(p) for loss in losses])(params)
        for a, b in zip(*map(jax.tree.leaves, both), strict=True):
            np.testing.assert_allclose(b, a, atol=1e-5 * max(np.abs(a).max(), 1e-3))
        tokens = both[0][1]["predictor"]["mask_token"]
        self.assertEqual(tokens.shape, (1, 2, 12))
        self.assertTrue((np.abs(tokens).max(-1) > 0).all())

    def test_loss_is_the_mean_over_hidden_tokens_and_channels(self):
        draws = np.random.default_rng(0)
        x, y = draws.normal(size=(2, 3, 5, 4)).astype(np.float32)
        mask = draws.integers(0, 2, (3, 5)).astype(bool)
        np.testing.assert_allclose(masked_token_l1(x, y, mask), np.abs(x - y)[mask].mean(), 1e-6)

    @parameterized.parameters(0.0, 1.0)
    def test_target_encoder(self, momentum):
        """At momentum 1 it is frozen, at momentum 0 the first average is the encoder."""
        made = vjepa(momentum=momentum)
        _, extra = state(made)
        trained = jax.tree.map(lambda x: x + 1, extra["target"])
        _, after = made.after_update(trained, extra, {}, jnp.int32(0))
        want = extra["target"] if momentum else trained
        jax.tree.map(np.testing.assert_array_equal, after["target"], want)
        encoder = made.encoder(trained, after)
        jax.tree.map(np.testing.assert_array_equal, encoder.params, want["backbone"])


FIELDS = ("view", "predictor_dim", "predictor_depth", "predictor_heads")


class BackboneTest(parameterized.TestCase):
    def test_an_image_is_a_clip_in_which_nothing_moves(self):
        net = encoder(position="learned")
        params, _ = torch.random_variables(net)
        images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
        run = jax.jit(lambda x: net.apply(params, {}, x, train=False)[0])
        image, clip = run(images), run(jnp.stack([images] * 4, 1))
        np.testing.assert_array_equal(image.tokens, clip.tokens)
        np.testing.assert_allclose(image.tokens.reshape(2, 2, 8, 8, 12).mean(1), image.map, 1e-5)

    def test_the_embedding_is_the_convolution_of_its_kernel(self):
        net = encoder(position="none")
        params, _ = torch.random_variables(net)
        clips = jax.random.normal(jax.random.key(0), (2, 4, 16, 16, 3))
        kernel, bias = (params["patch_embed"][name] for name in ("kernel", "bias"))
        want = jax.lax.conv_general_dilated(
            clips, kernel, kernel.shape[:3], "VALID", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
        )
        with mock.patch.object(
            vits.ViT, "__call__", lambda self, images, *_, **__: self._embed(images)
        ):
            (tokens, grid), _ = net.apply(params, {}, clips, train=False)
        self.assertEqual(grid, (8, 8))
        np.testing.assert_allclose(tokens, want.reshape(2, -1, 12) + bias, rtol=1e-4, atol=1e-5)

    def test_a_mask_hides_a_place_in_every_frame(self):
        patches, mask = jnp.ones((1, 2 * 4, 3)), np.array([[[0, 1], [0, 0]]])
        after = hide(patches, mask, (2, 2), jnp.zeros((1, 1, 3)))
        np.testing.assert_array_equal(after[0, :, 0], [1, 0, 1, 1] * 2)

    def test_positions(self):
        """Frame, row, column of (2, 3, 5), with 4 channels each, cut to 10; other sizes."""
        table = sincos_clip(10, (2, 3, 5))
        waves = lambda t: [np.sin(t), np.sin(t / 100), np.cos(t), np.cos(t / 100)]  # noqa: E731
        want = np.concatenate([waves(1), waves(2), waves(3)])[:10]
        np.testing.assert_allclose(table[15 + 2 * 5 + 3], want)
        net = encoder()
        shapes = jax.eval_shape(
            lambda p, x: net.apply(p, {}, x, train=False)[0],
            jax.eval_shape(net.init, jax.random.key(0))[0],
            jnp.zeros((1, 4, 20, 12, 3)),
        )
        self.assertEqual(shapes.map.shape, (1, 10, 6, 12))
        self.assertEqual(shapes.tokens.shape, (1, 2 * 60, 12))


class ErrorsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"net": vit(None, 2, 16, dim=8, depth=1, heads=2)}, "backbone.name='vit_video'"),
        ({"tubes": (Tubes(1, 1.0),)}, "scale 1.0 hides all 64 patches"),
        ({"tubes": ()}, "at least one kind of mask"),
        ({"aspect": (2.0, 1.0)}, "expected a rising range"),
        ({"net": encoder(cls_token=True)}, "backbone.cls_token=False"),
        ({"predictor_heads": 5}, "5 heads do not divide a width of 12"),
    )
    def test_user_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            vjepa(**options).init(jax.random.key(0))
        self.assertNotIn("\n", str(caught.exception))

    @parameterized.parameters(
        ({"tubelet": 3}, "backbone.tubelet: 3 frames do not divide a clip of 4"),
        ({"position": "relative"}, "for clips, got 'relative'"),
    )
    def test_backbone(self, options, message):
        with self.assertRaisesRegex(UserError, message):
            encoder(**options)

    def test_clips_of_another_length(self):
        net = encoder()
        params = jax.eval_shape(net.init, jax.random.key(0))[0]
        with self.assertRaisesRegex(UserError, "clips of 4 frames, got 6; set backbone.frames=6"):
            jax.eval_shape(
                lambda p, x: net.apply(p, {}, x, train=False), params, jnp.zeros((1, 6, 16, 16, 3))
            )


if __name__ == "__main__":
    absltest.main()
