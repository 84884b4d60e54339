"""Self-Classifier's nearest neighbours from its queue, and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.objectives.self_classifier import SelfClassifier
from tests.objectives import harness


def with_queue(**hyper):
    made = harness.experiment("self_classifier").objective
    hyper = dict(views=made.views, projector=(8, 4), classes=(6,), queue_size=32) | hyper
    return SelfClassifier.make(made.backbone, made.spec, **hyper)


class SelfClassifierTest(parameterized.TestCase):
    def test_nearest_of_another_image_once_the_queue_is_full(self):
        method = with_queue()
        _, extra = method.init(jax.random.key(0))
        queued = extra["queue"]
        queued["index"] = jnp.arange(100, 132, dtype=jnp.int32).reshape(16, 2)
        keys = np.asarray(queued["keys"])
        # The first is nearest to itself, an embedding of the same image.
        index = jnp.arange(16, dtype=jnp.int32).at[0].set(queued["index"][3, 1])
        first = l2_normalize(jnp.asarray(keys[::-1, 0] + 0.01)).at[0].set(keys[3, 1])
        neighbours = np.asarray(method.neighbours(queued, first, index, jnp.int32(2)))
        np.testing.assert_array_equal(neighbours[1:], keys[::-1, 0][1:])
        others = np.delete(keys.reshape(-1, 4), 7, axis=0)
        np.testing.assert_array_equal(neighbours[0], others[np.argmax(others @ keys[3, 1])])
        waiting = method.neighbours(queued, first, index, jnp.int32(1))
        np.testing.assert_array_equal(waiting, first)

    def test_the_queue_holds_the_last_embeddings_and_whose_they_are(self):
        method = with_queue()
        params, extra = jax.jit(method.init)(jax.random.key(0))
        made = harness.experiment("self_classifier")
        batch = harness.device_batch(made)
        run = jax.jit(lambda extra: method.loss(params, extra, batch, None, jnp.int32(0))[1])
        aux = run(extra)
        _, after = method.after_update(params, aux.extra, aux.signals, jnp.int32(0))
        np.testing.assert_array_equal(after["queue"]["keys"][:, 0], aux.signals["first"])
        np.testing.assert_array_equal(after["queue"]["index"][:, 0], batch["index"])
        np.testing.assert_array_equal(after["queue"]["index"][:, 1], -1)
        _, again = method.after_update(params, after, aux.signals, jnp.int32(1))
        np.testing.assert_array_equal(again["queue"]["keys"][:, 1], aux.signals["first"])
        kind = lambda t: [(x.shape, x.dtype) for x in jax.tree.leaves(t)]  # noqa: E731
        self.assertEqual(kind(again), kind(extra))

    @parameterized.parameters(
        (dict(classes=()), "one or more numbers"),
        (dict(classes=(5, 2000)), "1437 examples"),
        (dict(large=1), "must fill whole groups"),
    )
    def test_errors(self, hyper, message):
        with self.assertRaisesRegex(UserError, message):
            with_queue(**hyper)


if __name__ == "__main__":
    absltest.main()
