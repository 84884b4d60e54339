"""Every subcommand on images of 4 and of 13 bands."""

import contextlib
import io
import json
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax import cli
from ssl_jax.core.errors import UserError
from ssl_jax.core.files import write_json
from ssl_jax.data.reader import Reader
from ssl_jax.data.sources import open_source
from ssl_jax.evals.protocols import corruptions
from ssl_jax.run.configs import configured
from ssl_jax.run.experiment import Experiment
from ssl_jax.training.workdir import check_resumable
from tests.data.pictures import tiff

COUNT, SIDE = 24, 20
TINY = (
    "--config=rotnet:digits",
    "--config.objective.view.recipe=normalize",
    "--config.backbone.width=4",
    "--config.train.steps=1",
    "--config.train.batch_size=8",
    "--config.evals.every=-1",
    "--config.evals.corruptions.examples=1",
    "--config.evals.corruptions.classifier=knn",
    "--config.evals.protocols=('knn',)",
)


def pictures(bands: int, top: int, dtype: type) -> np.ndarray:
    y, x, c = np.mgrid[:SIDE, :SIDE, :bands]
    waves = [np.sin(x / (2 + i % 3) + c + i) * np.cos(y / 5) for i in range(COUNT)]
    return ((np.stack(waves) + 1) / 2 * top).astype(dtype)


