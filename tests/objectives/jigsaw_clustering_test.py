"""Jigsaw clustering: crops and three training steps of the released code, and its properties."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from ssl_jax.augment.crop import corner_boxes, random_box
from ssl_jax.augment.patches import montage, tiles
from ssl_jax.core.errors import UserError
from ssl_jax.losses.supcon import supcon
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.features import Features, quadrants
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.jigsaw_clustering import CORNERS, JigsawClustering
from ssl_jax.optim.factory import OptimConfig, make_optimizer
from tests.losses.forms import load

RNG = np.random.default_rng(0)


def convolutions():
    """The fixture's encoder: two convolutions, each with batch norm and a ReLU."""

    def apply(params, stats, images, *, train, **_):
        x, updated = images, {}
        for conv, norm in (("c1", "b1"), ("c2", "b2")):
            x = jax.lax.conv_general_dilated(
                x,
                params[conv]["kernel"],
                (2, 2),
                ((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision="highest",
            )
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            unbiased = var * x[..., 0].size / (x[..., 0].size - 1)
            updated[norm] = {
                "mean": 0.9 * stats[norm]["mean"] + 0.1 * mean,
                "var": 0.9 * stats[norm]["var"] + 0.1 * unbiased,
            }
            x = (x - mean) * jax.lax.rsqrt(var + 1e-5) * params[norm]["scale"]
            x = jax.nn.relu(x + params[norm]["bias"])
        return Features(pooled=x.mean((1, 2)), map=x), updated

    return Net(lambda key: ({}, {}), apply, "convolutions")


def weights(data, prefix, step):
    """Return {(layer, kind): array} of a network, at a step if there are several, in this project's
    layouts.
    """
    out = {}
    for key, value in data.items():
        if not key.startswith(prefix):
            continue
        layer, kind = key.removeprefix(prefix).rsplit(".", 1)
        value = value if step is None else value[step]
        if value.ndim == 1:
            kind = "scale" if kind == "weight" else kind
        else:
            value, kind = value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0)), "kernel"
        out[layer, kind] = value
    return out


class Injected(JigsawClustering):
    """Takes the fixture's pieces and their order in place of its own draws."""

    def cut(self, images, index, key):
        return self.pieces

    def order(self, key, count):
        return self.permutation


LAYERS = {
    "c1": ("backbone", "c1"),
    "b1": ("backbone", "b1"),
    "c2": ("backbone", "c2"),
    "b2": ("backbone", "b2"),
    "fc_clu.0": ("cluster", "linear1"),
    "fc_clu.2": ("cluster", "linear2"),
    "fc_loc": ("location", "linear1"),
}


def small(**hyper):
    net = Net(lambda key: ({}, {}), lambda p, s, x, **_: (Features(pooled=x, map=x), s), "same")
    return JigsawClustering(net, Spec(4, 100, 0, 10, 100), **hyper)


