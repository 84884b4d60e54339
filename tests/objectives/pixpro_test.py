"""PixPro and PixContrast: three training steps against the released code; pairs, pictures and bad
input.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from ssl_jax.augment import geometric, recipes
from ssl_jax.core import config
from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbone import Backbone
from ssl_jax.nets.features import Features
from ssl_jax.nets.layers import BatchNorm
from ssl_jax.objectives import pixcontrast, pixpro
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.parts import pixel_pictures
from ssl_jax.optim.factory import OptimConfig, make_optimizer
from tests.losses.forms import load
from tests.losses.pixel_pairs_test import placement
from tests.objectives import released
from tests.objectives.released import hyper


def perceptron(theirs, ours):
    """The layers of a head: the fixture's and ours."""
    kinds = {"linear1": "linear1", "bn1": "norm1", "linear2": "linear2"}
    return {f"{theirs}.{a}": f"{ours}/{b}" for a, b in kinds.items()}


AVERAGED = {
    "encoder.conv": "backbone/conv",
    "encoder.bn": "backbone/bn",
    **perceptron("projector", "projector"),
    **perceptron("projector_instance", "instance_projector"),
}
LAYERS = {
    **AVERAGED,
    "value_transform": "propagation/transform/linear1",
    **perceptron("predictor", "instance_predictor"),
}
KEYS = {  # encoder_k.conv
    ".".join([network + "_k", layer]): ours
    for (network, layer), ours in ((name.split("."), ours) for name, ours in AVERAGED.items())
}


@dataclass(frozen=True)
class Convolution(Backbone):
    """The fixture's encoder: convolution, batch norm and ReLU, whose map is the output."""

    filters: int = 4
    stride: int = 2

    def module(self, channels, rngs):
        return _Convolution(self.filters, self.stride, channels, rngs)

    def scaled(self, factor):
        return self


class _Convolution(nnx.Module):
    def __init__(self, filters, stride, channels, rngs):
        size = {"strides": stride, "padding": 1, "use_bias": False}
        self.conv = nnx.Conv(channels, filters, (3, 3), **size, precision="highest", rngs=rngs)
        self.bn = BatchNorm(filters)

    def __call__(self, images, *, train, stages=False):
        x = jax.nn.relu(self.bn(self.conv(images), train=train))
        return Features(pooled=jnp.mean(x, (1, 2)), map=x)


def weights(data, prefix, names, step=None):
    """Collect weights as `released.weights` does, with 1x1 convolutions as linear layers."""

    def change(path, x):
        return x[0, 0] if x.shape[:2] == (1, 1) else x

    return jax.tree_util.tree_map_with_path(change, released.weights(data, prefix, names, step))


def statistics(data, names, step):
    """The fixture's running statistics after a step, in our tree."""
    out = {}
    for layer, path in names.items():
        if f"out_bn.{layer}.running_mean" in data:
            network, norm = path.split("/")
            values = {
                kind: data[f"out_bn.{layer}.running_{kind}"][step] for kind in ("mean", "var")
            }
            out[network] = {norm: values}
    return out


def compare(ours, theirs, rtol):
    """Compare two trees of networks, without the biases before a batch norm: their true gradient is
    0.
    """

    def known(tree):
        return {
            name: network | {"linear1": {"kernel": network["linear1"]["kernel"]}}
            if "linear1" in network and "norm1" in network
            else network
            for name, network in tree.items()
            if jax.tree.leaves(network)
        }

    released.check(known(ours), known(theirs), rtol)


