"""Evolving losses: weights of tasks, versions of clips, distillation, bad input."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data.clips import Clips
from ssl_jax.data.sources import ArraySource
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit_video import make as vit_video
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.evolving_losses import make
from ssl_jax.objectives.parts import modalities
from ssl_jax.objectives.parts.modalities import backwards

SPEC = Spec(4, 100, 0, 10, 100)
SMALL = {
    "view": View(16, area=(1.0, 1.0), recipe="normalize"),
    "samples": 40,
    "hidden": (4,),
    "embedding": 4,
}


def method(net=None, spec=SPEC, **options):
    sizes = {"dim": 8, "depth": 1, "heads": 2, "frames": 3, "tubelet": 1, "pool": "avg"}
    backbone = net or vit_video(None, 8, 16, cls_token=False, **sizes)
    return make(backbone, spec, **(SMALL | options))


def batch(seed=0):
    draw = np.random.default_rng(seed)
    return {
        "index": np.arange(4, dtype=np.int32),
        "frames": draw.integers(0, 256, (4, 6, 16, 16, 3)).astype(np.uint8),
        "flow": draw.normal(size=(4, 6, 16, 16, 2)).astype(np.float32),
        "sound": draw.uniform(-1, 1, (4, 240)).astype(np.float32),
    }


class LossTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.made = method()
        cls.params, cls.extra = jax.jit(cls.made.init)(jax.random.key(0))

        def run(params, extra, inputs):
            loss = lambda p: cls.made.loss(p, extra, inputs, jax.random.key(1), jnp.int32(0))  # noqa: E731
            return jax.value_and_grad(loss, has_aux=True)(params)

        cls.run_loss = staticmethod(jax.jit(run))

    def step(self, inputs=None, **weights):
        """Run with weights of 0 but for those given."""
        chosen = [weights.get(name, 0.0) for name in self.made.tasks.names]
        extra = dict(self.extra, weights=jnp.array(chosen, jnp.float32))
        return self.run_loss(self.params, extra, inputs or batch())

    def moved(self, grads):
        """Name the networks with a gradient."""
        return {
            name for name, tree in grads.items() if any(np.any(x) for x in jax.tree.leaves(tree))
        }

    def test_the_loss_is_the_weighted_sum_of_losses_over_their_first_values(self):
        (total, aux), _ = self.step(order_rgb=0.5, future_sound=1.0, contrast_flow=0.25)
        self.assertAlmostEqual(float(total), 1.75, places=5)
        losses = [aux.metrics[f"{name}/loss"] for name in self.made.tasks.names]
        np.testing.assert_array_equal(aux.extra["scale"], losses)
        weights = np.random.default_rng(0).uniform(size=len(losses))
        extra = dict(self.extra, weights=jnp.float32(weights), scale=aux.extra["scale"])
        (second, later), _ = self.run_loss(self.params, extra, batch(1))
        ratios = [later.metrics[f"{n}/loss"] / x for n, x in zip(self.made.tasks.names, losses)]  # noqa: B905
        self.assertAlmostEqual(float(second), float(np.dot(weights, ratios)), places=4)
        np.testing.assert_array_equal(later.extra["scale"], losses)  # the first, not the last

    @parameterized.parameters(
        ("reconstruction_rgb", {"backbone", "pixels_rgb"}),
        ("future_sound", {"sound", "pixels_sound"}),
        ("order_flow", {"flow", "order"}),
        ("shuffle_grey", {"grey", "shuffle"}),
        ("colorization_grey", {"grey", "colorization"}),
        ("alignment_sound", {"backbone", "sound", "alignment"}),
        ("contrast_flow", {"backbone", "flow", "contrast", "contrast_rgb"}),
        ("distillation_grey", {"backbone"}),  # not its teacher
    )
    def test_a_task_trains_its_networks_and_no_others(self, name, networks):
        _, grads = self.step(**{name: 1.0})
        self.assertEqual(self.moved(grads), networks)
        # Of a stacked head, only the entry of this task.
        entries = [x for n in networks for x in jax.tree.leaves(grads[n]) if "_" in n]
        for x in entries:
            self.assertLessEqual(sum(bool(np.any(part)) for part in x), 1)

    def test_what_is_not_finite_in_a_task_of_weight_zero_reaches_nothing(self):
        broken = dict(batch(), flow=np.full((4, 6, 16, 16, 2), np.nan, np.float32))
        weights = {n: 1.0 for n in self.made.tasks.names if "flow" not in n}
        (plain, _), want = self.step(**weights)
        (value, aux), grads = self.step(broken, **weights)
        self.assertTrue(np.isnan(aux.metrics["future_flow/loss"]))
        self.assertEqual(float(value), float(plain))
        jax.tree.map(np.testing.assert_array_equal, grads, want)

    def test_the_encoder_is_the_network_of_rgb(self):
        encoder = self.made.encoder(self.params, self.extra)
        self.assertIs(encoder.params, self.params["backbone"])


class VersionsTest(parameterized.TestCase):
    @parameterized.parameters("time", "clip")
    def test_answers(self, misaligned):
        """A version is the past where the answer is yes, and never where it is no."""
        parts = method(misaligned=misaligned).tasks.modalities
        clip = np.random.default_rng(0).normal(size=(64, 6, 2, 2, 3)).astype(np.float32)
        run = jax.jit(lambda i, k: parts.versions("rgb", jnp.asarray(clip)[i], i, k))
        made = run(np.arange(64), jax.random.key(0))
        past, future = clip[:, :3], clip[:, 3:]
        np.testing.assert_array_equal(made.past, past)
        np.testing.assert_array_equal(made.future, future)
        wrong = future if misaligned == "time" else np.roll(past, 1, axis=0)
        for shown, answer, no in (
            (made.played, made.forwards, past[:, ::-1]),
            (made.paired, made.aligned, wrong),
        ):
            want = np.where(np.reshape(answer, (-1, 1, 1, 1, 1)) > 0, past, no)
            np.testing.assert_array_equal(shown, want)
        same = (np.asarray(made.mixed) == past).all((1, 2, 3, 4))
        np.testing.assert_array_equal(same, np.asarray(made.ordered) > 0)
        for answer in made[5:]:
            self.assertBetween(float(np.mean(answer)), 0.25, 0.75)
        order = np.random.default_rng(1).permutation(64)
        other = run(order, jax.random.key(0))  # the draws belong to the clip, not to its place
        for a, b in zip(made[5:], other[5:], strict=True):
            np.testing.assert_array_equal(np.asarray(a)[order], b)
        again = run(np.arange(64), jax.random.key(0))
        jax.tree.map(np.testing.assert_array_equal, again, made)

    def test_backwards(self):
        clip = np.arange(6.0).reshape(1, 3, 2)
        np.testing.assert_array_equal(backwards("rgb", clip)[0], [[4, 5], [2, 3], [0, 1]])
        np.testing.assert_array_equal(backwards("flow", clip)[0], [[-4, -5], [-2, -3], [0, -1]])
        np.testing.assert_array_equal(backwards("sound", clip)[0].ravel(), [5, 4, 3, 2, 1, 0])

    def test_modalities_show_one_clip(self):
        """Grey is the brightness of RGB, the sound's network sees a spectrogram of its half."""
        parts, inputs = method().tasks.modalities, batch()
        with mock.patch.object(modalities, "spectrogram", lambda x, *_: x[:, :, None, None]):
            clips = parts.clips(inputs, jax.random.key(0))
            shown = parts.versions("sound", clips["sound"], inputs["index"], jax.random.key(0))
        np.testing.assert_array_equal(shown.past[:, 0, :, 0, 0], inputs["sound"][:, :120])
        np.testing.assert_array_equal(shown.future[:, 0, :, 0, 0], inputs["sound"][:, 120:])
        luma = inputs["frames"] / 255 @ np.array([0.2989, 0.587, 0.114])
        mean, std = np.mean((0.485, 0.456, 0.406)), np.mean((0.229, 0.224, 0.225))
        np.testing.assert_allclose(clips["grey"][..., 0], (luma - mean) / std, atol=1e-4)
        np.testing.assert_array_equal(clips["flow"], inputs["flow"])  # 16 px: one pixel is 1
        self.assertEqual(parts.encoders["sound"].config.window, (1, 8, 8))


