"""CPC and CPC v2: three steps of both public codes; what the context sees; patches; messages."""

import dataclasses
from functools import cached_property
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.nets import row_context
from ssl_jax.nets.functional import Net
from ssl_jax.objectives import cpc, cpc_v2
from ssl_jax.objectives.base import Spec, View
from tests.losses.forms import load
from tests.objectives import released

SPEC = Spec(2, 100, 0, steps_per_epoch=1, total_steps=3)
VIEW = View(40, recipe="none")
ENCODER = {"enc.conv": "backbone/conv", "enc.fc": "backbone/fc"}
LAYER = {
    "vertical_conv": "vertical",
    "v_to_h_conv": "vertical_to_horizontal",
    "horizontal_conv": "horizontal",
    "residual_vertical": "shortcut",
    "horizontal_output": "out",
}


def trees(data, prefix, names, dtype):
    """The fixture's weights, with those of 1x1 convolutions as matrices."""
    tree = released.weights(data, prefix, names, dtype=dtype)
    return jax.tree.map(lambda x: x[0, 0] if x.shape[:2] == (1, 1) and x.ndim == 4 else x, tree)


def named(data, names):
    """Keep the names of layers that the fixture has."""
    layers = {key.removeprefix("in_sd.").rpartition(".")[0] for key in data}
    return {theirs: ours for theirs, ours in names.items() if theirs in layers}


def run_steps(objective, tx, params, batches, data, wide):
    """Train on the batches, compare gradients of the first and all losses, and return the last
    parameters.
    """
    run, state = released.train_step(objective, tx), tx.init(params)
    extra = {"stats": {name: {} for name in objective.networks.nets}}
    for s, loss in enumerate(data["out_loss"]):
        value, params, extra, state = run(params, extra, state, batches[s], jnp.int32(s))
        np.testing.assert_allclose(value, loss, rtol=1e-9 if wide else 1e-5)
    return params


def gradients(objective, params, batch):
    extra = {"stats": {name: {} for name in objective.networks.nets}}
    loss = lambda p: objective.loss(p, extra, batch, jax.random.key(0), jnp.int32(0))[0]  # noqa: E731
    return jax.jit(jax.grad(loss))(params)


def check_updates(params, expected, lr):
    """Compare weights after three steps of Adam: the fixtures' are float32, and Adam divides by
    gradients of any size (README of the fixtures: within 0.05 lr for 99 %).
    """
    difference = jax.tree.map(lambda x, y: np.abs(x - y).ravel() / lr, params, expected)
    shares = np.concatenate(jax.tree.leaves(difference)) < 0.05
    assert shares.mean() > 0.99, shares.mean()


class Sampled(cpc.CPC):
    """Greedy InfoMax: negatives are drawn among the rows that can be predicted, and the loss is the
    mean over the offsets. The draws come with the batch.
    """

    def loss(self, params, extra, batch, key, step):
        object.__setattr__(self, "draws", batch["draws"])
        return super().loss(params, extra, batch, key, step)

    def contrast(self, prediction, target, offset):
        # By row, column and image.
        target = target[:, offset:].transpose(1, 2, 0, 3)
        context = prediction[:, :-offset].transpose(1, 2, 0, 3)
        flat = target.reshape(-1, target.shape[-1])
        negatives = flat[self.draws[offset]].reshape(*target.shape[:3], -1, target.shape[-1])
        candidates = jnp.concatenate([target[..., None, :], negatives], axis=-2)
        shares = jax.nn.softmax(jnp.einsum("hwbd,hwbnd->hwbn", context, candidates))
        return -jnp.mean(jnp.log(shares[..., 0] + 1e-11)) / len(self.offsets)


