"""Three optimizer steps with given gradients against the official codes of LARS."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from ssl_jax.optim.lars import lars, norm, trust_ratio

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ("w", "conv", "zero", "bias", "bn_scale")
ONE_DIMENSIONAL = ("bias", "bn_scale")


def run(data, coefficient, rates, excluded, dtype, **kwargs):
    """Parameters after each of the steps in `data`; rates[s] is a tree of learning rates."""
    weight_decay = float(data["hp_weight_decay"])
    params = {n: jnp.asarray(data[f"in_{n}"], dtype) for n in NAMES}
    tx = lars(
        {n: n not in excluded for n in NAMES},
        trust_coefficient=coefficient,
        momentum=float(data["hp_momentum"]),
        **kwargs,
    )
    wd = {n: jnp.asarray(0.0 if n in excluded else weight_decay, dtype) for n in NAMES}
    state, out, update = tx.init(params), [], jax.jit(tx.update)
    for s, rate in enumerate(rates):
        grads = {n: jnp.asarray(data[f"in_grad_{n}"][s], dtype) for n in NAMES}
        lr = {n: jnp.asarray(rate[n], dtype) for n in NAMES}
        updates, state = update(grads, state, params, lr=lr, weight_decay=wd)
        params = optax.apply_updates(params, updates)
        out.append(params)
    return {n: np.stack([p[n] for p in out]) for n in NAMES}


CASES = (
    # file, output prefix, key of the coefficient, arguments
    ("lars_mocov3", "", "trust_coefficient", {"variant": "byol"}),
    ("lars_byol", "", "trust_coefficient", {"variant": "byol"}),
    ("lars_barlowtwins", "", "eta", {"variant": "byol"}),
    ("lars_simclr", "", "eeta", {"variant": "simclr"}),
    ("lars_simclr", "pop_", "eeta", {"variant": "simclr_popular"}),
    ("lars_simclr", "nest_", "eeta", {"variant": "simclr", "nesterov": True}),
    ("larc_apex_swav", "", "trust_coefficient", {"variant": "apex"}),
    ("larc_apex_swav", "clip_", "trust_coefficient_clip", {"variant": "apex_clip"}),
)


class LarsTest(parameterized.TestCase):
    @parameterized.parameters(*CASES)
    def test_golden(self, file, prefix, key, kwargs):
        data = np.load(GOLDEN / f"{file}.npz")
        excluded = () if kwargs["variant"].startswith("apex") else ONE_DIMENSIONAL
        if "hp_lr" in data:
            rates = [dict.fromkeys(NAMES, data["hp_lr"])] * len(data["in_grad_w"])
        else:  # Barlow Twins gives one-dimensional parameters a rate of their own
            rates = [
                {n: b if n in ONE_DIMENSIONAL else w for n in NAMES}
                for w, b in zip(data["hp_lr_w"], data["hp_lr_b"], strict=True)
            ]
        out = run(data, float(data[f"hp_{key}"]), rates, excluded, jnp.float32, **kwargs)
        for n in NAMES:
            expected = data[f"out_{prefix}{n}"]
            np.testing.assert_allclose(
                out[n], expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max(), err_msg=n
            )
        if f"f64_out_{prefix}w" not in data:
            return
        with jax.enable_x64(True):
            out = run(data, float(data[f"hp_{key}"]), rates, excluded, jnp.float64, **kwargs)
        for n in NAMES:
            np.testing.assert_allclose(
                out[n], data[f"f64_out_{prefix}{n}"], rtol=1e-11, atol=1e-12, err_msg=n
            )

    def test_simclr_and_byol_differ_once_the_rate_changes(self):
        params = {"w": jnp.ones((2, 2))}
        grads = {"w": jnp.arange(4.0).reshape(2, 2)}
        zero = {"w": jnp.zeros(())}

        def two_steps(variant, rates):
            tx = lars({"w": True}, variant)
            state, p = tx.init(params), params
            for rate in rates:
                u, state = tx.update(
                    grads, state, p, lr={"w": jnp.float32(rate)}, weight_decay=zero
                )
                p = optax.apply_updates(p, u)
            return p["w"]

        np.testing.assert_allclose(
            two_steps("simclr", (1, 1)), two_steps("byol", (1, 1)), rtol=1e-6
        )
        apart = two_steps("simclr", (1, 0)) - two_steps("byol", (1, 0))
        self.assertGreater(float(jnp.abs(apart).max()), 1e-4)

    def test_pixpro_is_byol_with_a_floor_under_the_gradient(self):
        params = {"w": jnp.full((3, 3), 2.0)}
        lr, wd = {"w": jnp.float32(0.5)}, {"w": jnp.float32(0.0)}

        def step(variant, size):
            tx = lars({"w": True}, variant)
            grads = {"w": jnp.full((3, 3), size)}
            return tx.update(grads, tx.init(params), params, lr=lr, weight_decay=wd)[0]["w"]

        np.testing.assert_allclose(step("pixpro", 1.0), step("byol", 1.0), rtol=1e-6)
        # |g| = 3e-8: eta |p| g / (|g| + 1e-8) = 0.001 * 6 * 1e-8 / 4e-8
        np.testing.assert_allclose(step("pixpro", 1e-8), -0.5 * 0.001 * 6 / 4, rtol=1e-5)

    def test_gradient_scale_cancels_only_where_adapted(self):
        params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
        grads = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.arange(3.0)}
        lr = dict.fromkeys(params, jnp.float32(0.1))
        wd = dict.fromkeys(params, jnp.float32(0.0))
        tx = lars({"w": True, "b": False}, "byol")

        def step(scale):
            scaled = jax.tree.map(lambda g: scale * g, grads)
            return tx.update(scaled, tx.init(params), params, lr=lr, weight_decay=wd)[0]

        np.testing.assert_allclose(step(7.0)["w"], step(1.0)["w"], rtol=1e-6)
        np.testing.assert_allclose(step(7.0)["b"], 7 * step(1.0)["b"], rtol=1e-6)

    def test_half_precision_norms_do_not_overflow(self):
        self.assertEqual(norm(jnp.full(16, 300.0, jnp.float16)), 1200.0)
        ratio = trust_ratio(jnp.full(4, 300.0, jnp.float16), jnp.ones(4, jnp.float16))
        self.assertEqual((ratio, ratio.dtype), (300.0, jnp.float32))

    def test_stacked_layers_have_norms_of_their_own(self):
        layers = jnp.stack([jnp.ones((2, 2)), 5 * jnp.ones((2, 2))])
        grads = jnp.stack([jnp.eye(2), jnp.ones((2, 2))])
        tx = lars({"w": True}, stacked={"w": True})
        plain = lars({"w": True})

        def step(tx, p, g):
            p, g = {"w": p}, {"w": g}
            rates = {"lr": {"w": jnp.float32(1.0)}, "weight_decay": {"w": jnp.float32(0.1)}}
            return tx.update(g, tx.init(p), p, **rates)[0]["w"]

        apart = jnp.stack([step(plain, p, g) for p, g in zip(layers, grads, strict=True)])
        np.testing.assert_allclose(step(tx, layers, grads), apart, rtol=1e-6)
        self.assertGreater(float(jnp.abs(step(plain, layers, grads) - apart).max()), 1e-4)


if __name__ == "__main__":
    absltest.main()
