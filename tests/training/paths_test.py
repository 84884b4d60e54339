import os
from pathlib import Path

from absl.testing import absltest, parameterized

from ssl_jax.training import paths


class PathsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.here = Path(self.create_tempdir().full_path)
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.here)

    def test_anchored(self):
        (self.here / "run").mkdir()
        (self.here / "m.py").touch()
        config = {
            "objective": {"name": "m.py", "t": 1},
            "data": {"train": "folder:x", "eval": None, "streams": {"b": "npz:y"}},
            "train": {"init_from": "run"},
        }
        at = str(self.here)
        made = paths.anchored(config)
        self.assertEqual(made["objective"], {"name": f"{at}/m.py", "t": 1})
        want = {"train": f"folder:{at}/x", "eval": None, "streams": {"b": f"npz:{at}/y"}}
        self.assertEqual(made["data"], want)
        self.assertEqual(made["train"], {"init_from": f"{at}/run"})
        self.assertEqual(config["data"]["train"], "folder:x")
        self.assertEqual(paths.anchored(made), made)

    @parameterized.parameters(
        ({}, "data"), ({"data": 3}, "data"), ({"objective": {"name": "a"}}, "train")
    )
    def test_other_values_stay(self, config, _):
        self.assertEqual(paths.anchored(config), config)

    def test_two_spellings_of_one_path(self):
        at = str(self.here)
        (self.here / "m.py").touch()
        for key, old, new in (
            ("data.train", "folder:x", f"folder:{at}/x"),
            ("data.train", "folder:x", "folder:/elsewhere/x"),  # from another working directory
            ("data.train", "folder:/x", "folder:/x#."),
            ("data.streams.a", "npz:x.npz", f"npz:{at}/x.npz"),
            ("objective.name", "m.py", f"{at}/m.py"),
        ):
            self.assertTrue(paths.same(key, old, new), (old, new))
        for key, old, new in (
            ("data.train", "folder:x", f"folder:{at}/y"),
            ("data.train", "folder:/a/x", "folder:/b/x"),
            ("data.train", None, "digits"),
            ("data.fold", "x", f"{at}/x"),
            ("objective.name", "a", "b"),
        ):
            self.assertFalse(paths.same(key, old, new), (old, new))


if __name__ == "__main__":
    absltest.main()
