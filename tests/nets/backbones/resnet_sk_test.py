"""Selective kernels, ResNet-D's stem and shortcut, and the neck, against SimCLR v2's released code.

The release (TensorFlow 2) averages the biased variance of a batch, ours the unbiased one, as
PyTorch: `unbiased` converts what the fixtures hold.
"""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.core.tree import count, named_leaves
from ssl_jax.nets.backbones import resnet
from ssl_jax.nets.functional import functional, output_shapes
from ssl_jax.nets.heads import mlp_head
from tests.nets.weights import GOLDEN, assert_close, jit, nested

RTOL = 1e-4  # the fixtures'
LEAVES = {"moving_mean": "mean", "moving_variance": "var", "gamma": "scale", "beta": "bias"}
SK = {
    "bn": "streams/norm",
    "gate0": "squeeze/conv",
    "gate_bn": "squeeze/norm",
    "gate1": "mix",
    "conv3": "streams/conv",
}
BLOCK = {"proj_conv": "shortcut/conv", "proj_bn": "shortcut/norm"}
BLOCK |= {f"conv{i + 1}": f"layers/{i}/conv" for i in (0, 2)}
BLOCK |= {f"bn{i + 1}": f"layers/{i}/norm" for i in (0, 2)}
BLOCK |= {f"sk.{name}": f"layers/1/{path}" for name, path in SK.items()}
STEM = {f"conv{i}": f"stem/{i}/conv" for i in range(3)}
STEM |= {f"bn{i}": f"stem/{i}/norm" for i in range(3)}


def load(name):
    with np.load(GOLDEN / f"simclr2_{name}.npz") as file:
        return dict(file)


def variables(data, names, prefix="in_"):
    """(params, stats) of the arrays of a fixture, by {its module: our path}."""
    trees = {}, {}
    for key, array in data.items():
        module, _, leaf = key.removeprefix(prefix).rpartition(".")
        if key.startswith(prefix) and module in names:
            leaf = LEAVES.get(leaf, leaf)
            trees[leaf in ("mean", "var")][f"{names[module]}/{leaf}"] = array
    return tuple(nested(tree) for tree in trees)


def unbiased(after, before, rows):
    """The running statistics with the unbiased variance; `rows(path)` are those of a batch."""
    before, out = named_leaves(before), {}
    for path, value in named_leaves(after).items():
        step = value - 0.9 * before[path]
        n = rows(path) if path.endswith("var") else np.inf
        out[path] = value if n == np.inf else 0.9 * before[path] + step * n / (n - 1)
    return out


def net_of(make):
    return functional(lambda rngs: make(rngs))