class GoldenTest(parameterized.TestCase):
    def test_corners(self):
        data = load("jigclu_crops", False)
        for k in range(2):
            image = data[f"in_img{k}"]
            boxes = corner_boxes(*image.shape[:2], float(data["hp_cross"]))
            for slot, (top, left, height, width) in enumerate(boxes):
                crop = image[top : top + height, left : left + width]
                np.testing.assert_array_equal(crop, data[f"out_crop{k}_{slot}"])

    @parameterized.parameters(True, False)
    def test_three_steps(self, wide):
        with jax.enable_x64(wide):
            self.check(load("jigclu_train3", wide), np.float64 if wide else np.float32)

    def check(self, data, dtype):
        def tree(prefix, step=None):
            out = {"backbone": {}, "cluster": {}, "location": {}}
            for (layer, kind), value in weights(data, f"{prefix}encoder.", step).items():
                net, name = LAYERS[layer]
                out[net].setdefault(name, {})[kind] = jnp.asarray(value, dtype)
            return out

        params = tree("in_sd.")
        widths = [params["cluster"][f"linear{i}"]["bias"].size for i in (1, 2)]
        batch, size = data["in_crops"].shape[2], data["in_crops"].shape[-1]
        objective = Injected(
            convolutions(),
            Spec(batch, 100, 0, 1, 3),
            piece=View(size, count=4, recipe="normalize"),
            clusters=tuple(widths),
            temperature=float(data["hp_T"]),
            base_temperature=float(data["hp_base_T"]),
            weights=tuple(map(float, data["hp_weights"])),
        )
        # The widths of the fixture's network, whose shapes cannot be traced without its weights.
        objective.__dict__["shapes"] = Features(
            pooled=jax.ShapeDtypeStruct((widths[0],), dtype),
            map=jax.ShapeDtypeStruct((2, 2, widths[0]), dtype),
        )
        norm = lambda x: {"mean": jnp.zeros_like(x), "var": jnp.ones_like(x)}  # noqa: E731
        stats = {b: norm(params["backbone"][b]["bias"]) for b in ("b1", "b2")}
        extra = {"stats": {"backbone": stats, "cluster": {}, "location": {}}}
        config = OptimConfig(
            name="sgd",
            lr=float(data["hp_lr"]),
            lr_scaling="none",
            schedule="constant",
            momentum=float(data["hp_sgd_momentum"]),
            weight_decay=float(data["hp_weight_decay"]),
            decay_rules=((".*", 1.0),),
        )
        options = {"batch_size": batch, "total_steps": 3, "steps_per_epoch": 1}
        tx, _ = make_optimizer(config, params, {}, **options)
        state = tx.init(params)
        rtol = 1e-7 if dtype == np.float64 else 1e-5

        @jax.jit
        def train(params, extra, state, pieces, order, step):
            objective.__dict__.update(pieces=pieces, permutation=order)
            batch = {"views": (pieces[:, :1],), "index": jnp.arange(len(pieces))}
            loss = lambda p: objective.loss(p, extra, batch, jax.random.key(0), step)  # noqa: E731
            (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
            updates, state = tx.update(grads, state, params, step=step)
            shuffled, image, corner = objective.shuffle(pieces, jax.random.key(0))
            maps = (
                convolutions()
                .apply(
                    params["backbone"], extra["stats"]["backbone"], montage(shuffled), train=True
                )[0]
                .map
            )
            shown = montage(shuffled), quadrants(maps), image, corner
            return value, aux, optax.apply_updates(params, updates), state, shown

        for s in range(3):
            pieces = jnp.asarray(data["in_crops"][s].transpose(1, 0, 3, 4, 2), dtype)
            order = jnp.asarray(data["in_perm"][s], jnp.int32)
            value, aux, params, state, shown = train(params, extra, state, pieces, order, s)
            extra = aux.extra
            np.testing.assert_allclose(value, data["out_loss"][s], rtol=rtol)
            for name, key in (("clustering", "clu"), ("location", "loc")):
                np.testing.assert_allclose(aux.metrics[name], data[f"out_loss_{key}"][s], rtol=rtol)
            joined, vectors, image, corner = shown
            np.testing.assert_allclose(
                joined, data["out_montage"][s].transpose(0, 2, 3, 1), rtol=1e-6
            )
            theirs = data["out_quadrants"][s].transpose(0, 2, 3, 1).reshape(vectors.shape)
            np.testing.assert_allclose(vectors, theirs, rtol=0, atol=10 * rtol * theirs.max())
            np.testing.assert_array_equal(image.T.reshape(-1), data["in_label_clu"][s])
            np.testing.assert_array_equal(corner.T.reshape(-1), data["in_label_loc"][s])
            chain = (
                jax.tree.leaves(params),
                jax.tree.leaves(tree("out_sd.", s)),
            )
            for ours, theirs in zip(*chain, strict=True):
                np.testing.assert_allclose(
                    ours, theirs, rtol=0, atol=10 * rtol * np.abs(theirs).max()
                )
            for name in ("b1", "b2"):
                for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
                    np.testing.assert_allclose(
                        extra["stats"]["backbone"][name][ours],
                        data[f"out_bn.encoder.{name}.{theirs}"][s],
                        rtol=10 * rtol,
                        atol=rtol,
                    )


class PropertiesTest(parameterized.TestCase):
    def test_a_montage_can_be_cut_again(self):
        pieces = RNG.normal(size=(3, 4, 6, 6, 2)).astype(np.float32)
        np.testing.assert_array_equal(tiles(montage(jnp.asarray(pieces)), 2, 2), pieces)

    def test_every_image_and_every_corner_counts_four_and_n_times(self):
        pieces = jnp.arange(24, dtype=jnp.float32).reshape(6, 4, 1, 1, 1)
        shuffled, image, corner = small().shuffle(pieces, jax.random.key(0))
        np.testing.assert_array_equal(np.bincount(image.reshape(-1)), [4] * 6)
        np.testing.assert_array_equal(np.bincount(corner.reshape(-1)), [6] * 4)
        np.testing.assert_array_equal(shuffled[..., 0, 0, 0], 4 * image + corner)
        self.assertTrue((np.sort(image, axis=1) != np.arange(6)[:, None]).any())

    def test_equal_vectors_have_the_loss_of_a_guess(self):
        for n in (4, 256):
            labels = jnp.arange(4 * n) % n
            loss = supcon(jnp.ones((4 * n, 3)), labels, 0.3)
            np.testing.assert_allclose(loss, math.log(4 * n - 1), rtol=1e-5)

    def test_a_zero_head_guesses_the_corner(self):
        made = tiny()
        params, extra = made.init(jax.random.key(0))
        params["location"] = jax.tree.map(jnp.zeros_like, params["location"])
        images = jnp.asarray(RNG.random((4, 1, 12, 12, 3)), jnp.float32)
        batch = {"views": (images,), "index": jnp.arange(4)}
        _, aux = made.loss(params, extra, batch, jax.random.key(1), jnp.int32(0))
        np.testing.assert_allclose(aux.metrics["location"], math.log(4), rtol=1e-6)

    def test_pieces_show_their_corners(self):
        """In an image of four flat corners, none of a corner's pieces has the colour opposite."""
        image = np.zeros((20, 20, 1), np.float32)
        image[:10, :10], image[10:, :10], image[:10, 10:], image[10:, 10:] = 0.2, 0.4, 0.6, 0.8
        made = small(
            view=View(20, area=(1, 1), recipe="none"),
            piece=View(6, count=4, area=(0.05, 0.1), recipe="none"),
            cross=0.0,
        )
        images = jnp.broadcast_to(image, (8, 20, 20, 1))
        pieces = made.cut(images, jnp.arange(8), jax.random.key(0))
        expected = np.broadcast_to(np.reshape([0.2, 0.4, 0.6, 0.8], (4, 1, 1, 1)), pieces.shape)
        np.testing.assert_allclose(pieces, expected, atol=1e-5)
        self.assertLen(CORNERS, 4)

    def test_large_maps_are_averaged_as_they_are(self):
        maps = jnp.asarray(RNG.normal(size=(2, 14, 14, 3)), jnp.float32)
        quarters = tiles(maps, 2, 2).mean((2, 3))
        np.testing.assert_allclose(quadrants(maps), quarters, atol=1e-6)

    @parameterized.parameters(
        ({"view": View(8, area=(0.5, 1))}, "expected one whole image"),
        (
            {"piece": View(8, count=2, recipe="normalize")},
            "objective.piece.count: expected 4, got 2",
        ),
        ({"piece": View(8, count=4, recipe="none")}, "expected mean, std and space of"),
        ({"view": View(8, area=(1, 1), recipe="flip")}, "no change of the image"),
        ({"piece": View((8, 4), count=4, recipe="normalize")}, "expected a square view"),
        ({"cross": 0.6}, "cross"),
    )
    def test_user_errors(self, hyper, message):
        with self.assertRaisesRegex(UserError, message):
            small(**hyper)


class RandomBoxTest(absltest.TestCase):
    def test_boxes_lie_inside_and_have_the_area_asked_for(self):
        keys = jax.random.split(jax.random.key(0), 2000)
        boxes = np.asarray(jax.vmap(lambda k: random_box(k, 100, 80, (0.2, 0.5)))(keys))
        top, left, height, width = boxes.T
        self.assertTrue((boxes >= 0).all())
        self.assertTrue((top + height <= 100).all() and (left + width <= 80).all())
        share = height * width / 8000
        self.assertBetween(share.min(), 0.19, 0.21)
        self.assertBetween(share.max(), 0.48, 0.51)
        self.assertAlmostEqual(share.mean(), 0.35, delta=0.01)
        ratio = np.log(width / height)
        self.assertAlmostEqual(ratio.mean(), 0, delta=0.01)
        self.assertLess(np.abs(ratio).max(), np.log(4 / 3) + 0.05)
        self.assertGreater(top.max(), 50)

    def test_a_box_that_never_fits_is_the_image(self):
        box = random_box(jax.random.key(0), 10, 90, (1.0, 1.0))
        np.testing.assert_array_equal(box, [0, 0, 10, 90])

    def test_one_draw_is_clipped_to_the_image(self):
        """The box is that of the host (`data.decode.random_box`)."""
        box = random_box(jax.random.key(0), 10, 90, (1.0, 1.0), "one_draw")
        self.assertEqual(box[2], 10)
        self.assertBetween(int(box[3]), 25, 35)  # 30 px at the aspect ratio 1, not 90


def tiny():
    made = small(
        view=View(12, area=(1, 1), recipe="none"),
        piece=View(6, count=4, recipe="none"),
        clusters=(8, 4),
    )
    return dataclasses.replace(made, backbone=resnet_small(4, stem="cifar"))


if __name__ == "__main__":
    absltest.main()