class ReleasedTest(parameterized.TestCase):
    @parameterized.product(name=("pixpro_train3", "pixpro_instance_train3"), wide=(True, False))
    def test_three_steps(self, name, wide):
        """zdaxie/PixPro, PixPro.forward with contrast/lars.py. Its number of pairs is float32 even
        in float64; see tests/losses/pixel_pairs_test.py.
        """
        data = load(name, wide)
        with jax.enable_x64(wide):
            self.check(data, np.float64 if wide else np.float32, 3e-8 if wide else 1e-5)

    def check(self, data, dtype, rtol):
        params = weights(data, "in_sd.", LAYERS)
        params = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
        factor = hyper(data, "ins_weight")
        instance = {"instance": "regression", "instance_weight": factor} if factor else {}
        head = params["projector"]
        widths = tuple(head[f"linear{i}"]["bias"].size for i in (1, 2))
        batch, side = data["in_im1"].shape[1], data["in_im1"].shape[-1]
        made = pixpro.make(
            Convolution(params["backbone"]["conv"]["kernel"].shape[-1]).net(),
            Spec(batch, 30, 0, steps_per_epoch=1, total_steps=int(data["hp_K"])),
            views=(View(side), View(side)),
            projector=widths,
            transform=widths[1:],
            sharpness=hyper(data, "p"),
            threshold=hyper(data, "pos_ratio"),
            momentum=hyper(data, "m"),
            **instance,
        )
        fresh, extra = jax.tree.map(lambda x: x.astype(dtype), made.init(jax.random.key(0)))
        self.assertEqual(jax.tree.structure(params), jax.tree.structure(fresh))
        extra["key_encoder"] = {name: params[name] for name in extra["key_encoder"]}
        optimizer = OptimConfig(
            name="lars",
            lars_variant="pixpro",
            lr=hyper(data, "lr"),
            lr_scaling="none",
            schedule="constant",
            momentum=hyper(data, "sgd_momentum"),
            weight_decay=hyper(data, "weight_decay"),
        )
        options = {"batch_size": batch, "total_steps": 3, "steps_per_epoch": 1}
        tx = make_optimizer(optimizer, params, {}, **options)[0]
        state, run = tx.init(params), released.train_step(made, tx)
        for s, loss in enumerate(data["out_loss"]):
            step = jnp.int32(int(data["hp_k0"]) + s)
            used = extra["key_encoder"]  # the release averages before the keys
            inputs = self.batch(data, s, dtype)
            value, params, extra, state = run(params, extra, state, inputs, step)
            np.testing.assert_allclose(value, loss, rtol=10 * rtol)
            compare(params, weights(data, "out_sd.", LAYERS, s), 10 * rtol)
            compare(used, weights(data, "out_sd.", KEYS, s), 10 * rtol)
            compare(extra["stats"], statistics(data, LAYERS, s), 10 * rtol)
            compare(extra["key_stats"], statistics(data, KEYS, s), 10 * rtol)

    def batch(self, data, s, dtype):
        views = released.images(data["in_im1"][s], data["in_im2"][s]).astype(dtype)
        places = (placement(data[f"in_coord{i}"][s])[:, None].astype(dtype) for i in (1, 2))
        return jax.tree.map(
            jnp.asarray,
            {
                "views": (views[:, :1], views[:, 1:]),
                "placement": tuple(places),
                "index": np.arange(len(views), dtype=np.int32),
            },
        )


IDENTITY, MIRROR = geometric.IDENTITY, geometric.MIRROR
LEFT = np.array([[1, 0, 0], [0, 0.4, 0]], np.float32)
RIGHT = np.array([[1, 0, 0], [0, 0.4, 0.6]], np.float32)
CENTRE = np.array([[0.5, 0, 0.25], [0, 0.5, 0.25]], np.float32)
SPEC = Spec(4, 30, 0, steps_per_epoch=1, total_steps=3)
VIEWS = (View(8, area=(0.5, 1.0), recipe="none"), View(8, area=(0.5, 1.0), recipe="flip"))


class WithoutPropagation(pixpro.PixPro):
    """The queries are the projections."""

    def predict(self, nets, embedded):
        return embedded


def make(method, stride=2, **options):
    usual = {"views": VIEWS, "projector": (6, 5)}
    return method(Convolution(stride=stride).net(), SPEC, **usual | options)


def batch_of(first, second):
    """Four examples whose two views have equal pixels and these placements."""
    images = jax.random.normal(jax.random.key(0), (4, 1, 8, 8, 3))
    places = (jnp.broadcast_to(jnp.asarray(p), (4, 1, 2, 3)) for p in (first, second))
    return {"views": (images, images), "placement": tuple(places), "index": jnp.arange(4)}


def losses(made, batch):
    """The loss at the start of training and the metrics."""
    params, extra = made.init(jax.random.key(1))
    loss, aux = jax.jit(made.loss)(params, extra, batch, jax.random.key(2), jnp.int32(0))
    return float(loss), {name: float(x) for name, x in aux.metrics.items()}