class GoldenTest(parameterized.TestCase):
    def check(self, net, data, names, rows):
        """Compare both modes, the gradient and the running statistics; return the gradients."""
        params, stats = variables(data, names)

        @jit
        def run(params, x):
            def total(params, x):
                out, after = net.apply(params, stats, x, train=True)
                return jnp.sum(out * data["in_w"]), (out, after)

            grads, (out, after) = jax.grad(total, (0, 1), has_aux=True)(params, x)
            return net.apply(params, stats, x, train=False)[0], out, after, grads

        evaluated, out, after, (grads, grad_x) = run(params, data["in_x"])
        assert_close(evaluated, data["out_eval"], RTOL)
        assert_close(out, data["out_train"], RTOL)
        assert_close(grad_x, data["grad_x"], RTOL)
        _, expected = variables(data, names, "out_train_")
        expected = unbiased(expected, stats, rows)
        for path, value in named_leaves(after).items():
            assert_close(value, expected[path], RTOL, path)
        return grads

    def test_selective_kernel(self):
        data = load("sk_conv")
        filters, stride = int(data["hp_filters"]), int(data["hp_stride"])
        ratio, least = float(data["hp_sk_ratio"]), int(data["hp_min_dim"])

        class Layer(resnet.SelectiveKernel):
            def __init__(self, channels, rngs):
                super().__init__(filters, stride, ratio, dtype=None, rngs=rngs)
                if channels != filters:  # within a block they are the same
                    self.streams = resnet.ConvNorm(
                        channels, 2 * filters, 3, stride, dtype=None, rngs=rngs
                    )

        batch, _, _, channels = data["in_x"].shape
        pixels = data["out_train"][..., 0].size
        with mock.patch.object(resnet, "SK_MIN_WIDTH", least):
            net = net_of(lambda rngs: Layer(channels, rngs))
            grads = self.check(
                net, data, SK, lambda path: batch if path.startswith("squeeze") else pixels
            )
        assert_close(grads["squeeze"]["conv"]["kernel"], data["grad_gate0"], RTOL)
        assert_close(grads["mix"]["kernel"], data["grad_gate1"], RTOL)

    def test_block_with_a_pooled_shortcut(self):
        data = load("sk_block")
        batch, height, width, channels = data["in_x"].shape
        options = {
            "kind": "bottleneck",
            "inner_width": 1,
            "zero_init_residual": True,
            "stride_in_1x1": False,
            "sk_ratio": float(data["hp_sk_ratio"]),
            "dtype": None,
        }
        filters, stride = int(data["hp_filters"]), int(data["hp_stride"])
        net = net_of(
            lambda rngs: resnet.ResidualBlock(channels, filters, stride, **options, rngs=rngs)
        )

        def rows(path):
            if path.startswith("layers/0"):
                return batch * height * width
            return batch if "squeeze" in path else data["out_train"][..., 0].size

        self.check(net, data, BLOCK, rows)

    def test_stem(self):
        data = load("stem")
        net = resnet.resnet_custom((), (), block="bottleneck", stem_filters=64, sk_ratio=0.0625)
        trees = variables(data, STEM)
        for mode in ("eval", "train"):
            train = mode == "train"
            out = jit(lambda x, t=train: net.apply(*trees, x, train=t)[0].map)(data["in_x"])
            assert_close(out, data[f"out_{mode}"], RTOL)

    def test_head_whose_first_layers_are_the_neck(self):
        """A neck's output is what fine-tuning reads after 0, 1 or 2 layers; the rest is a head."""
        data = load("head")
        width, out = data["in_nl_2.dense.kernel"].shape
        modules = {"dense": "linear", "bn": "norm"}
        for layers in (0, 1, 2):
            necks = {
                f"nl_{i}.{theirs}": f"{i}/{ours}"
                for i in range(layers)
                for theirs, ours in modules.items()
            }
            heads = {
                f"nl_{i}.{theirs}": f"{ours}{i - layers + 1}"
                for i in range(layers, 3)
                for theirs, ours in modules.items()
            }
            neck = [
                net_of(lambda rngs: resnet.Neck(width, width, dtype=None, rngs=rngs))
                for _ in range(layers)
            ]
            head = mlp_head(width, (*[width] * (2 - layers), out), last_norm="no_bias")
            neck_trees, head_trees = variables(data, necks), variables(data, heads)
            for mode in ("eval", "train"):
                train, after = mode == "train", {}
                x = data["in_x"]
                for i, net in enumerate(neck):
                    trees = (tree[str(i)] for tree in neck_trees)
                    x, updated = net.apply(*trees, x, train=train)
                    after[str(i)] = updated
                assert_close(x, data[f"out_{mode}_hidden{layers}"], RTOL)
                z, updated = head.apply(*head_trees, x, train=train)
                assert_close(z, data[f"out_{mode}_hidden3"], RTOL)
                if train:
                    rows = lambda _: len(data["in_x"])  # noqa: E731
                    for tree, names, old in (
                        (after, necks, neck_trees[1]),
                        (updated, heads, head_trees[1]),
                    ):
                        _, expected = variables(data, names, "out_train_")
                        for path, value in unbiased(expected, old, rows).items():
                            assert_close(named_leaves(tree)[path], value, RTOL, path)
                else:
                    logits = x @ data["in_sup.kernel"] + data["in_sup.bias"]
                    assert_close(logits, data[f"out_eval_sup_logits_sel{layers}"], RTOL)

    def test_sizes_of_depth_50(self):
        self.check_sizes(lambda depth: depth == 50)

    @pytest.mark.full
    def test_sizes_of_the_others(self):
        """Depths 18 and 34 have one more projection in the release than in torchvision and here."""
        self.check_sizes(lambda depth: depth > 50)

    def check_sizes(self, chosen):
        """Parameters and statistics with ImageNet's stem, and parameters of the head."""
        rows = [row for row in load("param_counts")["out_rows"].tolist() if chosen(row[0])]
        self.assertGreater(len(rows), 3)
        for depth, wide, sk, params, stats, head, features in rows:
            net = resnet.make(depth, wide, sk_ratio=0.0625 * sk, neck=(features,))
            rest = mlp_head(features, (features, 128), last_norm="no_bias")
            (own, running), (others, _) = (
                jax.eval_shape(n.init, jax.random.key(0)) for n in (net, rest)
            )
            neck, last = own.pop("neck"), running.pop("neck")
            self.assertEqual([count(own), count(running)], [params, stats], (depth, wide, sk))
            self.assertEqual(count(neck) + count(others), head)
            self.assertEqual(count(last), 2 * features)


class NeckTest(absltest.TestCase):
    def test_equal_streams_pass_unchanged(self):
        x = jax.random.uniform(jax.random.key(0), (2, 3, 3, 4))
        net = net_of(lambda rngs: resnet.SelectiveKernel(4, 1, 0.5, dtype=None, rngs=rngs))
        params, stats = net.init(jax.random.key(1))
        kernel = params["streams"]["conv"]["kernel"]
        params["streams"]["conv"]["kernel"] = kernel.at[..., 4:].set(kernel[..., :4])
        stream = resnet.ConvNorm  # one of the two, by itself
        one = net_of(lambda rngs: stream(4, 4, 3, dtype=None, rngs=rngs))
        alone = jax.tree.map(lambda a: a[..., :4], (params["streams"], stats["streams"]))
        expected = jax.nn.relu(one.apply(*alone, x, train=True)[0])
        mixed = net.apply(params, stats, x, train=True)[0]
        np.testing.assert_allclose(mixed, expected, rtol=1e-6, atol=1e-7)

    def test_outputs_and_layer(self):
        net = resnet.make(8, stem="small", num_filters=4, neck=(6, 5))
        shapes = output_shapes(net, (16, 16, 3), stages=True)
        self.assertEqual(shapes.pooled.shape, (5,))
        self.assertEqual(shapes.map.shape, (2, 2, 16))
        self.assertEqual(net.config.layer_ids("neck/0/linear/kernel"), net.config.num_layers + 1)
        self.assertEqual(net.like(scale=2.0).config.neck, (12, 10))


if __name__ == "__main__":
    absltest.main()
