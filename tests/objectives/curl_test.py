"""CURL: three updates of the released agent through the train step; turns, gradients, policy."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.control.replay import center_crop, crop
from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.losses.infonce import infonce
from ssl_jax.nets.backbones.pixel import make as pixel
from ssl_jax.objectives import curl
from ssl_jax.objectives.base import Spec
from ssl_jax.optim.factory import OptimConfig, make_optimizer
from tests.losses.forms import load
from tests.objectives import released
from tests.objectives.released import hyper

STEPS = 3
LAYERS = {
    "encoder.convs.0": "backbone/conv1",
    "encoder.convs.1": "backbone/conv2",
    "encoder.fc": "projector/linear",
    "encoder.ln": "projector/norm",
} | {f"Q{q}.trunk.{2 * i}": f"critic{q}/linear{i + 1}" for q in (1, 2) for i in range(3)}
ACTOR = {"encoder.fc": "actor_projector/linear", "encoder.ln": "actor_projector/norm"} | {
    f"trunk.{2 * i}": f"actor/linear{i + 1}" for i in range(3)
}
SPEC = Spec(4, 100, 0, steps_per_epoch=25, total_steps=3, channels=9, actions=2)
SMALL = {"size": 11, "dim": 5, "hidden": 6}


class Injected(curl.CURL):
    """CURL with the noise of a fixture, which the batch holds."""

    def noise(self, batch, key, name):
        return batch["noise"][name]


def channels(data):
    return len(data["in_critic.encoder.convs.0.bias"])


def agent(data, step=None, kind="in", dtype=np.float32):
    """The critic's, the target's and the actor's weights in this project's layouts."""

    def part(name, names):
        weights = released.weights(data, f"{kind}_{name}.", names, step, dtype)
        for layer in (weights.get(n) for n in ("projector", "actor_projector")):
            if layer:  # the release flattens (C, H, W), we flatten (H, W, C)
                kernel, filters = layer["linear"]["kernel"], channels(data)
                side = round((len(kernel) / filters) ** 0.5)
                kernel = kernel.reshape(filters, side, side, -1).transpose(1, 2, 0, 3)
                layer["linear"]["kernel"] = kernel.reshape(-1, kernel.shape[-1])
        return weights

    return part("critic", LAYERS), part("target", LAYERS), part("actor", ACTOR)


def optimizer(method, params, data=None):
    config = OptimConfig(
        name="adamw",
        lr=hyper(data, "lr") if data else 1e-3,
        lr_scaling="none",
        schedule="constant",
        lr_rules=(
            ("^temperature/", hyper(data, "alpha_lr") / hyper(data, "lr") if data else 0.1),
            (".*", 1.0),
        ),
    )
    sizes = {"batch_size": 4, "total_steps": STEPS, "steps_per_epoch": 1}
    return make_optimizer(config, params, method.groups(), **sizes)[0]


class ReleasedTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_three_updates(self, wide):
        """Weights are compared in units of the learning rate, the size of Adam's steps."""
        data = load("curl_update3", wide)
        with jax.enable_x64(wide):
            self.check(data, *((np.float64, 1e-8) if wide else (np.float32, 1e-3)))

    def check(self, data, dtype, rtol):
        actions = data["in_action"].shape[-1]
        method = Injected(
            pixel(channels(data), 2, channels=data["in_obs"].shape[2]),
            dataclasses.replace(SPEC, channels=data["in_obs"].shape[2], actions=actions),
            size=int(data["hp_size"]),
            dim=len(data["in_W"]),
            hidden=len(data["in_critic.Q1.trunk.0.bias"]),
            discount=hyper(data, "discount"),
            alpha=hyper(data, "init_temperature"),
            critic_rate=hyper(data, "critic_tau"),
            encoder_rate=hyper(data, "encoder_tau"),
        )
        critic, _, actor = agent(data, dtype=dtype)
        log = jnp.asarray(np.log(hyper(data, "init_temperature")), dtype)
        bilinear = {"kernel": jnp.asarray(data["in_W"], dtype)}
        params = critic | actor | {"temperature": {"log": log}, "bilinear": bilinear}
        extra = {"stats": {name: {} for name in method.networks.nets}, "target": critic}
        tx = optimizer(method, params, data)
        run, state = released.train_step(method, tx), tx.init(params)
        lr = hyper(data, "lr")
        for step in range(STEPS):
            batch = jax.tree.map(jnp.asarray, self.batch(data, step, dtype))
            loss, params, extra, state = run(params, extra, state, batch, jnp.int32(step))
            critic, target, actor = agent(data, step, "out", dtype)
            self.compare({name: params[name] for name in critic}, critic, lr * rtol)
            self.compare({name: params[name] for name in actor}, actor, lr * rtol)
            self.compare(extra["target"], target, lr * rtol)
            self.compare(params["bilinear"]["kernel"], data["out_W"][step], lr * rtol)
            self.compare(params["temperature"]["log"], data["out_log_alpha"][step], lr * rtol)
            if data["out_updated_actor"][step]:
                names = ("critic", "actor", "alpha", "curl")
                expected = sum(data[f"out_loss_{name}"][step] for name in names)
                np.testing.assert_allclose(loss, expected, rtol=rtol / 10)

    def batch(self, data, step, dtype):
        views = {}
        for v, (source, name) in enumerate((("obs", "obs"), ("next_obs", "next"), ("obs", "pos"))):
            images = np.moveaxis(data[f"in_{source}"][step], 1, -1)
            corners = data["in_crop_offsets"][step, v].T.astype(np.int64)
            views[name] = crop(images, corners, int(data["hp_size"]))
            expected = np.moveaxis(data[f"out_crop_{name}"][step], 1, -1)
            np.testing.assert_array_equal(views[name], expected)
            views[name] = views[name].astype(dtype) / 255
        return {
            "views": (np.stack([views["obs"], views["pos"]], 1), views["next"][:, None]),
            "action": data["in_action"][step].astype(dtype),
            "reward": data["in_reward"][step, :, 0].astype(dtype),
            "continues": data["in_not_done"][step, :, 0].astype(dtype),
            "index": np.arange(len(views["obs"]), dtype=np.int32),
            "noise": {"next": data["in_noise"][step, 0], "own": data["in_noise"][step, 1]},
        }

    def compare(self, ours, theirs, atol):
        leaves = zip(jax.tree.leaves(theirs), jax.tree.leaves(ours), strict=True)
        for expected, actual in leaves:
            np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)

    def test_crops(self):
        data = load("curl_crops", False)
        images = np.moveaxis(data["in_obs"], 1, -1).astype(np.uint8)
        corners = np.stack([data["in_w1"], data["in_h1"]], 1).astype(np.int64)
        size = int(data["hp_size"])
        for actual, name in (
            (crop(images, corners, size), "random_crop"),
            (center_crop(images, size), "center_crop"),
        ):
            expected = np.moveaxis(data[f"out_{name}"], 1, -1)
            np.testing.assert_array_equal(actual, expected)


