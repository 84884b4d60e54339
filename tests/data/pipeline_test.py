from pathlib import Path
from unittest import mock

import cv2
import jax
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from ssl_jax.core import placement
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.core.placement import prefetch_to_device, replicate, to_global
from ssl_jax.data import reader as reader_module
from ssl_jax.data.decode import decode
from ssl_jax.data.pipeline import batches, eval_arrays
from ssl_jax.data.sources import ArraySource, open_source

CROPS = Inputs((View(6, 2, (0.3, 1.0)), View(4, 1, (0.1, 0.3))), label=True)
WHOLE = Inputs((View(6, 2, (1.0, 1.0)),))


def arrays(n=22, size=8, labels=True) -> ArraySource:
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, 3)).astype(np.uint8)
    return ArraySource("random", pixels, np.arange(n) % 5 if labels else None)


def run(source, inputs=CROPS, batch=8, **kw) -> list[dict]:
    options = {"seed": 0, "stop_step": 6, "threads": 2} | kw
    return list(batches(source, inputs, global_batch=batch, **options))


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


class BatchesTest(parameterized.TestCase):
    def folder(self, n=12, broken=()):
        root = Path(self.create_tempdir().full_path)
        rng = np.random.default_rng(1)
        for i in range(n):
            image = Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3)).astype(np.uint8))
            (root / f"c{i % 2}").mkdir(exist_ok=True)
            image.save(root / f"c{i % 2}" / f"{i:02}.jpg")
        source = open_source(f"folder:{root}")
        for i in broken:
            Path(source.describe(i)).write_bytes(b"no JPEG")
        return source

    def test_what_a_batch_holds(self):
        source = arrays()
        (batch, *_) = run(source)
        self.assertEqual([v.shape for v in batch["views"]], [(8, 2, 6, 6, 3), (8, 1, 4, 4, 3)])
        self.assertEqual({v.dtype for v in batch["views"]}, {np.dtype(np.uint8)})
        self.assertEqual((batch["index"].dtype, batch["index"].shape), (np.int32, (8,)))
        np.testing.assert_array_equal(batch["label"], source.labels[batch["index"]])
        self.assertEqual(batch["label"].dtype, np.int32)
        self.assertNotIn("label", run(source, WHOLE)[0])

    def test_whole_images_are_resized_rows(self):
        source = arrays()
        for batch in run(source, WHOLE):
            for row, index in enumerate(batch["index"]):
                want = cv2.resize(source.arrays[index], (6, 6), interpolation=cv2.INTER_LINEAR)
                np.testing.assert_array_equal(batch["views"][0][row], [want, want])

    def test_crops_of_encoded_and_of_memory_images_are_the_same(self):
        root = Path(self.create_tempdir().full_path)
        source = arrays(labels=False)
        for i, image in enumerate(source.arrays):
            Image.fromarray(image).save(root / f"{i:03}.png")
        assert_same(run(source), run(open_source(f"folder:{root}")))

    def test_large_jpegs_are_decoded_small_with_the_same_crops(self):
        root = Path(self.create_tempdir().full_path)
        y, x = np.mgrid[:240, :320] / 240
        image = np.stack([255 * y, 180 * x, 255 * (1 - y)], -1).astype(np.uint8)  # smooth
        for i in range(8):
            Image.fromarray(image).save(root / f"{i}.jpg", quality=95)
        source = open_source(f"folder:{root}")
        inputs = Inputs((View(16, 2, (0.2, 1.0)), View(8, 1, (0.1, 0.3), crop="one_draw")))
        sizes = []

        def spy(data, channels, room=None, value_range=()):
            sizes.append((decode(data, channels, room).shape[0], room is None))
            return decode(data, channels, None if whole else room)

        with mock.patch.object(reader_module, "decode", spy):
            whole = False
            (small,) = run(source, inputs, stop_step=1)
            whole = True
            (full,) = run(source, inputs, stop_step=1)
        self.assertLess(max(h for h, _ in sizes), 240)
        for a, b in zip(small["views"], full["views"], strict=True):
            # A box may be off by a pixel of an image of 30, where grey levels rise by 255 / 30; a
            # try that fits one size may just not fit the other.
            far = np.abs(a.astype(int) - b).max((2, 3, 4)) > 18
            self.assertLess(far.mean(), 0.2)
        assert_same(run(source, inputs, threads=1), run(source, inputs, threads=3))

    def test_views_and_epochs_see_other_crops(self):
        source = arrays()
        crops_of: dict[int, list] = {}
        for batch in run(source, stop_step=4):  # two epochs of two steps
            for row, index in enumerate(batch["index"]):
                crops_of.setdefault(int(index), []).extend(batch["views"][0][row])
        twice = [crops for crops in crops_of.values() if len(crops) == 4]
        self.assertGreater(len(twice), 5)
        for crops in twice:
            self.assertLen({c.tobytes() for c in crops}, 4)

    @parameterized.parameters("arrays", "folder")
    def test_a_restart_goes_on_with_the_same_batches(self, kind):
        source = arrays() if kind == "arrays" else self.folder()
        assert_same(run(source)[4:], run(source, start_step=4))
        self.assertEqual(run(source, start_step=6), [])

    @parameterized.parameters("arrays", "folder")
    def test_threads_and_prefetch_change_nothing(self, kind):
        source = arrays() if kind == "arrays" else self.folder()
        assert_same(run(source), run(source, threads=1, prefetch=0))
        assert_same(run(source), run(source, threads=5, prefetch=4))

    @parameterized.product(hosts=[2, 4], kind=["arrays", "folder"], inputs=[CROPS, WHOLE])
    def test_hosts_together_make_the_global_batch(self, hosts, kind, inputs):
        source = arrays() if kind == "arrays" else self.folder(broken=[3])
        options = {"max_bad_fraction": 0.1}
        rows = np.split(np.arange(8), hosts)
        parts = [run(source, inputs, rows=mine, **options) for mine in rows]
        together = [
            jax.tree.map(lambda *x: np.concatenate(x), *p) for p in zip(*parts, strict=True)
        ]
        assert_same(together, run(source, inputs, **options))

    @parameterized.parameters(22, 24, 8)
    def test_an_epoch_is_every_example_but_the_rest(self, n):
        source = arrays(n)
        indices = np.concatenate([b["index"] for b in run(source, stop_step=n // 8)])
        self.assertLen(set(indices.tolist()), n - n % 8)

    def test_a_seed_changes_order_and_crops(self):
        first, second = run(arrays(8)), run(arrays(8), seed=1)
        self.assertFalse(np.array_equal(first[0]["index"], second[0]["index"]))
        crops = [
            {int(i): v.tobytes() for i, v in zip(b[0]["index"], b[0]["views"][0], strict=True)}
            for b in (first, second)
        ]
        self.assertTrue(all(crops[0][i] != crops[1][i] for i in range(8)))

    def test_corrupt_images_are_replaced_in_their_slots(self):
        clean = self.folder()
        want = run(clean)
        Path(clean.describe(3)).write_bytes(b"no JPEG")
        iterator = batches(clean, CROPS, global_batch=8, seed=0, stop_step=6, max_bad_fraction=0.1)
        got = list(iterator)
        self.assertEqual(iterator.bad, 1)
        hit = 0
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a["index"], b["index"])
            for row, index in enumerate(a["index"]):
                same = np.array_equal(a["views"][0][row], b["views"][0][row])
                self.assertEqual(same, index != 3)
                hit += index == 3
        self.assertGreater(hit, 0)

    def test_too_many_corrupt_images_end_the_iteration(self):
        source = self.folder(broken=[1, 3, 5])
        with self.assertRaisesRegex(UserError, r"images of folder:.* cannot be read .*\.jpg"):
            run(source, max_bad_fraction=0.1)

    def test_labels_are_those_of_the_pixels_or_none(self):
        source = self.folder(broken=[3])
        for batch in run(source, max_bad_fraction=0.1):
            good = batch["index"] != 3
            want = source.labels[batch["index"]]
            np.testing.assert_array_equal(batch["label"][good], want[good])
        self.assertTrue((run(arrays(labels=False))[0]["label"] == -1).all())

    def test_channels(self):
        self.assertEqual(run(arrays(), WHOLE, channels=1)[0]["views"][0].shape[-1], 1)
        self.assertEqual(run(self.folder(), CROPS, channels=1)[0]["views"][0].shape[-1], 1)

    def test_errors_come_before_the_first_batch(self):
        for options, message in (
            ({"batch": 23}, "batch of 23 is larger"),
            ({"inputs": Inputs(text=4)}, "has no captions"),
            (
                {"inputs": Inputs(streams=(("b", WHOLE),))},
                "needs a further data set 'b'; set --config.data.streams.b",
            ),
            ({"streams": {"b": arrays()}}, "data.streams.b: .* uses no such data set; none"),
        ):
            kw = {"inputs": WHOLE, "batch": 8, "seed": 0, "stop_step": 1} | options
            with self.assertRaisesRegex(UserError, message):
                batches(arrays(), kw.pop("inputs"), global_batch=kw.pop("batch"), **kw)


class StreamsTest(parameterized.TestCase):
    INPUTS = Inputs(WHOLE.views, streams=(("b", CROPS),))

    def test_a_stream_is_a_batch_of_its_own_set(self):
        other = arrays(labels=True)
        got = run(arrays(), self.INPUTS, streams={"b": other})
        assert_same([{k: b[k] for k in ("views", "index")} for b in got], run(arrays(), WHOLE))
        for batch in got:
            inner = batch["b"]
            self.assertLen(set(inner["index"]), 8)
            np.testing.assert_array_equal(inner["label"], other.labels[inner["index"]])
            self.assertNotEqual(list(inner["index"]), list(batch["index"]))
        self.assertEqual(got[0]["b"]["views"][0].shape[:2], (8, CROPS.views[0].count))

    def test_hosts_and_restarts(self):
        streams = {"b": arrays()}
        whole = run(arrays(), self.INPUTS, streams=streams)
        assert_same(whole[3:], run(arrays(), self.INPUTS, streams=streams, start_step=3))
        rows = np.split(np.arange(8), 2)
        parts = [run(arrays(), self.INPUTS, streams=streams, rows=mine) for mine in rows]
        for batch, *halves in zip(whole, *parts, strict=True):
            np.testing.assert_array_equal(
                batch["b"]["index"], np.concatenate([h["b"]["index"] for h in halves])
            )


class BoxesOnlyTest(parameterized.TestCase):
    @parameterized.parameters(1, 2)
    def test_same_order_and_labels_and_no_pixels(self, hosts):
        source = arrays()
        inputs = Inputs((*CROPS.views, *WHOLE.views), label=True)
        for mine in np.split(np.arange(8), hosts):
            place = {"rows": mine}
            with mock.patch.object(source, "read", side_effect=AssertionError("a pixel was read")):
                got = run(source, inputs, boxes_only=True, **place)
            for a, b in zip(got, run(source, inputs, **place), strict=True):
                self.assertNotIn("views", a)
                assert_same((a["index"], a["label"]), (b["index"], b["label"]))
                local = 8 // hosts
                self.assertEqual([x.shape for x in a["boxes"]], [(local, 2, 4), (local, 1, 4)])

    def test_sets(self):
        source = arrays()
        made = batches(
            source,
            Inputs((*CROPS.views, *WHOLE.views)),
            global_batch=8,
            seed=0,
            stop_step=1,
            boxes_only=True,
        )
        first, second, whole = made.sets()
        self.assertIs(first, source.arrays)
        self.assertIs(second, source.arrays)
        self.assertEqual(whole.shape, (22, 6, 6, 3))

    def test_a_set_of_files_is_refused(self):
        root = Path(self.create_tempdir().full_path)
        for i in range(3):
            Image.new("RGB", (9, 9)).save(root / f"{i}.png")
        with self.assertRaisesRegex(UserError, "data.cache=device: expected images in memory"):
            run(open_source(f"folder:{root}"), batch=2, boxes_only=True)


class EvalArraysTest(absltest.TestCase):
    def test_in_order_with_a_padded_end(self):
        source = arrays(22)
        got = list(eval_arrays(source, 8, batch=8))
        self.assertEqual([i.shape for i, _ in got], [(8, 8, 8, 3)] * 3)
        index = np.concatenate([i for _, i in got])
        np.testing.assert_array_equal(index, [*range(22), -1, -1])
        images = np.concatenate([x for x, _ in got])
        np.testing.assert_array_equal(images[:22], source.arrays)
        self.assertEqual(images[22:].max(), 0)

    def test_chosen_rows(self):
        ((images, index),) = eval_arrays(arrays(), 8, rows=np.array([5, 2]), batch=3)
        np.testing.assert_array_equal(index, [5, 2, -1])
        np.testing.assert_array_equal(images[:2], arrays().arrays[[5, 2]])

    def test_corrupt_images_are_left_out(self):
        root = Path(self.create_tempdir().full_path)
        for i in range(3):
            Image.new("RGB", (9, 9), (i + 1, 0, 0)).save(root / f"{i}.png")
        (root / "1.png").write_bytes(b"")
        ((images, index),) = eval_arrays(
            open_source(f"folder:{root}"), 8, batch=3, max_bad_fraction=0.5
        )
        np.testing.assert_array_equal(index, [0, -1, 2])
        np.testing.assert_array_equal(images[:, 0, 0, 0], [1, 0, 3])


class DeviceTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        mesh = Mesh(np.array(jax.devices()), ("data",))
        self.sharding = NamedSharding(mesh, PartitionSpec("data"))

    def test_to_global_splits_the_first_axis(self):
        with jax.transfer_guard("disallow"):
            batch = to_global(run(arrays())[0], self.sharding)
        want = run(arrays())[0]
        assert_same(jax.device_get(batch), want)
        for leaf in jax.tree.leaves(batch):
            self.assertTrue(leaf.sharding.is_equivalent_to(self.sharding, leaf.ndim))

    def test_replicate_places_each_array_once(self):
        mesh = Mesh(np.array(jax.devices()), ("data",))
        everywhere = NamedSharding(mesh, PartitionSpec())
        a, b = arrays(4).arrays, arrays(5).arrays
        placed = replicate((a, b, a), everywhere)
        assert_same(jax.device_get(placed), (a, b, a))
        self.assertIs(placed[0], placed[2])
        self.assertTrue(placed[1].sharding.is_fully_replicated)

    def test_replicate_refuses_what_fills_the_device(self):
        mesh = Mesh(np.array(jax.devices()), ("data",))
        everywhere = NamedSharding(mesh, PartitionSpec())
        a = np.zeros((4, 8, 8, 3), np.uint8)
        for room, fits in ((2 * a.nbytes, True), (2 * a.nbytes - 1, False)):
            with mock.patch.object(placement, "_device_memory", return_value=room):
                if fits:
                    replicate((a, a), everywhere)
                else:
                    with self.assertRaisesRegex(UserError, "more than half of the device's"):
                        replicate((a, a), everywhere)

    def test_prefetch_keeps_order_and_end_and_runs_ahead(self):
        taken = []

        def source():
            for i in range(5):
                taken.append(i)
                yield {"x": np.full(8, i, np.int32)}

        for depth in (1, 2, 3, 9):
            taken.clear()
            out = prefetch_to_device(source(), self.sharding, depth)
            first = next(out)
            self.assertLen(taken, min(depth, 5))
            rest = [int(b["x"][0]) for b in out]
            self.assertEqual([int(first["x"][0]), *rest], list(range(5)))


if __name__ == "__main__":
    absltest.main()
