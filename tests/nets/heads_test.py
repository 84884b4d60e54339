"""Heads against MoCo v3's and SimSiam's in training, and published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count, named_leaves
from ssl_jax.nets.heads import dino_head, mlp_head
from ssl_jax.weights import conversion
from ssl_jax.weights.heads import perceptron
from tests.nets import weights as torch


def golden_head(weights, prefix):
    """Net, params and stats of a torch Sequential of linear layers, batch norms and ReLUs."""
    variables = perceptron(torch.under(weights, f"{prefix}."))
    kernels = [
        variables[f"linear{i}/kernel"] for i in range(1, 4) if f"linear{i}/kernel" in variables
    ]
    net = mlp_head(
        len(kernels[0]),
        [kernel.shape[1] for kernel in kernels],
        last_norm="no_affine" if f"norm{len(kernels)}/mean" in variables else None,
    )
    like = jax.eval_shape(net.init, jax.random.key(0))
    assert set(variables) == set(conversion.flat(*like))
    return net, *conversion.fill(variables, like, prefix)


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_two_batches_then_evaluation(self, wide):
        weights, data = torch.load("model_mlp_heads_bn")
        prefix, rtol, dtype = ("f64_", 1e-9, np.float64) if wide else ("", 1e-5, np.float32)
        names = ("mocov3_proj", "mocov3_pred", "simsiam_pred")
        heads = {name: golden_head(weights, name) for name in names}

        def run(trees, x, train):
            outs, stats = {}, {}
            for name, source in zip(names, (None, names[0], names[0]), strict=True):
                inputs = x if source is None else outs[source]
                outs[name], stats[name] = heads[name][0].apply(*trees[name], inputs, train=train)
            return outs, {name: (trees[name][0], stats[name]) for name in names}

        run = torch.jit(run, static_argnums=2)
        with jax.enable_x64(wide):
            trees = {name: (params, stats) for name, (_, params, stats) in heads.items()}
            trees = jax.tree.map(lambda x: jnp.asarray(x, dtype), trees)
            batches = jnp.asarray(data["in_x"], dtype)
            for step, x in enumerate(batches):
                outs, trees = run(trees, x, True)
                for name, out in outs.items():
                    torch.assert_close(out, data[f"{prefix}out_{name}"][step], rtol, name)
            outs, _ = run(trees, batches[0], False)
        for name, out in outs.items():
            self.assertEqual(out.dtype, dtype)
            torch.assert_close(out, data[f"{prefix}out_eval_{name}"], rtol, name)
            after = torch.under(data, f"{prefix}out_after.{name}.")
            running = perceptron(torch.under(weights, f"{name}.") | after)
            for norm, stats in trees[name][1].items():
                for key, value in stats.items():
                    torch.assert_close(value, running[f"{norm}/{key}"], rtol, key)


class SizeTest(parameterized.TestCase):
    @parameterized.parameters(
        (False, 22_352_128), (True, 22_352_128 - 65536)
    )  # the norms of the prototypes are parameters or not
    def test_dino(self, norm_last_layer, expected):
        net = dino_head(384, norm_last_layer=norm_last_layer)
        self.assertEqual(count(jax.eval_shape(net.init, jax.random.key(0))[0]), expected)
        _, data = torch.load("param_counts")
        self.assertIn(int(data["out_dino_head_384_65536"]) - expected, (0, 65536))

    @parameterized.parameters(
        ("simclr", dict(last_norm="no_bias"), ["norm1/bias", "norm1/scale", "norm2/scale"]),
        (
            "byol",
            dict(hidden_bias=True, last_bias=False),
            ["linear1/bias", "norm1/bias", "norm1/scale"],
        ),
        ("simsiam predictor", {}, ["linear2/bias", "norm1/bias", "norm1/scale"]),
        ("moco v3", dict(last_norm="no_affine"), ["norm1/bias", "norm1/scale"]),
        ("moco v2", dict(norm=None), ["linear1/bias", "linear2/bias"]),
        ("barlow twins", dict(last_bias=False), ["norm1/bias", "norm1/scale"]),
    )
    def test_published_layouts(self, _, options, others):
        net = mlp_head(6, (8, 4), **options)
        params, _ = jax.eval_shape(net.init, jax.random.key(0))
        self.assertEqual(
            sorted(named_leaves(params)), sorted(["linear1/kernel", "linear2/kernel", *others])
        )


class HeadTest(parameterized.TestCase):
    @parameterized.parameters(
        ("lecun", 1 / 16, 0.0),
        ("normal0.01", 0.01, 0.0),
        ("torch", 1 / 16 / 3**0.5, 1 / 16 / 3**0.5),
    )
    def test_initialisation(self, init, kernel, bias):
        net = mlp_head(256, (128,), norm=None, init=init)
        params, stats = torch.jit(net.init)(jax.random.key(0))
        self.assertEqual(stats, {})
        np.testing.assert_allclose(params["linear1"]["kernel"].std(), kernel, rtol=0.05)
        np.testing.assert_allclose(params["linear1"]["bias"].std(), bias, rtol=0.2)

    def test_dino_logits_are_cosines(self):
        net = dino_head(6, 10, hidden_dim=8, bottleneck_dim=4)
        params, stats = torch.random_variables(net)
        x = torch.random_images(16, 6)
        logits, _ = torch.jit(lambda p: net.apply(p, stats, x, train=True))(params)
        self.assertLessEqual(float(jnp.abs(logits).max()), 1 + 1e-6)
        params["last_layer"]["v"] *= 7.0
        scaled, _ = torch.jit(lambda p: net.apply(p, stats, x, train=True))(params)
        np.testing.assert_allclose(scaled, logits, atol=1e-6)

    @parameterized.parameters(
        lambda dtype: mlp_head(6, (8, 4), last_norm="affine", dtype=dtype),
        lambda dtype: dino_head(6, 10, hidden_dim=8, bottleneck_dim=4, dtype=dtype),
    )
    def test_bfloat16_keeps_float32_state_and_output(self, make):
        net = make("bfloat16")
        variables = jax.eval_shape(net.init, jax.random.key(0))
        x = jax.ShapeDtypeStruct((4, 6), jnp.float32)
        out, stats = jax.eval_shape(lambda v, x: net.apply(*v, x, train=True), variables, x)
        for leaf in jax.tree.leaves((variables, out, stats)):
            self.assertEqual(leaf.dtype, jnp.float32)
        jaxpr = jax.make_jaxpr(lambda v, x: net.apply(*v, x, train=True))(variables, x)
        dots = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
        self.assertEqual({e.invars[0].aval.dtype.name for e in dots}, {"bfloat16"})

    @parameterized.parameters(
        (lambda: mlp_head(8, ()), "at least one layer"),
        (lambda: mlp_head(8, (4, 0)), "positive"),
        (lambda: mlp_head(8, (4,), norm="layer"), "'layer'"),
        (lambda: mlp_head(8, (4,), last_norm="afine"), "'affine'"),
        (lambda: mlp_head(8, (4,), init="he"), "'he'"),
        (lambda: mlp_head(8, (4,), activation="swish"), "'swish'"),
        (lambda: dino_head(8, layers=0), "one layer"),
        (lambda: dino_head(8, 0), "positive"),
    )
    def test_user_errors(self, make, message):
        with self.assertRaisesRegex(UserError, message):
            make()


if __name__ == "__main__":
    absltest.main()
