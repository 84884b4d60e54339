import json
from pathlib import Path
from unittest import mock

from absl.testing import absltest

from ssl_jax.training import metrics
from ssl_jax.training.metrics import MetricsWriter, read_metrics, read_summary


class MetricsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def write(self, start, steps):
        with MetricsWriter(self.folder, start) as writer:
            for step in steps:
                writer.write(step, {"train/loss": step / 10})
            return writer

    def test_lines_and_summary(self):
        self.write(0, (1, 2))
        self.assertEqual(
            read_metrics(self.folder),
            [{"step": 1, "train/loss": 0.1}, {"step": 2, "train/loss": 0.2}],
        )
        summary = json.loads((self.folder / "summary.json").read_text())
        self.assertEqual(summary, {"step": 2, "train/loss": 0.2})

    def test_going_on_drops_what_is_made_again(self):
        self.write(0, (1, 2, 3))
        path = self.folder / "metrics.jsonl"
        path.write_text(path.read_text() + '{"step": 4, "train/lo')  # torn by a crash
        writer = self.write(2, (3, 4))
        self.assertEqual([line["step"] for line in read_metrics(self.folder)], [1, 2, 3, 4])
        self.assertEqual(writer.last, {"step": 4, "train/loss": 0.4})

    def test_values_known_before_stay_in_the_summary(self):
        with MetricsWriter(self.folder, 0) as writer:
            writer.write(0, {"pixels/eval/knn_top1": 0.9})
        self.assertEqual(self.write(0, (1,)).last["pixels/eval/knn_top1"], 0.9)

    def test_going_on_needs_no_room(self):
        self.write(0, (1, 2, 3))
        path = self.folder / "metrics.jsonl"
        first, *rest = path.read_text().splitlines(keepends=True)
        path.write_text(first + '{"step": 2, "train/loss": null}\n' + "".join(rest))
        with mock.patch.object(metrics, "replacing", side_effect=OSError(28, "No space left")):
            self.write(2, (3,))
        self.assertEqual([line["step"] for line in read_metrics(self.folder)], [1, 2, 3])

    def test_lines_out_of_order(self):
        (self.folder / "metrics.jsonl").write_text('{"step": 3}\n{"step": 1}\n{"step": 2}')
        self.write(2, ())
        text = (self.folder / "metrics.jsonl").read_text()
        self.assertEqual(text, '{"step": 1}\n{"step": 2}\n')

    def test_a_disk_that_does_not_take_the_lines(self):
        warned = []
        broken = OSError(5, "Input/output error")
        writer = MetricsWriter(self.folder, 0, warned.append)
        with mock.patch("os.fsync", side_effect=broken):
            writer.sync()
        with writer:
            pass
        self.assertEqual(warned, ["metrics may be lost in a power cut: Input/output error"])

    def test_a_summary_that_was_edited(self):
        self.write(0, (1, 2))
        for text in ('{"a": 1', "[1]", '{"train/loss": "x"}', ""):
            (self.folder / "summary.json").write_text(text)
            self.assertEqual(read_summary(self.folder), {"step": 2, "train/loss": 0.2})
        (self.folder / "summary.json").write_text('{"step": 2, "train/loss": 0.5}')
        self.assertEqual(read_summary(self.folder)["train/loss"], 0.5)


if __name__ == "__main__":
    absltest.main()
