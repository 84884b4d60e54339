"""The grid of layers and rates against heads trained one by one, and its choice."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import ArraySource
from ssl_jax.evals.base import Subject, measured
from ssl_jax.evals.checks import DoesNotApply
from ssl_jax.evals.images import Images
from ssl_jax.evals.linear_head import LinearHead
from ssl_jax.evals.protocols import linear_grid
from ssl_jax.evals.protocols.linear import Linear, fit, split
from ssl_jax.evals.protocols.linear_grid import DINOV2_RATES, LinearGrid, _probes
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Encoder, Probe

QUICK = {"epochs": 5, "batch_size": 16}


def forward(params, stats, images, *, train, blocks=5, token=True, **_):
    """Five blocks, each of which sees other pixels; the third sees the label best."""
    flat = images.reshape(len(images), -1)
    stages = []
    for i in range(blocks):
        x = flat[:, i::blocks][:, :6]
        x = x if i == 2 else jnp.sin(1e4 * x)  # as good as noise
        stages.append(
            Stage(
                name=f"block{i + 1}",
                map=jnp.tanh(x)[:, None, None, :],
                cls=x if token else None,
                normed_cls=x / (1e-3 + jnp.abs(x).max(1, keepdims=True)) if token else None,
            )
        )
    last = stages[-1]
    return Features(pooled=last.map[:, 0, 0], map=last.map, cls=last.cls, stages=tuple(stages)), {}


def subject(encoder, mesh=None):
    rng = np.random.default_rng(0)

    def source(count):
        labels = np.arange(count) % 7
        images = rng.integers(0, 120, (count, 8, 8, 1)) + 15 * labels[:, None, None, None]
        return ArraySource("pictures", images.astype(np.uint8), labels)

    mesh = mesh or sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    how = {"view": View(8), "channels": 1, "batch_size": 16, "mesh": mesh}
    return Subject(encoder, Images.of(source(80), source(40), 99, 99, **how), Probe())


def encoder(**options):
    net = Net(lambda key: ({}, {}), lambda *a, **k: forward(*a, **k, **options), "vit")
    return Encoder({}, {}, net)


def measure(some, **settings):
    ((_, numbers),) = measured([LinearGrid(**QUICK | settings)], some)
    return {name.removeprefix("eval/"): value for name, value in numbers.items()}


class LinearGridTest(parameterized.TestCase):
    def test_the_papers_layers(self):
        some = subject(encoder())
        for paper, layers in (
            ("dino", [(-1, "cls4"), (-1, "cls1_avg")]),
            ("dinov2", [(-1, "cls1"), (-1, "cls1_avg"), (-1, "cls4"), (-1, "cls4_avg")]),
            ("beit", [(stage, "cls_avg") for stage in range(5)]),
        ):
            self.assertEqual([(p.stage, p.pool) for p in _probes(paper, some)], layers)
        self.assertLen(DINOV2_RATES, 13)
        shallow = subject(encoder(blocks=3))
        self.assertEqual([p.pool for p in _probes("dino", shallow)], ["cls1_avg"])

    @parameterized.parameters("dino", "dinov2", "beit")
    def test_the_grid_is_heads_trained_alone(self, paper):
        some, rates = subject(encoder()), (0.1, 10.0)
        numbers = measure(some, paper=paper, rates=rates, holdout=0.25)
        best, on_test = (-1.0, 0, 0.0), {}
        for layer, probe in enumerate(_probes(paper, some)):
            train, test = (
                some.labelled_features(part, [probe])[0]
                for part in (some.images.train, some.images.test)
            )
            rest, held_out = split(train, 0.25, 0)
            for rate in rates:
                (head,) = fit(rest, [Linear(preset=paper, lr=rate, **QUICK)], 7)
                on_test[layer, rate] = head.accuracy(test)
                if head.accuracy(held_out) > best[0]:
                    best = head.accuracy(held_out), layer, rate
        self.assertAlmostEqual(numbers["linear_grid_holdout_top1"], best[0])
        self.assertEqual(numbers["linear_grid_layer"], best[1])
        self.assertAlmostEqual(numbers["linear_grid_log10_lr"], np.log10(best[2]))
        self.assertAlmostEqual(numbers["linear_grid_top1"], on_test[best[1:]])
        self.assertAlmostEqual(numbers["linear_grid_best_top1"], max(on_test.values()))
        self.assertGreaterEqual(numbers["linear_grid_top5"], numbers["linear_grid_top1"])

    def test_beit_s_layer_is_the_informative_one(self):
        numbers = measure(subject(encoder()), paper="beit", rates=(1.0,), epochs=50, holdout=0.4)
        self.assertEqual(numbers["linear_grid_layer"], 2)

    def test_on_eight_devices_as_on_one(self):
        one = measure(subject(encoder()), paper="dino", rates=(1.0,))
        mesh = sharding.make_mesh(sharding.MeshConfig(data=8), jax.devices())
        with jax.set_mesh(mesh):
            many = measure(subject(encoder(), mesh), paper="dino", rates=(1.0,))
        self.assertEqual(one, many)

    def test_raw_pixels_are_one_layer(self):
        numbers = measure(subject(None), rates=(1.0, 3.0))
        self.assertEqual(numbers["linear_grid_layer"], 0)

    def test_what_does_not_fit(self):
        with self.assertRaisesRegex(DoesNotApply, "a vision transformer with a class token"):
            measure(subject(encoder(token=False)))
        with self.assertRaisesRegex(UserError, "holds out none; raise it"):
            measure(subject(encoder()), holdout=0.001)
        with self.assertRaisesRegex(UserError, "batch_size = 500 is more than the 72"):
            measure(subject(encoder()), batch_size=500)

    def test_a_grid_that_diverges_has_no_score(self):
        broken = LinearHead(np.full((12, 7), np.nan, np.float32), np.zeros(7, np.float32))
        with mock.patch.object(linear_grid, "fit", return_value=[broken]):
            numbers = measure(subject(encoder()), paper="beit")
        for name in ("top1", "best_top1", "holdout_top1"):
            self.assertTrue(np.isnan(numbers[f"linear_grid_{name}"]), name)


if __name__ == "__main__":
    absltest.main()
