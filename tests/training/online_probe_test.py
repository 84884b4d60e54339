"""The online probe learns, does not influence the method, and is part of the checkpoint."""

import dataclasses
import functools
import tempfile
from pathlib import Path
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.evals.base import AtLayer
from ssl_jax.evals.evaluator import EvalsConfig, Evaluator
from ssl_jax.objectives.base import Heads, Objective
from ssl_jax.run.configs import load_method
from ssl_jax.run.experiment import Experiment
from ssl_jax.training import online_probe, refresh, state
from ssl_jax.training.checkpoint import Checkpoints
from ssl_jax.training.step import make_train_step
from tests.compiling import AS_USERS
from tests.objectives import harness

LR = 0.01
FAMILIES = ("simclr", "deepcluster")  # with and without a state of its own, and refreshes
MORE_FAMILIES = ("rotnet", "byol", "mae")


def experiment(method, lr, **mesh):
    """Clip gradients to a norm below theirs, so that an extra gradient would change the result."""
    made = harness.experiment(method, **mesh)
    sections = {
        **made.sections,
        "train": dataclasses.replace(made.train, online_probe=lr),
        "optim": dataclasses.replace(made.sections["optim"], clip_norm=0.01),
    }
    result = Experiment(made.raw, sections)
    result.__dict__.update(spec=made.spec, source=made.source)
    return result


# Compiled as for users, not as in tests (conftest.py): only then are two
# programs that share most of their operations equal to the last bit.
COMPILED = functools.partial(jax.jit, compiler_options=AS_USERS)


def keep_running(made, mesh):
    """(state, start, stop) -> state and metrics, with the method's refreshes."""
    placed = state.shardings(made.abstract_state, made.sections["mesh"], mesh)
    step = make_train_step(made.objective, made.tx, made.schedule, mesh, placed)
    renew = refresh.make_refresh(made.objective, made.tx, mesh, placed)

    def run(current, start, stop):
        for number, batch in enumerate(made.batches(start, stop), start):
            if number in made.objective.refresh_steps():
                current = renew(current, made.examples)
            current, metrics = step(current, batch)
        return current, metrics

    return run


@functools.cache
def program(method, lr, fsdp):
    """The experiment, its mesh, the shardings of its state, and what trains it, compiled once."""
    made = experiment(method, lr, fsdp=fsdp)
    mesh = sharding.make_mesh(made.sections["mesh"], jax.devices()[:fsdp])
    placed = state.shardings(made.abstract_state, made.sections["mesh"], mesh)
    with mock.patch.object(jax, "jit", COMPILED):
        return made, mesh, placed, keep_running(made, mesh)


def run_steps(method, lr, start=None, steps=(0, 4), fsdp=1):
    """Return the state and the metrics after `steps` from `start` (default: a fresh state)."""
    made, mesh, placed, run = program(method, lr, fsdp)
    with jax.set_mesh(mesh), mock.patch.object(jax, "jit", COMPILED):
        start = start or state.create(made.objective, made.tx, 5, placed)
        return jax.device_get(run(start, *steps))


@functools.cache
def trained(method, lr, fsdp=1):
    """The state and the metrics after four steps."""
    return run_steps(method, lr, fsdp=fsdp)


