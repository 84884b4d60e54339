"""Methods that differ from SimCLR by their loss: three training steps against the released codes of
flatnce, debiased, hard_negatives, invaspread and align_uniform.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives import align_uniform, debiased, flatnce, hard_negatives, invaspread
from ssl_jax.objectives.base import Spec, View
from ssl_jax.optim.factory import OptimConfig, make_optimizer
from tests.losses.forms import load


def tiny(relu):
    """The fixtures' encoder: convolution, ReLU, mean over space, linear, with a ReLU or none."""

    def apply(params, stats, images, **_):
        x = jax.lax.conv_general_dilated(
            images,
            params["conv"]["kernel"],
            (2, 2),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )
        x = jnp.mean(jax.nn.relu(x + params["conv"]["bias"]), (1, 2))
        x = jnp.matmul(x, params["fc"]["kernel"], precision="highest") + params["fc"]["bias"]
        return Features(pooled=jax.nn.relu(x) if relu else x), stats

    return Net(lambda key: ({}, {}), apply, "tiny")


def weights(data, prefix, step=None):
    """{path: array} of the network, in this project's layouts and the fixture's names."""
    at = (lambda x: x) if step is None else (lambda x: x[step])
    arrays = {k.removeprefix(prefix): at(v) for k, v in data.items() if k.startswith(prefix)}
    out = {}
    for name, value in arrays.items():
        layer, kind = name.rsplit(".", 1)
        if value.ndim == 1:
            kind = "scale" if kind == "weight" else kind
        else:
            value, kind = value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0)), "kernel"
        out[layer, kind] = value
    return out


# Fixture -> method, its options by the fixture's, whether the encoder ends in a ReLU, head's widths
# and batch norm, the fixture's name of the encoder, and of the head's layers.
IDENTITY = Net(lambda key: ({}, {}), lambda p, s, x, **_: (x, s), "identity")
LINEAR = {"2": "linear1"}
DEEP = {"g.0": "linear1", "g.1": "norm1", "g.3": "linear2"}
CASES = {
    "flatnce_train3": (flatnce.make, {"temperature": "T"}, True, "0.", LINEAR),
    "debiased_train3": (
        debiased.make,
        {"temperature": "T", "prior": "tau_plus"},
        True,
        "f.",
        DEEP,
    ),
    "hcl_train3": (
        hard_negatives.make,
        {"temperature": "T", "prior": "tau_plus", "concentration": "beta"},
        True,
        "f.",
        DEEP,
    ),
    "invaspread_train3": (
        invaspread.make,
        {"temperature": "T", "negative_weight": "M"},
        False,
        "t.",
        {},
    ),
    "align_uniform_train3": (align_uniform.make, {"alpha": "alpha", "t": "t"}, False, "t.", {}),
}
STEPS = [
    (f"_{name}_{'float64' if wide else 'float32'}", name, wide)
    for name in CASES
    for wide in (True, False)
]


class GoldenTest(parameterized.TestCase):
    @parameterized.named_parameters(*STEPS)
    def test_three_steps(self, name, wide):
        data = load(name, wide)
        with jax.enable_x64(wide):
            self.check(name, data, wide)

    def check(self, name, data, wide):
        make, options, relu, encoder, layers = CASES[name]
        dtype = np.float64 if wide else np.float32
        names = {f"{encoder}conv": ("backbone", "conv"), f"{encoder}fc": ("backbone", "fc")}
        names |= {theirs: ("projector", ours) for theirs, ours in layers.items()}

        def tree(prefix, step=None):
            out = {"backbone": {}, "projector": {}}
            for (layer, kind), value in weights(data, prefix, step).items():
                net, ours = names[layer]
                out[net].setdefault(ours, {})[kind] = jnp.asarray(value, dtype)
            return out

        params, batch = tree("in_sd."), data["in_x1"].shape[1]
        width = params["backbone"]["fc"]["bias"].size
        widths = tuple(v["bias"].size for v in params["projector"].values() if "bias" in v)
        head = IDENTITY
        if layers:
            deep = layers is DEEP
            head = mlp_head(width, widths if deep else widths[-1:], norm="batch" if deep else None)
        objective = make(
            tiny(relu),
            Spec(batch, 100, 0, steps_per_epoch=1, total_steps=3),
            view=View(data["in_x1"].shape[-1], count=2),
            **{field: float(data[f"hp_{key}"]) for field, key in options.items()},
        )
        # The head of the fixtures, whatever the method's own is.
        objective.__dict__["networks"] = objective.backbone_and(projector=head)
        stats = jax.tree.map(lambda x: x.astype(dtype), head.init(jax.random.key(0))[1])
        extra = {"stats": {"backbone": {}, "projector": stats}}
        update, state = self.optimizer(name, data, params, batch)

        @jax.jit
        def train(params, extra, state, images, step):
            batch = {"views": (images,), "index": jnp.arange(len(images))}
            loss = lambda p: objective.loss(p, extra, batch, jax.random.key(0), step)  # noqa: E731
            (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
            updates, state = update(grads, state, params, step)
            return value, optax.apply_updates(params, updates), aux.extra, state

        rtol = 1e-7 if wide else 1e-5
        for s in range(len(data["out_loss"])):
            views = np.stack([data["in_x1"][s], data["in_x2"][s]], axis=1)
            images = jnp.asarray(views.transpose(0, 1, 3, 4, 2), dtype)
            value, params, extra, state = train(params, extra, state, images, jnp.int32(s))
            np.testing.assert_allclose(value, data["out_loss"][s], rtol=rtol)
            expected = tree("out_sd.", s)
            for ours, theirs in zip(
                jax.tree.leaves(params), jax.tree.leaves(expected), strict=True
            ):
                largest = np.abs(theirs).max()
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=10 * rtol * largest)

    def optimizer(self, name, data, params, batch):
        """(update, state): the config's SGD, or debiased's Adam with decay in the gradient."""
        lr, decay = float(data["hp_lr"]), float(data["hp_weight_decay"])
        if name == "debiased_train3":
            tx = optax.chain(optax.add_decayed_weights(decay), optax.adam(lr))
            return lambda g, s, p, step: tx.update(g, s, p), tx.init(params)
        config = OptimConfig(
            name="sgd",
            lr=lr,
            lr_scaling="none",
            schedule="constant",
            momentum=float(data["hp_sgd_momentum"]),
            weight_decay=decay,
            decay_rules=((".*", 1.0),),
        )
        options = {"batch_size": batch, "total_steps": 3, "steps_per_epoch": 1}
        tx, _ = make_optimizer(config, params, {}, **options)
        return lambda g, s, p, step: tx.update(g, s, p, step=step), tx.init(params)


class AnnealTest(absltest.TestCase):
    def test_the_last_stage_is_debiased(self):
        z = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
        spec, net = Spec(4, 100, 0, steps_per_epoch=1, total_steps=90), tiny(relu=True)
        annealed = hard_negatives.make(net, spec, concentration=2.0, anneal=True)
        constant = hard_negatives.make(net, spec, concentration=2.0)
        plain = debiased.make(net, spec)
        first, last = jnp.int32(10), jnp.int32(89)
        self.assertEqual(annealed.contrast(z, jnp.int32(0)), constant.contrast(z, first))
        self.assertAlmostEqual(float(annealed.contrast(z, last)), float(plain.contrast(z, last)), 5)
        self.assertLess(annealed.contrast(z, first), constant.contrast(z, first))


if __name__ == "__main__":
    absltest.main()