class GreedyInfoMaxTest(parameterized.TestCase):
    def test_three_steps(self):
        with jax.enable_x64(True):
            self.check(np.float64)

    @pytest.mark.full
    def test_three_steps_in_float32(self):
        self.check(np.float32)

    def check(self, dtype):
        wide = dtype is np.float64
        data = load("cpc_gim_train3", wide)
        steps, skip = int(data["hp_k"]), int(data["hp_skip_step"])
        layers = len({k.split(".")[4] for k in data if k.startswith("in_sd.ar.stack.layers.")})
        names = ENCODER | {"ar.stack_out": "context_down/out"}
        for i in range(layers):
            for theirs, ours in LAYER.items():
                names[f"ar.stack.layers.{i}.{theirs}"] = f"context_down/layers/{i}/{ours}"
        # Nothing reads the last layer's vertical stream.
        del names[f"ar.stack.layers.{layers - 1}.residual_vertical"]
        names = named(data, names)
        params = self.weights(data, "in_sd.", names, steps, dtype)
        patch = int(data["hp_patch"])
        objective = Sampled.make(
            released.tiny(params["backbone"]),
            SPEC,
            view=View(data["in_x"].shape[-1]),
            patch=patch,
            stride=patch // 2,
            border=0,
            offsets=tuple(k + 1 + skip for k in range(steps)),
            layers=layers,
        )
        self.assertEqual(objective.rows, data["hp_grid"])
        views = np.stack([released.images(x) for x in data["in_x"]]).astype(dtype)
        draws = {k + 1 + skip: data[f"in_neg_k{k + 1}"].astype(np.int32) for k in range(steps)}
        batches = [
            {
                "views": (views[s],),
                "index": jnp.arange(views.shape[1]),
                "draws": {k: rows[s] for k, rows in draws.items()},
            }
            for s in range(len(views))
        ]
        grads = gradients(objective, params, batches[0])
        expected = self.weights(data, "grad_", names, steps, dtype)
        released.check(grads, expected, 1e-7 if wide else 1e-4)
        lr = released.hyper(data, "lr")
        tx = optax.with_extra_args_support(optax.adam(lr))
        params = run_steps(objective, tx, params, batches, data, wide)
        check_updates(params, self.weights(data, "out_sd.", names, steps, dtype), lr)

    def weights(self, data, prefix, names, steps, dtype):
        tree = trees(data, prefix, names, dtype)
        for layer in tree["context_down"]["layers"].values():
            kernel = layer["vertical"]["kernel"]
            layer["vertical"]["kernel"] = kernel[:2]  # the row below is masked
        # Theirs maps targets, ours contexts.
        each = [data[f"{prefix}ar.loss.W_k.{k}.weight"][:, :, 0, 0] for k in range(steps)]
        kernel = jnp.asarray(np.concatenate(each, axis=1), dtype)
        return tree | {"predictor_down": {"linear1": {"kernel": kernel}}}


def bolts_mix(block, x):
    """The paddings of lightning-bolts: the row above the first is 1, and the row above reads zeros
    left and right of the grid in place of what the convolution along the row makes there.
    """
    x = block.across(x)[:, :, 1:-1]
    x = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)), constant_values=1)
    return block.down(jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0))))[:, 1:]


class Bolts(cpc_v2.CPCv2):
    """lightning-bolts: all offsets share a predictor."""

    @cached_property
    def networks(self):
        made, count = super().networks, len(self.offsets)
        part = cpc_v2.mlp_head(self.feature_dim, (self.embedding,))

        def apply(*args, **options):
            out, stats = part.apply(*args, **options)
            return jnp.tile(out, count), stats

        nets = {**made.nets, "predictor_down": Net(part.init, apply)}
        return dataclasses.replace(made, nets=nets)

    def patches(self, key, image):
        return image.reshape(-1, self.patch, self.patch, image.shape[-1])  # a column of patches


class BoltsTest(parameterized.TestCase):
    def test_three_steps(self):
        with jax.enable_x64(True):
            self.check(np.float64)

    @pytest.mark.full
    def test_three_steps_in_float32(self):
        self.check(np.float32)

    @mock.patch.object(row_context.RowBlock, "mix", bolts_mix)
    def check(self, dtype):
        wide = dtype is np.float64
        data = load("cpc_bolts_train3", wide)
        names = ENCODER | {
            "task.target_cnn": "target/linear1",
            "task.pred_cnn": "predictor_down/linear1",
        }
        for block in range(2):
            for i, ours in enumerate(("reduce", "across", "down", "expand")):
                theirs = f"task.context_cnn.blocks.{block}.{2 * i}"
                names[theirs] = f"context_down/blocks/{block}/{ours}"
        params = self.weights(data, "in_sd.", names, dtype)
        grid, patch = int(data["hp_grid"]), data["in_patches"].shape[-1]
        offsets = tuple(offset for offset in range(2, grid) for _ in range(offset - 1))
        views = np.moveaxis(data["in_patches"], 3, -1)
        views = views.reshape(*views.shape[:2], 1, -1, *views.shape[-2:]).astype(dtype)
        objective = Bolts.make(
            released.tiny(params["backbone"]),
            SPEC,
            view=View(grid * patch, recipe="none"),
            patch=patch,
            stride=patch,
            patch_recipe="none",
            offsets=offsets,
            directions=("down",),
            layers=2,
            width=params["context_down"]["blocks"]["0"]["reduce"]["bias"].size,
            embedding=params["target"]["linear1"]["kernel"].shape[1],
            scale=released.hyper(data, "embed_scale"),
        )
        expected = self.weights(data, "grad_", names, dtype)
        index = jnp.arange(views.shape[1])
        batches = [{"views": (each,), "index": index} for each in views]
        grads = gradients(objective, params, batches[0])
        released.check(grads, expected, 1e-7 if wide else 1e-4)
        lr = released.hyper(data, "lr")
        adam = optax.adam(lr, b1=0.8, b2=0.999, eps=1e-7)
        tx = optax.with_extra_args_support(optax.chain(optax.add_decayed_weights(1e-5), adam))
        params = run_steps(objective, tx, params, batches, data, wide)
        check_updates(params, self.weights(data, "out_sd.", names, dtype), lr)

    def weights(self, data, prefix, names, dtype):
        tree = trees(data, prefix, names, dtype)
        tree["target"]["linear1"].pop("bias", None)  # it changes all scores of a row alike
        return tree


