import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data.order import Order


class OrderTest(parameterized.TestCase):
    @parameterized.parameters((100, 10), (103, 10), (10, 10), (11, 10), (7, 1))
    def test_an_epoch_holds_each_example_at_most_once(self, n, batch):
        order = Order(n, batch, seed=3)
        self.assertEqual(order.steps_per_epoch, n // batch)
        for epoch in range(3):
            steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
            indices = np.concatenate([order.indices(s) for s in steps])
            self.assertLen(indices, n - n % batch)
            self.assertLen(set(indices.tolist()), len(indices))
            self.assertTrue((indices >= 0).all() and (indices < n).all())
            self.assertEqual({order.epoch(s) for s in steps}, {epoch})

    def test_epochs_and_seeds_differ_in_order(self):
        def first(seed, epoch):
            return tuple(Order(1000, 100, seed).indices(10 * epoch).tolist())

        self.assertLen({first(s, e) for s in range(4) for e in range(4)}, 16)

    def test_what_an_epoch_drops_changes(self):
        order = Order(15, 10, seed=0)
        indices = set(np.concatenate([order.indices(s) for s in range(20)]).tolist())
        self.assertEqual(indices, set(range(15)))

    @parameterized.parameters(1, 2, 4)
    def test_hosts_together_make_the_global_batch(self, hosts):
        order = Order(103, 12, seed=1)
        for step in (0, 7, 8, 100):
            whole = order.indices(step)
            for host in range(hosts):
                rows = np.arange(host, 12, hosts)
                np.testing.assert_array_equal(order.indices(step, rows), whole[rows])

    def test_bad_batches(self):
        with self.assertRaisesRegex(UserError, "batch of 11 is larger than .* 10 examples"):
            Order(10, 11, 0)
        with self.assertRaisesRegex(UserError, "expected at least 1"):
            Order(10, -4, 0)


if __name__ == "__main__":
    absltest.main()
