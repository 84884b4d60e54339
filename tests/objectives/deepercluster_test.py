"""DeeperCluster against its released code: the hierarchical loss through the train step, k-means,
whitening and sampling; and its limits, DeepCluster and RotNet.
"""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import named_leaves
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives import deepcluster, deepercluster, rotnet
from ssl_jax.objectives.base import DataPass, Spec, View
from ssl_jax.objectives.parts import kmeans
from ssl_jax.optim.factory import OptimConfig, make_optimizer
from ssl_jax.training import state, step
from tests.losses.forms import load
from tests.nets.weights import assert_close, jit, nested

SPEC = Spec(8, 64, 0, steps_per_epoch=8, total_steps=16)
PRECISE = {"precision": "highest"}


def tiny(filters, dim):
    """The fixture's body: convolution with stride 2, ReLU, mean over space, linear."""

    def apply(params, stats, images, **_):
        form = ((2, 2), ((1, 1), (1, 1)))
        layout = ("NHWC", "HWIO", "NHWC")
        conv, fc = params["conv"], params["fc"]
        x = jax.lax.conv_general_dilated(
            images, conv["kernel"], *form, dimension_numbers=layout, **PRECISE
        )
        x = jnp.mean(jax.nn.relu(x + conv["bias"]), (1, 2))
        return Features(pooled=jnp.matmul(x, fc["kernel"], **PRECISE) + fc["bias"]), stats

    def init(key):
        layer = lambda *shape: {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[-1:])}  # noqa: E731
        return {"conv": layer(3, 3, 3, filters), "fc": layer(filters, dim)}, {}

    return Net(init, apply, "tiny")


def network(data, prefix, at=None):
    """The fixture's tensors as our parameters; the heads of the super-classes side by side."""
    get = lambda name: data[prefix + name] if at is None else data[prefix + name][at]  # noqa: E731
    groups = len(get("sup.bias"))
    heads = {
        kind: np.concatenate([get(f"sub.{g}.{kind}") for g in range(groups)])
        for kind in ("weight", "bias")
    }
    return nested(
        {
            "backbone/conv/kernel": get("body.conv.weight").transpose(2, 3, 1, 0),
            "backbone/conv/bias": get("body.conv.bias"),
            "backbone/fc/kernel": get("body.fc.weight").T,
            "backbone/fc/bias": get("body.fc.bias"),
            "super_classifier/linear1/kernel": get("sup.weight").T,
            "super_classifier/linear1/bias": get("sup.bias"),
            "classifiers/linear1/kernel": heads["weight"].T,
            "classifiers/linear1/bias": heads["bias"],
        }
    )


