"""The linear probe against scikit-learn, torch-like closed forms, and heads trained alone."""

import dataclasses

import jax
import numpy as np
from absl.testing import absltest, parameterized
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.evals.images import Labelled
from ssl_jax.evals.protocols.linear import (
    PRESETS,
    SGD,
    Linear,
    ProbeTraining,
    fit,
    split,
    train_heads,
)
from ssl_jax.optim.factory import OptimConfig


def blobs(count, classes=3, width=5, seed=0):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, count)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    return Labelled((centres[labels] + draw.normal(size=(count, width))).astype(np.float32), labels)


def by_hand(train, classes, training, lr, decay, seed):
    """Train one head, one step after another, by the papers' formulas."""
    x, y, optim = train.features.astype(np.float64), train.labels, training.optim
    batch = min(training.batch_size, len(x))
    epoch = len(x) // batch
    lr = lr * batch / 256 if optim.lr_scaling == "linear" else lr
    start = np.random.default_rng(seed).normal(size=(x.shape[1], 1, classes))[:, 0]
    w, b = training.init * start, np.zeros(classes)
    squares = [0 * w, 0 * b]
    speeds, mean, variance = [0 * w, 0 * b], np.zeros(x.shape[1]), np.ones(x.shape[1])
    for number in range(training.epochs):
        order = np.random.default_rng([seed, number]).permutation(len(x))
        for i in range(epoch):
            rows = order[i * batch : (i + 1) * batch]
            epochs, features = number + i / epoch, x[rows]
            if training.batch_norm:
                mean = 0.9 * mean + 0.1 * features.mean(0)
                variance = 0.9 * variance + 0.1 * features.var(0, ddof=1)
                features = (features - features.mean(0)) / np.sqrt(features.var(0) + 1e-6)
            logits = features @ w + b
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            p[np.arange(batch), y[rows]] -= 1
            grads = [features.T @ p / batch + decay * w, p.mean(0)]
            if optim.name == "lars":
                sizes = np.linalg.norm(w), np.linalg.norm(grads[0])
                grads[0] = grads[0] * (0.001 * sizes[0] / sizes[1] if min(sizes) > 0 else 1)
            if optim.milestones:
                rate = lr * optim.decay ** sum(number >= m for m in optim.milestones)
            elif epochs < optim.warmup_epochs:
                rate = lr * epochs / optim.warmup_epochs
            else:
                share = (epochs - optim.warmup_epochs) / (training.epochs - optim.warmup_epochs)
                rate = lr * (1 + np.cos(np.pi * share)) / 2
            for j, (value, grad) in enumerate(zip((w, b), grads, strict=True)):
                if optim.name == "adamw":  # the bias does not decay
                    own = grad - decay * value if j == 0 else grad
                    speeds[j] = 0.9 * speeds[j] + 0.1 * own
                    squares[j] = 0.999 * squares[j] + 0.001 * own**2
                    t = number * epoch + i + 1
                    step = speeds[j] / (1 - 0.9**t)
                    step = step / (np.sqrt(squares[j] / (1 - 0.999**t)) + 1e-8)
                    value -= rate * (step + (decay * value if j == 0 else 0))
                    continue
                speeds[j] = optim.momentum * speeds[j] + grad
                ahead = grad + optim.momentum * speeds[j] if optim.nesterov else speeds[j]
                value -= rate * ahead
    return w, b, mean, variance


