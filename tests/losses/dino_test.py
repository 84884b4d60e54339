"""DINO's and DINOv2's losses against the released code; closed forms; both ways to collapse."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import tree
from ssl_jax.losses.cross_view import cross_entropies, mean_of_other_views
from ssl_jax.losses.dino import balanced_probabilities, teacher_probabilities
from ssl_jax.objectives.parts.self_distillation import mean_logits, teacher_temperature

GOLDEN = Path(__file__).parents[1] / "golden"


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def by_view(x, rows):
    """(V B, K), view after view, to (B, V, K)."""
    return jnp.swapaxes(x.reshape(-1, rows, x.shape[-1]), 0, 1)


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_dino_three_steps(self, wide):
        data = np.load(GOLDEN / "dino.npz")
        prefix, dtype = ("f64_", jnp.float64) if wide else ("", jnp.float32)
        rtol = 1e-9 if wide else 1e-5
        rows = data["in_student"].shape[1] // int(data["hp_ncrops"])

        @jax.jit
        def run(student, teacher, center, epoch):
            temperature = teacher_temperature(
                epoch,
                1,
                float(data["hp_warmup_teacher_temp"]),
                float(data["hp_teacher_temp"]),
                int(data["hp_warmup_teacher_temp_epochs"]),
            )

            def loss(student):
                targets = teacher_probabilities(by_view(teacher, rows), center, temperature)
                logits = by_view(student, rows) / float(data["hp_student_temp"])
                return mean_of_other_views(cross_entropies(targets, logits))

            value, grad = jax.value_and_grad(loss)(student)
            mean = jnp.mean(by_view(teacher, rows), axis=(0, 1))
            return value, grad, tree.ema(center, mean, float(data["hp_center_momentum"]))

        with jax.enable_x64(wide):
            center = jnp.zeros(data["in_teacher"].shape[-1], dtype)
            for i, epoch in enumerate(data["hp_epochs"]):
                student, teacher = (
                    jnp.asarray(data[f"in_{k}"][i], dtype) for k in ("student", "teacher")
                )
                value, grad, center = run(student, teacher, center, jnp.int32(epoch))
                np.testing.assert_allclose(value, data[f"{prefix}out_loss"][i], rtol=rtol)
                expected = data[f"{prefix}grad_student"][i]
                atol = 10 * rtol * np.abs(expected).max()
                np.testing.assert_allclose(grad, expected, rtol=0, atol=atol)
                expected = data[f"{prefix}out_center"][i, 0]
                np.testing.assert_allclose(center, expected, rtol=0, atol=rtol)

    def test_temperature_schedule(self):
        data = np.load(GOLDEN / "dino.npz")
        args = [float(data[f"hp_{k}"]) for k in ("warmup_teacher_temp", "teacher_temp")]
        args.append(int(data["hp_warmup_teacher_temp_epochs"]))
        steps = jnp.arange(3 * int(data["hp_nepochs"]))
        temperatures = jax.vmap(lambda step: teacher_temperature(step, 3, *args))(steps)
        expected = data["out_teacher_temp_schedule"].repeat(3)
        np.testing.assert_allclose(temperatures, expected, rtol=1e-6)

    def test_dinov2(self):
        """The sum over all pairs, own views included; the centre moves a step later."""
        data = np.load(GOLDEN / "dinov2_dino.npz")
        momentum, rows = float(data["hp_center_momentum"]), data["in_student"].shape[2]
        center = jnp.zeros(data["in_student"].shape[-1])
        for i, (student, teacher) in enumerate(
            zip(data["in_student"], data["in_teacher"], strict=True)
        ):
            np.testing.assert_allclose(center, data["out_center"][i, 0], rtol=0, atol=1e-6)
            targets = teacher_probabilities(
                by_view(teacher, rows), center, float(data["hp_teacher_temp"])
            )
            expected = by_view(data["out_teacher_probs"][i], rows)
            np.testing.assert_allclose(targets, expected, rtol=0, atol=1e-5)

            def loss(student, targets=targets):
                logits = by_view(student, rows) / float(data["hp_student_temp"])
                return jnp.sum(cross_entropies(targets, logits))

            value, grad = jax.value_and_grad(loss)(jnp.asarray(student))
            np.testing.assert_allclose(value, data["out_loss"][i], rtol=1e-5)
            expected = data["grad_student"][i]
            np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
            center = tree.ema(center, jnp.mean(teacher, axis=(0, 1)), momentum)


class DinoTest(parameterized.TestCase):
    def test_centre_of_constant_logits(self):
        logits, center = jnp.array([1.0, -2.0, 5.0]), jnp.zeros(3)
        for k in range(1, 9):
            center = tree.ema(center, logits, 0.9)
            np.testing.assert_allclose(center, logits * (1 - 0.9**k), rtol=1e-5)

    def test_a_constant_vector_in_logits_and_centre_does_not_matter(self):
        logits, center, shift = draw(6, 2, 9), draw(9, seed=1), 4 * draw(9, seed=2)
        shifted = teacher_probabilities(logits + shift, center + shift, 0.05)
        expected = teacher_probabilities(logits, center, 0.05)
        np.testing.assert_allclose(shifted, expected, atol=1e-4)

    def test_centring_spreads_and_sharpening_narrows(self):
        logits = 0.3 * draw(64, 10) + 3 * draw(10, seed=1)
        mean = logits.mean(0)

        def entropy(center, temperature):
            p = teacher_probabilities(logits, center, temperature)
            return -jnp.sum(p.mean(0) * jnp.log(p.mean(0) + 1e-12))

        even = np.log(10)
        self.assertLess(entropy(0.0, 0.04), 0.5 * even)  # sharpening only: one prototype
        self.assertGreater(entropy(mean, 0.04), 0.9 * even)  # both: all prototypes, each sharp
        spread = teacher_probabilities(logits, mean, 10.0)  # centring only: no prototype
        np.testing.assert_allclose(spread, 0.1, atol=0.02)

    def test_balanced_targets_use_all_prototypes_and_no_padding(self):
        """Over all leading axes together; rows that are not valid change nothing and get 0."""
        logits = draw(4, 6, 5) + 3 * draw(5, seed=1)
        valid = np.arange(24).reshape(4, 6) % 3 > 0
        targets = balanced_probabilities(logits, 0.5, 30, valid)
        np.testing.assert_allclose(targets.sum((0, 1)), valid.sum() / 5, rtol=1e-3)
        np.testing.assert_array_equal(targets[~valid], 0)
        alone = balanced_probabilities(logits[valid], 0.5, 30)
        np.testing.assert_allclose(targets[valid], alone, rtol=1e-4, atol=1e-6)

    def test_the_mean_of_valid_logits(self):
        logits, valid = draw(4, 3, 5), np.arange(12).reshape(4, 3) % 4 == 0
        expected = np.asarray(logits)[valid].mean(0)
        np.testing.assert_allclose(mean_logits(logits, valid), expected, rtol=1e-5)
        np.testing.assert_allclose(mean_logits(logits), logits.mean((0, 1)), rtol=1e-5)
        np.testing.assert_array_equal(mean_logits(logits, np.zeros_like(valid)), 0)

    def test_no_gradient_into_the_teacher(self):
        grad = jax.grad(lambda t: jnp.sum(teacher_probabilities(t, 0.0, 0.1)[..., 0]))(draw(4, 5))
        np.testing.assert_array_equal(grad, 0)


if __name__ == "__main__":
    absltest.main()
