"""NNCLR: three training steps against lightly, the paper's loss, and bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.objectives import nnclr
from ssl_jax.objectives.base import Spec, View
from tests.losses.forms import load
from tests.objectives import harness, released
from tests.objectives.parts.queue_test import from_columns

NAMES = {
    "enc.conv": "backbone/conv",
    "enc.fc": "backbone/fc",
    **{f"proj.layers.{3 * i}": f"projector/linear{i + 1}" for i in range(3)},
    **{f"proj.layers.{3 * i + 1}": f"projector/norm{i + 1}" for i in range(3)},
    "pred.layers.0": "predictor/linear1",
    "pred.layers.1": "predictor/norm1",
    "pred.layers.3": "predictor/linear2",
}


def widths(params, network):
    layers = sorted(name for name in params[network] if name.startswith("linear"))
    return tuple(params[network][name]["kernel"].shape[1] for name in layers)


def padded(bank, batch):
    """A bank whose last row is repeated up to a multiple of the batch. The nearest neighbours are
    the same, and lightly drops what exceeds its bank: here it goes to the added rows.
    """
    missing = -len(bank) % batch
    return from_columns(np.concatenate([bank, np.repeat(bank[-1:], missing, 0)]).T, batch)


def unpadded(queue, size):
    return np.asarray(queue["keys"]).swapaxes(0, 1).reshape(-1, queue["keys"].shape[-1])[:size]


class NNCLRTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_three_steps(self, wide):
        data = load("nnclr_lightly_train3", wide)
        with jax.enable_x64(wide):
            params = released.weights(data, "in_sd.", NAMES)
            batch, size = data["in_x0"].shape[1], len(data["in_bank"])
            objective = nnclr.make(
                released.tiny(params["backbone"]),
                Spec(batch, 100, 0, steps_per_epoch=1, total_steps=3),
                views=(View(data["in_x0"].shape[-1]),) * 2,
                projector=widths(params, "projector"),
                predictor=widths(params, "predictor"),
                temperature=released.hyper(data, "T"),
                queue_size=size + -size % batch,
                candidates="all",
            )
            extra = jax.eval_shape(objective.init, jax.random.key(0))[1]
            dtype = np.float64 if wide else np.float32
            stats = {
                name: jax.tree.map(lambda x: x.astype(dtype), net.init(jax.random.key(0))[1])
                for name, net in objective.networks.nets.items()
            }
            support = {"keys": padded(data["in_bank"], batch), "next": jnp.int32(0)}
            extra = dict(extra, stats=stats, queue=support)
            tx = released.sgd(data, params, batch)
            state, run = tx.init(params), released.train_step(objective, tx)
            rtol = 1e-7 if wide else 1e-5
            for s, loss in enumerate(data["out_loss"]):
                views = released.images(data["in_x0"][s], data["in_x1"][s])
                inputs = {"views": (views[:, :1], views[:, 1:]), "index": jnp.arange(batch)}
                value, params, extra, state = run(params, extra, state, inputs, jnp.int32(s))
                np.testing.assert_allclose(value, loss, rtol=rtol)
                expected = released.weights(data, "out_sd.", NAMES, s)
                # One bias in float32 is off by 1.0016e-4 of the largest, in float64 by below 1e-6.
                released.check(params, expected, 10 * rtol if wide else 2e-4)
                bank = unpadded(extra["queue"], size)
                np.testing.assert_allclose(bank, data["out_bank"][s], atol=10 * rtol)
                self.check_statistics(extra["stats"], data, s, 10 * rtol)

    def check_statistics(self, stats, data, step, rtol):
        for key, value in data.items():
            layer, _, kind = key.removeprefix("out_bn.").rpartition(".")
            if key.startswith("out_bn."):
                network, ours = NAMES[layer].split("/")
                actual = stats[network][ours][kind.removeprefix("running_")]
                largest = np.abs(value[step]).max()
                np.testing.assert_allclose(actual, value[step], rtol=0, atol=rtol * largest)

    def test_a_neighbour_picks_its_prediction_among_predictions(self):
        """The paper's loss in closed form: orthogonal neighbours, each equal to its prediction."""
        objective = dataclasses.replace(harness.experiment("nnclr").objective, temperature=1.0)
        z = jnp.eye(4)
        expected = np.log(np.e + 3) - 1
        np.testing.assert_allclose(objective.contrast(z, z), expected, rtol=1e-6)
        more = dataclasses.replace(objective, candidates="all")
        # Among all rows but itself: the right one and six orthogonal ones.
        np.testing.assert_allclose(more.contrast(z, z), np.log(np.e + 6) - 1, rtol=1e-6)

    def test_a_predictor_of_another_width_is_an_error(self):
        with self.assertRaisesRegex(UserError, "ends in 3, but neighbours have 128"):
            dataclasses.replace(harness.experiment("nnclr").objective, predictor=(8, 3))

    def test_a_queue_longer_than_the_data_is_an_error(self):
        objective = dataclasses.replace(harness.experiment("nnclr").objective, queue_size=98304)
        with self.assertRaisesRegex(UserError, "98304 keys of 1437 examples .* at most 1424"):
            jax.eval_shape(objective.init, jax.random.key(0))
