"""Keys of a new run, and flags, that would have no effect."""

import contextlib
import io

from absl.testing import absltest, parameterized

from ssl_jax import cli
from ssl_jax.core.errors import UserError
from ssl_jax.run.configs import configured
from ssl_jax.run.experiment import Experiment

LABELLED = ("data.labelled", "5")
UNUSED = [
    ({"optim.name": "adamw", "optim.momentum": 0.5}, "optim.momentum: 0.5 .*only sgd and lars"),
    ({"optim.name": "adamw", "optim.nesterov": True}, "nesterov"),
    ({"optim.name": "sgd", "optim.b2": 0.95}, "optim.b2: 0.95 .* optim.name is 'sgd'"),
    ({"optim.name": "sgd", "optim.trust_coefficient": 0.1}, "trust_coefficient"),
    ({"optim.name": "lamb", "optim.lars_variant": "apex"}, "lars_variant"),
    ({"optim.schedule": "constant", "optim.lr_end": 0.1}, "lr_end: 0.1 .*only cosine"),
    ({"optim.schedule": "cosine", "optim.decay": 0.2}, "decay: 0.2 .*only step"),
    ({"optim.schedule": "step", "optim.constant_epochs": 2.0}, "2.0 .*only linear"),
    ({"optim.warmup_epochs": 0, "optim.warmup_steps": 0, "optim.lr_start": 0.1}, "no warmup"),
    (
        {"train.steps": 9, "train.epochs": 5.0},
        "epochs: 5.0 .* train.steps is 9 and takes precedence",
    ),
    ({"train.nonfinite_limit": 3}, "nonfinite_limit: 3 .*'stop'"),
    ({"data.draw": 2}, "data.draw: 2 .* set data.labelled"),
    ({"mesh.fsdp": 1, "mesh.fsdp_min_size": 1}, "nothing is split"),
    ({"evals.linear.preset": "lbfgs", "evals.linear.lr": 0.3}, "evals.linear.lr: 0.3"),
    ({"evals.clustering.clusters": 3, "evals.clustering.factor": 2.0}, "factor: 2.0"),
    ({"objective.view.recipe": "flip", "objective.view.strength": 0.5}, "strength: 0.5"),
    ({"objective.view.area": (1, 1), "objective.view.crop": "one_draw"}, "whole image"),
]


FLAGS = [
    (("results", "--workdir=W", "--against=V", "--mean=seed"), "--mean or --against"),
    (("results", "--workdir=W", "--value=score"), "--value .* set --columns too"),
    (
        ("compile", "--config=simclr:digits", "--topology=v5e:2x2", "--hlo=f", "--find_batch"),
        "--hlo",
    ),
    (("prepare", "--data=digits", "--output=out", "--quality=80"), "--quality .* set --size"),
]


def experiment(keys, method="simclr"):
    return Experiment.from_config(configured(f"{method}:digits", list(keys.items())))


class UsedTest(parameterized.TestCase):
    @parameterized.parameters(*UNUSED)
    def test_refused(self, keys, message):
        with self.assertRaisesRegex(UserError, message):
            experiment(keys).check_used(keys)

    @parameterized.parameters(
        ("swav", {"objective.queue_size": 0, "objective.queue_start": 1.0}, "no queue"),
        ("dino", {"objective.warmup_epochs": 0, "objective.warmup_temperature": 0.1}, "warm"),
    )
    def test_of_a_method(self, method, keys, message):
        with self.assertRaisesRegex(UserError, message):
            experiment(keys, method).check_used(keys)

    @parameterized.parameters(
        {"optim.name": "sgd", "optim.momentum": 0.5, "optim.nesterov": True},
        {"optim.name": "lars", "optim.lars_variant": "apex", "optim.trust_coefficient": 0.1},
        {"optim.schedule": "cosine", "optim.warmup_steps": 3, "optim.lr_start": 0.1},
        {"train.steps": 0, "train.epochs": 5.0},
        {"train.nonfinite": "skip", "train.nonfinite_limit": 3},
        dict([LABELLED, ("data.draw", 2)]),
        {"mesh.fsdp": -1, "mesh.data": 1, "mesh.fsdp_min_size": 1},
        {"evals.linear.lr": 0.3},
        {"objective.view.strength": 0.5, "backbone.width": 4, "checkpoint.every": 7},
    )
    def test_accepted(self, **keys):
        experiment(keys).check_used(keys)

    @parameterized.parameters(*FLAGS)
    def test_flags(self, words, message):
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            self.assertEqual(cli.run(list(words)), 2)
        self.assertRegex(err.getvalue(), message)

    def test_what_a_recipe_leaves_is_no_setting_of_the_user(self):
        """Another optimizer may be tried without its predecessor's constants being taken back."""
        keys = {"optim.name": "sgd"}
        run = experiment({"optim.b2": 0.95} | keys)
        run.check_used(keys)


if __name__ == "__main__":
    absltest.main()