class LinearTest(parameterized.TestCase):
    @parameterized.parameters(*PRESETS)
    def test_the_preset_s_training_by_hand(self, preset):
        training, optim = PRESETS[preset], PRESETS[preset].optim
        optim = dataclasses.replace(
            optim,
            milestones=optim.milestones and (1, 3),
            warmup_epochs=min(optim.warmup_epochs, 2),
        )
        training = dataclasses.replace(training, optim=optim, epochs=4, batch_size=32)
        train, lr = blobs(100), {"moco": 0.1, "swav": 0.1, "beit": 0.05}.get(preset, 0.5)
        (head,) = train_heads(train, 3, training, np.float32([lr]), np.float32([1e-3]), seed=3)
        w, b, mean, variance = by_hand(train, 3, training, lr, 1e-3, seed=3)
        np.testing.assert_allclose(head.weight, w, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(head.bias, b, rtol=1e-4, atol=1e-6)
        if training.batch_norm:
            np.testing.assert_allclose(head.mean, mean, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(head.deviation, np.sqrt(variance + 1e-6), rtol=1e-5)

    def test_together_is_alone(self):
        train = blobs(200)
        rates, decays = np.float32([0.01, 0.1, 1.0]), np.float32([0, 1e-2, 1e-4])
        training = ProbeTraining(OptimConfig(name="lars"), 64, 5)
        together = train_heads(train, 3, training, rates, decays)
        for i, head in enumerate(together):
            (alone,) = train_heads(train, 3, training, rates[i : i + 1], decays[i : i + 1])
            np.testing.assert_allclose(head.weight, alone.weight, rtol=1e-5, atol=1e-7)

    def test_on_eight_devices_as_on_one(self):
        train, training = blobs(200), ProbeTraining(SGD, 64, 5, batch_norm=True)
        mesh = sharding.make_mesh(sharding.MeshConfig(data=8), jax.devices())
        numbers = (train, 3, training, np.float32([0.1, 1]), np.float32([0, 1e-4]))
        for one, many in zip(train_heads(*numbers), train_heads(*numbers, mesh=mesh), strict=True):
            for a, b in zip(one, many, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    @parameterized.parameters(5, 61)
    def test_a_batch_that_the_devices_do_not_divide_is_whole(self, count):
        train, training = blobs(count), ProbeTraining(SGD, 64, 5)
        mesh = sharding.make_mesh(sharding.MeshConfig(data=8), jax.devices())
        numbers = (train, 3, training, np.float32([0.1]), np.float32([0]))
        (one,), (many,) = train_heads(*numbers), train_heads(*numbers, mesh=mesh)
        np.testing.assert_allclose(one.weight, many.weight, rtol=1e-6)

    def test_digits_as_well_as_scikit_learn(self):
        """Pixels in [0, 1]; within half a point of logistic regression at its best penalty."""
        x, y = load_digits(return_X_y=True)
        x = (x / 16).astype(np.float32)
        train, test = Labelled(x[::2], y[::2]), Labelled(x[1::2], y[1::2])
        best = max(
            LogisticRegression(C=c, max_iter=2000).fit(*train).score(*test)
            for c in (0.01, 0.1, 1, 10, 100)
        )
        decays = (1e-5, 1e-4, 1e-3)
        grids = {
            preset: [
                Linear(preset=preset, lr=lr, weight_decay=decay, batch_size=128)
                for lr in (1.0, 3.0, 10.0)
                for decay in decays
            ]
            for preset in ("moco", "simclr", "dino")
        }
        grids["lbfgs"] = [Linear(weight_decay=decay) for decay in decays]
        accuracies = {
            preset: max(head.accuracy(test) for head in fit(train, grid, 10))
            for preset, grid in grids.items()
        }
        for preset, accuracy in accuracies.items():
            self.assertGreater(accuracy, best - 0.005, preset)

    def test_lbfgs_is_scikit_learn_s(self):
        train = blobs(60)
        (head,) = fit(train, [Linear(weight_decay=1e-2)], 4)
        model = LogisticRegression(C=1 / (1e-2 * 60), max_iter=1000).fit(*train)
        np.testing.assert_array_equal(
            (train.features @ head.weight + head.bias).argmax(1), model.predict(train.features)
        )

    def test_two_classes_of_three(self):
        train = blobs(60)
        train = Labelled(*(x[train.labels != 1] for x in train))
        for setting in (Linear(), Linear(preset="dino", lr=30.0)):
            (head,) = fit(train, [setting], 3)
            self.assertGreater(head.accuracy(train), 0.8, setting.preset)

    def test_held_out_examples_are_apart(self):
        train = blobs(50)
        rest, held_out = split(train, 0.2, seed=0)
        self.assertLen(held_out.labels, 10)
        apart = np.bincount(held_out.labels) - np.bincount(train.labels) / 5
        self.assertLessEqual(np.abs(apart).max(), 1)
        twice = Labelled(*(np.tile(x, (2,) + (1,) * (x.ndim - 1)) for x in train))
        for part, other in (split(twice, 0.2, 0), split(twice, 0.2, 0)[::-1]):
            examples = {row.tobytes() for row in part.features}
            self.assertFalse(any(row.tobytes() in examples for row in other.features))
        rows = np.concatenate([rest.features, held_out.features])
        np.testing.assert_array_equal(np.sort(rows, 0), np.sort(train.features, 0))

    @parameterized.parameters({"lr": 0.0}, {"epochs": 0}, {"weight_decay": -1.0}, {"holdout": 1.0})
    def test_impossible_settings(self, **settings):
        with self.assertRaisesRegex(UserError, "linear.* expected"):
            Linear(**settings)

    def test_one_class(self):
        with self.assertRaisesRegex(UserError, "one class only"):
            fit(Labelled(np.zeros((4, 2), np.float32), np.zeros(4, int)), [Linear()], 3)


if __name__ == "__main__":
    absltest.main()
