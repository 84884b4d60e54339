"""The attentive probe: tokens that averages hide; many rates at once; meshes; by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.evals.images import Labelled
from ssl_jax.evals.protocols import attentive
from ssl_jax.evals.protocols.attentive import Attentive, accuracy, fit, moments
from ssl_jax.evals.protocols.linear import Linear
from ssl_jax.evals.protocols.linear import fit as fit_linear


def hidden(count, seed, tokens=16, classes=2):
    """Create images of the same tokens in different orders, where a marked token shows the class:
    their averages are equal.
    """
    draw = np.random.default_rng(seed)
    rows, where = np.arange(count), draw.integers(0, tokens, count)
    token_classes = draw.permuted(
        np.tile(np.resize(np.arange(classes), tokens), (count, 1)), axis=1
    )
    labels = token_classes[rows, where]
    x = np.zeros((count, tokens, classes + 1))
    x[rows[:, None], np.arange(tokens), token_classes] = 1
    x[rows, where, classes] = 1  # the mark
    x += 0.05 * draw.normal(size=x.shape)
    return Labelled(x.astype(jnp.bfloat16), labels)


class AttentiveTest(parameterized.TestCase):
    def test_finds_what_one_token_shows_and_averages_do_not(self):
        train, test = hidden(400, 0), hidden(200, 1)
        setting = Attentive(lr=0.03, epochs=30, batch_size=50, heads=2)
        probes = fit(train, [setting], 2, np.arange(400))
        self.assertGreater(accuracy(probes, test, np.arange(200))[0], 0.95)
        mean = lambda d: Labelled(d.features.astype(np.float32).mean(1), d.labels)  # noqa: E731
        (head,) = fit_linear(mean(train), [Linear()], 2)
        self.assertLess(head.accuracy(mean(test)), 0.65)

    def test_many_rates_at_once_are_each_alone(self):
        train, rows = hidden(90, 0, tokens=5), np.arange(5, 85)
        some = [
            Attentive(lr=lr, weight_decay=decay, epochs=3, batch_size=16, heads=2)
            for lr, decay in ((1e-3, 0.0), (0.1, 0.0), (1e-3, 50.0))
        ]
        together = fit(train, some, 2, rows)
        for s, setting in enumerate(some):
            alone = fit(train, [setting], 2, rows)
            for name, value in alone.params.items():
                np.testing.assert_allclose(
                    together.params[name][s], value[0], rtol=1e-4, atol=1e-6, err_msg=name
                )
        first = together.params["weight"]
        self.assertGreater(np.abs(first[0] - first[1]).max(), 1e-2)
        self.assertGreater(np.abs(first[0] - first[2]).max(), 1e-4)

    def test_by_hand(self):
        """The logits, token by token; one step of AdamW moves each weight by its rate."""
        train = hidden(8, 3, tokens=4)
        setting = Attentive(lr=0.01, weight_decay=0.0, epochs=1, batch_size=8, heads=2, seed=4)
        start = attentive._start(setting, 3, 2, 1)
        mean, deviation = moments(train.features, np.arange(8))
        x = train.features.astype(np.float64)
        np.testing.assert_allclose(mean, x.mean((0, 1)), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(deviation, x.std((0, 1)), rtol=1e-4)
        x = (x - mean) / deviation
        pooled = []
        for image in x:
            heads = []
            for h in range(2):
                weights = np.exp(image @ start["query"][0, h])
                heads.append((weights / weights.sum()) @ image @ start["value"][0, h])
            pooled.append(np.concatenate(heads) @ start["weight"][0])
        logits = attentive._logits(start, x.astype(np.float32))
        self.assertEqual(start["value"].shape, (1, 2, 3, 2))  # ceil(3 / 2)
        np.testing.assert_allclose(logits[:, 0], np.stack(pooled), rtol=1e-4, atol=1e-7)
        after = fit(train, [setting], 2, np.arange(8)).params
        np.testing.assert_allclose(np.abs(after["weight"] - start["weight"]), 0.01, rtol=1e-3)
        self.assertFalse(np.array_equal(after["query"], start["query"]))

    def test_on_a_mesh(self):
        mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:4])
        train, rows = hidden(50, 0, tokens=5), np.arange(50)
        setting = Attentive(lr=0.01, epochs=2, batch_size=16, heads=2)
        whole, split = fit(train, [setting], 2, rows), fit(train, [setting], 2, rows, mesh)
        for name, value in whole.params.items():
            np.testing.assert_allclose(split.params[name], value, rtol=1e-3, atol=1e-5)
        for some in (rows, rows[:3]):
            np.testing.assert_array_equal(
                accuracy(whole, train, some), accuracy(whole, train, some, mesh)
            )
        for size in (2, 15):  # fewer than devices, and what they do not divide
            odd = dataclasses.replace(setting, batch_size=size)
            whole, split = (fit(train, [odd], 2, rows[:30], m).params for m in (None, mesh))
            np.testing.assert_allclose(split["weight"], whole["weight"], rtol=1e-5)

    def test_one_class(self):
        train = hidden(20, 0)
        with self.assertRaisesRegex(UserError, "one class only"):
            fit(train, [Attentive()], 2, np.flatnonzero(train.labels == 1))

    @parameterized.parameters(
        {"lr": 0.0}, {"epochs": 0}, {"heads": 0}, {"weight_decay": -1.0}, {"holdout": 1.0}
    )
    def test_bad_settings(self, **settings):
        with self.assertRaisesRegex(UserError, "attentive.* expected"):
            Attentive(**settings)


if __name__ == "__main__":
    absltest.main()