class StepTest(absltest.TestCase):
    def test_three_steps(self):
        data = load("deepercluster_train3", wide=False)
        steps, groups, batch, channels, side, _ = data["in_x"].shape
        supers, each = int(data["hp_super_clusters"]), int(data["hp_k_per_super_cluster"])
        rows = groups * batch
        spec = Spec(rows, 1024, 0, steps_per_epoch=steps, total_steps=steps, channels=channels)
        method = deepercluster.make(
            tiny(*data["in_sd.body.fc.weight"].T.shape),
            spec,
            view=View(side, recipe="rotnet"),
            super_clusters=supers,
            clusters=supers * each,
        )
        params = jax.tree.map(jnp.asarray, network(data, "in_sd."))
        config = OptimConfig(
            name="sgd",
            lr=float(data["hp_lr"]),
            lr_scaling="none",
            schedule="constant",
            momentum=float(data["hp_sgd_momentum"]),
            weight_decay=float(data["hp_weight_decay"]),
            decay_rules=((".*", 1.0),),
        )
        sizes = {"batch_size": rows, "total_steps": steps, "steps_per_epoch": steps}
        tx, schedule = make_optimizer(config, params, method.groups(), **sizes)
        current = jit(state.init_fn(method, tx))(np.uint32(0))
        current = dataclasses.replace(current, params=params, opt_state=tx.init(params))

        group = np.repeat(np.arange(groups), batch)
        turns = jnp.asarray(group % 4)[:, None]
        injected = mock.patch.object(deepercluster.DeeperCluster, "rotations", lambda *_: turns)
        plain = mock.patch.object(step, "augment", lambda inputs, batch, key: batch)
        with injected, plain:
            kernel = jax.jit(step.make_kernel(method, tx, schedule))
            for s in range(steps):
                images = data["in_x"][s].reshape(rows, channels, side, side)
                images = jnp.asarray(images.transpose(0, 2, 3, 1))
                if s == 0:
                    turned = np.asarray(method.turned(images, turns[:, 0])).transpose(0, 3, 1, 2)
                    expected = data["out_rotated_step0"].reshape(turned.shape)
                    np.testing.assert_array_equal(turned, expected)
                owners = np.stack([group // 4, data["in_sub_label"][s].reshape(-1)], axis=1)
                table = np.zeros((1024, 2), np.int32)
                table[:rows] = owners
                extra = dict(current.extra, assignments=jnp.asarray(table))
                current = dataclasses.replace(current, extra=extra)
                inputs = {"views": (images[:, None],), "index": jnp.arange(rows)}
                current, metrics = kernel(current, inputs)
                np.testing.assert_allclose(
                    metrics["train/loss"], data["out_loss"][s].mean(), rtol=1e-5
                )
                ours = named_leaves(current.params)
                for path, expected in named_leaves(network(data, "out_sd.", s)).items():
                    assert_close(ours[path], expected, 1e-4, path)


class ClusteringTest(absltest.TestCase):
    def test_kmeans_as_released(self):
        """Labels and centroids after any number of iterations, with a cluster that is empty."""
        data = load("deepercluster_kmeans", wide=False)
        clusters, world = int(data["hp_k"]), int(data["hp_world_id"])
        sequence = np.random.RandomState(world).randint(clusters, size=1000)

        def draw_donor(key, counts):
            return jnp.asarray(sequence)[jnp.argmax(counts[sequence] > 0)]

        run = jit(
            lambda x, start, n: kmeans.kmeans(
                x, present, clusters, jax.random.key(0), iterations=n, start=start, empty="halve"
            )
        )
        present = np.ones(len(data["in_x"]), bool)
        with mock.patch.object(kmeans, "draw_donor", draw_donor):
            for n in range(int(data["hp_niter"]) + 1):
                out = run(data["in_x"], data["in_centroids"], n)
                np.testing.assert_array_equal(out.assignments, data["out_assign"][n])
                np.testing.assert_allclose(
                    out.centroids, data["out_centroids"][n], rtol=0, atol=1e-5
                )
                np.testing.assert_array_equal(
                    out.counts, np.bincount(data["out_assign"][n], minlength=clusters)
                )

    def test_whitening_as_released(self):
        data = load("deepercluster_pca", wide=False)
        x, dim = data["in_x"], int(data["hp_dim"])
        white = kmeans.pca_whiten(jnp.asarray(x), jnp.ones(len(x), bool), dim)
        assert_close(np.abs(white), data["out_abs_white"], 1e-4)
        assert_close(white @ white.T, data["out_white_gram"], 1e-4)
        unit = l2_normalize(white)
        assert_close(unit @ unit.T, data["out_normalised_gram"], 1e-4)

    def test_deepclusters_whitening_differs_by_a_factor(self):
        """faiss scales by the scatter's eigenvalues, not by the covariance's: 1 / sqrt(N)."""
        data = load("deepcluster_pca_whiten", wide=False)
        x, dim = data["in_x"], int(data["hp_dim"])
        white = kmeans.pca_whiten(jnp.asarray(x), jnp.ones(len(x), bool), dim)
        assert_close(np.abs(white) / len(x) ** 0.5, data["out_white_abs"], 1e-4)

    def test_weights_stand_for_the_released_sampler(self):
        """It draws every cluster of a super-class equally often: so do the weights in the mean."""
        data = load("deepercluster_sampler", wide=False)
        labels, histogram = data["in_labels"], data["out_label_hist"]
        count = np.bincount(labels)
        self.assertLessEqual(np.ptp(histogram), 2)
        method = deepercluster.make(resnet_small(4), SPEC, view=View(16), clusters=len(count) * 4)
        centres = np.eye(4 * len(count))
        points = np.concatenate([centres[labels + len(count) * s] for s in range(4)])
        upper = np.repeat(np.arange(4), len(labels))
        points = np.concatenate([points, 9 * np.eye(4)[upper]], axis=1).astype(np.float32)
        assignments, weights = jit(method.cluster)(
            points, np.ones(len(points), bool), jax.random.key(0)
        )
        each = np.asarray(weights)[tuple(np.asarray(assignments).T)]
        np.testing.assert_allclose(each.mean(), 1, rtol=1e-5)
        sums = np.zeros_like(weights)
        np.add.at(sums, tuple(np.asarray(assignments).T), each)
        used = sums > 0
        shares = len(points) / (used.any(1).sum() * used.sum(1, keepdims=True))
        np.testing.assert_allclose(sums, np.where(used, shares, 0), rtol=1e-5)

    def test_a_refresh(self):
        method = deepercluster.make(
            resnet_small(4), SPEC, view=View(16), super_clusters=2, clusters=6, whitened=4
        )
        params, extra = method.init(jax.random.key(0))
        present = np.arange(1024) < 60
        values = np.random.default_rng(0).normal(size=(1024, 16)).astype(np.float32)
        records = DataPass(jnp.asarray(values), jnp.asarray(present))
        new, after = jit(method.refresh)(params, extra, records, jax.random.key(1), 0)
        labels = np.asarray(after["assignments"])[present]
        self.assertEqual(set(labels[:, 0]), {0, 1})
        self.assertEqual({tuple(row) for row in labels}, {(s, c) for s in (0, 1) for c in range(3)})
        for name in ("super_classifier", "classifiers"):
            kernel = new[name]["linear1"]["kernel"]
            self.assertGreater(float(jnp.abs(kernel - params[name]["linear1"]["kernel"]).max()), 0)
        for a, b in zip(*(jax.tree.leaves(p["backbone"]) for p in (new, params)), strict=True):
            np.testing.assert_array_equal(a, b)


class LimitsTest(parameterized.TestCase):
    def loss(self, method, params, batch, **extra):
        both = method.init(jax.random.key(0))
        extra, key = dict(both[1], **extra), jax.random.key(2)
        return jit(lambda p, b: method.loss(p, extra, b, key, jnp.int32(0))[0])(params, batch)

    def made(self, **options):
        images = jax.random.normal(jax.random.key(1), (8, 1, 16, 16, 3))
        batch = {"views": (images,), "index": jnp.arange(8)}
        return deepercluster.make(resnet_small(4), SPEC, view=View(16), **options), batch

    def test_one_super_class_is_deepcluster(self):
        method, batch = self.made(super_clusters=1, rotate=False, clusters=5)
        params, extra = method.init(jax.random.key(0))
        other = deepcluster.make(method.backbone, SPEC, view=View(16), clusters=5, whitened=4)
        theirs = {"backbone": params["backbone"], "classifier": params["classifiers"]}
        labels, weights = extra["assignments"][:, 1], jnp.arange(1.0, 6.0)
        np.testing.assert_allclose(
            self.loss(method, params, batch, weights=weights[None]),
            self.loss(other, theirs, batch, assignments=labels, weights=weights),
            rtol=1e-5,
        )

    def test_one_cluster_is_rotnet(self):
        """The loss of a rotation that is drawn, in the place of all four."""
        method, batch = self.made(super_clusters=1, clusters=1)
        params, extra = method.init(jax.random.key(0))
        turns = method.rotations(jax.random.key(2), batch["index"])[:, 0]
        self.assertGreater(len(set(np.asarray(turns).tolist())), 1)
        other = rotnet.make(method.backbone, SPEC, view=View(16))
        rotated = other.rotate(batch["views"][0][:, 0])[jnp.arange(8), turns]
        nets = method.networks.bind(params, extra["stats"])
        logits = nets.super_classifier(nets.backbone(rotated).pooled)
        expected = jnp.mean(cross_entropy(logits, turns))
        np.testing.assert_allclose(self.loss(method, params, batch), expected, rtol=1e-4)

    def test_probabilities_of_both_levels_sum_to_one(self):
        method, _ = self.made(super_clusters=2, clusters=6)
        params, extra = method.init(jax.random.key(0))
        nets = method.networks.bind(params, extra["stats"], train=False)
        joint = jnp.exp(method.joint(nets, jax.random.normal(jax.random.key(3), (5, 16))))
        self.assertEqual(joint.shape, (5, 8, 3))
        np.testing.assert_allclose(jnp.sum(joint, (1, 2)), 1, rtol=1e-5)

    @parameterized.parameters(
        ({"clusters": 10}, "10 are not a multiple of the 4 super_clusters"),
        ({"clusters": 400}, "cannot make 400 clusters of 64 examples"),
        ({"clusters": 8, "whitened": 17}, "at most the 16 features"),
        ({"clusters": 8, "view": View((16, 8))}, "square"),
    )
    def test_user_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message):
            deepercluster.make(resnet_small(4), SPEC, **({"view": View(16)} | options))


if __name__ == "__main__":
    absltest.main()
