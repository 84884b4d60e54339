"""SwAV against the released training loop, with and without queue; its state and its errors."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.swav import SwAV
from tests.objectives import harness

GOLDEN = Path(__file__).parents[1] / "golden"
EMPTY = {"backbone": {}, "projector": {}}


def identity(read):
    """A network without parameters."""
    return Net(lambda key: ({}, {}), lambda params, stats, x, **_: (read(x), stats), "identity")


class Direct(SwAV):
    """The images are the embeddings: (B, n, 1, 1, D)."""

    networks = Networks(
        {
            "backbone": identity(lambda x: Features(pooled=x[:, 0, 0])),
            "projector": identity(lambda x: x),
        }
    )


class GoldenTest(parameterized.TestCase):
    @parameterized.product(suffix=("noq", "queue"), wide=(False, True))
    def test_four_iterations(self, suffix, wide):
        data = np.load(GOLDEN / "swav_swapped_queue.npz")
        prefix, dtype = ("f64_", jnp.float64) if wide else ("", jnp.float32)
        steps, crops, rows, dim = data["in_crops"].shape
        method = Direct(
            identity(None),
            Spec(rows, 10_000, 1, 1, steps, dim),
            views=(View(1, 2), View(1, crops - 2)),
            projector=(dim,),
            prototypes=len(data["in_prototypes"]),
            temperature=float(data["hp_temperature"]),
            epsilon=float(data["hp_epsilon"]),
            iterations=int(data["hp_sinkhorn_iterations"]),
            queue_size=int(data["hp_queue_len"]) if suffix == "queue" else 0,
            queue_start=0.0,
        )

        @jax.jit
        def iteration(prototypes, crops, extra, step):
            def loss_fn(prototypes, crops):
                views = crops.transpose(1, 0, 2)[:, :, None, None]
                batch = {"views": (views[:, :2], views[:, 2:])}
                return method.loss(EMPTY | {"prototypes": prototypes}, extra, batch, None, step)

            (loss, aux), grads = jax.value_and_grad(loss_fn, (0, 1), has_aux=True)(
                prototypes, crops
            )
            _, extra = method.after_update({"prototypes": prototypes}, aux.extra, aux.signals, step)
            return loss, grads, extra

        with jax.enable_x64(wide):
            rtol = 1e-11 if wide else 1e-5
            prototypes = l2_normalize(jnp.asarray(data["in_prototypes"], dtype))
            expected = data[f"{prefix}out_protos_normalised"]
            np.testing.assert_allclose(prototypes, expected, rtol=rtol)
            _, extra = method.init(jax.random.key(0))
            if suffix == "queue":
                extra["queue"]["keys"] = extra["queue"]["keys"].astype(dtype)
            for i in range(steps):
                crops = jnp.asarray(data["in_crops"][i], dtype)
                loss, grads, extra = iteration(prototypes, crops, extra, jnp.int32(i))
                self.assertEqual(loss.dtype, dtype)
                np.testing.assert_allclose(loss, data[f"{prefix}out_loss_{suffix}"][i], rtol=rtol)
                for name, grad in zip(("protos", "crops"), grads, strict=True):
                    expected = data[f"{prefix}grad_{name}_{suffix}"][i]
                    np.testing.assert_allclose(
                        grad, expected, rtol=0, atol=10 * rtol * np.abs(expected).max()
                    )
                if suffix == "queue":
                    # The release has it crop by crop, (2, L, D), the newest batch first.
                    keys, place = extra["queue"]["keys"], int(extra["queue"]["next"])
                    batches = keys.reshape(rows, -1, 2, dim).transpose(2, 1, 0, 3)
                    newest_first = np.roll(np.asarray(batches), -place, axis=1)[:, ::-1]
                    pushed = min(i + 1, keys.shape[1])
                    expected = data[f"{prefix}out_queue"][i].reshape(2, -1, rows, dim)
                    np.testing.assert_allclose(
                        newest_first[:, :pushed], expected[:, :pushed], rtol=0, atol=rtol
                    )


class SwAVTest(parameterized.TestCase):
    def test_collapsed_embeddings_give_log_k(self):
        method = Direct(
            identity(None), Spec(8, 5000, 1, 1, 1, 4), (View(1, 3),), assigned=3, projector=(4,)
        )
        params, extra = method.init(jax.random.key(0))
        params |= {"prototypes": jnp.broadcast_to(params["prototypes"][:1], (3000, 4))}
        batch = {"views": (jnp.ones((8, 3, 1, 1, 4)),)}
        loss, _ = method.loss(params, extra, batch, None, jnp.int32(0))
        np.testing.assert_allclose(loss, 8.0064, rtol=1e-4)

    def test_prototypes_stay_unit_vectors_and_no_gradient_passes_the_targets(self):
        made = harness.experiment("swav")
        params, _ = jax.eval_shape(made.objective.init, jax.random.key(0))
        start = {"prototypes": 3 * jnp.ones(params["prototypes"].shape)}
        after, _ = made.objective.after_update(start, {}, {}, jnp.int32(0))
        np.testing.assert_allclose(jnp.linalg.norm(after["prototypes"], axis=1), 1, rtol=1e-5)

    def test_queue_waits_for_its_epoch_and_until_it_is_full(self):
        method = Direct(
            identity(None),
            Spec(4, 100, 1, 5, 100, 3),
            (View(1, 2),),
            projector=(3,),
            prototypes=6,
            queue_size=8,
            queue_start=2.0,
        )
        params, extra = method.init(jax.random.key(0))
        batch = {"views": (jax.random.normal(jax.random.key(1), (4, 2, 1, 1, 3)),)}
        _, other = method.init(jax.random.key(2))
        filled = dict(extra, queue=other["queue"])
        run = jax.jit(lambda extra, step: method.loss(params, extra, batch, None, step))
        for step, used in ((0, False), (11, False), (12, True)):
            same = run(filled, jnp.int32(step))[0] == run(extra, jnp.int32(0))[0]
            self.assertEqual(bool(same), not used, step)
        signals = run(extra, jnp.int32(0))[1].signals
        for step, pushed in ((9, False), (10, True)):
            _, after = method.after_update(params, extra, signals, jnp.int32(step))
            self.assertEqual(int(after["queue"]["next"]), int(pushed), step)

    @parameterized.parameters(
        (dict(prototypes=2000), "more than the 1437 examples"),
        (dict(assigned=1), "must fill whole groups"),
    )
    def test_errors(self, hyper, message):
        made = harness.experiment("swav").objective
        with self.assertRaisesRegex(UserError, message):
            SwAV.make(made.backbone, made.spec, **(dict(views=made.views, prototypes=8) | hyper))


if __name__ == "__main__":
    absltest.main()
