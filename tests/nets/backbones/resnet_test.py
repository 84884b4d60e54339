"""ResNets against timm's: forward, batch statistics and gradients; published sizes and multiply-
adds.
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count, named_leaves
from ssl_jax.nets.backbones.resnet import SelectiveKernel, resnet_custom
from ssl_jax.nets.backbones.resnet import make as resnet
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.functional import functional, output_shapes
from tests.nets import weights as torch


def variables(net):
    return jax.eval_shape(lambda: net.init(jax.random.key(0)))


def parameters(net):
    return variables(net)[0]


def macs(net, size, classes=1000):
    """Multiply-adds of the convolutions and a classifier for one image, from the traced forward."""

    def forward(variables, images):
        return net.apply(*variables, images, train=False)[0].pooled

    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(forward)(variables(net), images)
    convs = [e for e in jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    shapes = [(e.outvars[0].aval.shape, e.invars[1].aval.shape) for e in convs]
    total = sum(math.prod(out) * math.prod(kernel[:-1]) for out, kernel in shapes)
    return total + classes * jaxpr.out_avals[0].shape[-1]


class RematTest(absltest.TestCase):
    """With `remat="convolutions"` the backward pass runs no convolution again, and all is equal."""

    def test_no_convolution_is_computed_twice(self):
        counts = {}
        for policy in ("none", "convolutions"):
            net = resnet(8, num_filters=8, stem="small", remat=policy)
            text = str(
                jax.make_jaxpr(lambda *a, net=net: trained(net, *a))(*variables(net), IMAGES)
            )
            counts[policy] = text.count("conv_general_dilated[")
            self.assertEqual("remat" in text or "checkpoint" in text, policy != "none")
        self.assertEqual(counts["none"], counts["convolutions"])

    @pytest.mark.full
    def test_values_gradients_and_statistics(self):
        plain, remat = (
            resnet(8, num_filters=8, stem="small", remat=policy)
            for policy in ("none", "convolutions")
        )
        values = plain.init(jax.random.key(0))
        actual, expected = (
            jax.jit(lambda *a, net=net: trained(net, *a))(*values, IMAGES) for net in (remat, plain)
        )
        chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-6)

    def test_an_unknown_policy(self):
        with self.assertRaisesRegex(UserError, "remat"):
            resnet(8, remat="full")


IMAGES = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)


def trained(net, params, stats, images):
    """Gradients of a step in training mode, and the new statistics."""

    def loss(params):
        out, updated = net.apply(params, stats, images, train=True)
        return jnp.sum(jnp.square(out.pooled - 1)), updated

    return jax.grad(loss, has_aux=True)(params)


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(
        ("model_timm_resnet_basic", True), ("model_timm_resnet_bottleneck", False)
    )
    def test_timm(self, name, wide):
        weights, data = torch.load(name)
        prefix, rtol, dtype = ("f64_", 1e-9, np.float64) if wide else ("", 1e-4, np.float32)
        names = {".".join(k.split(".")[:2]) for k in weights if k.startswith("layer")}
        stages = tuple(sum(n.startswith(f"layer{s}.") for n in names) for s in range(1, 5))
        bottleneck = "layer1.0.conv3.weight" in weights
        net = resnet_custom(
            stages,
            [len(weights[f"layer{s}.0.conv1.weight"]) for s in range(1, 5)],
            block="bottleneck" if bottleneck else "basic",
            stem_filters=len(weights["conv1.weight"]),
        )
        params, stats = torch.convert(net, weights)
        fc = torch.head(weights, "classifier")["linear1"]
        self.assertEqual(
            jax.tree.map(np.shape, params), jax.tree.map(lambda x: x.shape, parameters(net))
        )

        def forward(params, images, train):
            out, new_stats = net.apply(params, stats, images, train=train)
            logits = out.pooled @ fc["kernel"] + fc["bias"]
            return jnp.mean(jnp.square(logits)), (logits, out, new_stats)

        gradient = jax.jit(jax.grad(forward, (0, 1), has_aux=True), static_argnums=2)
        with jax.enable_x64(wide):
            params, stats, fc = jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, stats, fc))
            images = jnp.asarray(torch.nhwc(data["in_x"]), dtype)
            (grads, grad_x), (logits, out, same) = gradient(params, images, False)
            (_, grad_train_x), (train_logits, _, after) = gradient(params, images, True)
        maps = {"features": out.map}
        close = [
            ("out_logits", logits),
            ("out_prelogits", out.pooled),
            ("out_train_logits", train_logits),
            *((f"out_{k}", np.moveaxis(v, -1, -3)) for k, v in maps.items()),
            ("grad_x", np.moveaxis(grad_x, -1, -3)),
            ("grad_train_x", np.moveaxis(grad_train_x, -1, -3)),
            ("grad_conv1_weight", grads["stem"]["0"]["conv"]["kernel"].transpose(3, 2, 0, 1)),
        ]
        for key, actual in close:
            self.assertEqual(actual.dtype, dtype)
            torch.assert_close(actual, data[prefix + key], rtol, key)
        running = torch.under(data, f"{prefix}out_train_after.")
        _, expected = torch.convert(net, weights | running)
        jax.tree.map(lambda a, b: torch.assert_close(a, b, rtol / 10), after, expected)
        jax.tree.map(np.testing.assert_array_equal, same, stats)


class SizeTest(parameterized.TestCase):
    @parameterized.parameters(
        (18, "resnet18", 512),
        (34, "resnet34", 512),
        (50, "resnet50", 2048),
        (101, "resnet101", 2048),
    )
    def test_parameters_of_timm(self, depth, name, width):
        _, data = torch.load("param_counts")
        features = count(parameters(resnet(depth)))
        self.assertEqual(features, data[f"out_{name}_feat"])
        self.assertEqual(features + 1000 * (width + 1), data[f"out_{name}_1k"])

    def test_wide(self):
        _, data = torch.load("param_counts")
        net = resnet_custom((3, 4, 6, 3), (64, 128, 256, 512), block="bottleneck", inner_width=2)
        self.assertEqual(count(parameters(net)), data["out_wide_resnet50_2_feat"])

    @parameterized.parameters(
        (dict(depth=18), 11_176_512, 1_814_073_344),
        (dict(depth=50), 23_508_032, 4_089_184_256),
        (dict(depth=50, stride_in_1x1=True), 23_508_032, 3_857_973_248),
        (dict(depth=50, width=2), 93_907_072, 16_116_613_120),
        (dict(depth=152), 58_143_808, 11_513_626_624),
    )
    def test_published_sizes(self, options, size, multiply_adds):
        net = resnet(**options)
        self.assertEqual(count(parameters(net)), size)
        self.assertEqual(macs(net, 224), multiply_adds)

    @parameterized.parameters((50, 1, 35), (101, 2, 257), (152, 2, 354))
    def test_selective_kernels_of_simclr_v2(self, depth, width, millions):
        # The published sizes fit trained and running variables together, as a checkpoint holds
        # them.
        net = resnet(depth, width, sk_ratio=0.0625)
        self.assertEqual(round(count(variables(net)) / 1e6), millions)

    def test_small(self):
        net = resnet_small(16, channels=1)
        self.assertEqual(round(count(parameters(net)), -3), 77_000)
        shapes = output_shapes(net, (16, 16, 1), stages=True)
        maps = [stage.map.shape for stage in shapes.stages]
        self.assertEqual(maps, [(8, 8, 16), (4, 4, 32), (2, 2, 64)])
        self.assertEqual(shapes.pooled.shape, (64,))

    @parameterized.parameters(("imagenet", 8), ("cifar", 32), ("small", 16))
    def test_stems(self, stem, side):
        net = resnet(18, stem=stem, num_filters=4)
        shapes = output_shapes(net, (32, 32, 3), stages=True)
        self.assertEqual(shapes.stages[0].map.shape, (side, side, 4))
        self.assertEqual(shapes.map.shape, (side // 8, side // 8, 32))


class ResNetTest(parameterized.TestCase):
    def test_blocks_start_as_identities(self):
        net = resnet_custom((2,), (4,), stem="small", stem_filters=4)
        images = torch.random_images(2, 8, 8, 3)
        shorter = resnet_custom((1,), (4,), stem="small", stem_filters=4)

        @torch.jit
        def forward(key):
            trees = net.init(key)
            fewer = ({**tree, "stage1": {"0": tree["stage1"]["0"]}} for tree in trees)
            both = (
                net.apply(*trees, images, train=False),
                shorter.apply(*fewer, images, train=False),
            )
            return [out.map for out, _ in both]

        two, one = forward(jax.random.key(0))
        self.assertGreater(float(two.max()), 0)
        np.testing.assert_array_equal(two, one)

    def test_bfloat16_computes_in_it_and_keeps_float32_state(self):
        net = resnet_small(8, dtype="bfloat16")
        shapes = jax.eval_shape(lambda: net.init(jax.random.key(0)))
        images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
        apply = lambda tree, x: net.apply(*tree, x, train=True)  # noqa: E731
        out, stats = jax.eval_shape(apply, shapes, images)
        self.assertEqual({x.dtype.name for x in jax.tree.leaves((shapes, stats))}, {"float32"})
        self.assertEqual(out.map.dtype, jnp.bfloat16)
        self.assertEqual(out.pooled.dtype, jnp.float32)

    def test_selective_kernel_mixes_its_streams(self):
        class Streams(nnx.Module):
            def __init__(self, rngs):
                self.layer = SelectiveKernel(3, 1, 0.5, dtype=None, rngs=rngs)

            def __call__(self, x, *, train):
                both = jax.nn.relu(self.layer.streams(x, train=train))
                return both[..., :3], both[..., 3:], self.layer(x, train=train)

        net = functional(Streams)
        variables, x = torch.random_variables(net), torch.random_images(2, 4, 4, 3)
        forward = torch.jit(lambda variables: net.apply(*variables, x, train=False)[0])
        first, second, mixed = map(np.asarray, forward(variables))
        # One weight in (0, 1) an image and a channel, whatever the place.
        near = np.abs(first - second) < 0.1
        weight = np.where(near, np.nan, (mixed - second) / np.where(near, 1, first - second))
        low, high = np.nanmin(weight, (1, 2)), np.nanmax(weight, (1, 2))
        np.testing.assert_allclose(low, high, rtol=0, atol=1e-4)
        self.assertTrue(np.all((low > 0) & (high < 1)))
        self.assertGreater(np.ptp(low), 0.001)

    def test_selective_kernel_net_runs_and_halves_odd_maps_up(self):
        net = resnet_custom((1, 1), (4, 8), block="bottleneck", stem_filters=4, sk_ratio=0.5)
        shapes = output_shapes(net, (18, 18, 3), stages=True)
        maps = [stage.map.shape for stage in shapes.stages]
        self.assertEqual(maps, [(5, 5, 16), (3, 3, 32)])
        self.assertIn("stage1/0/layers/1/mix/kernel", named_leaves(parameters(net)))

    @parameterized.parameters(
        (lambda: resnet(20), "depth 20"),
        (lambda: resnet(18, stem="mnist"), "'mnist'"),
        (lambda: resnet(18, sk_ratio=0.1), "bottleneck"),
        (lambda: resnet(18, dtype="int8"), "expected 'float32' or 'bfloat16'"),
        (lambda: resnet(18, dtype="float99"), "expected 'float32' or 'bfloat16'"),
        (lambda: resnet_custom((1, 1), (4,)), "filters"),
        (lambda: resnet_custom((1,), (4,), block="plain"), "'plain'"),
    )
    def test_user_errors(self, make, message):
        with self.assertRaisesRegex(UserError, message):
            make()


if __name__ == "__main__":
    absltest.main()
