"""The exported program in a fresh process without ssl_jax and flax."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.embeddings.stablehlo import stablehlo
from tests.embeddings.encoder_test import SIZE, images, small

ELSEWHERE = """
import sys
sys.modules |= dict.fromkeys(("ssl_jax", "flax", "cv2"))  # to import one is an error
try:
    import ssl_jax
    sys.exit("it could be imported")
except ImportError:
    pass
import zipfile
import jax, numpy as np
with zipfile.ZipFile("encoder.zip") as file:
    program = jax.export.deserialize(bytearray(file.read("program.bin")))
images = np.load("images.npy")
np.savez("features.npz", *[program.call(images[:n]) for n in (1, 3, 7)])
"""


class StableHloTest(parameterized.TestCase):
    @parameterized.parameters("resnet_small", "vit")
    def test_the_same_features_elsewhere(self, name):
        encoder, pixels = small(name), images(7, SIZE, SIZE, 3)
        folder = Path(self.create_tempdir().full_path)
        (folder / "encoder.zip").write_bytes(stablehlo(encoder, {"licence": "none"}))
        np.save(folder / "images.npy", pixels)
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "-I", "-c", ELSEWHERE],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        expected = np.asarray(encoder(pixels))
        self.assertGreater(np.abs(expected).max(), 1e-3)
        with np.load(folder / "features.npz") as outputs:
            self.assertEqual([len(outputs[key]) for key in outputs.files], [1, 3, 7])
            for key in outputs.files:
                rows = outputs[key]
                np.testing.assert_allclose(rows, expected[: len(rows)], rtol=1e-5, atol=1e-6)

    def test_card_and_platforms(self):
        encoder = small().at("stage2", "grid")
        data = stablehlo(encoder, {"licence": "none"}, ("cpu", "tpu"))
        self.assertEqual(data, stablehlo(encoder, {"licence": "none"}, ("cpu", "tpu")))
        self.assertNotIn(b".py", data)  # nor where on this machine it was made
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            self.assertEqual(file.namelist(), ["card.json", "program.bin"])
            card = json.loads(file.read("card.json"))
        self.assertEqual(card["input"]["images"], ["batch", SIZE, SIZE, 3])
        self.assertEqual(card["output"]["features"], ["batch", 32])
        self.assertEqual((card["layer"], card["pool"]), ("stage2", "grid"))
        self.assertEqual(card["weights"], encoder.digest())
        self.assertEqual((card["licence"], card["platforms"]), ("none", ["cpu", "tpu"]))
        with self.assertRaisesRegex(UserError, "unknown platform 'gpu'"):
            stablehlo(encoder, platforms=("gpu",))


if __name__ == "__main__":
    absltest.main()
