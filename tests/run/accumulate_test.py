"""`train.accumulate`: how a config runs the backbone in parts. That the gradient is the same,
tests/nets/functional_test.py shows.
"""

from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.run.configs import load_config
from ssl_jax.run.experiment import Experiment


def experiment(method: str, **sections: dict) -> Experiment:
    config = load_config(f"{method}:digits")
    for name, values in sections.items():
        config[name] = config.get(name, {}) | values
    return Experiment.from_config(config)


class AccumulateTest(parameterized.TestCase):
    @parameterized.parameters("simclr", "mae", "rotnet")
    def test_the_networks_run_in_parts(self, method):
        made = experiment(method, train={"accumulate": 4, "batch_size": 64}, mesh={"data": 1})
        networks: Networks = made.method.networks
        self.assertEqual(networks.microbatches, 4)
        self.assertIn("backbone", networks.chunked)
        self.assertEqual(made.resolved()["train"]["accumulate"], 4)

    def test_two_numbers_are_refused(self):
        both = {"train": {"accumulate": 4}, "objective": {"microbatches": 2}}
        with self.assertRaisesRegex(UserError, "these are the same setting"):
            _ = experiment("simclr", **both).method
        same = {"train": {"accumulate": 4}, "objective": {"microbatches": 4}}
        self.assertEqual(experiment("simclr", **same).method.microbatches, 4)

    def test_parts_divide_the_images_of_a_device(self):
        made = experiment("simclr", train={"accumulate": 3, "batch_size": 64})
        with self.assertRaisesRegex(UserError, "3 parts do not divide the 8 images per device"):
            made.check_batch()


if __name__ == "__main__":
    absltest.main()
