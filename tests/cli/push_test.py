"""Folders of the hub: what `export --format=hf` and `push` write, and `hf://` in place of a file.

The hub itself is not reached: uploads go to a stand-in of huggingface_hub's API, downloads come
from a cache that the test lays out as the package does.
"""

import json
import os
import tempfile
from pathlib import Path
from unittest import mock

import huggingface_hub
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from huggingface_hub import constants

import ssl_jax
from ssl_jax.core import hub
from ssl_jax.core.errors import UserError
from ssl_jax.core.files import write_json
from ssl_jax.embeddings import onnx
from ssl_jax.evals.records import ResultsFile
from ssl_jax.run import pretrained
from ssl_jax.run.model_card import public_name
from tests.cli.export_test import command, saved
from tests.embeddings.encoder_test import SIZE, images, small
from tests.run.pretrained_test import assert_equal, experiment, started

TOKEN = "hf_" + "x" * 30
COMMIT = "a" * 40
STEM = ("backbone.stem", "imagenet")  # that of ResNetModel
RECORD = {
    "workdir": "/home/me/w",
    "data": "folder:/home/me/images",
    "method": "simclr",
    "seed": 0,
    "step": 3,
    "protocol": "linear",
    "settings": {"lr": 0.1},
    "results": {"eval/linear_top1": 0.75},
    "baselines": {"untrained": {"eval/linear_top1": 0.25}, "pixels": {"eval/linear_top1": 0.5}},
}


def cached(cache, name, folder):
    """Lay out a cache that holds the files of a folder as the model `name`."""
    root = Path(cache) / f"models--{name.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for path in Path(folder).iterdir():
        blob = root / "blobs" / path.name
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blob)


class Api:
    """Stand-in of `huggingface_hub.HfApi`."""

    def __init__(self, root):
        self.root, self.calls = Path(root), []

    def create_repo(self, repo, *, private, exist_ok):
        self.calls.append((repo, private, exist_ok))
        return f"https://hub/{repo}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.message = commit_message
        for path in Path(folder_path).iterdir():
            (self.root / path.name).write_bytes(path.read_bytes())


class HubTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.work = self.folder / "w"
        self.work.mkdir()
        self.cache = self.folder / "cache"
        self.enterContext(mock.patch.object(constants, "HF_HUB_OFFLINE", True))
        self.enterContext(mock.patch.object(constants, "HF_HUB_CACHE", str(self.cache)))
        self.enterContext(mock.patch.dict(os.environ, HF_TOKEN=TOKEN))

    def run_(self, *settings):
        """Save a run whose config names folders, with numbers beside baselines."""
        run, current = saved(self.work, "simclr", *settings)
        summary = {"step": 3, "eval/knn_top1": 0.5, "untrained/eval/knn_top1": 0.125}
        write_json(self.work / "summary.json", summary)
        ResultsFile(self.work / "eval" / "results.jsonl").append(RECORD)
        return run, current

    def export(self, name="m", *flags):
        words = (f"--workdir={self.work}", f"--output={self.folder / name}", "--format=hf")
        return command("export", *words, *flags)

    def test_export_writes_a_folder(self):
        run, current = self.run_(STEM)
        code, out, err = self.export("m", "--license=apache-2.0")
        self.assertEqual((code, err), (0, ""))
        self.assertIn("ResNetModel.from_pretrained(", out)
        names = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
        self.assertEqual(sorted(p.name for p in (self.folder / "m").iterdir()), names)
        feed = json.loads((self.folder / "m" / "preprocessor_config.json").read_text())
        self.assertEqual((feed["crop_size"]["height"], feed["image_mean"]), (16, [0.305]))
        encoder = ssl_jax.load(self.folder / "m")
        self.assertEqual(encoder.probe, run.objective.probe)
        self.assertEqual(encoder.view.size, 16)
        expected = run.objective.encoder(current.params, current.extra)
        assert_equal(encoder.params, expected.params)
        self.assertEqual(self.export("m")[0], 2)  # it exists

    def test_the_model_card(self):
        self.run_(STEM)
        self.export("m", "--license=cc-by-4.0")
        card = (self.folder / "m" / "README.md").read_text()
        for text in (
            'license: "cc-by-4.0"',
            'library_name: "transformers"',
            "| Method | simclr: SimCLR: ",
            "| Data | digits: 1,437 images |",
            "| measure | trained | untrained | raw pixels |",
            "(during training) | 0.500 | 0.125 | - |",
            "(linear, lr=0.1, folder:images) | 0.750 | 0.250 | 0.500 |",
            'ResNetModel.from_pretrained(".")',
            "## Licence\n\ncc-by-4.0.",
        ):
            self.assertIn(text, card)
        for path in (self.folder / "m").iterdir():
            self.assertNotIn(b"/home/me", path.read_bytes(), path)
            self.assertNotIn(bytes(self.folder), path.read_bytes(), path)

    def test_no_numbers_and_no_licence(self):
        saved(self.work, "simclr", STEM)
        write_json(self.work / "summary.json", {"step": 2, "eval/knn_top1": 0.5})  # an older step
        self.export()
        card = (self.folder / "m" / "README.md").read_text()
        self.assertIn("Not measured. `ssl-jax evaluate`", card)
        self.assertIn('license: "unknown"', card)
        self.assertIn("not stated", card)

    @parameterized.parameters(
        ("folder:/home/me/images", "folder:images"),
        ("/home/me/images", "images"),
        ("hf://user/name", "hf://user/name"),
        ("digits:photos", "digits:photos"),
        ("parquet:/a/b/*.parquet#label=x", "parquet:*.parquet#label=x"),
        ("mix:0.5*folder:/a/b+npz:/c/d.npz", "mix of 0.5*folder:b, npz:d.npz"),
    )
    def test_names_of_data_without_folders(self, spec, expected):
        self.assertEqual(public_name(spec), expected)

    def test_push_and_read_it_back(self):
        """Read the pushed network by its name in `load`, `embed` and `init_from`."""
        _, current = self.run_()
        there = self.folder / "there"
        there.mkdir()
        api = Api(there)
        flags = (f"--workdir={self.work}", "--repo=me/net", "--format=safetensors")
        with mock.patch.object(huggingface_hub, "HfApi", lambda: api):
            code, out, err = command("push", *flags)
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(api.calls, [("me/net", True, True)])
        self.assertEqual(api.message, "simclr, step 3, by ssl-jax push")
        self.assertIn("https://hub/me/net: read it with --weights=hf://me/net", out)
        self.assertEqual(
            sorted(p.name for p in there.iterdir()), ["README.md", "model.safetensors"]
        )
        self.assertIn('ssl_jax.load("hf://me/net")', (there / "README.md").read_text())
        for path in there.iterdir():
            for secret in (TOKEN.encode(), b"/home/me", bytes(self.folder)):
                self.assertNotIn(secret, path.read_bytes(), path)
        cached(self.cache, "me/net", there)
        assert_equal(ssl_jax.load("hf://me/net").params, current.params["backbone"])
        again = experiment("simclr", ("train.init_from", "hf://me/net"))
        pretrained.check(again)
        self.assertEqual(again.resolved()["train"]["init_from"], "hf://me/net")
        assert_equal(started(again).params["backbone"], current.params["backbone"])
        output = f"--output={self.folder / 'e.npz'}"
        code, _, err = command("embed", "--weights=hf://me/net", "--data=digits", output)
        self.assertEqual((code, err), (0, ""))

    def test_a_folder_of_pickles_or_a_single_file(self):
        self.run_()
        words = (f"--workdir={self.work}", f"--output={self.folder / 'x.safetensors'}")
        command("export", *words, "--format=safetensors")
        there = self.folder / "there"
        there.mkdir()
        (self.folder / "x.safetensors").rename(there / "x.safetensors")
        (there / "pytorch_model.bin").touch()
        cached(self.cache, "me/net", there)
        self.assertEqual(ssl_jax.load("hf://me/net/x.safetensors").channels, 1)
        self.assertEqual(ssl_jax.load("hf://me/net@main/x.safetensors").channels, 1)
        with self.assertRaisesRegex(UserError, "pytorch_model.bin is empty"):
            ssl_jax.load("hf://me/net")
        with self.assertRaisesRegex(UserError, "hf://me/net: it has no file y.npz"):
            ssl_jax.load("hf://me/net/y.npz")

    @parameterized.parameters(
        ("hf://me/none", "hf://me/none: it is not in the cache, and "),
        ("hf://me/a/../b", "expected hf://USER/NAME"),
        ("hf://", "expected hf://USER/NAME"),
        (f"hf://me/{TOKEN}", "holds a password or an access token"),
    )
    def test_names_that_cannot_be_read(self, name, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            ssl_jax.load(name)
        self.assertNotIn(TOKEN, str(caught.exception))

    def test_refusals(self):
        self.run_()
        for flags, message in (
            (("--repo=net",), "--repo=net: expected USER/NAME"),
            (("--repo=me/net@main",), "expected USER/NAME"),
            (("--repo=me/net",), "transformers has no network with backbone.stem='small'"),
            (("--repo=me/net", "--format=safetensors", "--license=My own"), "an identifier"),
            (("--repo=me/net", "--format=safetensors"), "nothing was uploaded: "),
        ):
            with mock.patch.object(huggingface_hub, "HfApi") as api:
                api().create_repo.side_effect = ConnectionError(TOKEN)
                code, _, err = command("push", f"--workdir={self.work}", *flags)
            self.assertEqual(code, 2)
            self.assertRegex(err, message)
            self.assertLen(err.splitlines(), 1)
            self.assertNotIn(TOKEN, err)
        with mock.patch.object(huggingface_hub, "get_token", lambda: None):
            code, _, err = command("push", f"--workdir={self.work}", "--repo=me/net")
        self.assertRegex(err, "needs a token: set HF_TOKEN")
        code, _, err = command(
            *("export", f"--workdir={self.work}", "--format=npz", "--license=mit"),
            f"--output={self.folder}/x.npz",
        )
        self.assertRegex(err, "--license is for --format=hf")

    def test_without_the_packages(self):
        net = (
            small()
        )  # `patch.dict` drops what is imported within, and JAX cannot be imported twice
        with mock.patch.dict("sys.modules", huggingface_hub=None, jax2onnx=None):
            with self.assertRaisesRegex(UserError, r"pip install -e '.\[hub\]'"):
                hub.model("hf://me/net")
            with self.assertRaisesRegex(UserError, r"pip install -e '.\[onnx\]'"):
                onnx.onnx(net)


class OnnxTest(parameterized.TestCase):
    @parameterized.parameters(
        ("resnet_small", "avg"), ("vit", "pooled"), ("vit", "none"), ("resnet_small", "grid")
    )
    @pytest.mark.full
    def test_the_same_features_in_onnxruntime(self, name, pool):
        pytest.importorskip("jax2onnx")
        runtime = pytest.importorskip("onnxruntime")
        encoder, pixels = small(name).at(pool=pool), images(5, SIZE, SIZE, 3)
        session = runtime.InferenceSession(onnx.onnx(encoder, {"results": {"a": 1}}))
        metadata = session.get_modelmeta().custom_metadata_map
        self.assertEqual(metadata["results"], '{"a": 1}')
        self.assertEqual(metadata["weights"], encoder.digest())
        expected = np.asarray(encoder(pixels))
        self.assertGreater(np.abs(expected).max(), 1e-3)
        for count in (1, 5):
            (features,) = session.run(["features"], {"images": pixels[:count]})
            np.testing.assert_allclose(features, expected[:count], rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    absltest.main()