@cache
def made(**options):
    method = curl.make(pixel(3, 2, channels=9), SPEC, **(SMALL | options))
    return method, *jax.jit(method.init)(jax.random.key(0))


def random_batch():
    draw = np.random.default_rng(0)
    views = [draw.random((4, n, 11, 11, 9)).astype(np.float32) for n in (2, 1)]
    return {
        "views": tuple(views),
        "action": draw.uniform(-1, 1, (4, 2)).astype(np.float32),
        "reward": draw.random(4).astype(np.float32),
        "continues": np.ones(4, np.float32),
        "index": np.arange(4, dtype=np.int32),
    }


class TurnsTest(absltest.TestCase):
    def test_the_encoder_moves_by_two_optimizers_and_alone_by_neither(self):
        """Each of Adam's first steps has the size of the rate: critic 1, contrast 2."""
        moved = {}
        for contrast in (True, False):
            method, params, extra = made(contrast=contrast)
            tx = optimizer(method, params)
            run = released.train_step(method, tx)
            _, after, _, state = run(params, extra, tx.init(params), random_batch(), jnp.int32(0))
            kernels = (part["projector"]["linear"]["kernel"] for part in (after, params))
            moved[contrast] = float(jnp.max(jnp.abs(jnp.subtract(*kernels))))
            self.assertEqual("bilinear" in after, contrast)
            self.assertEqual(set(state) >= {"encoder", "contrast"}, contrast)
        self.assertAlmostEqual(moved[False], 1e-3, delta=1e-5)
        self.assertAlmostEqual(moved[True], 3e-3, delta=1e-4)

    def test_actor_and_targets_wait_at_odd_steps(self):
        method, params, extra = made()
        tx = optimizer(method, params)
        run = released.train_step(method, tx)
        for step in (0, 1):
            _, after, later, state = run(
                params, extra, tx.init(params), random_batch(), jnp.int32(step)
            )
            for name in ("actor", "actor_projector", "temperature"):
                change = jax.tree.map(jnp.subtract, after[name], params[name])
                self.assertEqual(float(tree.global_norm(change)) > 0, step == 0, name)
            change = jax.tree.map(jnp.subtract, later["target"], extra["target"])
            self.assertEqual(float(tree.global_norm(change)) > 0, step == 0)
            counts = [int(state[name][0]) for name in ("critic", "actor", "encoder")]
            self.assertEqual(counts, [1, 1 - step, 1])


