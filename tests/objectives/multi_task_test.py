"""Several pretext tasks on one trunk: gradients, an optimizer state each, harmonisation, lasso."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest

from ssl_jax.augment import recipes
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.losses.triplet import cosine_triplet
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.multi_task import make
from ssl_jax.objectives.parts import trunk_copies
from tests.nets.weights import GOLDEN, assert_close

SPEC = Spec(4, 100, 0, 10, 100)
WHOLE = {"size": 16, "area": (1.0, 1.0), "recipe": "normalize"}
RELATIVE = {
    **{"view": WHOLE, "rows": 2, "pairs": "all", "patch": 7, "gap": 1, "jitter": 0},
    **{"embedding": 8, "hidden": (8,), "standardize": False, "colors": "keep"},
}
COLORS = {"view": WHOLE | {"recipe": "lab"}, "width": 4}
EXEMPLAR = {
    **{"view": WHOLE, "patch": 12, "seed_scale": 1.0, "transforms": 0},
    **{"form": "cosine", "copies": 2, "embedding": 8},
}
MOTION = {"view": WHOLE, "grid": 4, "width": 4, "rank": 8}


def method(backbone=None, **options):
    usual = {"relative_position": RELATIVE, "colorization": COLORS, "exemplar": EXEMPLAR}
    net = resnet_small(4) if backbone is None else backbone
    return make(net, SPEC, **(usual | {"motion": MOTION} | options))


def batch(count):
    draw = np.random.default_rng(0)
    views = draw.normal(size=(count, 4, 1, 16, 16, 3)).astype(np.float32)
    masks = draw.integers(0, 2, (4, 1, 16, 16)).astype(np.uint8)
    index = np.arange(4, dtype=np.int32)
    motion = {"views": (views[0],), "masks": (masks,), "index": index}
    return {"views": tuple(views), "index": index, "motion": motion}


class MultiTaskTest(absltest.TestCase):
    def test_a_task_trains_as_alone(self):
        made = method(colorization=None, exemplar=None)
        params, extra = jax.jit(made.init)(jax.random.key(0))
        for copy in params["copies"].values():  # all start from one trunk
            jax.tree.map(np.testing.assert_array_equal, copy, params["backbone"])
        together = lambda p: made.loss(p, extra, batch(1), jax.random.key(1), jnp.int32(0))  # noqa: E731
        (loss, aux), grads = jax.jit(jax.value_and_grad(together, has_aux=True))(params)
        total = 0.0
        for name in ("relative_position", "motion"):
            task = made.tasks[name]
            own, more = trunk_copies.select(params, extra, name, made.reader)
            part = batch(1)["motion"] if name == "motion" else batch(1)
            one = lambda p, task=task, part=part, name=name, more=more: task.loss(  # noqa: E731
                p, more, part, rng.named(jax.random.key(1), name), jnp.int32(0)
            )[0]
            value, alone = jax.jit(jax.value_and_grad(one))(own)
            total += value
            joined, _ = trunk_copies.select(grads, extra, name, made.reader)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), joined, alone)
            self.assertAlmostEqual(float(aux.metrics[f"{name}/loss"]), float(value), 5)
        self.assertAlmostEqual(float(loss), float(total), 5)

    def test_the_trunk_takes_the_sum_of_the_updates_of_its_copies(self):
        made = method()
        params, _ = jax.eval_shape(made.init, jax.random.key(0))
        fill = lambda tree, value: jax.tree.map(lambda x: np.full(x.shape, value), tree)  # noqa: E731
        signals = {"trunk": fill(params["backbone"], 1.0)}
        params = dict(params, backbone=fill(params["backbone"], 1.5))
        moved = {"relative_position": 2.0, "colorization": 0.0, "exemplar": 1.25}
        params["copies"] = {k: fill(v, moved[k]) for k, v in params["copies"].items()}
        params, _ = made.after_update(params, {}, signals, jnp.int32(0))
        for trunk in (params["backbone"], *params["copies"].values()):
            self.assertTrue(all(np.all(x == 1.75) for x in jax.tree.leaves(trunk)))

    def test_one_optimizer_state_per_task_golden(self):
        """RMSProp on copies of one parameter, joined by `after_update`."""
        with np.load(GOLDEN / "multitask_dz.npz") as file:
            data = dict(file)
        names = ("relative_position", "motion")
        made = method(colorization=None, exemplar=None)
        rms = optax.scale_by_rms(float(data["hp_rms_decay"]), float(data["hp_rms_eps"]))
        value = jnp.asarray(data["in_param"])
        params = {"backbone": {"w": value}, "copies": {names[0]: {"w": value}}}
        state = rms.init(params)
        for step, grads in enumerate(data["in_task_grads"]):
            signals = {"trunk": params["backbone"]}
            each = {"backbone": {"w": grads[1]}, "copies": {names[0]: {"w": grads[0]}}}
            updates, state = rms.update(each, state)
            updates = jax.tree.map(lambda u: -data["hp_rms_lr"] * u, updates)
            params = optax.apply_updates(params, updates)
            params, _ = made.after_update(params, {}, signals, jnp.int32(step))
            assert_close(params["backbone"]["w"], data["out_param_per_task_state"][step], 1e-5)

    def test_harmonised_tasks_see_the_lightness_alone(self):
        net = Net(None, lambda params, stats, images, **options: (images, stats), channels=3)
        made = method(harmonize=True)
        with np.load(GOLDEN / "multitask_dz.npz") as file:
            data = dict(file)
        view = View(16, recipe="normalize")
        images = recipes.prepare(view, data["in_rgb_uint8"])
        shown, _ = made.shown(net, view).apply({}, {}, images, train=True)
        for channel in np.moveaxis(np.asarray(shown), -1, 0):
            np.testing.assert_allclose(100 * (channel + 0.5), data["out_harmonised_L"], atol=1e-3)

    def test_cosine_triplets_golden(self):
        with np.load(GOLDEN / "multitask_dz.npz") as file:
            data = dict(file)
        features = [data[f"in_f{i}"] for i in (1, 2, 3)]
        margin = float(data["hp_margin"])
        assert_close(cosine_triplet(*features, margin=margin), data["out_triplet_each"], 1e-5)
        loss = lambda f: jnp.mean(cosine_triplet(*f, margin=margin))  # noqa: E731
        value, grads = jax.value_and_grad(loss)(features)
        assert_close(value, data["out_triplet"], 1e-5)
        for i, grad in enumerate(grads, 1):
            assert_close(grad, data[f"grad_f{i}"], 1e-5)

    def test_lasso_reads_a_sum_per_task_and_shrinks_its_weights(self):
        made = method(colorization=None, exemplar=None, lasso=0.25)
        shapes = jax.eval_shape(made.init, jax.random.key(0))
        params, extra = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        self.assertEqual(params["motion"]["alpha"].shape, (1,))
        own, _ = trunk_copies.select(params, extra, "motion", made.reader)
        self.assertEqual(set(own["backbone"]), {"trunk", "alpha"})
        params["motion"]["alpha"] = np.array([0.2], np.float32)
        params["relative_position"]["alpha"] = np.array([-1], np.float32)
        signals = {"trunk": params["backbone"]}
        params, _ = made.after_update(params, extra, signals, jnp.int32(0))
        self.assertEqual(params["motion"]["alpha"].tolist(), [0])
        self.assertEqual(params["relative_position"]["alpha"].tolist(), [-0.75])

    def test_bad(self):
        empty = dict.fromkeys(("relative_position", "colorization", "exemplar"))
        with self.assertRaisesRegex(UserError, "no task on the training images; set relative"):
            method(**empty)
        with self.assertRaisesRegex(UserError, "harmonize: .* set relative_position.standardize"):
            method(harmonize=True, relative_position=RELATIVE | {"standardize": True})
        other = MOTION | {"view": WHOLE | {"recipe": "none"}}
        with self.assertRaisesRegex(UserError, "motion.view: expected the normalisation of the fi"):
            method(motion=other)
        with self.assertRaisesRegex(UserError, "objective.motion.*grids.*did you mean.*grid"):
            method(motion=MOTION | {"grids": 3})


if __name__ == "__main__":
    absltest.main()
