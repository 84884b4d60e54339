"""SimCLR v2: the memory, where probes read, and the distillation against the released notebook."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.losses.distillation import distillation
from ssl_jax.losses.ntxent import ntxent
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives import simclr, simclr_v2, simclr_v2_distillation
from ssl_jax.objectives.base import Spec, View
from ssl_jax.optim.factory import OptimConfig, make_optimizer
from ssl_jax.training import state
from ssl_jax.training.step import make_train_step
from tests.losses.forms import FORMS, load, mesh_for
from tests.nets.weights import jit

BATCH = 4
SPEC = Spec(BATCH, 32, 5, steps_per_epoch=8, total_steps=8)
VIEW = View(16, count=2)
PIXELS = Net(lambda key: ({}, {}), lambda p, s, x, **_: (_features(x), s), "pixels")


def _features(images):
    return Features(pooled=images.reshape(len(images), -1), map=images)


def units(rows, dim, seed):
    x = np.random.default_rng(seed).normal(size=(rows, dim))
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32)


def pretraining(**options):
    net = resnet_small(4, neck=(8,))
    return simclr_v2.make(net, SPEC, view=VIEW, projector=(8, 6), **options)


def batch_of(count):
    images = jax.random.uniform(jax.random.key(1), (BATCH, count, 16, 16, 3))
    return {"views": (images,), "index": jnp.arange(BATCH)}


class NegativesTest(parameterized.TestCase):
    @parameterized.parameters(*FORMS)
    def test_are_candidates_of_every_row(self, form):
        z, negatives, t = units(8, 5, 0), units(16, 5, 1), 0.3
        with mesh_for(8, 16):
            value = jit(lambda z: ntxent(z, t, negatives, similarity=form))(z)
        scores = np.concatenate([z @ z.T, z @ negatives.T], axis=1) / t
        scores[np.arange(8), np.arange(8)] = -np.inf
        rows = np.log(np.exp(scores).sum(1)) - scores[np.arange(8), np.arange(8) ^ 1]
        np.testing.assert_allclose(value, rows.mean(), rtol=1e-5)


class PretrainingTest(absltest.TestCase):
    def test_without_a_memory_it_is_simclr(self):
        method = pretraining()
        like = simclr.make(method.backbone, SPEC, view=VIEW, projector=(8, 6))
        params, extra = method.init(jax.random.key(0))
        self.assertEqual(list(extra), ["stats"])
        key, step = jax.random.key(0), jnp.int32(0)
        both = jit(lambda p, b: [m.loss(p, extra, b, key, step)[0] for m in (method, like)])
        first, second = both(params, batch_of(2))
        self.assertEqual(float(first), float(second))

    def test_the_memory_holds_keys_of_the_average(self):
        method = pretraining(queue_size=2 * BATCH, momentum=0.5)
        params, extra = method.init(jax.random.key(0))
        batch, step = batch_of(2), jnp.int32(0)
        moved = jax.tree.map(lambda x: x + 1.0, params)

        @jit
        def run(params, extra):
            loss, aux = method.loss(params, extra, batch, jax.random.key(0), step)
            _, after = method.after_update(moved, aux.extra, aux.signals, step)
            z, _ = method.embed(params, extra, batch)
            return loss, after, z

        loss, after, z = run(params, extra)
        old = extra["queue"]["keys"].reshape(-1, 6)
        np.testing.assert_allclose(loss, ntxent(z, 0.1, old, reduction="simclr"), rtol=1e-5)
        halfway = jax.tree.map(lambda a, b: (a + b) / 2, params, moved)
        for ours, expected in zip(
            jax.tree.leaves(after["key_encoder"]), jax.tree.leaves(halfway), strict=True
        ):
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)  # sums near 1
        keys = after["queue"]["keys"][:, 0]  # the average still equals the network: one view each
        nets = method.networks.bind(params, extra["stats"])
        z = nets.projector(nets.backbone(batch["views"][0][:, 0]).pooled)
        z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
        np.testing.assert_allclose(keys, z, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(after["queue"]["keys"][:, 1], extra["queue"]["keys"][:, 1])

    def test_probes_read_in_front_of_the_neck(self):
        method = pretraining()
        params, extra = method.init(jax.random.key(0))
        features = method.encoder(params, extra).features(batch_of(1)["views"][0][:, 0])
        self.assertEqual(features.pooled.shape, (BATCH, 8))
        np.testing.assert_allclose(
            method.probe.read(features), features.map.mean((1, 2)), rtol=1e-5
        )

    def test_a_memory_of_another_size_is_refused(self):
        with self.assertRaisesRegex(UserError, "queue_size: 6 is not a multiple of the batch"):
            pretraining(queue_size=6).init(jax.random.key(0))
        with self.assertRaisesRegex(UserError, "queue_size: 64 keys of 32 examples"):
            pretraining(queue_size=64).init(jax.random.key(0))


class DistillationTest(parameterized.TestCase):
    def made(self, data, **options):
        """The method on one-hot images, so that logits are the rows of a classifier's kernel."""
        rows, classes = data["in_student"].shape
        spec = Spec(rows, rows, classes, steps_per_epoch=1, total_steps=1, channels=rows)
        method = simclr_v2_distillation.make(PIXELS, spec, view=View(1, recipe="flip"), **options)
        params, extra = method.init(jax.random.key(0))
        linear = lambda logits: {"kernel": logits, "bias": jnp.zeros(classes, logits.dtype)}  # noqa: E731
        params["classifier"]["linear1"] = linear(jnp.asarray(data["in_student"]))
        extra["fixed"]["params"]["classifier"]["linear1"] = linear(jnp.asarray(data["in_teacher"]))
        images = jnp.eye(rows).reshape(rows, 1, 1, 1, rows)
        labels = jnp.asarray(data["in_labels"], jnp.int32)
        return method, params, extra, {"views": (images,), "label": labels}

    def run_loss(self, data, **options):
        method, params, extra, batch = self.made(data, **options)
        loss = lambda p: method.loss(p, extra, batch, jax.random.key(0), jnp.int32(0))  # noqa: E731
        (value, _), grads = jit(jax.value_and_grad(loss, has_aux=True))(params)
        return value, grads["classifier"]["linear1"]["kernel"]

    def test_golden(self):
        data = load("simclr2_distill", wide=False)
        alpha = float(data["hp_alpha"])
        for i, t in enumerate(data["hp_temperature"].tolist()):
            value, grad = self.run_loss(data, temperature=t)
            np.testing.assert_allclose(value, data["out_kd"][i], rtol=1e-4)
            worst = np.abs(data["grad_student"][i]).max()
            np.testing.assert_allclose(grad, data["grad_student"][i], rtol=0, atol=1e-4 * worst)
            value, _ = self.run_loss(data, temperature=t, alpha=alpha)
            np.testing.assert_allclose(value, data["out_combined"][i], rtol=1e-4)

    def test_examples_without_a_label_do_not_count_among_the_labels(self):
        data = load("simclr2_distill", wide=False)
        value, _ = self.run_loss(data, alpha=0.0)
        np.testing.assert_allclose(value, data["out_ce"], rtol=1e-4)
        first = data | {"in_labels": np.where(np.arange(len(data["in_labels"])), -1, 3)}
        value, _ = self.run_loss(first, alpha=0.0)
        np.testing.assert_allclose(value, -jax.nn.log_softmax(data["in_student"][0])[3], rtol=1e-5)

    def test_the_least_value_is_the_teachers_entropy(self):
        teacher = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6)), jnp.float32)
        t = 2.0
        p = jax.nn.softmax(teacher / t)
        entropy = -(t**2) * jnp.sum(p * jnp.log(p), axis=1)
        np.testing.assert_allclose(distillation(teacher, teacher, t), entropy, rtol=1e-5)
        np.testing.assert_allclose(
            jax.grad(lambda s: jnp.sum(distillation(s, teacher, t)))(teacher), 0, atol=1e-5
        )

    def test_a_step_trains_the_student_alone(self):
        options = {"name": "resnet_small", "width": 2, "neck": (3,)}
        method = simclr_v2_distillation.make(
            resnet_small(4), SPEC, view=View(16, recipe="flip"), teacher_backbone=options
        )
        params, _ = jax.eval_shape(method.init, jax.random.key(0))
        optim = OptimConfig(name="sgd", lr=0.1, weight_decay=0.1)
        sizes = {"batch_size": BATCH, "total_steps": 8, "steps_per_epoch": 8}
        tx, schedule = make_optimizer(optim, params, method.groups(), **sizes)
        mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
        placed = state.shardings(state.abstract(method, tx), sharding.MeshConfig(), mesh)
        start = state.create(method, tx, 0, placed)
        before = jax.device_get((start.params, start.extra))
        pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 1, 16, 16, 3), np.uint8)
        batch = {"views": (pixels,), "index": np.arange(BATCH, dtype=np.int32)}
        with jax.set_mesh(mesh):
            after, metrics = make_train_step(method, tx, schedule, mesh, placed)(start, batch)
        jax.tree.map(np.testing.assert_array_equal, after.extra["fixed"], before[1]["fixed"])
        moved = [
            float(jnp.abs(a - b).max())
            for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(before[0]), strict=True)
        ]
        self.assertGreater(min(moved), 0)
        self.assertIn("agreement", " ".join(metrics))

    @parameterized.parameters(
        (
            {"teacher_backbone": {"widht": 2}},
            "objective.teacher_backbone: .*unknown key 'widht'; did you mean",
        ),
        ({"alpha": 0.5, "classes": 7}, "the data have 5 classes and the teacher 7"),
        ({"view": View(16, count=2)}, "view.count: expected 1, got 2"),
    )
    def test_user_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message):
            options = {"view": View(16, recipe="flip")} | options
            method = simclr_v2_distillation.make(resnet_small(4), SPEC, **options)
            method.init(jax.random.key(0))

    def test_data_without_labels_need_the_number_of_classes(self):
        spec = Spec(BATCH, 32, 0, steps_per_epoch=8, total_steps=8)
        view = View(16, recipe="flip")
        with self.assertRaisesRegex(UserError, "objective.classes: the data have no labels"):
            simclr_v2_distillation.make(resnet_small(4), spec, view=view)
        made = simclr_v2_distillation.make(resnet_small(4), spec, view=view, classes=3)
        self.assertEqual(made.num_classes, 3)


if __name__ == "__main__":
    absltest.main()
