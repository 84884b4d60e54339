"""The optimizer of a config: torch's numbers, rules on paths, groups, the step as clock."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from ssl_jax import nets
from ssl_jax.core import config as config_lib
from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.optim.factory import OptimConfig, make_optimizer, make_schedule, reset

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ("w", "conv", "zero", "bias", "bn_scale")
ALL = ((".*", 1.0),)


@dataclass(frozen=True)
class Group:
    pattern: str
    frozen_until: int = 0
    constant_lr: bool = False
    shared: bool = False
    b1: float | None = None


def net(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "backbone": {"kernel": (3, 4), "bias": (4,)},
        "head": {"kernel": (4, 2), "scale": (2,)},
    }
    draw = lambda s: rng.normal(size=s).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, shapes, is_leaf=lambda s: isinstance(s, tuple))


def build(params, groups=None, total_steps=100, decays="", **config):
    settings = {"lr_scaling": "none", "schedule": "constant", "lr": 0.1} | config
    return make_optimizer(
        OptimConfig(**settings),
        params,
        groups or {},
        batch_size=256,
        total_steps=total_steps,
        steps_per_epoch=10,
        decays=decays,
    )


def first(tx, params, grads, step=0):
    """The first update of a run, made at `step`."""
    return jax.jit(lambda g, p, s: tx.update(g, tx.init(p), p, step=s)[0])(
        grads, params, np.int32(step)
    )


def run(tx, params, grads, start=0):
    """Parameters and state after the updates `grads`, the first at step `start`."""
    state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
    out = []
    for s, g in enumerate(grads):
        updates, state = update(g, state, params, step=jnp.int32(start + s))
        params = optax.apply_updates(params, updates)
        out.append(params)
    return out, state


class TorchTest(parameterized.TestCase):
    @parameterized.parameters(
        ("sgd_", "hp_lr", {"name": "sgd"}),
        ("nest_", "hp_lr", {"name": "sgd", "nesterov": True}),
        ("adamw_", "hp_lr_adamw", {"name": "adamw"}),
    )
    def test_golden(self, prefix, rate, kwargs):
        data = np.load(GOLDEN / "torch_optim_clip.npz")
        params = {n: jnp.asarray(data[f"in_{n}"]) for n in NAMES}
        grads = [{n: data[f"in_grad_{n}"][s] for n in NAMES} for s in range(len(data["in_grad_w"]))]
        decay = float(data["hp_weight_decay"])
        tx, _ = build(params, lr=float(data[rate]), weight_decay=decay, decay_rules=ALL, **kwargs)
        out, _ = run(tx, params, grads)
        for n in NAMES:
            expected = data[f"out_{prefix}{n}"]
            got = np.stack([p[n] for p in out])
            np.testing.assert_allclose(
                got, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max(), err_msg=n
            )

    def test_clip_per_parameter_golden(self):
        data = np.load(GOLDEN / "torch_optim_clip.npz")
        params = {n: jnp.asarray(data[f"in_{n}"]) for n in NAMES}
        grads = {n: jnp.asarray(data[f"in_grad_{n}"][0]) for n in NAMES}
        clip = float(data["hp_clip"])
        tx, _ = build(params, name="sgd", momentum=0.0, lr=1.0, clip_per_parameter=clip)
        updates = first(tx, params, grads)
        for n, size in zip(NAMES, data["out_clip_norms"], strict=True):
            np.testing.assert_allclose(-updates[n], data[f"out_clipped_{n}"], rtol=1e-5, err_msg=n)
            np.testing.assert_allclose(np.linalg.norm(updates[n]), min(size, clip), rtol=1e-5)

    def test_lars_excludes_by_decay_rule(self):
        data = np.load(GOLDEN / "lars_byol.npz")
        params = {n: jnp.asarray(data[f"in_{n}"]) for n in NAMES}
        grads = [{n: data[f"in_grad_{n}"][s] for n in NAMES} for s in range(len(data["in_grad_w"]))]
        rules = (("bias|bn_", 0.0), *ALL)
        hyper = {"lr": float(data["hp_lr"]), "weight_decay": float(data["hp_weight_decay"])}
        tx, _ = build(params, name="lars", lars_variant="byol", decay_rules=rules, **hyper)
        out, _ = run(tx, params, grads)
        for n in NAMES:
            np.testing.assert_allclose(out[-1][n], data[f"out_{n}"][-1], rtol=1e-5, atol=1e-6)


class RulesTest(parameterized.TestCase):
    def test_an_uncovered_parameter_is_an_error(self):
        for key in ("decay_rules", "lr_rules"):
            with self.assertRaisesRegex(UserError, f"optim.{key}.*'head/kernel'"):
                build(net(), **{key: (("backbone", 1.0), ("scale", 0.0))})

    def test_first_rule_wins_and_default_spares_biases_and_scales(self):
        params, zeros = net(), jax.tree.map(jnp.zeros_like, net())
        tx, _ = build(params, name="adamw", lr=0.1, weight_decay=0.5)
        updates = first(tx, params, zeros)
        for path, u in tree.named_leaves(updates).items():
            decayed = -0.05 * tree.named_leaves(params)[path] if path.endswith("kernel") else 0 * u
            np.testing.assert_allclose(u, decayed, rtol=1e-6, err_msg=path)

        rules = (("head/kernel", 2.0), ("kernel", 1.0), (".*", 0.0))
        tx, _ = build(params, name="adamw", lr=0.1, weight_decay=0.5, decay_rules=rules)
        updates = first(tx, params, zeros)
        np.testing.assert_allclose(
            updates["head"]["kernel"], -0.1 * params["head"]["kernel"], rtol=1e-6
        )

    @parameterized.parameters("adamw", "lars")
    def test_vectors_do_not_decay_whatever_their_name(self, name):
        vit = nets.make_backbone(
            "vit",
            3,
            {"size": None, "dim": 8, "depth": 2, "heads": 2, "patch": 4, "image_size": 8}
            | {"layer_scale": 0.1, "registers": 2, "mask_token": True},
        )
        shapes = jax.eval_shape(vit.init, jax.random.key(0))[0]
        params = {"backbone": jax.tree.map(lambda x: jnp.ones(x.shape), shapes)}
        params |= {"temperature": {"log": jnp.ones(())}, "probe": {"kernel": jnp.ones((1, 3))}}
        tx, _ = build(params, name=name, lr=0.1, weight_decay=0.5)
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates = tree.named_leaves(first(tx, params, zeros))
        decayed = {path for path, u in updates.items() if float(jnp.abs(u).max()) > 0}
        matrices = {path for path in updates if path.endswith("kernel")}
        self.assertEqual(decayed, matrices | {"backbone/pos_embed", "backbone/registers"})
        tx, _ = build(params, name=name, lr=0.1, weight_decay=0.5, decays="cls_token$")
        token = first(tx, params, zeros)["backbone"]["cls_token"]
        self.assertGreater(float(jnp.abs(token).max()), 0)
        self.assertContainsSubset(
            ["backbone/blocks/gamma1", "backbone/cls_token", "temperature/log"], updates
        )

    @parameterized.parameters("adamw", "sgd", "lars", "lamb")
    def test_lr_rules_multiply_the_update(self, name):
        params, grads = net(), net(1)

        def update(rules):
            tx, _ = build(params, name=name, weight_decay=0.01, lr_rules=rules)
            return first(tx, params, grads)

        plain, scaled = update(ALL), update((("head", 3.0), *ALL))
        np.testing.assert_allclose(scaled["head"]["kernel"], 3 * plain["head"]["kernel"], rtol=1e-6)
        np.testing.assert_array_equal(scaled["backbone"]["kernel"], plain["backbone"]["kernel"])

    def test_frozen_parameters_stay_and_have_no_state(self):
        params = net()
        tx, _ = build(params, weight_decay=0.5, frozen=("^backbone",))
        out, state = run(tx, params, [net(1), net(2)])
        jax.tree.map(np.testing.assert_array_equal, out[-1]["backbone"], params["backbone"])
        self.assertGreater(
            float(jnp.abs(out[-1]["head"]["kernel"] - params["head"]["kernel"]).max()), 0.1
        )
        self.assertFalse([path for path in tree.named_leaves(state) if "backbone" in path])

    @parameterized.parameters(
        ({"frozen": ("encoder",)}, "'encoder' matches no parameter"),
        ({"groups": {"last": Group("last_layer")}}, "'last_layer' matches no parameter"),
        ({"frozen": ("^hed/",)}, r"'\^hed/' matches no parameter; did you mean 'head'"),
        (
            {"decay_rules": (("bakbone", 0.0), *ALL)},
            "optim.decay_rules: 'bakbone' matches no param",
        ),
        ({"lr_rules": (("head/kernal", 0.0), *ALL)}, "lr_rules: .*did you mean 'head/kernel'"),
        ({"stacked": ("layers/",)}, "optim.stacked: 'layers/' matches no parameter"),
        ({"groups": {"rest": Group("head")}}, "'rest'"),
        ({"frozen": ("(",)}, "not a regular expression"),
    )
    def test_bad_patterns(self, kwargs, message):
        with self.assertRaisesRegex(UserError, message):
            build(net(), **kwargs)

    @parameterized.parameters(
        ({"lr": -1.0}, "optim.lr"),
        ({"lr": float("nan")}, "optim.lr"),
        ({"clip_norm": 0.0}, "optim.clip_norm"),
        ({"momentum": 1.0}, "optim.momentum"),
        ({"warmup_steps": 3, "warmup_epochs": 1.0}, "warmup_steps and warmup_epochs are both set"),
        ({"milestones": (3.0,)}, "schedule='step'"),
        ({"name": "adam"}, "got 'adam'"),
        ({"decay_rules": (("a", "b"),)}, "decay_rules"),
    )
    def test_bad_settings(self, values, message):
        with self.assertRaisesRegex(UserError, message):
            config_lib.build(OptimConfig, values, "optim")


class GroupsTest(parameterized.TestCase):
    @parameterized.parameters("adamw", "sgd", "lars", "lamb")
    def test_a_frozen_group_starts_as_if_new(self, name):
        params, grads = net(), [net(s) for s in range(1, 6)]
        settings = {"name": name, "weight_decay": 0.1}
        tx, _ = build(params, {"head": Group("^head", 3)}, **settings)
        out, state = run(tx, params, grads[:3])
        jax.tree.map(np.testing.assert_array_equal, out[-1]["head"], params["head"])
        jax.tree.map(np.testing.assert_array_equal, state["head"], tx.init(params)["head"])
        self.assertGreater(
            float(jnp.abs(out[-1]["backbone"]["kernel"] - params["backbone"]["kernel"]).max()), 1e-5
        )

        out, _ = run(tx, params, grads)
        fresh, _ = run(build(params, **settings)[0], params, grads[3:], start=3)
        equal = partial(np.testing.assert_allclose, rtol=1e-6)  # two programs round by themselves
        jax.tree.map(equal, [p["head"] for p in out[3:]], [p["head"] for p in fresh])

    @parameterized.parameters("adamw", "sgd", "lars", "lamb")
    def test_groups_do_not_change_the_numbers(self, name):
        params, grads = net(), [net(s) for s in range(1, 4)]
        settings = {"name": name, "weight_decay": 0.1, "clip_norm": 1.0, "clip_per_parameter": 0.9}
        first, _ = run(build(params, **settings)[0], params, grads)
        second, state = run(build(params, {"head": Group("^head")}, **settings)[0], params, grads)
        self.assertEqual(list(state), ["head", "rest"])
        jax.tree.map(np.testing.assert_array_equal, first, second)

    def test_shared_groups_move_their_parameters_too_and_only_where_named(self):
        """A shared group has moments of its own, and a parameter moves by the sum of the updates;
        one that is only in shared groups is in no other.
        """
        params, grads = net(), net(1)
        groups = {
            "own": Group("^backbone"),
            "twice": Group("^(backbone|head)", shared=True),
            "slow": Group("backbone/bias", shared=True, b1=0.5),
        }
        tx, _ = build(params, groups, name="adamw")
        state = tx.init(params)
        self.assertEqual(state["rest"][1], {})
        plain, after = tx.update(grads, state, params, step=0)
        np.testing.assert_array_equal(plain["head"]["kernel"], 0)
        self.assertEqual([int(after[name][0]) for name in groups], [1, 0, 0])
        both, after = tx.update(grads, state, params, step=0, groups=("own", "twice"))
        self.assertEqual([int(after[name][0]) for name in groups], [1, 1, 0])
        np.testing.assert_allclose(both["backbone"]["kernel"], 2 * plain["backbone"]["kernel"])
        self.assertGreater(np.abs(both["head"]["kernel"]).min(), 0)
        _, after = tx.update(grads, state, params, step=0, groups=("own", "slow"))
        moments = (after[name][1]["backbone"]["bias"] for name in ("own", "slow"))
        np.testing.assert_allclose(next(moments) * 5, next(moments), rtol=1e-5)

    def test_a_parameter_of_two_groups_belongs_to_the_first(self):
        params = net()
        tx, _ = build(params, {"a": Group("head/kernel"), "b": Group("head")}, name="sgd")
        paths = {name: list(tree.named_leaves(s)) for name, s in tx.init(params).items()}
        self.assertTrue(all("head/kernel" in p for p in paths["a"]))
        self.assertTrue(all("head/scale" in p for p in paths["b"]))
        self.assertTrue(all("backbone" in p for p in paths["rest"]))

    def test_clip_norm_is_over_all_groups(self):
        params, grads = net(), net(1)
        settings = {"name": "sgd", "momentum": 0.0, "lr": 1.0, "clip_norm": 0.5}
        tx, _ = build(params, {"head": Group("^head")}, **settings)
        updates = first(tx, params, grads)
        np.testing.assert_allclose(tree.global_norm(updates), 0.5, rtol=1e-5)
        scale = 0.5 / tree.global_norm(grads)
        jax.tree.map(
            lambda u, g: np.testing.assert_allclose(-u, scale * g, rtol=1e-5), updates, grads
        )

    def test_reset_restarts_one_group_with_its_count(self):
        params, grads = net(), [net(s) for s in range(1, 4)]
        tx, _ = build(params, {"head": Group("^head")}, name="adamw")
        out, state = run(tx, params, grads)
        again = jax.jit(lambda s, p: reset(tx, s, p, ("head",)))(state, out[-1])
        jax.tree.map(np.testing.assert_array_equal, again["rest"], state["rest"])
        jax.tree.map(np.testing.assert_array_equal, again["head"], tx.init(params)["head"])
        updates, _ = tx.update(net(9), again, out[-1], step=jnp.int32(3))
        # Adam's first step has the size of the rate; with the old count it would be larger.
        np.testing.assert_allclose(jnp.abs(updates["head"]["kernel"]), 0.1, rtol=1e-4)
        with self.assertRaisesRegex(UserError, "did you mean 'head'"):
            reset(tx, state, params, ("haed",))

    @parameterized.parameters("adamw", "sgd")
    def test_a_turn_of_one_group_leaves_the_others(self, name):
        params, grads = net(), net(1)
        tx, _ = build(params, {"head": Group("^head")}, name=name, weight_decay=0.1)
        state, step = tx.init(params), jnp.int32(0)
        whole, after = tx.update(grads, state, params, step=step)
        part, turn = tx.update({"head": grads["head"]}, state, params, step=step)
        jax.tree.map(np.testing.assert_array_equal, part["head"], whole["head"])
        jax.tree.map(np.testing.assert_array_equal, turn["head"], after["head"])
        jax.tree.map(np.testing.assert_array_equal, turn["rest"], state["rest"])
        self.assertEqual(float(tree.global_norm(part["backbone"])), 0.0)

    def test_a_group_of_constant_rate_follows_no_schedule(self):
        params, grads = net(), net(1)
        settings = {"name": "sgd", "momentum": 0.0, "schedule": "cosine", "warmup_steps": 10}
        settings["lr_rules"] = (("kernel", 0.5), *ALL)
        tx, schedule = build(params, {"head": Group("^head", constant_lr=True)}, **settings)
        for step in (0, 4, 10, 90):
            updates = first(tx, params, grads, step)
            rates = {"backbone": (0.5 * schedule(step), schedule(step)), "head": (0.05, 0.1)}
            for part, (kernel, other) in rates.items():
                for name, update in updates[part].items():
                    rate = kernel if name == "kernel" else other
                    np.testing.assert_allclose(update, -rate * grads[part][name], rtol=1e-5)

    @parameterized.parameters("adamw", "sgd", "lars", "lamb")
    def test_state_keeps_its_types(self, name):
        params = net()
        groups = {"head": Group("^head", 2)}
        tx, _ = build(
            params, groups, name=name, weight_decay=0.1, weight_decay_end=0.2, clip_norm=1.0
        )
        state = jax.eval_shape(tx.init, params)
        step = jax.ShapeDtypeStruct((), jnp.int32)
        updates, after = jax.eval_shape(
            lambda g, s, p, t: tx.update(g, s, p, step=t), params, state, params, step
        )
        kind = lambda t: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), t)  # noqa: E731
        self.assertEqual(kind(after), kind(state))
        self.assertEqual(jax.tree.structure(after), jax.tree.structure(state))
        self.assertEqual(
            kind(jax.eval_shape(optax.apply_updates, params, updates)),
            kind(jax.eval_shape(lambda: net())),
        )


class ClockTest(parameterized.TestCase):
    def test_schedules_read_the_step_that_is_passed(self):
        params, grads = net(), net(1)
        settings = {
            "name": "sgd",
            "momentum": 0.0,
            "schedule": "cosine",
            "lr": 1.0,
            "warmup_steps": 10,
        }
        tx, lr = build(params, **settings)
        fresh = tx.init(params)
        for step in (0, 5, 10, 60):
            updates, _ = tx.update(grads, fresh, params, step=jnp.int32(step))
            np.testing.assert_allclose(
                updates["head"]["kernel"], -lr(step) * grads["head"]["kernel"], rtol=1e-5
            )
        np.testing.assert_allclose(
            lr(np.array([0, 5, 10, 55, 100])), [0, 0.5, 1, 0.5, 0], atol=1e-12
        )

    def test_weight_decay_follows_its_own_cosine(self):
        params, zeros = net(), jax.tree.map(jnp.zeros_like, net())
        tx, _ = build(params, name="adamw", lr=1.0, weight_decay=0.04, weight_decay_end=0.4)
        for step, decay in ((0, 0.04), (50, 0.22), (100, 0.4)):
            updates = first(tx, params, zeros, step)
            np.testing.assert_allclose(
                updates["head"]["kernel"], -decay * params["head"]["kernel"], rtol=1e-5
            )

    @parameterized.parameters(
        ("linear", 0.3, 4096, 4.8),
        ("sqrt", 0.075, 4096, 4.8),
        ("sqrt", 0.075, 256, 1.2),
        ("none", 0.3, 4096, 0.3),
    )
    def test_lr_scaling(self, scaling, lr, batch, peak):
        config = OptimConfig(lr=lr, lr_scaling=scaling, warmup_epochs=2.0, lr_end=0.01)
        schedule = make_schedule(config, batch, total_steps=100, steps_per_epoch=5)
        np.testing.assert_allclose(
            schedule(np.array([5, 10, 100])), [peak / 2, peak, peak / 100], rtol=1e-6
        )

    def test_milestones_are_epochs(self):
        config = OptimConfig(lr=1.0, schedule="step", milestones=(2.0, 3.0))
        schedule = make_schedule(config, 256, total_steps=50, steps_per_epoch=10)
        np.testing.assert_allclose(schedule(np.array([0, 19, 20, 30])), [1, 1, 0.1, 0.01])

    def test_lamb_step_has_the_parameter_norm(self):
        params, grads = net(), net(1)
        tx, _ = build(params, name="lamb", lr=0.1, weight_decay=0.1)
        updates = first(tx, params, grads)
        adamw, _ = build(params, name="adamw", lr=0.1, weight_decay=0.1)
        plain = first(adamw, params, grads)
        size = np.linalg.norm(params["head"]["kernel"])
        np.testing.assert_allclose(np.linalg.norm(updates["head"]["kernel"]), 0.1 * size, rtol=1e-5)
        np.testing.assert_array_equal(updates["head"]["scale"], plain["head"]["scale"])

    def test_scanned_blocks_are_clipped_layer_by_layer(self):
        params = {
            "blocks": {"kernel": jnp.ones((3, 2, 2))},
            "blocks_0": {"kernel": jnp.ones((3, 2, 2))},
        }
        grads = jax.tree.map(lambda p: p * jnp.array([1.0, 10.0, 0.1])[:, None, None], params)
        tx, _ = build(params, name="sgd", momentum=0.0, lr=1.0, clip_per_parameter=1.0)
        updates = first(tx, params, grads)
        norms = jnp.sqrt(jnp.sum(updates["blocks"]["kernel"] ** 2, axis=(1, 2)))
        np.testing.assert_allclose(norms, [1.0, 1.0, 0.2], rtol=1e-5)
        np.testing.assert_allclose(jnp.linalg.norm(updates["blocks_0"]["kernel"]), 1.0, rtol=1e-5)

    def test_networks_are_clipped_each(self):
        params = {n: {"a": jnp.ones(4), "b": jnp.ones(5)} for n in ("backbone", "head")}
        grads = {
            "backbone": jax.tree.map(lambda p: 10 * p, params["backbone"]),
            "head": jax.tree.map(lambda p: 0.1 * p, params["head"]),
        }
        tx, _ = build(params, name="sgd", momentum=0.0, lr=1.0, clip_per_network=3.0)
        updates = first(tx, params, grads)
        np.testing.assert_allclose(-updates["backbone"]["a"], np.ones(4), rtol=1e-6)  # 3 / sqrt(9)
        np.testing.assert_allclose(-updates["head"]["b"], np.full(5, 0.1), rtol=1e-6)


class EmaTest(absltest.TestCase):
    def test_golden(self):
        data = np.load(GOLDEN / "ema_update.npz")
        teacher = {"w": jnp.asarray(data["in_k"])}
        for step, momentum in enumerate(data["hp_m"]):
            teacher = tree.ema(teacher, {"w": jnp.asarray(data["in_q"][step])}, float(momentum))
            np.testing.assert_allclose(teacher["w"], data["out_k"][step], rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    absltest.main()
