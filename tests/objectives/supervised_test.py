"""Supervised learning: its loss by hand, its random draws, the average, and its requirements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.core import rng, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.losses.cross_entropy import cross_entropy, soft_cross_entropy
from ssl_jax.nets.backbones.resnet import resnet_custom
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.supervised import Supervised

B, K = 8, 4
SPEC = Spec(B, 100, K, 10, 10, channels=1)
ALL = {"label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "erase": 0.5}


def build(drop_path=0.0, **hyper):
    net = resnet_custom((2, 1), (4, 8), stem="small", channels=1, drop_path=drop_path)
    return Supervised.make(net, SPEC, view=View(16), **hyper)


def batch(labels, seed=0, dtype=np.float32):
    images = np.random.default_rng(seed).normal(size=(B, 1, 16, 16, 1)).astype(dtype)
    index = np.arange(B, dtype=np.int32) * 3
    return {"views": (images,), "index": index, "label": np.asarray(labels, np.int32)}


LABELS = [0, 1, 2, 3, 0, -1, 2, -1]


class LossTest(parameterized.TestCase):
    def test_soft_targets_are_the_smoothed_labels(self):
        logits = np.random.default_rng(0).normal(size=(5, K)).astype(np.float32)
        labels = np.array([0, 1, 2, 3, 1])
        made = build(label_smoothing=0.2)
        np.testing.assert_allclose(
            soft_cross_entropy(logits, made.targets(labels)),
            cross_entropy(logits, labels, 0.2),
            rtol=1e-5,
        )

    def test_examples_without_a_label_do_not_count(self):
        made = build(label_smoothing=0.1)
        params, extra = made.init(jax.random.key(0))
        loss, aux = made.loss(params, extra, batch(LABELS), jax.random.key(1), jnp.int32(0))
        nets = made.networks.bind(params, extra["stats"])
        logits = nets.classifier(nets.backbone(batch(LABELS)["views"][0][:, 0]).pooled)
        logits, labelled = np.asarray(logits), np.array(LABELS) >= 0
        labels = np.array(LABELS)[labelled]
        each = cross_entropy(logits[labelled], labels, 0.1)
        np.testing.assert_allclose(loss, np.mean(each), rtol=1e-5)
        top1 = np.mean(logits[labelled].argmax(-1) == labels)
        np.testing.assert_allclose(aux.metrics["top1"], top1, rtol=1e-6)

    def test_a_batch_without_labels_costs_nothing(self):
        made = build(**ALL)
        params, extra = made.init(jax.random.key(0))
        nothing = lambda p: made.loss(p, extra, batch([-1] * B), jax.random.key(1), 0)[0]  # noqa: E731
        loss, grads = jax.value_and_grad(nothing)(params)
        self.assertEqual(float(loss), 0)
        self.assertTrue(all(not np.any(g) for g in jax.tree.leaves(grads)))

    def test_target_sets(self):
        """A repeated label counts once, and -1 is none."""
        sets = np.array([[0, 2], [1, -1], [-1, -1], [3, 3]])
        expected = [[0.9, 0.1, 0.9, 0.1], [0.1, 0.9, 0.1, 0.1], [0.1] * 4, [0.1, 0.1, 0.1, 0.9]]
        made = build(labels=2, label_smoothing=0.2)
        self.assertEqual((made.inputs().label, made.inputs().labels), (False, 2))
        np.testing.assert_allclose(made.target_sets(sets), expected, rtol=1e-6)

    @pytest.mark.full
    def test_several_labels_by_hand(self):
        """A sigmoid per class; an image without labels shows none of them."""
        made = build(labels=2, label_smoothing=0.2)
        sets = np.array([[0, 2], [1, -1], [-1, -1], [3, 3]] * 2, np.int32)
        some = batch(LABELS) | {"labels": sets}
        del some["label"]
        params, extra = made.init(jax.random.key(0))
        loss, aux = made.loss(params, extra, some, jax.random.key(1), jnp.int32(0))
        nets = made.networks.bind(params, extra["stats"])
        z = np.asarray(nets.classifier(nets.backbone(some["views"][0][:, 0]).pooled))
        hard = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]] * 2)
        targets = np.where(hard, 0.9, 0.1)
        each = np.sum(np.logaddexp(0, z) - targets * z, axis=-1)
        np.testing.assert_allclose(loss, each.mean(), rtol=1e-5)
        best = np.mean(hard[np.arange(B), z.argmax(-1)])
        np.testing.assert_allclose(aux.metrics["best_is_a_label"], best, rtol=1e-6)

    @parameterized.parameters({"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0})
    def test_mixed_targets_keep_their_sum(self, **hyper):
        made = build(label_smoothing=0.1, **hyper)
        images = batch(range(B))["views"][0][:, 0]
        targets = made.targets(np.arange(B) % K)
        changed = 0
        for seed in range(4):
            mixed, soft = made.mix(images, targets, jax.random.key(seed))
            np.testing.assert_allclose(soft.sum(-1), 1, rtol=1e-5)
            changed += not np.array_equal(mixed, images)
        self.assertGreater(changed, 0)

    def test_erased_is_a_box_of_noise_in_some_images(self):
        images = np.full((200, 16, 16, 1), 7.0, np.float32)
        made = build(erase=0.25)
        out = np.asarray(made.erase_boxes(images, jax.random.key(0), np.arange(200)))
        changed = out[..., 0] != 7
        share = changed.any((1, 2)).mean()
        self.assertBetween(share, 0.15, 0.35)
        for image in changed[changed.any((1, 2))]:
            rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
            self.assertEqual(image.sum(), len(rows) * len(columns))  # a full rectangle
        self.assertBetween(out[changed[..., None]].std(), 0.9, 1.1)

    def test_equal_on_one_and_eight_devices_with_all_that_is_drawn(self):
        made = build(drop_path=0.5, average=0.9, **ALL)
        with jax.enable_x64(True):
            params, extra = made.init(jax.random.key(0))
            data = batch(LABELS, dtype=np.float64)

            def step(params, extra, data):
                key = rng.step_key(jnp.uint32(0), 3)
                loss = lambda p: made.loss(p, extra, data, key, 3)  # noqa: E731
                (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
                return value, grads, aux.extra

            single = jax.jit(step)(params, extra, data)
            mesh = sharding.make_mesh(sharding.MeshConfig(data=8), jax.devices())
            rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
            with jax.set_mesh(mesh):
                many = jax.jit(step, in_shardings=(whole, whole, rows))(params, extra, data)
        for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(many), strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-7)

    def test_microbatches_drop_the_same_branches(self):
        """Draws belong to the example, not to its place; a ViT has no batch statistics."""
        net = vit(None, 4, 8, dim=8, depth=3, heads=2, channels=1, drop_path=0.6)
        values = []
        for chunks in (1, 4):
            made = Supervised.make(net, SPEC, view=View(8), microbatches=chunks)
            params, extra = made.init(jax.random.key(0))
            data = batch(range(B))
            data["views"] = (data["views"][0][:, :, :8, :8],)
            data["label"] %= K
            values.append(made.loss(params, extra, data, jax.random.key(5), 0)[0])
        np.testing.assert_allclose(values[0], values[1], rtol=1e-5)


class AverageTest(parameterized.TestCase):
    def test_the_average_is_the_encoder(self):
        made = build(average=0.99)
        params, extra = made.init(jax.random.key(0))
        moved = jax.tree.map(lambda p: p + 1, params)
        _, after = made.after_update(moved, extra, {}, jnp.int32(0))  # momentum 1 / 10
        encoder = made.encoder(moved, after)
        for old, new in zip(
            jax.tree.leaves(params["backbone"]), jax.tree.leaves(encoder.params), strict=True
        ):
            np.testing.assert_allclose(new, old + 0.9, rtol=1e-5, atol=1e-6)
        _, late = made.after_update(moved, extra, {}, jnp.int32(10**6))
        late = late["average"]["params"]["classifier"]["linear1"]["bias"]
        np.testing.assert_allclose(late, 0.01, rtol=1e-3)

    def test_without_one_the_encoder_is_what_is_trained(self):
        made = build()
        params, extra = made.init(jax.random.key(0))
        encoder = made.encoder(params, extra)
        self.assertIs(encoder.params, params["backbone"])
        pooled = np.ones((3, made.feature_dim), np.float32)
        linear = params["classifier"]["linear1"]
        (logits,) = encoder.classifier.logits(pooled)
        np.testing.assert_allclose(logits, pooled @ linear["kernel"] + linear["bias"], rtol=1e-5)


class ErrorsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"label_smoothing": 1.0}, r"label_smoothing: .* in \[0, 1\), got 1.0"),
        ({"average": -0.1}, r"average: .* in \[0, 1\), got -0.1"),
        ({"mixup": -1.0}, "mixup: .* of at least 0, got -1.0"),
        ({"erase": 1.5}, r"erase: .* in \[0, 1\], got 1.5"),
    )
    def test_bad_settings(self, hyper, message):
        with self.assertRaisesRegex(UserError, message):
            build(**hyper)

    def test_data_without_labels(self):
        with self.assertRaisesRegex(UserError, "needs labels of at least two classes"):
            Supervised.make(build().backbone, Spec(8, 100, 0, 10, 10), view=View(16))


if __name__ == "__main__":
    absltest.main()
