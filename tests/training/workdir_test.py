import json
import subprocess
import sys
from pathlib import Path

from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.training import workdir

CONFIG = {"objective": {"name": "a", "t": 0.1}, "train": {"steps": 3, "log_every": 1}}


def changed(**keys):
    config = json.loads(json.dumps(CONFIG))
    for key, value in keys.items():
        section, name = key.split("__")
        config[section][name] = value
    return config


class WorkdirTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path) / "run"

    def start(self):
        """A run with a checkpoint."""
        with workdir.opened(self.folder, CONFIG):
            self.assertEqual(workdir.read_config(self.folder), CONFIG)
            step = self.folder / "checkpoints" / "3"
            step.mkdir(parents=True)
            (step / "manifest.json").touch()

    def test_a_run_without_a_checkpoint_starts_anew_with_any_config(self):
        with workdir.opened(self.folder, CONFIG):
            (self.folder / "checkpoints" / "3").mkdir(parents=True)  # never finished
        other = changed(objective__name="b", train__steps=9)
        with workdir.opened(self.folder, other):
            self.assertEqual(workdir.read_config(self.folder), other)

    def test_a_run_goes_on_with_its_config(self):
        self.start()
        with workdir.opened(self.folder, changed(train__log_every=7)):
            self.assertEqual(workdir.read_config(self.folder)["train"]["log_every"], 7)

    @parameterized.parameters(
        ({"objective__name": "b"}, "holds a run of 'a', not of 'b'; give another --workdir"),
        ({"objective__t": 0.2}, r"objective.t \(was 0.1, now 0.2\)"),
        ({"train__steps": 9}, r"train.steps \(was 3, now 9\)"),
        ({"train__new": 1}, r"train.new \(was None, now 1\)"),
    )
    def test_a_config_that_changes_the_result_is_refused(self, keys, message):
        self.start()
        with (
            self.assertRaisesRegex(UserError, message),
            workdir.opened(self.folder, changed(**keys)),
        ):
            self.fail("opened")
        self.assertEqual(workdir.read_config(self.folder), CONFIG)

    def test_two_trainers(self):
        hold = (
            "import sys; from pathlib import Path; from ssl_jax.training import workdir\n"
            "with workdir.opened(Path(sys.argv[1]), {}): print('held', flush=True); input()"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", hold, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert other.stdout is not None
        self.assertEqual(other.stdout.readline().strip(), "held")
        with (
            self.assertRaisesRegex(UserError, "another trainer is at work in"),
            workdir.opened(self.folder, {}),
        ):
            self.fail("opened")
        other.kill()  # the lock goes with its process
        other.communicate()
        with workdir.opened(self.folder, {}):
            pass

    def test_a_file_in_the_way(self):
        self.folder.write_text("")
        with (
            self.assertRaisesRegex(UserError, "cannot write to --workdir=.*: File exists"),
            workdir.opened(self.folder, CONFIG),
        ):
            self.fail("opened")

    def test_no_run(self):
        with self.assertRaisesRegex(UserError, "no run in .*nowhere"):
            workdir.read_config(Path("nowhere"))


if __name__ == "__main__":
    absltest.main()
