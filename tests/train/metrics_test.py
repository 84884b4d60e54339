import json
from pathlib import Path

from absl.testing import absltest
from tensorboardX.proto.event_pb2 import Event

from ssl_jax.train.metrics import MetricsWriter, read_metrics


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

    def test_tensorboard_events(self):
        self.write(0, (1, 2))
        found = []
        for path in (self.folder / "events").iterdir():
            data, at = path.read_bytes(), 0
            while at < len(data):  # length (8), its checksum (4), the event, its checksum (4)
                length = int.from_bytes(data[at : at + 8], "little")
                event = Event.FromString(data[at + 12 : at + 12 + length])
                found += [(event.step, v.tag) for v in event.summary.value]
                at += 16 + length
        self.assertEqual(found, [(1, "train/loss"), (2, "train/loss")])


if __name__ == "__main__":
    absltest.main()