class SettingsTest(parameterized.TestCase):
    def test_names(self):
        self.assertLen(method().tasks.names, 26)
        made = method(modalities=("rgb", "sound"), weights={"order_rgb": 0.5})
        self.assertLen(made.weights, 11)
        self.assertEqual((made.weights["order_rgb"], made.weights["order_sound"]), (0.5, 1.0))
        self.assertFalse(made.inputs().flow)
        self.assertEqual((made.inputs().frames, made.inputs().sound), (6, 240))
        self.assertEqual(method(modalities=("rgb",)).tasks.kinds["alignment"], ())

    @parameterized.parameters(("rgb",), ("rgb", "sound"), ("rgb", "grey"))
    def test_some_modalities(self, *names):
        made = method(modalities=names)
        params, extra = jax.eval_shape(made.init, jax.random.key(0))
        loss = lambda p, e: made.loss(p, e, batch(), jax.random.key(1), jnp.int32(0))  # noqa: E731
        _, aux = jax.eval_shape(loss, params, extra)
        losses = {m.removesuffix("/loss") for m in aux.metrics if m.endswith("/loss")}
        self.assertEqual(losses, {*made.tasks.names})

    @parameterized.parameters(
        ({"net": resnet_small(4)}, "set backbone.name='vit_video'"),
        ({"spec": Spec(4, 100, 0, 10, 100, channels=1)}, "expected colour clips, got 1 channels"),
        ({"modalities": ("grey", "sound")}, "modalities: expected 'rgb' and each one once"),
        ({"modalities": ("rgb", "rgb")}, "modalities: expected 'rgb' and each one once"),
        ({"weights": {"order_rbg": 1.0}}, "no task 'order_rbg'; did you mean 'order_rgb'"),
        ({"modalities": ("rgb",), "weights": {"order_sound": 1.0}}, "no task 'order_sound'"),
        ({"weights": {"order_rgb": 1.5}}, r"order_rgb.*in \[0, 1\]"),
        ({"view": View(16, recipe="mae")}, "this chain moves pixels, but not their flow"),
    )
    def test_user_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            method(**options)
        self.assertNotIn("\n", str(caught.exception))

    @parameterized.parameters(
        ({"sounded": False}, "has no sound, which this method needs; put the sound of the clip"),
        ({"moving": False}, "has no optical flow, which this method needs; use moving_digits"),
        ({"lengths": np.full(3, 5)}, "the longest clip has 5 frames, but this method needs 6"),
        ({"lengths": None}, "has no frames, which this method needs; use frames:/path"),
    )
    def test_data_without_what_it_needs(self, facts, message):
        source = ArraySource("clips", np.zeros((3, 16, 16, 3), np.uint8))
        usual = {"lengths": np.full(3, 6), "sounded": True, "moving": True}
        for name, value in (usual | facts).items():
            setattr(source, name, value)
        with self.assertRaisesRegex(UserError, message) as caught:
            Clips(source, method().inputs(), 3, seed=0)
        self.assertNotIn("\n", str(caught.exception))

    def test_no_task(self):
        with self.assertRaisesRegex(UserError, "weights: all are 0, so nothing is trained"):
            method(weights=dict.fromkeys(method().tasks.names, 0.0))


if __name__ == "__main__":
    absltest.main()
