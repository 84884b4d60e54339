from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Window
from ssl_jax.data import order as orders
from ssl_jax.data.order import Order, WindowOrder, make_order


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


class WindowOrderTest(parameterized.TestCase):
    def test_the_released_sampler(self):
        """`out_fixed_*`: where the window wraps at the end of the data set."""
        data = np.load(Path(__file__).parents[1] / "golden/pic_sampler.npz")
        count, size = int(data["hp_n_data"]), int(data["hp_window"])
        window = Window(size, int(data["hp_stride"]), bool(data["hp_reshuffle"]))
        order, shuffled = WindowOrder(count, size, 0, window), 0
        for epoch, expected in enumerate(data["out_fixed_indices"]):
            tables = {size: data["in_fixed_window_perm"], count: data["out_fixed_order"]}
            recorded = lambda x, length, key: tables[length][epoch][x]  # noqa: B023, E731
            with mock.patch.object(orders, "permute", recorded):
                np.testing.assert_array_equal(order.indices(epoch), expected)
            self.assertEqual(order.start(epoch), data["out_fixed_start"][epoch])
            shuffled += int(data["out_fixed_reshuffled"][epoch])
            self.assertEqual(order.shuffles(epoch), shuffled)

    def test_shuffles_before_the_passes_that_go_beyond_the_end(self):
        order = WindowOrder(10, 4, 0, Window(4, 3))
        starts = [0, 3, 6, 9, 2, 5, 8, 1, 4, 7, 0, 3, 6, 9]
        self.assertEqual([order.start(e) for e in range(14)], starts)
        self.assertEqual(
            [order.shuffles(e) for e in range(14)], list(np.cumsum([s > 6 for s in starts]))
        )

    def test_each_image_is_shown_window_by_stride_times_in_succession(self):
        count, size, stride = 4096, 512, 64
        order = WindowOrder(count, 128, 1, Window(size, stride, reshuffle=False))
        passes = np.concatenate([order.indices(s) for s in range(4 * count // stride)])
        self.assertEqual(order.steps_per_epoch, 4)
        np.testing.assert_array_equal(np.bincount(passes), np.full(count, size // stride))
        by_pass = passes.reshape(-1, size)
        self.assertLen(set(by_pass[0]) & set(by_pass[1]), size - stride)
        self.assertFalse(np.array_equal(by_pass[0][:stride], by_pass[1][:stride]))

    def test_hosts_and_restarts(self):
        order = WindowOrder(100, 12, 3, Window(40, 10))
        for step in (0, 5, 31):
            whole = order.indices(step)
            self.assertLen(set(whole.tolist()), 12)
            rows = np.arange(0, 12, 3)
            np.testing.assert_array_equal(order.indices(step, rows), whole[rows])

    def test_bad_windows(self):
        self.assertIs(type(make_order(100, 10, 0, None)), Order)
        with self.assertRaisesRegex(UserError, "window: expected 10 .* to 100 .*, got 101"):
            make_order(100, 10, 0, Window(101, 10))


if __name__ == "__main__":
    absltest.main()