class ContextTest(parameterized.TestCase):
    @parameterized.parameters(cpc, cpc_v2)
    def test_a_prediction_depends_on_its_row_and_those_before(self, method):
        """The gradient of each prediction by all latents, on a grid of 3 x 3."""
        sizes = {"view": VIEW, "patch": 16, "stride": 12, "offsets": (1,), "layers": 2}
        made = method.make(released.Tiny(8).net(), SPEC, **sizes, directions=tuple(cpc.TURNS))
        params, extra = made.init(jax.random.key(0))
        grid = jax.random.normal(jax.random.key(1), (8, 3, 3, made.feature_dim))

        def predict(grid):
            nets = made.networks.bind(params, extra["stats"])
            for direction, turns in cpc.TURNS.items():
                (prediction,) = made.predict(nets, grid, direction)
                # Back to the places of the grid.
                yield jnp.rot90(prediction, -turns, (1, 2)).sum((0, -1))

        slopes = jax.jit(jax.jacrev(lambda grid: list(predict(grid))))(grid)
        y, x = np.mgrid[:3, :3]
        places = {"down": y, "left": -x, "up": -y, "right": x}
        for direction, slope in zip(cpc.TURNS, slopes, strict=True):
            # By context and latent, in any of the images: ReLUs are often 0.
            depends = np.any(slope != 0, (2, 5))
            place = places[direction]
            before = place[:, :, None, None] >= place
            self.assertFalse(depends[~before].any(), direction)
            # In its own column or row it depends on all of them.
            same = (
                (x[:, :, None, None] == x)
                if direction in ("down", "up")
                else y[:, :, None, None] == y
            )
            self.assertTrue(depends[before & same].all(), direction)


class PatchTest(parameterized.TestCase):
    def test_the_border_is_hidden(self):
        made = cpc.make(released.IDENTITY, SPEC, patch=8, border=3, view=VIEW, offsets=(1,))
        patch = jnp.arange(1.0, 65).reshape(8, 8, 1)
        every = jax.vmap(made.distort, (0, None))(jax.random.split(jax.random.key(0), 64), patch)
        shown = np.asarray(every)[:, 1:6, 1:6]
        self.assertEqual(np.asarray(every).astype(bool).sum(), 64 * 25)
        self.assertLen({square.tobytes() for square in shown}, 16)
        for square in shown:
            y, x = divmod(int(square[0, 0, 0]) - 1, 8)
            np.testing.assert_array_equal(square, patch[y : y + 5, x : x + 5])

    def test_patches_of_the_papers(self):
        self.assertEqual(cpc.make(released.IDENTITY, SPEC).rows, 7)
        self.assertEqual(cpc_v2.make(released.IDENTITY, SPEC).rows, 6)

    @parameterized.parameters(
        ({"offsets": (7,)}, "offsets: expected some of 1 .. 6 .* 7 rows; got .7,"),
        ({"patch": 512}, "offsets: .* 0 rows"),
        ({"offsets": ()}, "offsets: "),
        ({"directions": ("down", "down")}, "directions: expected each of down, left, up, right"),
        ({"directions": ()}, "directions: "),
        ({"directions": ("below",)}, "expected one of 'down'"),
        ({"border": 64}, "border: 64 px hide a patch of 64 px"),
        ({"view": View(256, count=2)}, "view.count: expected 1, got 2"),
    )
    def test_bad_input(self, hyper, message):
        with self.assertRaisesRegex(UserError, message):
            cpc.make(released.IDENTITY, SPEC, **hyper)

    @parameterized.parameters(
        (cpc_v2, {"view": View(260, recipe="rotnet")}),
        (cpc_v2, {"patch_recipe": "pirl"}),
        (cpc, {"patch_recipe": "cpc_v2"}),
    )
    def test_chains_that_normalise_are_errors(self, method, hyper):
        with self.assertRaisesRegex(
            UserError, "patch_recipe: .* set mean=.0,., std=.1,. and space"
        ):
            method.make(released.IDENTITY, SPEC, **hyper)


if __name__ == "__main__":
    absltest.main()