class PairsTest(parameterized.TestCase):
    def test_the_same_view_twice_has_the_least_loss(self):
        made = make(WithoutPropagation.make, transform=(5,))
        batch = batch_of(IDENTITY, IDENTITY)
        np.testing.assert_array_equal(made.positives(batch), np.stack([np.eye(16)] * 4))
        loss, metrics = losses(made, batch)
        self.assertAlmostEqual(loss, -4, places=4)  # -2 in each direction
        self.assertEqual(metrics["matched"], 1)

    @parameterized.parameters((pixpro, {"transform": (5,)}), (pixcontrast, {}))
    def test_views_without_a_common_part_have_no_loss(self, module, options):
        loss, metrics = losses(make(module.make, **options), batch_of(LEFT, RIGHT))
        self.assertEqual(loss, 0)
        self.assertEqual(metrics["matched"], 0)

    def test_a_mirrored_view_matches_the_mirrored_pixels(self):
        positives = make(pixcontrast.make).positives(batch_of(IDENTITY, MIRROR))
        mirrored = np.eye(16).reshape(16, 4, 4)[..., ::-1].reshape(16, 16)
        np.testing.assert_array_equal(positives[0], mirrored)

    def test_the_pipeline_of_a_step_gives_the_placement_of_the_flipped_view(self):
        made = make(pixcontrast.make)
        host = {
            "views": (np.zeros((4, 1, 8, 8, 3), np.uint8),) * 2,
            "placement": (np.broadcast_to(CENTRE, (4, 1, 2, 3)),) * 2,
            "index": np.arange(4, dtype=np.int32),
        }
        batch = recipes.augment(made.inputs(), host, jax.random.key(0))
        flipped = np.asarray(batch["placement"][1][:, 0, 1, 1]) < 0
        self.assertTrue(flipped.any() and not flipped.all())
        positives = np.asarray(made.positives(batch))
        for row, mirrored in zip(positives, flipped, strict=True):
            own = np.argmax(row, 1)  # each pixel has one match, its own or its mirror image
            x = np.arange(16) % 4
            np.testing.assert_array_equal(own % 4, 3 - x if mirrored else x)

    @parameterized.parameters("regression", "contrast")
    def test_the_instance_loss_has_its_weight(self, form):
        batch = batch_of(LEFT, RIGHT)  # no pixel loss
        options = {"transform": (5,), "instance": form}
        loss, metrics = losses(make(pixpro.make, **options, instance_weight=0.25), batch)
        self.assertAlmostEqual(loss, 0.25 * metrics["instance_loss"], places=5)
        self.assertNotEqual(loss, 0)
        made = make(pixpro.make, **options)
        self.assertEqual("instance_predictor" in made.networks.nets, form == "regression")
        self.assertNotIn("instance_predictor", made.init(jax.random.key(0))[1]["key_encoder"])

    def test_the_momentum_of_the_next_step(self):
        made = make(pixcontrast.make, momentum=0.5)
        params, extra = made.init(jax.random.key(1))
        ones, zeros = (
            jax.tree.map(lambda x, f=f: f(x), params) for f in (jnp.ones_like, jnp.zeros_like)
        )
        extra = extra | {"key_encoder": {n: zeros[n] for n in extra["key_encoder"]}}
        for step, momentum in ((0, 0.625), (2, 1.0)):  # 1 - 0.5 (1 + cos(pi k / 3)) / 2 at k = 1, 3
            slow = made.after_update(ones, extra, {}, step)[1]["key_encoder"]
            for leaf in jax.tree.leaves(slow):
                np.testing.assert_allclose(leaf, 1 - momentum, atol=1e-6)


class PicturesTest(parameterized.TestCase):
    @parameterized.parameters(3, 1)
    def test_matched_pixels(self, channels):
        spec = dataclasses.replace(SPEC, channels=channels)
        net = Convolution().net(channels)
        made = pixcontrast.make(net, spec, views=VIEWS, projector=(6, 5))
        images = jax.random.uniform(jax.random.key(0), (9, 8, 8, channels))
        state = made.init(jax.random.key(1))
        picture = made.pictures(*state, images, jax.random.key(2))["Matched pixels"]
        self.assertEqual(picture.images.shape, (8, 4, 8, 8, channels))
        self.assertEqual(len(picture.columns), 4)
        self.assertTrue(bool(jnp.isfinite(picture.images).all()))

    def test_a_match_has_the_colour_of_its_pixel(self):
        view = VIEWS[0]
        images = jnp.full((1, 8, 8, 3), 0.5)
        positives = jnp.zeros((1, 4, 4), bool).at[0, 1, 2].set(True)
        shown = pixel_pictures.matched(view, images, images, positives, (2, 2)).images[0]
        np.testing.assert_allclose(shown[1, 0, 7], shown[2, 7, 0])  # top right, bottom left
        np.testing.assert_allclose(shown[1, 7, 0], 0.125)
        np.testing.assert_allclose(shown[2, 0, 7], 0.125)


class BadInputTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"views": (View(8), View(12))}, "objective.views: expected two views of one size"),
        ({"views": (View(8, count=2), View(8))}, r"objective.views\[0\].count: expected 1, got 2"),
        ({"transform": (6, 4)}, "last width of \\(6, 4\\) must be that of the map, 5"),
        ({"sharpness": 0.5}, "objective.sharpness"),
    )
    def test_settings(self, options, message):
        with self.assertRaisesRegex(UserError, message):
            _ = make(pixpro.make, **{"transform": (5,)} | options).networks

    def test_a_map_of_one_pixel(self):
        with self.assertRaisesRegex(
            UserError, "objective.views: .* a single pixel, .* larger size"
        ):
            _ = make(pixpro.make, stride=8, transform=(5,)).networks

    def test_a_batch_without_placements(self):
        made = make(pixcontrast.make)
        batch = batch_of(IDENTITY, IDENTITY)
        del batch["placement"]
        with self.assertRaisesRegex(UserError, "batch: no 'placement' of the views"):
            losses(made, batch)

    def test_settings_without_effect(self):
        for options, name in (
            ({"instance_weight": 2.0}, "instance_weight"),
            ({"instance": "regression", "instance_temperature": 0.5}, "instance_temperature"),
        ):
            with self.assertRaisesRegex(UserError, name):
                config.check_used(make(pixcontrast.make, **options), "objective")


if __name__ == "__main__":
    absltest.main()
