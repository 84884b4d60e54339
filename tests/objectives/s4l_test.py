"""S4L against the released losses of rotation, exemplar and VAT, and its properties."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Spec, Stream, View
from ssl_jax.objectives.s4l import S4L
from tests.losses.forms import load

RNG = np.random.default_rng(0)
SPEC = Spec(4, 20, 5, 5, 100, streams=(Stream("unlabelled", 40, 0),))


def s4l(backbone=None, **hyper):
    backbone = backbone or resnet_small(4, stem="cifar")
    return S4L(backbone, SPEC, **({"view": View(8, recipe="s4l"), "embedding": 6} | hyper))


def select(start, stop):
    """A head that reads some of its input's columns."""
    return Net(lambda key: ({}, {}), lambda p, s, x, **_: (x[..., start:stop], s))


def batch_of(made, seed=0):
    draw = np.random.default_rng(seed)
    shape = (4, made.view.count, 8, 8, 3)
    images = lambda: jnp.asarray(draw.uniform(-1, 1, shape), jnp.float32)  # noqa: E731
    index = jnp.arange(4)
    unlabelled = {"views": (images(),), "index": index + 9}
    labels = jnp.array([0, 4, 2, 2])
    return {"views": (images(),), "index": index, "label": labels, "unlabelled": unlabelled}


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(
        ("rotation", "rotations", "images", "out_loss_both", "grad_"),
        ("exemplar", "embeddings", "images", "out_fixed_loss_both", "grad_fixed_"),
        ("exemplar", "embeddings", "released", "out_loss_both", "grad_"),
    )
    def test_loss_of_both_sets(self, task, name, identities, value, gradient):
        """Networks answer with the fixture's logits; images need not be as many in both sets."""
        data = load(f"s4l_{task}", False)
        copies = data["hp_n_examples"] if task == "exemplar" else (4, 4)
        supervised = data["in_classes_sup"]
        classes, width = supervised.shape[1], data[f"in_{name}_sup"].shape[1]
        made = s4l(
            task=task,
            weight=float(data["hp_weight"]),
            identities=identities,
            view=View(8, count=int(copies[0]) if task == "exemplar" else 1, recipe="s4l"),
            embedding=width,
        )
        made.__dict__["networks"] = dataclasses.replace(
            made.networks,
            nets={"classes": select(0, classes), task: select(classes, classes + width)},
        )
        nets = made.networks.bind({"classes": {}, task: {}}, {})
        answers = (data[f"in_{name}_unsup"], data[f"in_{name}_sup"], supervised)

        def loss(unlabelled, labelled, classified):
            unlabelled = jnp.pad(unlabelled, ((0, 0), (classes, 0)))
            labelled = jnp.concatenate([classified, labelled], axis=1)
            shape = lambda x, m: x.reshape(-1, int(m), x.shape[-1])  # noqa: E731
            sets = shape(labelled, copies[1]), shape(unlabelled, copies[0])
            return made.learn(nets, *sets, jnp.asarray(data["in_labels"]))[0]

        actual, slopes = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(
            *map(jnp.asarray, answers)
        )
        np.testing.assert_allclose(actual, data[value], rtol=1e-5)
        names = f"{name}_unsup", f"{name}_sup", "classes_sup"
        for slope, key in zip(slopes, names, strict=True):
            np.testing.assert_allclose(slope, data[f"{gradient}{key}"], atol=1e-6)

    @parameterized.parameters("unsup", "all")
    def test_vat_and_entropy(self, sets):
        data = load("s4l_vat", False)
        with jax.enable_x64(True):
            self.check_vat({k: np.asarray(v, np.float64) for k, v in data.items()}, sets)

    def check_vat(self, data, sets):
        weights = {"backbone": {"w": data["in_W1"]}, "classes": {"w": data["in_W2"]}}

        class Injected(S4L):
            def noise(self, keys, images):
                return jnp.asarray(data[f"in_noise_{sets}"])

        backbone = lambda p, s, x, **_: (  # noqa: E731
            Features(pooled=jnp.tanh(x.reshape(len(x), -1) @ p["w"])),
            s,
        )
        made = Injected(
            resnet_small(4, stem="cifar"),
            SPEC,
            view=View(8, recipe="s4l"),
            task="none",
            vat=float(data["hp_vat_weight"]),
            entropy=float(data["hp_entmin"]),
            epsilon=float(data["hp_eps"]),
            vat_step=float(data["hp_xi"]),
        )
        made.__dict__["networks"] = dataclasses.replace(
            made.networks,
            nets={
                "backbone": Net(lambda key: ({}, {}), backbone),
                "classes": Net(lambda key: ({}, {}), lambda p, s, x, **_: (x @ p["w"], s)),
            },
        )
        supervised, others = jnp.asarray(data["in_x_sup"]), jnp.asarray(data["in_x_unsup"])
        images = others if sets == "unsup" else jnp.concatenate([supervised, others])

        def loss(params):
            nets = made.networks.bind(params, {})
            features = [nets.backbone(x).pooled[:, None] for x in (supervised, others)]
            labels = jnp.asarray(data["in_labels"], jnp.int32)
            value, _ = made.learn(nets, *features, labels)
            terms = made.smooth(params, {}, images, jax.random.split(jax.random.key(0), 1))
            return value + made.vat * terms["vat"] + made.entropy * terms["entropy"], terms["vat"]

        (value, kl), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(weights)
        # The hyper-parameters are stored in float32, and xi = 1e-6 amplifies rounding.
        np.testing.assert_allclose(value, data[f"out_loss_{sets}"], rtol=1e-5)
        np.testing.assert_allclose(kl, data[f"out_kl_{sets}"], rtol=1e-4)
        for net, name in (("backbone", "W1"), ("classes", "W2")):
            theirs = data[f"grad_{name}_{sets}"]
            np.testing.assert_allclose(slope[net]["w"], theirs, atol=1e-4 * np.abs(theirs).max())


