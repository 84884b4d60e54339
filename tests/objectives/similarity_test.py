"""Every method with a batch of negatives trains equal in every form of their similarities."""

import dataclasses
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.losses.large_batch import tiles
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Objective
from tests.objectives import harness


def has_negatives(method):
    """Return whether the method has the field, and not just its parent's loss."""
    kind = harness.load_method(method).make.__self__
    own = {"loss", "contrast"} & vars(kind).keys()
    alone = kind.turns is Objective.turns  # else there is no one loss
    return alone and bool(own) and any(f.name == "similarity" for f in dataclasses.fields(kind))


METHODS = [(suffix, name) for suffix, name in harness.METHODS if has_negatives(name)]


def linear(width=8):
    """A backbone that compiles in no time: one linear map of the image's mean over columns; the map
    has two places, its upper and its lower half.
    """

    def init(key):
        return {"kernel": jax.random.normal(key, (8, width))}, {}

    def apply(params, stats, images, **_):
        x = jax.image.resize(images.mean((2, 3)), (images.shape[0], 8), "linear")
        halves = jax.image.resize(images.mean(3), (images.shape[0], 2, 8), "linear")
        places = jnp.tanh(halves @ params["kernel"])[:, :, None]
        return Features(pooled=jnp.tanh(x @ params["kernel"]), map=places), stats

    return Net(init, apply, "linear")


class SimilarityTest(parameterized.TestCase):
    def test_found(self):
        self.assertGreaterEqual(len(METHODS), 4)

    @parameterized.named_parameters(*METHODS)
    def test_a_ring_of_eight_devices_is_dense(self, method):
        self.check_equal(method, "ring")

    @parameterized.named_parameters(*METHODS)
    @pytest.mark.full
    def test_tiles_are_dense(self, method):
        self.check_equal(method, "tiled")

    def check_equal(self, method, form):
        """Loss, gradients and the state after it."""
        worst, where = harness.worst_difference(
            observed(method, "dense"), observed(method, form), 1e-4
        )
        self.assertLessEqual(worst, 1e-9, where)


def observed(method, form):
    made = harness.experiment(method)
    objective = dataclasses.replace(made.objective, backbone=linear(), similarity=form)
    mesh = sharding.make_mesh(sharding.MeshConfig(2, 2, 2))
    with jax.enable_x64(True), jax.set_mesh(mesh), mock.patch.object(tiles, "TILE", 3):
        wide = lambda x: x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
        state = jax.tree.map(wide, jax.jit(objective.init)(jax.random.key(3)))
        placed = sharding.tree_shardings(state, sharding.MeshConfig(), mesh)
        rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        run = harness.observe(types.SimpleNamespace(objective=objective))
        run = jax.jit(run, in_shardings=(*placed, rows, whole))
        args = jax.device_get((*state, harness.device_batch(made, dtype=np.float64), np.int32(0)))
        traced = run.trace(*args)
        # So small, "auto" would be dense: the form that was asked for is what is compiled.
        assert ("ppermute" in str(traced.jaxpr)) is (form == "ring"), form
        return jax.device_get(traced.lower().compile()(*args))


if __name__ == "__main__":
    absltest.main()
