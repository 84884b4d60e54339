"""SimCLR in micro-batches: exact, but for batch norm in the backbone."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.nets.backbones.resnet import resnet_custom
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.simclr import SimCLR
from tests.objectives.harness import worst_difference

SPEC = Spec(16, 100, 0, 10, 100)


def simclr(backbone, **hyper):
    return SimCLR(backbone, SPEC, view=View(8, count=2), projector=(16, 8), **hyper)


def gradient(objective):
    """(params, extra, images) -> loss and gradients."""

    def loss(params, extra, images):
        batch = {"views": (images,), "index": jnp.arange(SPEC.global_batch)}
        return objective.loss(params, extra, batch, jax.random.key(0), jnp.int32(0))[0]

    return jax.jit(jax.value_and_grad(loss))


class MicrobatchTest(absltest.TestCase):
    def compare(self, backbone):
        """Worst difference of loss and gradient between one and four chunks, in float64; and the
        temporary bytes of both programs.
        """
        images = np.random.default_rng(0).normal(size=(SPEC.global_batch, 2, 8, 8, 3))
        outputs, sizes = [], []
        with jax.enable_x64(True):
            state = jax.jit(simclr(backbone).init)(jax.random.key(0))
            state = jax.tree.map(lambda x: x.astype(np.float64), state)
            for chunks in (1, 4):
                objective = simclr(backbone, microbatches=chunks)
                compiled = gradient(objective).lower(*state, images).compile()
                outputs.append(jax.device_get(compiled(*state, images)))
                sizes.append(compiled.memory_analysis().temp_size_in_bytes)
        return worst_difference(*outputs, 1e-4), sizes

    def test_without_batch_norm_in_the_backbone_exact_in_less_memory(self):
        """Every image repels every other one of the whole batch; the head's batch norm sees all."""
        (worst, where), sizes = self.compare(vit(None, 2, 8, dim=16, depth=4, heads=2))
        self.assertLessEqual(worst, 1e-9, where)
        self.assertLess(sizes[1], sizes[0] / 2)

    def test_batch_norm_in_the_backbone_sees_a_chunk(self):
        (worst, _), _ = self.compare(resnet_custom((1,), (8,), stem="small", stem_filters=8))
        self.assertGreater(worst, 1e-2)


if __name__ == "__main__":
    absltest.main()
