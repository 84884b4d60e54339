"""DenseCL: three training steps and single losses against the released code; matches, queues."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.losses.densecl import most_similar
from ssl_jax.losses.infonce import infonce
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives import densecl
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.parts import queue
from tests.objectives import harness, released
from tests.objectives.parts.queue_test import from_columns

GOLDEN = Path(__file__).parents[1] / "golden"
LAYERS = {
    "0.conv": "backbone/conv",
    "1.mlp.0": "projector/linear1",
    "1.mlp.2": "projector/linear2",
    "1.mlp2.0": "dense_projector/linear1",
    "1.mlp2.2": "dense_projector/linear2",
}


def weights(data, prefix, step=None, dtype=None):
    """The fixture's weights in our layout: its 1x1 convolutions are linear layers."""
    params = released.weights(data, prefix, LAYERS, step, dtype)
    for layer in params["dense_projector"].values():
        layer["kernel"] = layer["kernel"][0, 0]
    return params


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_three_steps(self, wide):
        """WXinlong/DenseCL, DenseCL.forward_train with SGD, through the project's train step."""
        data = np.load(GOLDEN / "densecl_train3.npz")
        prefix, dtype, rtol = ("f64_", np.float64, 1e-7) if wide else ("", np.float32, 1e-5)
        steps, batch, _, channels, side, _ = data["in_img"].shape
        size = data["in_queue"].shape[1]
        with jax.enable_x64(wide):
            params = weights(data, "in_sd.encoder_q.", dtype=dtype)
            widths = [
                tuple(params[head][layer]["bias"].size for layer in ("linear1", "linear2"))
                for head in ("projector", "dense_projector")
            ]
            objective = densecl.make(
                released.Tiny(params["backbone"]["conv"]["bias"].size).net(channels),
                Spec(batch, size, 0, steps_per_epoch=1, total_steps=steps, channels=channels),
                view=View(side, count=2),
                projector=widths[0],
                dense_projector=widths[1],
                dense_weight=released.hyper(data, "loss_lambda"),
                temperature=released.hyper(data, "T"),
                momentum=released.hyper(data, "m"),
                queue_size=size,
            )

            def keys(name):
                old = from_columns(data[name].astype(dtype), batch)
                return {"keys": jnp.asarray(old), "next": jnp.zeros((), jnp.int32)}

            extra = {
                "stats": {},
                "key_encoder": params,
                "key_stats": {},
                "queue": keys("in_queue"),
                "dense": {"queue": keys("in_queue2")},
            }
            images = np.moveaxis(data["in_img"], 3, -1).astype(dtype)
            batches = [{"views": (x,), "index": np.arange(batch, dtype=np.int32)} for x in images]
            used = params  # the released code averages before the keys, ours after the update
            run = released.train(objective, data, params, extra, batches)
            for s, (loss, trained, extra, _) in enumerate(run):
                np.testing.assert_allclose(loss, data[f"{prefix}out_loss"][s], rtol=rtol)
                for name, tree in (("q", trained), ("k", used)):
                    stored = f"{prefix}out_sd.encoder_{name}."
                    expected = weights(data, stored, s)
                    jax.tree.map(
                        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol),
                        tree,
                        expected,
                    )
                used = extra["key_encoder"]
                for name, state in (("queue", extra["queue"]), ("queue2", extra["dense"]["queue"])):
                    expected = from_columns(data[f"out_{name}"][s], batch)
                    np.testing.assert_allclose(state["keys"], expected, atol=1e-5)
                    self.assertEqual(int(state["next"]) * batch, int(data["out_ptr"][s]))

    @parameterized.parameters(False, True)
    def test_losses_gradients_and_queues_from_outputs(self, wide):
        data = np.load(GOLDEN / "densecl_full.npz")
        prefix, dtype, rtol = ("f64_", np.float64, 1e-7) if wide else ("", np.float32, 1e-5)
        rows = len(data["in_q"])
        size, weight = data["in_queue"].shape[1], released.hyper(data, "lambda")
        spec = Spec(rows, size, 0, steps_per_epoch=1, total_steps=1)
        made = densecl.make(
            released.Tiny(4).net(3),
            spec,
            view=View(8, count=2),
            queue_size=size,
            temperature=released.hyper(data, "T"),
        )
        with jax.enable_x64(wide):
            flat = {k: np.asarray(data[f"in_{k}"], dtype) for k in ("q", "k", "k2")}
            dense = [jnp.asarray(data[f"in_{k}_grid"].swapaxes(1, 2), dtype) for k in "qk"]
            maps = [data[f"in_{k}b"].reshape(rows, -1, dense[0].shape[1]) for k in "qk"]
            places = [jnp.asarray(x.swapaxes(1, 2), dtype) for x in maps]
            # A queue of any length: the released one drops what does not fit.
            old = [data[f"in_{x}"].T.astype(dtype)[None] for x in ("queue", "queue2")]
            extra = {"queue": {"keys": old[0]}, "dense": {"queue": {"keys": old[1]}}}
            encoded = {"projector": flat["k"], "dense": dense[1], "places": places[1]}

            def losses(q, q_grid):
                query = {"projector": q, "dense": q_grid, "places": places[0]}
                image, local = made.criteria(query, encoded, extra)
                image, local = (1 - weight) * image, weight * local
                return image + local, (image, local)

            grad = jax.jit(jax.value_and_grad(losses, (0, 1), has_aux=True))
            (_, parts), grads = grad(flat["q"], dense[0])
            for name, part in zip(("single", "dense"), parts, strict=True):
                np.testing.assert_allclose(part, data[f"{prefix}out_{name}"], rtol=rtol)
            expected = data[f"{prefix}grad_q"], data[f"{prefix}grad_q_grid"].swapaxes(1, 2)
            for actual, wanted in zip(grads, expected, strict=True):
                np.testing.assert_allclose(
                    actual, wanted, rtol=0, atol=10 * rtol * abs(wanted).max()
                )
            for name, key in (("queue", "k"), ("queue2", "k2")):
                start = from_columns(data[f"in_{name}"], rows).astype(dtype)
                state = {"keys": start, "next": jnp.zeros((), jnp.int32)}
                pushed = queue.push(state, l2_normalize(flat[key], floor="norm"))
                wanted = from_columns(data[f"{prefix}out_{name}"], rows)
                np.testing.assert_allclose(pushed["keys"], wanted, atol=rtol)

    def test_head(self):
        """The cross-entropy of given similarities: queries are them, keys are unit vectors."""
        data = np.load(GOLDEN / "densecl.npz")
        pos, neg = data["in_pos"], data["in_neg"]
        unit = np.eye(neg.shape[1] + 1, dtype=np.float32)

        def loss(pos, neg):
            queries = jnp.concatenate([neg, pos], axis=1)
            keys = jnp.broadcast_to(unit[-1], queries.shape)
            rows = infonce(queries, keys, data["hp_T"], unit[:-1], normalize=False)
            return jnp.mean(rows)

        value, grads = jax.value_and_grad(loss, (0, 1))(pos, neg)
        np.testing.assert_allclose(value, data["out_loss"], rtol=1e-5)
        for actual, name in zip(grads, ("pos", "neg"), strict=True):
            np.testing.assert_allclose(actual, data[f"grad_{name}"], rtol=1e-4, atol=1e-6)


