"""Cluster heads: the methods' contract, and the agreement of clusters by hand."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment.recipes import prepare
from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import ArraySource
from ssl_jax.evals.base import Subject
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols.cluster_head import ClusterHead
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Encoder, Heads, Probe
from ssl_jax.run.configs import methods
from tests.objectives import harness

# Clusters per head, for the methods that have any.
SIZES = {
    "deepcluster": lambda o: (o.clusters,),
    "deepcluster_v2": lambda o: (o.clusters,) * o.heads,
    "deepercluster": lambda o: (o.clusters,),
    "dino": lambda o: (o.prototypes,),
    "dinov2": lambda o: (o.prototypes,),
    "ibot": lambda o: (o.prototypes,),
    "msn": lambda o: (o.prototypes,),
    "pmsn": lambda o: (o.prototypes,),
    "sela": lambda o: (o.clusters,) * o.heads,
    "self_classifier": lambda o: o.classes,
    "swav": lambda o: (o.prototypes,),
}


class MethodsTest(parameterized.TestCase):
    @parameterized.named_parameters((f"_{name}", name) for name in methods())
    def test_logits_of_every_head(self, method):
        made = harness.experiment(method).objective
        state = jax.eval_shape(made.init, jax.random.key(0))
        if method not in SIZES:
            self.assertIsNone(made.encoder(*state).clusters)
            return
        size = made.inputs().views[0].size
        images = jax.ShapeDtypeStruct((3, size, size, made.spec.channels), jnp.float32)

        def logits(encoder, images):  # the encoder is passed as a pytree
            return encoder.clusters.logits(encoder.features(images).pooled)

        shapes = jax.eval_shape(logits, made.encoder(*state), images)
        self.assertEqual([x.shape for x in shapes], [(3, n) for n in SIZES[method](made)])

    def test_cosines_with_the_prototypes(self):
        made = harness.experiment("swav").objective
        params, extra = jax.jit(made.init)(jax.random.key(0))
        encoder = made.encoder(params, extra)
        size = made.inputs().views[0].size
        images = jnp.ones((2, size, size, made.spec.channels))
        nets = made.networks.bind(params, extra["stats"], train=False)
        pooled = nets.backbone(images).pooled
        z = np.asarray(nets.projector(pooled))
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
        (logits,) = encoder.clusters.logits(pooled)
        np.testing.assert_allclose(logits, z @ params["prototypes"].T, rtol=1e-4, atol=1e-5)


def _brightness(params, stats, images, *, train, stages=True):
    return Features(pooled=images.mean((1, 2))), stats


def _nearest(levels, pooled):
    """Two heads: the nearest level; and the nearest of the first two."""
    near = -jnp.abs(pooled[:, :1] - levels)
    return near, near[:, :2]


class ProtocolTest(parameterized.TestCase):
    """A network that computes brightness, and three clusters of it."""

    def subject(self):
        grey = np.repeat([40, 130, 220, 130, 40, 130], 4)
        images = np.broadcast_to(grey[:, None, None, None], (24, 4, 4, 1)).astype(np.uint8)
        labels = np.repeat([0, 1, 2, 0, 0, 1], 4)
        clear = ArraySource("grey", images, labels)
        mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:2])
        how = {"view": View(4), "channels": 1, "batch_size": 8, "mesh": mesh}
        plain = jnp.broadcast_to(jnp.uint8([40, 130, 220])[:, None, None, None], (3, 4, 4, 1))
        levels = prepare(View(4), plain).mean((1, 2, 3))
        images = Images.of(clear, clear, 100, 100, **how)
        net = Net(lambda key: ({}, {}), _brightness)
        return Subject(Encoder({}, {}, net, clusters=Heads(levels, _nearest)), images, Probe())

    @parameterized.parameters("train", "test")
    def test_agreement(self, part):
        numbers = ClusterHead(part=part).measure(self.subject())
        # 8, 12 and 4 images; the second holds 8 of class 1 and 4 of class 0.
        self.assertAlmostEqual(numbers["cluster_head_acc"], 20 / 24)
        self.assertEqual(numbers["cluster_head_used"], 3)
        two = ClusterHead(head=1, part=part).measure(self.subject())
        self.assertAlmostEqual(two["cluster_head_acc"], 16 / 24)

    def test_superclasses(self):
        path = self.create_tempfile(content="0 dark\n1 dark\n2 bright\n").full_path
        numbers = ClusterHead(superclasses=path).measure(self.subject())
        self.assertEqual(numbers["cluster_head_super_acc"], 1.0)
        self.assertAlmostEqual(numbers["cluster_head_acc"], 20 / 24)
        path = self.create_tempfile(content="0 dark\n2 bright\n").full_path
        numbers = ClusterHead(superclasses=path).measure(self.subject())
        # The cluster between the two is now surplus, and goes to its majority class.
        self.assertEqual(numbers["cluster_head_acc"], 1.0)

    def test_no_such_head(self):
        with self.assertRaisesRegex(UserError, "no head 2; the method has 2"):
            ClusterHead(head=2).measure(self.subject())


if __name__ == "__main__":
    absltest.main()