class ContrastTest(absltest.TestCase):
    def loss(self, params, extra, batch):
        method, *_ = made()
        run = lambda p, e: method.contrastive_loss(p, e, batch, None, None)[0]  # noqa: E731
        return jax.jit(jax.value_and_grad(run, argnums=(0, 1)))(params, extra)

    def test_constant_embeddings_give_the_logarithm_of_the_batch(self):
        _, params, extra = made()
        batch = random_batch()
        batch["views"] = (np.ones_like(batch["views"][0]), batch["views"][1])
        value, _ = self.loss(params, extra, batch)
        self.assertAlmostEqual(float(value), float(np.log(4)), places=5)

    def test_no_gradient_to_the_target_and_all_else_to_encoder_and_matrix(self):
        _, params, extra = made()
        _, (own, target) = self.loss(params, extra, random_batch())
        self.assertEqual(float(tree.global_norm(target["target"])), 0)
        moved = {name for name, part in own.items() if float(tree.global_norm(part)) > 0}
        self.assertEqual(moved, {"backbone", "projector", "bilinear"})

    def test_the_unit_matrix_gives_plain_infonce(self):
        method, params, extra = made()
        batch = random_batch()
        params = params | {"bilinear": {"kernel": jnp.eye(5)}}
        value, _ = self.loss(params, extra, batch)
        anchor = method._embed(params, batch["views"][0][:, 0])
        positive = method._embed(extra["target"], batch["views"][0][:, 1])
        expected = jnp.mean(infonce(anchor, positive, 1.0, normalize=False))
        np.testing.assert_allclose(value, expected, rtol=1e-5)


class PolicyTest(absltest.TestCase):
    def test_mean_and_random_actions(self):
        method, params, extra = made()
        policy = method.encoder(params, extra).policy
        images = random_batch()["views"][1][:, 0]
        mean = policy.actions(images)
        self.assertEqual(mean.shape, (4, 2))
        one, same, other = (policy.actions(images, jax.random.key(seed)) for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        self.assertTrue((one != other).all() and (one != mean).all())
        self.assertLessEqual(float(jnp.max(jnp.abs(one))), 1)

    def test_needs_an_environment(self):
        with self.assertRaisesRegex(UserError, "acts in an environment; set --data=control:pend"):
            curl.make(pixel(3, 2, channels=9), dataclasses.replace(SPEC, actions=0), **SMALL)


if __name__ == "__main__":
    absltest.main()