class PlacesTest(parameterized.TestCase):
    def test_a_mirrored_map_is_matched_with_the_mirrored_places(self):
        maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
        first, second = (x.reshape(2, 12, 5) for x in (maps, maps[:, :, ::-1]))
        mirrored = np.arange(12).reshape(3, 4)[:, ::-1].ravel()
        np.testing.assert_array_equal(most_similar(first, second), [mirrored] * 2)
        np.testing.assert_array_equal(most_similar(3 * first, first), [np.arange(12)] * 2)

    def test_a_feature_of_zeros_matches_the_first_place(self):
        zeros, other = jnp.zeros((1, 2, 3)), jnp.ones((1, 4, 3))
        np.testing.assert_array_equal(most_similar(zeros, other), [[0, 0]])

    def test_shapes(self):
        with self.assertRaisesRegex(ValueError, "most_similar: expected first"):
            most_similar(jnp.ones((2, 3, 4)), jnp.ones((2, 3, 5)))

    def test_momentum_queues_and_their_sharding_rule(self):
        made = harness.experiment("densecl").objective
        params, extra = jax.eval_shape(made.init, jax.random.key(0))
        self.assertEqual(params["dense_projector"]["linear2"]["kernel"].shape[1], 128)
        self.assertEqual(extra["dense"]["queue"]["keys"].shape, extra["queue"]["keys"].shape)
        self.assertIn("dense_projector", extra["key_encoder"])

    def test_a_backbone_without_a_map_is_an_error(self):
        pixels = Net(lambda k: ({}, {}), lambda p, s, x, **_: (Features(pooled=x[:, 0, 0]), s), "x")
        with self.assertRaisesRegex(UserError, "no map; set backbone.name='resnet'"):
            _ = densecl.make(pixels, Spec(8, 64, 0, 1, 1), view=View(1, count=2)).networks

    def test_a_share_beyond_one_is_an_error(self):
        with self.assertRaisesRegex(UserError, "objective.dense_weight"):
            densecl.make(released.Tiny(4).net(3), Spec(8, 64, 0, 1, 1), dense_weight=1.5)


if __name__ == "__main__":
    absltest.main()