class NoTraceTest(parameterized.TestCase):
    @parameterized.parameters(*FAMILIES)
    def test_the_method_is_bit_for_bit_what_it_is_without(self, method):
        """Parameters, extra, optimizer states and metrics, over four steps and their refreshes."""
        self.check(method)

    @parameterized.parameters(*MORE_FAMILIES)
    @pytest.mark.full
    def test_more_methods_are_bit_for_bit_what_they_are_without(self, method):
        # The harness's network has one stage only; rotnet's probe is one before the last.
        probe = dataclasses.replace(load_method(method).make.__self__.probe, stage=-1)
        with mock.patch.object(load_method(method).make.__self__, "probe", probe):
            self.check(method)

    def check(self, method):
        plain, metrics = trained(method, None)
        probed, more = trained(method, LR)
        extra = dict(probed.extra)
        self.assertGreater(np.abs(extra.pop(online_probe.NAME)["kernel"]).max(), 0)
        chex.assert_trees_all_equal(dataclasses.replace(probed, extra=extra), plain)
        added = {"train/online_loss", "train/online_top1"}
        self.assertEqual(more.keys() - metrics.keys(), added)
        chex.assert_trees_all_equal({k: more[k] for k in metrics}, metrics)

    @pytest.mark.full
    def test_on_eight_devices_too(self):
        (plain, _), (probed, _) = (trained("simclr", lr, fsdp=8) for lr in (None, LR))
        chex.assert_trees_all_equal(probed.params, plain.params)

    def test_eight_devices_make_what_one_does(self):
        one, eight = {}, {}
        with jax.enable_x64(True):
            for mesh, trees in (({}, one), ({"fsdp": 8}, eight)):
                made = experiment("byol", LR, **mesh)
                grid = sharding.make_mesh(made.sections["mesh"], jax.devices()[: 8 if mesh else 1])
                placed = state.shardings(made.abstract_state, made.sections["mesh"], grid)
                rows = sharding.batch_sharding(grid)
                run = jax.jit(
                    harness.observe(made), in_shardings=(placed.params, placed.extra, rows, None)
                )
                initial = jax.device_get(jax.jit(made.objective.init)(jax.random.key(3)))
                initial = jax.tree.map(lambda x: x.astype(np.float64), initial)
                trees |= dict(zip(("params", "extra"), initial, strict=True))
                for step in range(3):
                    batch = harness.device_batch(made, step, np.float64)
                    with jax.set_mesh(grid):
                        out = run(*jax.device_get((trees["params"], trees["extra"])), batch, step)
                    trees |= jax.device_get(out)
        one, eight = (dict(trees["extra"][online_probe.NAME]) for trees in (one, eight))
        # Adam divides by as little as 1e-8, so the steps hold the gradients' rounding times 1e8.
        for name, bound in (("kernel", 1e-7), ("bias", 1e-7), (None, 1e-9)):
            parts = (one, eight) if name is None else (one.pop(name), eight.pop(name))
            worst, where = harness.worst_difference(*parts, 1e-4)
            self.assertLessEqual(worst, bound, f"{name} {where}")

    def test_two_steps_save_restore_two_steps_are_four_steps(self):
        made, _, placed, _ = program("deepcluster", LR, 1)
        whole, metrics = trained("deepcluster", LR)
        half, _ = run_steps("deepcluster", LR, steps=(0, 2))
        with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
            checkpoints.save(2, jax.device_put(half, placed), {})
            restored = checkpoints.restore(2, made.abstract_state, placed)
            resumed, again = run_steps("deepcluster", LR, restored, (2, 4))
        chex.assert_trees_all_equal(resumed, whole)
        chex.assert_trees_all_equal(again, metrics)

    def test_microbatches_change_nothing(self):
        made = experiment("simclr", LR)
        encoder = made.objective.encoder(*made.objective.init(jax.random.key(0)))
        arguments = encoder.net, encoder.params, encoder.stats
        images = harness.device_batch(made)["views"][0][:, 0]
        whole = made.objective._features(*arguments, images)
        chunked = dataclasses.replace(made.objective, microbatches=4)
        # Near 0 what remains is the rounding of sums of values near 1.
        result = chunked._features(*arguments, images)
        np.testing.assert_allclose(result, whole, rtol=1e-5, atol=1e-7)

    def test_all_calls_of_an_objective_are_forwarded_to_the_method(self):
        """Except what follows from inputs and backbone, and what only the method itself calls."""
        follows = {"backbone", "spec", "microbatches", "shapes", "stage_shapes", "feature_dim"}
        own = {"make", "needs", "backbone_and", "networks", "patch_grid", "patch_map"}
        names = {name for name in vars(Objective) if not name.startswith("_")} - follows - own
        self.assertEqual(names - vars(online_probe.OnlineProbe).keys(), set())

    def test_an_invalid_learning_rate(self):
        with self.assertRaisesRegex(UserError, "train.online_probe: expected .* > 0, got 0.0"):
            online_probe.OnlineProbe.around(harness.experiment("simclr").method, 0.0)


