"""Alignment and uniformity with a queue: three training steps against the released code."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from ssl_jax.core.config import check_used
from ssl_jax.core.errors import UserError
from ssl_jax.objectives import moco_align_uniform
from ssl_jax.objectives.base import Spec, View
from tests.losses.forms import load
from tests.objectives import released
from tests.objectives.parts.queue_test import from_columns

LAYERS = {
    "t.conv": "backbone/conv",
    "t.fc": "backbone/fc",
    "fc.0": "projector/linear1",
    "fc.2": "projector/linear2",
}


class MoCoAlignUniformTest(parameterized.TestCase):
    @parameterized.product(wide=(True, False), contrast=(None, 0.5))
    def test_three_steps(self, wide, contrast):
        data = load("moco_align_uniform_train3", wide)
        with jax.enable_x64(wide):
            self.check(data, wide, contrast)

    def check(self, data, wide, contrast):
        """With `contrast`, another weight of InfoNCE changes the loss by that much."""
        params = released.weights(data, "in_sd.encoder_q.", LAYERS)
        batch, (width, size) = data["in_x1"].shape[1], data["in_queue"].shape
        hidden = data["in_sd.encoder_q.fc.0.weight"].shape[0]
        weight, align, uniform = (float(x) for x in data["hp_weights"])
        objective = moco_align_uniform.make(
            released.tiny(params["backbone"], relu=True),
            Spec(batch, 100, 0, steps_per_epoch=1, total_steps=3),
            view=View(data["in_x1"].shape[-1], count=2),
            projector=(hidden, width),
            temperature=released.hyper(data, "contr_tau"),
            queue_size=size,
            momentum=released.hyper(data, "m"),
            alpha=released.hyper(data, "align_alpha"),
            t=released.hyper(data, "unif_t"),
            align_weight=align,
            uniform_weight=uniform,
            contrast_weight=weight if contrast is None else weight + contrast,
        )
        extra = objective.init(jax.random.key(0))[1]
        queue = {"keys": from_columns(data["in_queue"], batch), "next": jnp.int32(0)}
        extra = extra | {"key_encoder": params, "queue": queue}
        tx = released.sgd(data, params, batch)
        state, run = tx.init(params), released.train_step(objective, tx)
        rtol = 1e-7 if wide else 1e-5
        for s, loss in enumerate(data["out_loss"]):
            views = released.images(data["in_x1"][s], data["in_x2"][s])
            inputs = {"views": (views,), "index": jnp.arange(batch)}
            used = extra["key_encoder"]  # the released code averages before the keys
            value, params, extra, state = run(params, extra, state, inputs, jnp.int32(s))
            if contrast is not None:
                expected = loss + contrast * data["out_contr"][s]
                np.testing.assert_allclose(value, expected, rtol=rtol)
                return
            np.testing.assert_allclose(value, loss, rtol=rtol)
            for side, ours in (("q", params), ("k", used)):
                theirs = released.weights(data, f"out_sd.encoder_{side}.", LAYERS, s)
                released.check(ours, theirs, 10 * rtol)
            expected = from_columns(data["out_queue"][s], batch)
            np.testing.assert_allclose(extra["queue"]["keys"], expected, atol=10 * rtol)
            self.assertEqual(int(extra["queue"]["next"]) * batch, int(data["out_ptr"][s]))

    def test_a_temperature_without_a_softmax_is_an_error(self):
        spec = Spec(4, 100, 0, steps_per_epoch=1, total_steps=3)
        made = moco_align_uniform.make(released.IDENTITY, spec, temperature=0.1)
        with self.assertRaisesRegex(UserError, "temperature: 0.1 .*set contrast_weight"):
            check_used(made, "objective")