class BandsTest(parameterized.TestCase):
    """Every command on a run of 12-bit, 13-band TIFFs; some also on 4 bands."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.images = {4: pictures(4, 255, np.uint8), 13: pictures(13, 4095, np.uint16)}
        np.savez(cls.folder / "4.npz", images=cls.images[4], labels=np.arange(COUNT) % 3)
        for i, image in enumerate(cls.images[13]):
            path = cls.folder / "13" / f"class{i % 3}" / f"{i:02}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tiff([image]))
        cls.data = {4: f"npz:{cls.folder / '4.npz'}", 13: f"folder:{cls.folder / '13'}"}

    def command(self, *argv: object) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = cli.run([str(word) for word in argv])
        self.assertEqual(code, 0, out.getvalue())
        return out.getvalue()

    def test_a_run_and_all_that_looks_at_it(self):
        run = self.folder / "run"
        text = self.command("train", *TINY, f"--data={self.data[13]}", f"--workdir={run}")
        self.assertRegex(text, r"bands +13 per image")
        self.assertIn("0..4095 become 0..255", text)
        config = json.loads((run / "config.json").read_text())
        self.assertEqual((config["spec"]["channels"], config["data"]["range"]), (13, [0, 4095]))
        self.command("report", f"--workdir={run}", "--examples=12")
        self.assertIn("<img", (run / "report.html").read_text())
        if has_corruptions():
            with mock.patch.object(corruptions, "SEVERITIES", (3,)):
                self.command("evaluate", f"--workdir={run}", "--eval=corruptions")
        # Half as bright: the run's range holds for other data too.
        np.savez(self.folder / "dark.npz", images=self.images[13] // 2)
        dark = f"--data=npz:{self.folder / 'dark.npz'}"
        self.command("embed", f"--workdir={run}", dark, f"--output={self.folder / 'e.npz'}")
        with np.load(self.folder / "e.npz", allow_pickle=False) as file:
            metadata = json.loads(str(file["about"]))
        self.assertEqual(metadata["range"], [0, 4095])
        weights = self.folder / "w.safetensors"
        self.command("export", f"--workdir={run}", f"--output={weights}", "--format=safetensors")

    @parameterized.parameters(4, 13)
    def test_views(self, bands):
        output = self.folder / "views.png"
        argv = ("--examples=2", f"--data={self.data[bands]}", f"--output={output}")
        self.command("views", *TINY[:3], *argv)
        self.assertTrue(output.exists())

    @parameterized.product(bands=[4, 13], size=[0, 14])
    def test_prepare(self, bands, size):
        output = self.folder / f"records{bands}_{size}"
        argv = (f"--data={self.data[bands]}", f"--output={output}", f"--size={size}")
        self.command("prepare", *argv)
        source = open_source(f"array_record:{output}")
        source.read_in((0, 4095) if bands == 13 else ())
        image, _ = Reader(source).pixels(3)
        row = source.names[3] if source.names else ""
        want = self.images[bands][int(row[-6:-4]) if row else 3]
        if bands == 13:
            want = np.round(want / 4095 * 255)
        self.assertEqual(image.shape, (size or SIDE, size or SIDE, bands))
        if not size:
            np.testing.assert_allclose(image, want, atol=1)


class RangeOfARunTest(absltest.TestCase):
    """An existing run keeps its range, whatever its data look like later."""

    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        self.data = self.folder / "images"
        self.data.mkdir()
        for i, image in enumerate(pictures(1, 4095, np.uint16)):
            (self.data / f"{i}.tif").write_bytes(tiff([image]))

    def experiment(self, *overrides) -> Experiment:
        keys = [("train.batch_size", 8), *overrides]
        return Experiment.from_config(
            configured("rotnet:digits", keys, f"folder:{self.data}"), self.folder
        )

    def test_it_is_measured_once_and_kept(self):
        first = self.experiment()
        self.assertEqual(first.evals_source.value_range, (0, 4095))
        resolved = first.resolved()
        self.assertEqual(resolved["data"]["range"], [0, 4095])
        write_json(self.folder / "config.json", resolved)
        (self.data / "0.tif").write_bytes(tiff([pictures(1, 60000, np.uint16)[0]]))
        (self.data / "1.tif").write_bytes(tiff([pictures(1, 60000, np.uint16)[1]]))
        self.assertEqual(self.experiment().survey.value_range, (0, 4095))
        self.assertEqual(Experiment.of_run(self.folder).survey.value_range, (0, 4095))
        other = Experiment.of_run(self.folder).opened(f"folder:{self.data}", "eval")
        self.assertEqual(other.value_range, (0, 4095))
        named = self.experiment(("data.range", (0, 1000)))
        self.assertEqual(named.source.value_range, (0, 1000))
        self.assertEqual(named.resolved()["data"]["range"], [0, 1000])

    def test_a_run_of_before_has_the_range_of_its_files(self):
        old = self.experiment().resolved()
        del old["data"]["range"]
        write_json(self.folder / "config.json", old)
        again = self.experiment()
        self.assertEqual(again.survey.value_range, (0, 65535))
        check_resumable(old, again.resolved(), "the run", again.defaults())
        write_json(self.folder / "config.json", again.resolved())
        third = self.experiment()  # beside a checkpoint of before
        check_resumable(old, third.resolved(), "the checkpoint", third.defaults())
        for path in self.data.iterdir():  # the data need not be at hand, nor be wide
            path.write_bytes(tiff([pictures(3, 255, np.uint8)[0]]))
        write_json(self.folder / "config.json", again.resolved())
        config = {k: v for k, v in again.resolved().items() if k != "spec"}
        self.assertEqual(Experiment.from_config(config, self.folder).survey, again.survey)

    def test_a_run_of_before_on_8_bit_images_gets_no_range(self):
        for path in self.data.iterdir():
            path.write_bytes(tiff([pictures(3, 255, np.uint8)[0]]))
        old = self.experiment().resolved()
        del old["data"]["range"]
        write_json(self.folder / "config.json", old)
        again = self.experiment()
        self.assertEqual(again.resolved()["data"]["range"], [])
        check_resumable(old, again.resolved(), "the run", again.defaults())
        write_json(self.folder / "config.json", again.resolved())
        self.assertEqual(self.experiment().resolved(), again.resolved())
        check_resumable(old, again.resolved(), "the checkpoint", self.experiment().defaults())

    def test_no_range(self):
        for values in ((5, 1), (1,), (0, 1, 0, 1)):
            with self.assertRaisesRegex(UserError, "data.range: expected LOW,HIGH"):
                self.experiment(("data.range", values)).survey  # noqa: B018


def has_corruptions() -> bool:
    try:
        return corruptions.library() is not None
    except UserError:
        return False


if __name__ == "__main__":
    absltest.main()
