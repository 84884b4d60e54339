"""iBOT's and DINOv2's losses against the released code; closed forms."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import tree
from ssl_jax.losses.cross_view import cross_entropies, mean_of_other_views
from ssl_jax.losses.dino import teacher_probabilities
from ssl_jax.losses.masked import masked_patch_loss
from ssl_jax.objectives.parts.self_distillation import teacher_temperature

GOLDEN = Path(__file__).parents[1] / "golden"


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def by_view(x, rows):
    """(V B, ...), view after view, to (B, V, ...)."""
    return jnp.swapaxes(x.reshape(-1, rows, *x.shape[1:]), 0, 1)


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_ibot_two_steps(self, wide):
        data = np.load(GOLDEN / "ibot.npz")
        hyper = {k[3:]: float(data[k]) for k in data if k.startswith("hp_") and not data[k].ndim}
        prefix, dtype = ("f64_", jnp.float64) if wide else ("", jnp.float32)
        rtol = 1e-9 if wide else 1e-5
        rows = data["in_mask"].shape[2]
        names = ("student_cls", "student_patch", "student_local_cls")

        @jax.jit
        def run(student, teacher_cls, teacher_patch, mask, centers, epoch):
            def temperature(suffix):
                start, end = hyper["wtt" + suffix], hyper["tt" + suffix]
                return teacher_temperature(epoch, 1, start, end, int(hyper["warmup_epochs"]))

            def loss(student):
                cls, patch, local = (by_view(x, rows) / hyper["student_temp"] for x in student)
                targets = teacher_probabilities(
                    by_view(teacher_cls, rows), centers[0], temperature("")
                )
                logits = jnp.concatenate([cls, local], axis=1)
                image = hyper["lambda1"] * mean_of_other_views(cross_entropies(targets, logits))
                targets = teacher_probabilities(
                    by_view(teacher_patch, rows), centers[1], temperature("2")
                )
                hidden = jnp.swapaxes(mask, 0, 1).reshape(rows, len(mask), -1)
                patches = hyper["lambda2"] * masked_patch_loss(targets, patch, hidden)
                return image + patches, (image, patches)

            values, grads = jax.value_and_grad(loss, has_aux=True)(student)
            means = jnp.mean(teacher_cls, axis=0), jnp.mean(teacher_patch, axis=(0, 1))
            pairs = zip(centers, means, (hyper["cm"], hyper["cm2"]), strict=True)
            return values, grads, [tree.ema(*pair) for pair in pairs]

        with jax.enable_x64(wide):
            wide_array = lambda x: jnp.asarray(x, dtype)  # noqa: E731
            centers = [
                jnp.zeros(data[f"in_teacher_{k}"].shape[-1], dtype) for k in ("cls", "patch")
            ]
            for i, epoch in enumerate(data["hp_epochs"]):
                (loss, parts), grads, centers = run(
                    [wide_array(data[f"in_{name}"][i]) for name in names],
                    wide_array(data["in_teacher_cls"][i]),
                    wide_array(data["in_teacher_patch"][i]),
                    data["in_mask"][i],
                    centers,
                    jnp.int32(epoch),
                )
                np.testing.assert_allclose(loss, data[f"{prefix}out_loss"][i], rtol=rtol)
                for name, part in zip(("cls", "patch"), parts, strict=True):
                    np.testing.assert_allclose(part, data[f"{prefix}out_{name}"][i], rtol=rtol)
                for name, grad in zip(names, grads, strict=True):
                    expected = data[f"{prefix}grad_{name}"][i]
                    atol = 10 * rtol * np.abs(expected).max()
                    np.testing.assert_allclose(grad, expected, rtol=0, atol=atol)
                for name, center in zip(("center", "center2"), centers, strict=True):
                    expected = data[f"{prefix}out_{name}"][i].ravel()
                    np.testing.assert_allclose(center, expected, rtol=0, atol=rtol)

    def test_dinov2(self):
        data = np.load(GOLDEN / "dinov2_ibot.npz")
        teacher, center = data["in_teacher"], jnp.zeros(data["in_teacher"].shape[-1])
        mean = jnp.mean(teacher, axis=(0, 1))
        center = tree.ema(center, mean, float(data["hp_center_momentum"]))
        np.testing.assert_allclose(center, data["out_center"].ravel(), rtol=0, atol=1e-6)
        targets = teacher_probabilities(teacher, center, float(data["hp_teacher_temp"]))
        np.testing.assert_allclose(targets, data["out_teacher_probs"], rtol=0, atol=1e-5)

        def loss(student):
            logits = student / float(data["hp_student_temp"])
            return masked_patch_loss(targets, logits, data["in_mask"])

        value, grad = jax.value_and_grad(loss)(jnp.asarray(data["in_student"]))
        for name in ("out_loss", "out_loss_masked"):
            np.testing.assert_allclose(value, data[name], rtol=1e-5)
        expected = data["grad_student"]
        np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


class MaskedPatchLossTest(parameterized.TestCase):
    def test_nothing_hidden_is_zero(self):
        targets = jax.nn.softmax(draw(2, 2, 9, 5))
        loss = lambda x: masked_patch_loss(targets, x, jnp.zeros((2, 2, 9)))  # noqa: E731
        value, grad = jax.value_and_grad(loss)(draw(2, 2, 9, 5))
        self.assertEqual(value, 0)
        np.testing.assert_array_equal(grad, 0)

    def test_image_without_mask_counts_in_the_mean(self):
        targets, logits = jax.nn.softmax(draw(2, 9, 5)), draw(2, 9, 5, seed=1)
        mask = jnp.zeros((2, 9), bool).at[0, :4].set(True)
        both = masked_patch_loss(targets, logits, mask)
        single = masked_patch_loss(targets[:1], logits[:1], mask[:1])
        np.testing.assert_allclose(both, single / 2, rtol=1e-6)

    def test_equal_logits_give_log_k(self):
        targets, mask = jax.nn.softmax(draw(2, 4, 8192)), jnp.ones((2, 4))
        loss = masked_patch_loss(targets, jnp.ones((2, 4, 8192)), mask)
        np.testing.assert_allclose(loss, 9.0109, rtol=1e-4)

    def test_what_was_seen_does_not_count(self):
        targets, logits = jax.nn.softmax(draw(2, 9, 5)), draw(2, 9, 5, seed=1)
        mask = jnp.arange(9) < 3
        mask = jnp.broadcast_to(mask, (2, 9))
        other = jnp.where(mask[..., None], logits, 100.0)
        expected = masked_patch_loss(targets, logits, mask)
        np.testing.assert_array_equal(masked_patch_loss(targets, other, mask), expected)


if __name__ == "__main__":
    absltest.main()
