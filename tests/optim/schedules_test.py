"""Schedules against those of ten official codes, and their own properties."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.optim.schedules import cosine, linear_decay, step_decay, warmup_cosine

GOLDEN = Path(__file__).parents[1] / "golden"


def golden_cases() -> dict:
    """Golden key -> (steps, schedule)."""
    d = np.load(GOLDEN / "schedules.npz")
    hp = {k[3:]: v.tolist() for k, v in d.items() if k.startswith("hp_")}
    epochs, niter, batch = hp["epochs"], hp["niter"], hp["batch"]
    total, warmup, base = epochs * niter, hp["warmup_epochs"] * niter, hp["base_lr"]
    scaled = base * batch / 256
    line = functools.partial(warmup_cosine, total=total)
    both = functools.partial(line, warmup=warmup, start=hp["start_warmup"], inclusive=True)

    def barlow(step, rate):
        peak = rate * batch / 256
        return line(step, base=peak, end=1e-3 * peak, warmup=10 * niter)

    final, m = hp["final_lr"], hp["m"]
    steps, epoch_steps = np.arange(total), np.arange(epochs)
    freeze = hp["freeze"]
    return {
        "dino_lr": (steps, lambda s: both(s, base=scaled, end=final)),
        "swav_lr": (steps, lambda s: both(s, base=base, end=final)),
        "dino_wd": (steps, lambda s: cosine(s, total, hp["wd0"], hp["wd1"])),
        "dino_momentum": (steps, lambda s: cosine(s, total, m, 1.0)),
        "pixpro_m": (steps, lambda s: cosine(s, total, m, 1.0)),
        "byol_ema": (steps, lambda s: cosine(s, total, m, 1.0)),
        "mocov3_m": (steps, lambda s: cosine(s, total, m, 1.0)),
        "byol_lr": (steps, lambda s: line(s, base=scaled, warmup=warmup)),
        "mocov3_lr": (steps, lambda s: line(s, base=base, warmup=warmup)),
        "mae_lr": (steps, lambda s: line(s, base=base, end=final, warmup=warmup)),
        "barlow_lr_w": (steps, lambda s: barlow(s, hp["lr_w"])),
        "barlow_lr_b": (steps, lambda s: barlow(s, hp["lr_b"])),
        "vicreg_lr": (steps, lambda s: barlow(s, base)),
        "simsiam_lr": (epoch_steps, lambda s: warmup_cosine(s, epochs, base)),
        "moco_cos_lr": (epoch_steps, lambda s: warmup_cosine(s, epochs, base)),
        "moco_step_lr": (epoch_steps, lambda s: step_decay(s, base, hp["milestones"], 0.1)),
        "simclr_lr": (
            np.arange(total + 1),
            lambda s: warmup_cosine(s, total + 1, scaled, warmup=warmup),
        ),
        "dinov2_lr": (
            np.arange(total + 3),
            lambda s: both(s, base=base, end=final, freeze=freeze),
        ),
    }


class ScheduleTest(parameterized.TestCase):
    @parameterized.parameters(*golden_cases())
    def test_golden(self, name):
        steps, schedule = golden_cases()[name]
        expected = np.load(GOLDEN / "schedules.npz")[f"out_{name}"]
        # BYOL's and SimCLR's own codes compute in float32.
        rtol = 1e-6 if name in ("byol_lr", "byol_ema", "simclr_lr") else 1e-12
        value = schedule(steps)
        self.assertIsInstance(value, np.ndarray)
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol * np.abs(expected).max())
        on_device = jax.jit(jax.vmap(schedule))(jnp.asarray(steps, jnp.int32))
        self.assertEqual(on_device.dtype, jnp.float32)
        self.assertFalse(on_device.weak_type)
        np.testing.assert_allclose(
            on_device, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max()
        )

    def test_ends(self):
        self.assertEqual(warmup_cosine(0, 100, 2.0, warmup=10), 0.0)
        self.assertEqual(warmup_cosine(10, 100, 2.0, warmup=10), 2.0)
        np.testing.assert_allclose(warmup_cosine(np.array([100, 500]), 100, 2.0, 0.5), 0.5)
        self.assertEqual(warmup_cosine(9, 100, 2.0, warmup=10, inclusive=True), 2.0)
        np.testing.assert_allclose(cosine(np.array([0, 50, 100]), 100, 0.9, 1.0), [0.9, 0.95, 1.0])

    def test_a_run_shorter_than_its_warmup_is_on_the_line(self):
        np.testing.assert_allclose(warmup_cosine(np.arange(2), 2, 1.0, warmup=10), [0.0, 0.1])

    def test_step_decay_counts_milestones(self):
        steps = np.array([0, 1, 2, 5, 6, 8])
        expected = [0.0, 0.5, 1.0, 0.1, 0.1, 0.01]
        np.testing.assert_allclose(step_decay(steps, 1.0, (5, 8), 0.1, warmup=2), expected)

    def test_linear_decay_is_that_of_the_release(self):
        """`1 - max(0, epoch + 1 - n_epochs) / (n_epochs_decay + 1)`: 400 epochs, 200 constant."""
        epochs = np.array([0, 199, 200, 201, 399])
        expected = 1 - np.maximum(0, epochs + 1 - 200) / 201
        for steps in (1, 3, 1067):
            for within in (0, steps - 1):
                value = linear_decay(epochs * steps + within, steps, 400, 2.0, 200)
                np.testing.assert_allclose(value, 2 * expected)
        np.testing.assert_allclose(linear_decay(1, 10, 2, 1.0, 2, warmup=4), 0.25)
        traced = jax.jit(lambda s: linear_decay(s, 1067, 400, 1.0, 200))(jnp.int32(1067 * 200))
        np.testing.assert_allclose(traced, 200 / 201, rtol=1e-6)

    def test_float32_keeps_small_rates_near_the_end(self):
        step, total = 999_990, 1_000_000
        value = jax.jit(lambda s: cosine(s, total, 1.0))(jnp.int32(step))
        np.testing.assert_allclose(value, cosine(step, total, 1.0), rtol=1e-2)


if __name__ == "__main__":
    absltest.main()
