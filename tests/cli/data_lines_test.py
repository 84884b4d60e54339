"""The lines on the data that a run prints, and how runs of older versions resume."""

from pathlib import Path

import numpy as np
from absl.testing import absltest
from PIL import Image
from rich.console import Console

from ssl_jax.data.sources import ArraySource
from ssl_jax.run.commands.train import data_lines, with_original_data
from ssl_jax.run.experiment import Experiment


class DataLinesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)
        for top, count in (("train", 3), ("val", 2)):
            for name in "ab":
                (self.root / top / name).mkdir(parents=True)
                for i in range(count):
                    Image.new("RGB", (8, 8)).save(self.root / top / name / f"{i}.png")
        (self.root / "notes.heic").touch()
        self.config = {
            "data": {"train": f"folder:{self.root}"},
            "train": {"batch_size": 2, "steps": 1},
            "evals": {"every": 0},
        }

    def lines(self, **data):
        config = {**self.config, "data": self.config["data"] | data}
        return [line.strip() for line in data_lines(Experiment.from_config(config))]

    def test_parts_classes_and_what_is_left_out(self):
        self.assertEqual(
            self.lines(),
            [
                "2 classes (a, b)",
                "left out: 4 images in val/, held out for evaluation",
                "left out: 1 file with other endings (1 .heic)",
                f"evaluated on: folder:{self.root}#val: 4 images, 2 classes (a, b)",
            ],
        )

    def test_labels_with_gaps_and_no_evaluation_data(self):
        file = self.root / "x.npz"
        np.savez(file, x=np.zeros((9, 4, 4, 3), np.uint8), y=[0, 1, 2, 3, 4, 5, 6, -1, np.nan])
        self.assertEqual(
            self.lines(train=f"npz:{file}"),
            [
                "7 classes (0, 1, 2, 3, 4, ...), 2 images without a label",
                "evaluated on: a fifth of the training images; set others with --eval_data",
            ],
        )

    def test_names_cannot_steer_a_terminal(self):
        pixels = np.zeros((2, 4, 4, 3), np.uint8)
        experiment = Experiment.from_config(self.config)
        names = ("[red]\x1b[2J", "\udcff")
        vars(experiment)["evals_source"] = ArraySource("x", pixels, np.array([0, 1]), names)
        self.assertIn("2 classes ([red]\\x1b[2J, \\udcff)", data_lines(experiment)[0])

    def test_a_run_that_began_with_all_of_a_folder_goes_on_with_all(self):
        console = Console(quiet=True)
        data = self.config["data"]["train"]
        for examples, want in ((10, f"{data}#."), (6, data), (7, data)):
            before = {"data": {"train": data}, "spec": {"num_examples": examples}}
            self.assertEqual(
                with_original_data(self.config, before, console)["data"]["train"], want
            )
        before["data"]["train"] = f"{data}#."
        self.assertEqual(
            with_original_data(self.config, before, console)["data"]["train"], f"{data}#."
        )
        before["data"]["train"] = "folder:/other#."
        self.assertEqual(with_original_data(self.config, before, console)["data"]["train"], data)


if __name__ == "__main__":
    absltest.main()
