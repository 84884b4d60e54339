"""PIRL: three training steps against both released codes; its puzzle, memory and messages."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.objectives import pirl
from ssl_jax.objectives.base import Spec, View
from tests.losses.forms import load
from tests.objectives import released
from tests.objectives.released import Tiny, hyper, images

SPEC = Spec(5, 30, 0, steps_per_epoch=1, total_steps=3)
PLAIN = View(12, area=(1.0, 1.0), recipe="none")
SMALL = {"view": PLAIN, "puzzle": PLAIN, "tile": 4, "projector": (8,), "negatives": 9}
BIASES = ((r"/bias$", 0.0), (".*", 1.0))
CASES = (
    ("pirl_vissl_train3", True),
    ("pirl_vissl_train3", False),
    ("pirl_vissl_xe_train3", True),
    ("pirl_pycontrast_train3", True),
)


class Injected(pirl.PIRL):
    """PIRL with the fixture's patches, order and negatives, which come with the batch."""

    def loss(self, params, extra, batch, key, step):
        object.__setattr__(self, "batch", batch)
        return super().loss(params, extra, batch, key, step)

    def shuffled(self, keys, images):
        return self.batch["patches"], self.batch["order"]

    def candidates(self, key, index):
        return self.batch["puzzle_rows"], self.batch["image_rows"]


def names(data, vissl):
    """The fixture's layers and ours; heads have one layer or two."""
    trunk, image = ("trunk", "image") if vissl else ("encoder", "head")
    out = {f"{trunk}.{layer}": f"backbone/{layer}" for layer in ("conv", "fc")}
    layers = {k.removeprefix("in_sd.").rsplit(".", 1)[0] for k in data if k.startswith("in_sd.")}
    patch, puzzle = ("patch.0", "patch.2") if vissl else ("head_jig.fc1", "head_jig.fc2")
    heads = (image, "projector"), (patch, "patch_projector"), (puzzle, "puzzle_projector")
    for theirs, ours in heads:
        own = sorted(name for name in layers if name == theirs or name.startswith(f"{theirs}."))
        out |= {name: f"{ours}/linear{i + 1}" for i, name in enumerate(own)}
    assert set(out) == layers, layers
    return out


class ReleasedTest(parameterized.TestCase):
    @parameterized.parameters(*CASES)
    def test_three_steps(self, name, wide):
        data = load(name, wide)
        with jax.enable_x64(wide):
            self.check(
                data, "vissl" in name, "nce" if name == "pirl_vissl_train3" else "softmax", wide
            )

    def check(self, data, vissl, criterion, wide):
        dtype, rtol = (np.float64, 1e-9) if wide else (np.float32, 1e-5)
        layers = names(data, vissl)
        weights = released.weights(data, "in_sd.", layers, dtype=dtype)
        batch = data["in_image"].shape[1]
        count = data["in_memory"].shape[0]
        head = weights["projector"]
        objective = Injected.make(
            Tiny(
                weights["backbone"]["conv"]["bias"].size, weights["backbone"]["fc"]["bias"].size
            ).net(),
            Spec(batch, count, 0, steps_per_epoch=1, total_steps=3),
            **SMALL
            | {
                "projector": tuple(head[f"linear{i + 1}"]["bias"].size for i in range(len(head))),
                "patch_weight": hyper(data, "weights", (0,)) if vissl else hyper(data, "beta"),
                "criterion": criterion,
                "negatives": int(data["hp_K"]),
                "temperature": hyper(data, "T"),
                "momentum": hyper(data, "momentum"),
            },
        )
        extra = {
            "stats": {name: {} for name in objective.networks.nets},
            "memory": jnp.asarray(data["in_memory"], dtype),
            "partition": jnp.zeros((), dtype),
        }
        batches = [self.batch(data, s, vissl, dtype) for s in range(len(data["in_y"]))]
        rules = BIASES if vissl else ((".*", 1.0),)
        steps = released.train(objective, data, weights, extra, batches, rules)
        for s, (loss, params, extra, _) in enumerate(steps):
            np.testing.assert_allclose(loss, data["out_loss"][s], rtol=rtol)
            expected = released.weights(data, "out_sd.", layers, s, dtype)
            released.check(params, expected, 10 * rtol)
            np.testing.assert_allclose(extra["memory"], data["out_memory"][s], atol=rtol)
            if criterion == "nce":
                np.testing.assert_allclose(extra["partition"], data["out_Z"][s], rtol=rtol)

    def batch(self, data, s, vissl, dtype):
        image = images(data["in_image"][s]).astype(dtype)
        patches = data["in_patches"][s]
        patches = images(patches.reshape(len(image), -1, *patches.shape[-3:])).astype(dtype)
        order = np.broadcast_to(np.arange(patches.shape[1]), patches.shape[:2])
        puzzle_rows, image_rows = data["in_idx"][s] if vissl else (data["in_idx"][s],) * 2
        return {
            "views": (image, image),
            "index": data["in_y"][s].astype(np.int32),
            "patches": patches,
            "order": (order if vissl else data["in_perm"][s]).astype(np.int32),
            "puzzle_rows": puzzle_rows.astype(np.int32),
            "image_rows": image_rows.astype(np.int32),
        }


class PuzzleTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.objective = pirl.make(Tiny(dim=6).net(), SPEC, **SMALL, patch_recipe="none")
        self.params, self.extra = jax.jit(self.objective.init)(jax.random.key(0))
        draw = np.random.default_rng(0).normal(size=(5, 12, 12, 3))
        self.images = jnp.asarray(draw, jnp.float32)

    def test_the_embedding_depends_on_the_order(self):
        keys = jax.random.split(jax.random.key(1), 5)
        patches, order = jax.jit(self.objective.shuffled)(keys, self.images)
        self.assertEqual(patches.shape, (5, 9, 4, 4, 3))
        np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(9), (5, 1)))
        self.assertGreater(len({tuple(row) for row in np.asarray(order).tolist()}), 1)
        np.testing.assert_array_equal(patches[:, 0], self.images[:, :4, :4])  # cells of 4 px

        @jax.jit
        def embed(patches, order):
            nets = self.objective.networks.bind(self.params, self.extra["stats"])
            return self.objective.embed(nets, patches, order)

        one = embed(patches, order)
        again = embed(patches[:, ::-1], 8 - order)  # the same sequence
        other = embed(patches, order[:, ::-1])
        np.testing.assert_allclose(one, again, rtol=1e-5, atol=1e-6)
        self.assertGreater(float(jnp.abs(one - other).max()), 1e-3)

    def test_the_memory_has_unit_rows_and_no_gradient(self):
        batch = {"views": (self.images[:, None],) * 2, "index": jnp.arange(5, dtype=jnp.int32)}

        @jax.jit
        def run(bank):
            def loss(bank):
                extra = dict(self.extra, memory=bank)
                return self.objective.loss(self.params, extra, batch, jax.random.key(2), 0)

            (_, aux), grad = jax.value_and_grad(loss, has_aux=True)(bank)
            after = self.objective.after_update(self.params, aux.extra, aux.signals, 0)[1]
            return grad, after["memory"]

        before = self.extra["memory"]
        grad, after = run(before)
        self.assertEqual(float(jnp.abs(grad).max()), 0)
        np.testing.assert_allclose(jnp.linalg.norm(after, axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(after[5:], before[5:])
        self.assertGreater(float(jnp.abs(after - before)[:5].max()), 0.1)

    def test_negatives_are_shared_or_not(self):
        for shared in (False, True):
            made = dataclasses.replace(self.objective, shared_negatives=shared)
            puzzle, image = made.candidates(jax.random.key(0), jnp.arange(5))
            self.assertEqual(puzzle.shape, (5, 10))
            np.testing.assert_array_equal(puzzle[:, 0], np.arange(5))
            np.testing.assert_array_equal(image[:, 0], np.arange(5))
            self.assertEqual(bool((puzzle == image).all()), shared)

    @parameterized.parameters(
        ({"tile": 5}, "objective.tile: 5 px do not fit the cells .* use at most 4"),
        ({"negatives": 31}, "cannot draw 31 of 30 examples"),
        ({"patch_recipe": "pirle"}, "unknown recipe 'pirle'; did you mean 'pirl'"),
        ({"puzzle": View(12, count=2, recipe="none")}, "objective.puzzle.count: expected 1, got 2"),
    )
    def test_bad_input(self, options, message):
        with self.assertRaisesRegex(UserError, message):
            pirl.make(Tiny(dim=6).net(), SPEC, **SMALL | options)


if __name__ == "__main__":
    absltest.main()