class LearnTest(parameterized.TestCase):
    def setUp(self):
        draw = np.random.default_rng(0)
        self.labels = draw.integers(0, 3, 64).astype(np.int32)
        centres = draw.normal(size=(3, 8))
        self.features = (5 + centres[self.labels] + 0.1 * draw.normal(size=(64, 8))).astype(
            np.float32
        )

    def test_the_first_step_by_hand(self):
        """Adam's first step is the rate times the gradient's sign; logits of 0 lose ln C."""
        weights, metrics = online_probe.learn(
            online_probe.fresh(8, 3), self.features, self.labels, 0, LR
        )
        self.assertAlmostEqual(float(metrics["online_loss"]), np.log(3), places=5)
        self.assertAlmostEqual(float(metrics["online_top1"]), np.mean(self.labels == 0), places=5)
        scaled = (self.features - self.features.mean(0)) / self.features.std(0)
        gradient = scaled.T @ (1 / 3 - np.eye(3)[self.labels])
        np.testing.assert_allclose(weights["kernel"], -LR * np.sign(gradient), rtol=1e-3)
        np.testing.assert_allclose(weights["mean"], 0.1 * self.features.mean(0), rtol=1e-4)
        np.testing.assert_allclose(weights["var"], 0.9 + 0.1 * self.features.var(0), rtol=1e-4)

    def test_it_learns_what_can_be_separated(self):
        weights, learn = online_probe.fresh(8, 3), jax.jit(online_probe.learn)
        for step in range(100):
            weights, metrics = learn(weights, self.features, self.labels, step, LR)
        self.assertEqual(float(metrics["online_top1"]), 1.0)
        (logits,) = online_probe.logits(weights, self.features)
        predictions = logits.argmax(-1)
        np.testing.assert_array_equal(predictions, self.labels)

    def test_rows_without_a_label_do_not_count(self):
        twice = jnp.concatenate([self.features, self.features])
        half = jnp.concatenate([self.labels, jnp.full(64, -1)])
        a, m = online_probe.learn(online_probe.fresh(8, 3), self.features, self.labels, 0, LR)
        b, n = online_probe.learn(online_probe.fresh(8, 3), twice, half, 0, LR)
        chex.assert_trees_all_close((a, m), (b, n), rtol=1e-4, atol=1e-7)
        _, none = online_probe.learn(
            online_probe.fresh(8, 3), self.features, jnp.full(64, -1), 0, LR
        )
        self.assertEqual(float(none["online_loss"]), 0.0)


class ProtocolTest(parameterized.TestCase):
    def evaluator(self, lr):
        made = experiment("simclr", lr)
        final_state, _ = trained("simclr", lr)
        config = EvalsConfig(max_train=64, max_eval=64, batch_size=32, protocols=("online",))
        mesh = sharding.make_mesh(made.sections["mesh"], jax.devices()[:1])
        evaluator = Evaluator(made.objective, config, made.source, made.eval_source, mesh)
        return evaluator, made.objective.encoder(final_state.params, final_state.extra)

    def test_accuracy_on_the_test_images(self):
        evaluator, encoder = self.evaluator(LR)
        test = evaluator.subject(encoder).test(AtLayer())
        (logits,) = encoder.online.logits(test.features)
        expected = np.mean(logits.argmax(-1) == test.labels)
        self.assertAlmostEqual(evaluator.measure(encoder)["eval/online_top1"], expected, places=6)
        self.assertEqual(evaluator.baselines(encoder), {})  # neither has a probe

    def test_an_encoder_without_one_is_left_out(self):
        evaluator, encoder = self.evaluator(None)
        self.assertEqual(evaluator.measure(encoder), {})

    def test_a_probe_of_other_classes_is_an_error(self):
        evaluator, encoder = self.evaluator(LR)
        weights = online_probe.fresh(encoder.online.params["mean"].size, 7)
        other = dataclasses.replace(encoder, online=Heads(weights, online_probe.logits))
        with self.assertRaisesRegex(UserError, "trained on 7 classes, these data have 10"):
            evaluator.measure(other)

    def test_it_reads_where_the_method_does(self):
        made = experiment("mae", LR)
        encoder = made.objective.encoder(*made.objective.init(jax.random.key(0)))
        images = harness.device_batch(made)["views"][0][:, 0]
        expected = made.method.probe.read(encoder.features(images))
        rows = made.objective._features(encoder.net, encoder.params, encoder.stats, images)
        np.testing.assert_array_equal(rows, expected)
        self.assertEqual(made.objective.probe, made.method.probe)


if __name__ == "__main__":
    absltest.main()
