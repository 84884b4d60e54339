"""Methods that differ from SimCLR by their loss: three training steps against the released codes of
flatnce, debiased, hard_negatives, invaspread and align_uniform.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives import align_uniform, debiased, flatnce, hard_negatives, invaspread
from ssl_jax.objectives.base import Spec, View
from tests.losses.forms import load
from tests.objectives import released

# Fixture -> method, its options by the fixture's, whether the encoder ends in a ReLU, head's widths
# and batch norm, the fixture's name of the encoder, and of the head's layers.
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
        names = {f"{encoder}conv": "backbone/conv", f"{encoder}fc": "backbone/fc"}
        names |= {theirs: f"projector/{ours}" for theirs, ours in layers.items()}

        def tree(prefix, step=None):
            return {"projector": {}} | released.weights(data, prefix, names, step)

        params, batch = tree("in_sd."), data["in_x1"].shape[1]
        width = params["backbone"]["fc"]["bias"].size
        widths = tuple(v["bias"].size for v in params["projector"].values() if "bias" in v)
        head = released.IDENTITY
        if layers:
            deep = layers is DEEP
            head = mlp_head(width, widths if deep else widths[-1:], norm="batch" if deep else None)
        objective = make(
            released.tiny(params["backbone"], relu),
            Spec(batch, 100, 0, steps_per_epoch=1, total_steps=3),
            view=View(data["in_x1"].shape[-1], count=2),
            **{field: released.hyper(data, key) for field, key in options.items()},
        )
        # The head of the fixtures, whatever the method's own is.
        objective.__dict__["networks"] = objective.backbone_and(projector=head)
        stats = jax.tree.map(lambda x: x.astype(dtype), head.init(jax.random.key(0))[1])
        extra = {"stats": {"backbone": {}, "projector": stats}}
        tx = self.optimizer(name, data, params, batch)
        run, state = released.train_step(objective, tx), tx.init(params)

        rtol = 1e-7 if wide else 1e-5
        for s, loss in enumerate(data["out_loss"]):
            inputs = {
                "views": (released.images(data["in_x1"][s], data["in_x2"][s]),),
                "index": jnp.arange(batch),
            }
            value, params, extra, state = run(params, extra, state, inputs, jnp.int32(s))
            np.testing.assert_allclose(value, loss, rtol=rtol)
            released.check(params, tree("out_sd.", s), 10 * rtol)

    def optimizer(self, name, data, params, batch):
        """The config's SGD, or debiased's Adam with decay in the gradient."""
        if name != "debiased_train3":
            return released.sgd(data, params, batch)
        lr, decay = released.hyper(data, "lr"), released.hyper(data, "weight_decay")
        chain = optax.chain(optax.add_decayed_weights(decay), optax.adam(lr))
        return optax.with_extra_args_support(chain)


class AnnealTest(absltest.TestCase):
    def test_the_last_stage_is_debiased(self):
        z = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
        spec, net = Spec(4, 100, 0, steps_per_epoch=1, total_steps=90), released.IDENTITY
        annealed = hard_negatives.make(net, spec, concentration=2.0, anneal=True)
        constant = hard_negatives.make(net, spec, concentration=2.0)
        plain = debiased.make(net, spec)
        first, last = jnp.int32(10), jnp.int32(89)
        self.assertEqual(annealed.contrast(z, jnp.int32(0)), constant.contrast(z, first))
        self.assertAlmostEqual(float(annealed.contrast(z, last)), float(plain.contrast(z, last)), 5)
        self.assertLess(annealed.contrast(z, first), constant.contrast(z, first))


if __name__ == "__main__":
    absltest.main()
