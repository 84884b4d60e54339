"""The user's own augmentation chains: in a config or on the command line, and in the run."""

import contextlib
import dataclasses
import io
import json
from pathlib import Path
from unittest import mock

from absl.testing import absltest, parameterized

import ssl_jax
from ssl_jax import cli
from ssl_jax.augment.recipes import PUBLISHED, RECIPES, Affine, Transform
from ssl_jax.core.errors import UserError
from ssl_jax.run import flags
from ssl_jax.run.configs import configured
from ssl_jax.run.experiment import Experiment

TURNS = Transform(flip=0.5, affine=Affine(rotation=3.1416))  # of pictures from above
FILE = """
from configs import simclr
from ssl_jax.augment.recipes import RECIPES, Affine, Transform
RECIPES["from_above"] = Transform(flip=0.5, affine=Affine(rotation=3.1416))
def get_config(arg=""):
    config = simclr.get_config("digits")
    config.objective.view.recipe = "from_above"
    config.objective.projector = (8, 8)
    config.backbone.width = 4
    config.train = {"steps": 1, "batch_size": 16}
    config.evals = {"every": -1}
    return config
"""


def resolved(spec, *overrides):
    """Return the section `objective` of config.json."""
    words = ["train", *(f"--config.{word}" for word in overrides)]
    config = configured(spec, flags.parse(words, "", flags.ConfigFlags).overrides, "digits")
    return Experiment.from_config(config).resolved()["objective"]


class ChainsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"flip": 0.5}, "objective.view.recipe={'flip': 0.5}", Transform()),
        ({"flip": 0.5}, "objective.view.recipe.flip=0.5", PUBLISHED["digits"]),
        ({"affine": Affine(1.0)}, "objective.view.recipe={'affine': {'rotation': 1}}", Transform()),
        (
            {"affine": dataclasses.replace(PUBLISHED["digits"].affine, rotation=1.0)},
            "objective.view.recipe.affine.rotation=1",
            PUBLISHED["digits"],
        ),
        (
            {"jitter": (0.4, 0.0, 0.0, 0.1)},
            "objective.view.recipe.jitter.3=0.1",
            PUBLISHED["digits"],
        ),
    )
    def test_a_chain_is_given_whole_or_by_what_differs(self, changes, override, start):
        want = dataclasses.asdict(dataclasses.replace(start, **changes))
        stored = resolved("simclr:digits", override)["view"]["recipe"]
        self.assertEqual(stored, json.loads(json.dumps(want)))

    @parameterized.parameters(
        ("pirl", "patch_recipe.flip=0.25", ("patch_recipe",), PUBLISHED["none"]),
        ("pirl", "patch_recipe={'flip': 0.25}", ("patch_recipe",), Transform()),
        ("jigsaw_clustering", "piece.recipe.flip=0.25", ("piece", "recipe"), PUBLISHED["digits"]),
        (
            "jigsaw_clustering",
            "piece.transform.flip=0.25",
            ("piece", "recipe"),
            PUBLISHED["digits"],
        ),
    )
    def test_chains_that_a_method_applies_itself(self, method, override, path, start):
        stored = resolved(f"{method}:digits", f"objective.{override}")
        for name in path:
            stored = stored[name]
        want = dataclasses.asdict(dataclasses.replace(start, flip=0.25))
        self.assertEqual(stored, json.loads(json.dumps(want)))

    def test_such_a_chain_with_a_name_of_a_config_file_is_stored_in_full(self):
        with mock.patch.dict(RECIPES, {"from_above": TURNS}):
            stored = resolved("pirl:digits", "objective.patch_recipe=from_above")
        self.assertEqual(stored["patch_recipe"]["affine"]["rotation"], 3.1416)
        self.assertEqual(resolved("pirl:digits")["patch_recipe"], "none")

    def test_a_chain_that_the_config_leaves_to_the_method_is_changed_too(self):
        config = {"objective": {"name": "simclr"}}
        with mock.patch("ssl_jax.run.configs.load_config", lambda spec: config):
            changed = configured("", [("objective.view.recipe.flip", 0.25)])
        self.assertEqual(changed["objective"]["view"]["recipe"]["jitter_kind"], "simclr")

    @parameterized.parameters(
        ("transform.jitter=(0.4,0,0,0.1)", "recipe.jitter=(0.4,0,0,0.1)"),
        ("transform.affine.rotation=1", "recipe.affine.rotation=1"),
        ("transform=none", "recipe=none"),
    )
    def test_transform_is_another_name_of_the_key(self, new, stored):
        new, stored = f"objective.view.{new}", f"objective.view.{stored}"
        self.assertEqual(resolved("simclr:digits", new), resolved("simclr:digits", stored))
        views = [
            resolved("byol:digits", f"objective.views.1.{key}.flip=1")
            for key in ("recipe", "transform")
        ]
        self.assertEqual(*views)

    def test_a_config_file_may_say_transform(self):
        folder = Path(self.create_tempdir().full_path)
        (folder / "new.py").write_text(FILE.replace("view.recipe", "view.transform"))
        (folder / "old.py").write_text(FILE)
        with mock.patch.dict(RECIPES):
            new, old = (
                resolved(f"{folder}/{name}.py", "objective.view.transform.flip=1")
                for name in ("new", "old")
            )
        self.assertEqual(new["view"]["recipe"]["affine"]["rotation"], 3.1416)
        self.assertEqual(new, old)

    def test_entries_of_tuples_go_by_their_number(self):
        views = resolved("byol:digits", "objective.views.0.size=32", "objective.views.1.strength=2")
        self.assertEqual([v["size"] for v in views["views"]], [32, 16])
        self.assertEqual([v["strength"] for v in views["views"]], [0.5, 2.0])
        chains = resolved("byol:digits", "objective.views.1.recipe.flip=1")["views"]
        self.assertEqual(chains[0]["recipe"], "digits")
        self.assertEqual(chains[1]["recipe"]["flip"], 1.0)

    @parameterized.parameters(
        ("objective.view.recipe.flap=0.5", "recipe: unknown key 'flap'; did you mean 'flip'"),
        ("objective.view.recipe={'affine': {'rot': 1}}", "recipe.affine: unknown key 'rot'"),
        ("objective.view.recipe.flip=1.5", r"flip: expected a number in \[0, 1\], got 1.5"),
        ("objective.view.recipe.std=(0.0,)", r"std\[0\]: expected a number above 0, got 0.0"),
        ("objective.view.recipe.jitter=(0,0,0)", "jitter: expected 4 values, got 3"),
        ("objective.view.recipe=5", "unknown recipe '5'"),
        ("objective.view.recipe=from_abov", "unknown recipe 'from_abov'.*of your own"),
        ("objective.projector.2.x=1", "expected a number from 0 to 1, got '2'"),
        ("objective.projector.x=1", "expected a number from 0 to 1, got 'x'"),
    )
    def test_bad_chains_are_refused(self, override, message):
        with self.assertRaisesRegex(UserError, message):
            resolved("simclr:digits", override)

    def test_a_run_with_a_chain_of_a_config_file_needs_the_file_no_more(self):
        folder = Path(self.create_tempdir().full_path)
        (folder / "my.py").write_text(FILE)
        run = folder / "run"
        with mock.patch.dict(RECIPES):
            self.cli("train", f"--config={folder / 'my.py'}", f"--workdir={run}")
        self.assertNotIn("from_above", RECIPES)
        stored = json.loads((run / "config.json").read_text())["objective"]["view"]["recipe"]
        self.assertEqual(stored, json.loads(json.dumps(dataclasses.asdict(TURNS))))
        self.assertEqual(Experiment.of_run(run).resolved()["objective"]["view"]["recipe"], stored)
        self.cli("export", f"--workdir={run}", "--format=npz", f"--output={folder / 'o.npz'}")
        for source in (run, folder / "o.npz"):
            self.assertEqual(ssl_jax.load(source).view.recipe, TURNS)

    def cli(self, *argv):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run(list(argv))
        self.assertEqual(code, 0, err.getvalue())


if __name__ == "__main__":
    absltest.main()
