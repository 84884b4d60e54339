import os
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import held_out, open_source


class MixTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)
        place = self.create_tempdir().full_path
        self.enterContext(mock.patch.dict(os.environ, {"SSL_JAX_CACHE": place}))
        self.a, self.b = self.npz("a", 10, 3), self.npz("b", 4)

    def npz(self, name, n, classes=0):
        """`n` images of one pixel; the pixels of all sets together are 0, 1, 2, ..."""
        start = {"a": 0, "b": 100}[name]
        images = np.arange(start, start + n, dtype=np.uint8)[:, None, None]
        labels = {"y": np.arange(n) % classes} if classes else {}
        np.savez(self.root / f"{name}+x.npz", x=images, **labels)
        return f"npz:{self.root}/{name}+x.npz"

    def pixels(self, source):
        return [int(source.read(i)[0, 0, 0]) for i in range(len(source))]

    def test_without_weights_each_example_once(self):
        source = open_source(f"mix:{self.a}+{self.b}")
        self.assertEqual(self.pixels(source), [*range(10), *range(100, 104)])
        np.testing.assert_array_equal(source.labels, [0, 1, 2] * 3 + [0] + [-1] * 4)
        self.assertEqual(source.class_names, ("0", "1", "2"))
        self.assertIn("index 3 of npz", source.describe(13))

    @parameterized.parameters(
        (0.5, 0.5, 10, 10), (1, 3, 10, 30), (0.9, 0.1, 36, 4), (10, 4, 10, 4), (2e-3, 1e-3, 10, 5)
    )
    def test_weights_are_shares(self, first, second, rows_a, rows_b):
        source = open_source(f"mix:{first}*{self.a}+{second}*{self.b}")
        pixels = self.pixels(source)
        self.assertEqual([sum(p < 100 for p in pixels), len(pixels)], [rows_a, rows_a + rows_b])
        for part, n in ((pixels[:rows_a], 10), (pixels[rows_a:], 4)):
            counts = Counter(part).values()
            self.assertLen(counts, n)  # all of them
            self.assertLessEqual(max(counts) - min(counts), 1)

    def test_a_broken_repeat_is_a_random_choice(self):
        source = open_source(f"mix:0.9*{self.a}+0.1*{self.b}")
        again = Counter(self.pixels(source)[:36])
        fourth = {p for p, n in again.items() if n == 4}
        self.assertLen(fourth, 6)
        self.assertNotEqual(fourth, set(range(6)))

    def test_classes_of_one_name_are_one(self):
        for folder in ("x/cat", "x/dog", "y/ant", "y/cat"):
            (self.root / folder).mkdir(parents=True)
            (self.root / folder / "1.jpg").write_bytes(folder.encode())
        source = open_source(f"mix:folder:{self.root}/x+folder:{self.root}/y")
        self.assertEqual(source.class_names, ("cat", "dog", "ant"))
        self.assertEqual(source.labels.tolist(), [0, 1, 2, 0])
        self.assertEqual(source.read(2), b"y/ant")

    def test_captions_if_all_have_them(self):
        for name in "xyz":
            (self.root / name).mkdir()
            (self.root / name / "1.jpg").write_bytes(b"")
            line = f'{{"file_name": "1.jpg", "text": "of {name}"}}'
            if name != "z":
                (self.root / name / "captions.jsonl").write_text(line)
        parts = [f"folder:{self.root}/{name}" for name in "xyz"]
        source = open_source(f"mix:1*{parts[0]}+2*{parts[1]}")
        self.assertEqual(source.captions, [["of x"], ["of y"], ["of y"]])
        self.assertIsNone(open_source(f"mix:{parts[0]}+{parts[2]}").captions)

    def test_splits_go_to_the_parts(self):
        self.assertLen(open_source(f"mix:digits+{self.b}"), 1437 + 4)
        self.assertLen(open_source(f"mix:digits+{self.b}", "eval"), 360 + 4)
        self.assertIsNone(held_out(f"mix:digits+{self.b}"))

    def test_fingerprint(self):
        specs = (f"{self.a}+{self.b}", f"1*{self.a}+1*{self.b}", f"{self.b}+{self.a}", self.a)
        prints = [open_source(f"mix:{s}").fingerprint() for s in (*specs, specs[0])]
        self.assertEqual(prints[0], prints[-1])
        self.assertLen(set(prints), 4)

    def test_bad(self):
        for path, message in (
            (f"0.5*{self.a}+{self.b}", r"expected WEIGHT\*DATA for all"),
            (f"0*{self.a}+1*{self.b}", "expected a positive weight, got '0'"),
            (f"x*{self.a}+1*{self.b}", "expected a positive weight, got 'x'"),
            (f"nan*{self.a}+1*{self.b}", "expected a positive weight, got 'nan'"),
            (f"1e-12*{self.a}+1*{self.b}", "rows to include each example once"),
            (f"1*mix:{self.a}", "no mixture in a mixture"),
            ("npz:/nowhere.npz+digits", "npz:/nowhere.npz: no such file"),
            ("", "unknown data ''"),
        ):
            with self.assertRaisesRegex(UserError, message):
                open_source(f"mix:{path}")


if __name__ == "__main__":
    absltest.main()