class PropertiesTest(parameterized.TestCase):
    def test_zero_heads_guess(self):
        made = s4l()
        params, extra = made.init(jax.random.key(0))
        for head in ("classes", "rotation"):
            params[head] = jax.tree.map(jnp.zeros_like, params[head])
        loss, _ = made.loss(params, extra, batch_of(made), jax.random.key(1), jnp.int32(0))
        np.testing.assert_allclose(loss, math.log(5) + math.log(4), rtol=1e-6)

    def test_images_without_a_label_do_not_count(self):
        made = s4l()
        nets = made.networks.bind(*made.networks.init(jax.random.key(0)), train=False)
        features = jnp.asarray(RNG.normal(size=(4, 4, made.feature_dim)), jnp.float32)
        terms = lambda x, labels: made.learn(nets, x, x, jnp.array(labels))[1]  # noqa: E731
        some, few = terms(features, [1, -1, 3, -1]), terms(features[::2], [1, 3])
        for name in ("classes", "top1"):
            np.testing.assert_allclose(some[name], few[name], rtol=1e-6)
        self.assertEqual(terms(features, [-1] * 4)["classes"], 0)

    def test_rotations_are_shown(self):
        images = RNG.normal(size=(3, 8, 8, 3)).astype(np.float32)
        for task, titles in (("rotation", ["Predicted rotations"]), ("none", [])):
            made = s4l(task=task, entropy=1.0)
            params, extra = made.init(jax.random.key(0))
            pictures = made.pictures(params, extra, images, jax.random.key(1))
            self.assertEqual(list(pictures), titles)
            for picture in pictures.values():
                np.testing.assert_array_equal(picture.images[:, 1], np.rot90(images, 1, (1, 2)))
                np.testing.assert_array_equal(picture.truth, np.tile(np.arange(4), (3, 1)))

    def test_the_average_is_evaluated(self):
        made = s4l(average=0.9)
        params, extra = made.init(jax.random.key(0))
        moved = jax.tree.map(lambda x: x + 1, params)
        # At step 0 the momentum is 1 / 10.
        _, extra = made.after_update(moved, extra, {}, jnp.int32(0))
        evaluated = made.encoder(moved, extra)
        for tree, name in (
            (evaluated.params, "backbone"),
            (evaluated.classifier.params, "classes"),
        ):
            for ours, start in zip(
                jax.tree.leaves(tree), jax.tree.leaves(params[name]), strict=True
            ):
                np.testing.assert_allclose(ours, start + 0.9, rtol=1e-5)

    def test_unlabelled_images_do_not_train_the_classifier(self):
        made = s4l()
        nets = made.networks.bind(*made.networks.init(jax.random.key(0)), train=False)
        width = made.feature_dim
        features = jnp.asarray(RNG.normal(size=(2, 3, 4, width)), jnp.float32)
        labels = jnp.zeros(3, jnp.int32)
        losses = [made.learn(nets, features[0], x, labels)[1] for x in (features[1], features[0])]
        self.assertEqual(losses[0]["classes"], losses[1]["classes"])
        self.assertNotEqual(losses[0]["rotation"], losses[1]["rotation"])

    def test_adversarial_passes_keep_no_statistics(self):
        made = s4l(task="exemplar", view=View(8, count=2, recipe="s4l"), color_noise=True, vat=0.5)
        params, extra = made.init(jax.random.key(0))
        batch = batch_of(made)

        @jax.jit
        def both(params):
            with_vat = made.loss(params, extra, batch, jax.random.key(1), jnp.int32(0))
            plain = dataclasses.replace(made, vat=0.0)
            return with_vat, plain.loss(params, extra, batch, jax.random.key(1), jnp.int32(0))

        (loss, aux), (plain, plain_aux) = both(params)
        self.assertGreater(aux.metrics["vat"], 0)
        np.testing.assert_allclose(loss, plain + 0.5 * aux.metrics["vat"], rtol=1e-5)
        for ours, theirs in zip(
            jax.tree.leaves(aux.extra), jax.tree.leaves(plain_aux.extra), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)

    @parameterized.parameters(
        ({"view": View(8, count=2)}, "needs one crop per image, got 2"),
        ({"task": "exemplar"}, "needs 2 or more crops per image, got 1"),
        ({"task": "none"}, "unlabelled images teach nothing"),
    )
    def test_user_errors(self, hyper, message):
        with self.assertRaisesRegex(UserError, message):
            s4l(**hyper)

    def test_labels_are_needed(self):
        spec = dataclasses.replace(SPEC, num_classes=0)
        with self.assertRaisesRegex(UserError, "labels of at least two classes"):
            S4L(resnet_small(4, stem="cifar"), spec, view=View(8))


if __name__ == "__main__":
    absltest.main()
