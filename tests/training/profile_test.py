"""`--profile`: a trace of the requested steps, in which the parts of a step are named."""

import os
import re
from pathlib import Path

import jax
from absl.testing import absltest, parameterized

from ssl_jax import cli
from ssl_jax.core.errors import UserError
from ssl_jax.training.profile import Profile
from ssl_jax.training.step import make_train_step
from tests.objectives import harness


class ProfileTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def train(self, span):
        return cli.run(
            [
                "train",
                "--config=simclr:digits",
                f"--workdir={self.folder / 'W'}",
                f"--profile={span}",
                "--config.backbone.width=4",
                "--config.objective.projector=(8,8)",
                "--config.train.steps=6",
                "--config.train.batch_size=32",
                "--config.evals.every=-1",
            ]
        )

    def test_a_trace_of_the_steps(self):
        self.assertEqual(self.train("2:4"), 0)
        (trace,) = (self.folder / "W" / "profile").rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(os.fspath(trace))
        steps = {
            dict(event.stats)["step_num"]
            for plane in profile.planes
            for line in plane.lines
            for event in line.events
            if event.name == "train"
        }
        self.assertEqual(steps - {4}, {2, 3})  # the beginning of the next one may be there too

    @parameterized.parameters("5", "5:", "5:5", "a:b")
    def test_no_such_range(self, span):
        self.assertEqual(self.train(span), 2)
        self.assertFalse((self.folder / "W").exists())
        with self.assertRaisesRegex(UserError, f"--profile={span}: expected FIRST:LAST"):
            Profile(span, self.folder)

    def test_a_run_that_goes_on_behind_them(self):
        profile = Profile("2:4", self.folder / "profile")
        for step in range(5, 8):
            profile.at("data", step)
            profile.at("step", step)
        profile.close()
        self.assertFalse((self.folder / "profile").exists())

    def test_names_in_the_compiled_step(self):
        made = harness.experiment("byol", data=8)
        step = make_train_step(made.objective, made.tx, made.schedule, made.mesh, made.placed)
        batch = next(made.batches(0, 1))
        text = step.lower(made.abstract_state, batch).compile().as_text()
        names = re.findall(r'op_name="([^"]*)"', text)
        for scope in ("/augment/", "/loss/", "jvp(forward)/", "/optimizer/", "/after_update/ema/"):
            self.assertTrue(any(scope in name for name in names), scope)
        self.assertTrue(any("/loss/transpose(jvp(forward))/" in name for name in names))


if __name__ == "__main__":
    absltest.main()
