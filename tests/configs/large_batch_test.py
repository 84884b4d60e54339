"""Large batches: rates, warmups and totals follow `train.batch_size` by each paper's rule."""

import math

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.optim.factory import make_schedule
from ssl_jax.run.configs import load_config, override
from ssl_jax.run.experiment import Experiment
from tests.configs.recipes_test import Data

IMAGES = 1_281_167

# Recipe: peak rate of a batch, warmup epochs, epochs, last rate as a share of the peak.
PAPERS = {
    "simclr:imagenet": (lambda b: 0.3 * b / 256, 10, 1000, 0),
    "simclr:imagenet_sqrt": (lambda b: 0.075 * math.sqrt(b), 10, 1000, 0),
    "byol:imagenet": (lambda b: 0.2 * b / 256, 10, 1000, 0),
    "barlow_twins:imagenet": (lambda b: 0.2 * b / 256, 10, 1000, 0.001),
    "vicreg:imagenet": (lambda b: 0.2 * b / 256, 10, 1000, 0.001),
    "swav:imagenet": (lambda b: 4.8 * b / 4096, 10, 800, 0.001),
    "moco_v3:imagenet": (lambda b: 1.5e-4 * b / 256, 40, 300, 0),
    "moco_v3:imagenet_resnet": (lambda b: 0.3 * b / 256, 10, 1000, 0),
    "simsiam:imagenet": (lambda b: 0.05 * b / 256, 0, 100, 0),
}


def resolved(recipe, batch_size):
    """The run's sizes and its rate by step."""
    config = load_config(recipe)
    override(config, [("train.batch_size", batch_size)])
    made = Experiment.from_config(config)
    made.__dict__["_parts"] = Data(IMAGES, 1000), None  # in the place of what --data would open
    spec = made.spec
    optim = made.sections["optim"]
    return spec, make_schedule(optim, batch_size, spec.total_steps, spec.steps_per_epoch)


class LargeBatchTest(parameterized.TestCase):
    @parameterized.product(recipe=tuple(PAPERS), batch_size=(4096, 8192, 32768))
    def test_rates_follow_the_batch(self, recipe, batch_size):
        rule, warmup_epochs, epochs, last = PAPERS[recipe]
        spec, rate = resolved(recipe, batch_size)
        epoch = IMAGES // batch_size
        total, warmup = epochs * epoch, warmup_epochs * epoch
        self.assertEqual((spec.steps_per_epoch, spec.total_steps), (epoch, total))
        middle = (warmup + total) / 2
        peak = rule(batch_size)
        np.testing.assert_allclose(
            rate(np.array([warmup, middle, total])),
            [peak, peak * (1 + last) / 2, peak * last],
            rtol=1e-9,
            atol=1e-12,
        )
        if warmup:
            self.assertLess(rate(warmup / 2), 0.6 * peak)
            self.assertGreater(rate(warmup / 2), 0.49 * peak)

    @parameterized.parameters(
        ("imagenet", 4096, 4.8),
        ("imagenet", 8192, 9.6),
        ("imagenet_sqrt", 4096, 4.8),
        ("imagenet_sqrt", 8192, 6.79),
    )
    def test_simclr_at_two_sizes(self, recipe, batch_size, peak):
        """The two rules of appendix B.1 meet at 4096."""
        spec, rate = resolved(f"simclr:{recipe}", batch_size)
        self.assertAlmostEqual(rate(10 * spec.steps_per_epoch), peak, delta=0.005)


if __name__ == "__main__":
    absltest.main()
