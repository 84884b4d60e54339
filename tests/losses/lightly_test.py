"""Losses as lightly computes them, as docs/migration.md claims; needs `lightly` and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.losses.barlow_twins import barlow_twins
from ssl_jax.losses.decoupled import decoupled
from ssl_jax.losses.koleo import koleo
from ssl_jax.losses.negative_cosine import negative_cosine
from ssl_jax.losses.ntxent import ntxent
from ssl_jax.losses.vicreg import vicreg


def fold(z0, z1):
    return jnp.stack([z0, z1], axis=1).reshape(-1, z0.shape[-1])


PAIRS = {  # lightly's class, its arguments, ours of the two views
    "ntxent": ("NTXentLoss", {"temperature": 0.5}, lambda a, b: ntxent(fold(a, b), 0.5)),
    "cosine": ("NegativeCosineSimilarity", {}, lambda a, b: negative_cosine(a, b).mean()),
    "barlow": ("BarlowTwinsLoss", {"lambda_param": 5e-3}, lambda a, b: barlow_twins(a, b, 5e-3)),
    "vicreg": ("VICRegLoss", {}, vicreg),
    "dcl": ("DCLLoss", {"temperature": 0.1}, lambda a, b: decoupled(fold(a, b), 0.1)),
    "koleo": ("KoLeoLoss", {}, lambda a, b: koleo(a)),
}


@pytest.mark.full
class LightlyTest(parameterized.TestCase):
    @parameterized.named_parameters((name, *pair) for name, pair in PAIRS.items())
    def test_equals(self, theirs, options, ours):
        torch, losses = pytest.importorskip("torch"), pytest.importorskip("lightly.loss")
        z0, z1 = np.array(jax.random.normal(jax.random.key(0), (2, 16, 32)), np.float32)
        inputs = (z0,) if theirs == "KoLeoLoss" else (z0, z1)
        expected = getattr(losses, theirs)(**options)(*map(torch.from_numpy, inputs))
        np.testing.assert_allclose(ours(z0, z1), expected.item(), rtol=1e-4)


if __name__ == "__main__":
    absltest.main()
