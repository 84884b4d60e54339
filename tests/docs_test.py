"""The examples of the documentation run, and generated pages are current."""

import contextlib
import dataclasses
import re
import tomllib
from pathlib import Path
from unittest import mock

import numpy as np
import yaml
from absl.testing import absltest

from benchmarks import pods
from docs import make_choice, make_methods
from ssl_jax import cli, nets
from ssl_jax.core.errors import UserError
from ssl_jax.data import sources
from ssl_jax.nets.functional import output_shapes
from ssl_jax.run import catalog, configs
from ssl_jax.run.configs import load_config
from ssl_jax.training.metrics import read_metrics
from tests.cli import flags_test
from tests.nets import backbones_test

DOCS = Path(__file__).parent.parent / "docs"
FLAGS = {  # of each subcommand, without the "no" of --noverify
    name: {re.sub("^no", "", field.name) for field in dataclasses.fields(cls)}
    for name, cls in flags_test.FLAGS.items()
}


def example(page: str, language: str = "python") -> str:
    """Return the first code block of a page."""
    match = re.search(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.S)
    assert match is not None
    return match[1]


def examples(page: str) -> str:
    """Join all Python code of a page, in order."""
    return "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S))


def pages() -> list[Path]:
    """List all pages that people read."""
    root = DOCS.parent
    return sorted([*root.glob("*.md"), *DOCS.rglob("*.md"), *(root / "launch").rglob("*.md")])


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    plain = (re.sub(r"[^\w\- ]", "", head.replace("`", "").lower()) for head in heads)
    return {head.strip().replace(" ", "-") for head in plain}


class DocsTest(absltest.TestCase):
    def test_every_link_leads_somewhere(self):
        broken = []
        for page in pages():
            text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.S)
            for link in re.findall(r"\]\(([^)\s]+)\)", text):
                if link.startswith(("http", "mailto:")):
                    continue
                name, _, anchor = link.partition("#")
                target = page.parent / name if name else page
                if not target.exists() or (anchor and anchor not in anchors(target)):
                    broken.append(f"{page.relative_to(DOCS.parent)}: {link}")
        self.assertEqual(broken, [])

    def test_every_command_of_a_page_exists(self):
        """Subcommands and flags; the values are the reader's."""
        wrong = []
        for page in pages():
            for block in re.findall(r"```[^\n`]*\n(.*?)```", page.read_text(), re.S):
                for line in block.replace("\\\n", " ").splitlines():
                    line = re.sub(r"^(\w+=\S+ )+", "", line.strip())
                    if not (match := re.match(r"ssl-jax (\w[\w-]*)(.*)", line.strip())):
                        continue
                    name, rest = match[1], match[2].partition(" #")[0]
                    known = FLAGS.get(name, set())
                    flags = re.findall(r"(?<=\s)--(?:no)?([a-z_]+)", rest)
                    if name not in FLAGS or {*flags} - known - {"config", "help"}:
                        wrong.append(f"{page.relative_to(DOCS.parent)}: {line}")
        self.assertEqual(wrong, [])

    def test_the_version_is_one(self):
        root = DOCS.parent
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        citation = yaml.safe_load((root / "CITATION.cff").read_text())
        self.assertEqual(str(citation["version"]), project["version"])
        self.assertIn(f"## {project['version']}", (root / "CHANGELOG.md").read_text())

    def test_the_table_of_methods_is_current(self):
        self.assertEqual(make_methods.PAGE.read_text(), make_methods.page())

    def test_the_table_of_choices_is_current(self):
        """`python docs/make_choice.py` writes it."""
        self.assertIn(make_choice.table(), make_choice.PAGE.read_text())

    def test_a_method_without_a_page_of_its_family_is_in_the_table(self):
        summary = catalog.MethodSummary("", "Mine (2601.00001)", "", ("digits",))
        with mock.patch.object(make_methods, "methods", lambda: {"simclr": summary}):
            self.assertIn("| none | Mine", make_methods.page())
        self.assertEqual(make_methods.in_family("odd"), "odd")

    def test_the_page_of_pods_is_current(self):
        """`python benchmarks/pods.py --page` writes it."""
        self.assertEqual(pods.PAGE.read_text(), pods.page(pods.read()))

    def test_a_row_of_pods_names_the_slice_that_was_compiled(self):
        row = pods.read()["rotnet:imagenet"] | {"topology": "v5p:4x4x8"}
        self.assertIn("v5p:4x4x8", pods.cells("rotnet:imagenet", row))

    def test_a_row_of_pods_holds_until_a_setting_changes(self):
        """It does not matter whether a config writes a default."""
        config = load_config("rotnet:imagenet")
        before = pods.fingerprint("rotnet:imagenet")
        with mock.patch.object(configs, "load_config", lambda name: config):
            config["optim"]["clip_norm"] = None
            self.assertEqual(pods.fingerprint("rotnet:imagenet"), before)
            config["train"]["batch_size"] = 256
            self.assertNotEqual(pods.fingerprint("rotnet:imagenet"), before)

    def test_the_method_of_the_contract_page_trains(self):
        folder = Path(self.create_tempdir().full_path)
        path = folder / "mirror.py"
        path.write_text(example("contract.md"))
        code = cli.run(
            [
                "train",
                "--config=rotnet:digits",
                f"--workdir={folder / 'run'}",
                f"--config.objective.name={path}",
                "--config.backbone.width=4",
                "--config.train.steps=3",
                "--config.train.batch_size=32",
                "--config.train.log_every=1",
                "--config.evals.every=-1",
            ]
        )
        self.assertEqual(code, 0)
        losses = [line["train/loss"] for line in read_metrics(folder / "run")]
        self.assertLen(losses, 3)
        self.assertAlmostEqual(losses[0], 0.6931, delta=0.6)  # ln 2 for two classes

    def test_the_networks_of_the_backbones_page_are_backbones(self):
        folder = Path(self.create_tempdir().full_path)
        own, contract = re.findall(
            r"```python\n(.*?)```", (DOCS / "backbones.md").read_text(), re.S
        )
        (folder / "convmixer.py").write_text(contract)
        for check in backbones_test.CHECKS:
            check(self, str(folder / "convmixer.py"))
        (folder / "net.py").write_text(own)
        net = nets.make_backbone(str(folder / "net.py"), 3, {"width": 16})
        self.assertEqual(output_shapes(net, (32, 32, 3)).map.shape, (8, 8, 32))

    def test_the_source_of_the_data_page_is_a_source(self):
        folder = Path(self.create_tempdir().full_path)
        (folder / "idx.py").write_text(example("data.md"))
        draw = np.random.default_rng(0)
        written = {}
        for part, count in (("train", 30), ("t10k", 20)):
            images = draw.integers(0, 256, (count, 8, 8), np.uint8)
            labels = np.arange(count, dtype=np.uint8) % 10
            for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
                head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
                (folder / f"{part}-{kind}-ubyte").write_bytes(head + array.tobytes())
            written[part] = images
        spec = f"idx:{folder}/train-images-idx3-ubyte"
        with mock.patch.object(sources, "__path__", [*sources.__path__, str(folder)]):
            train, test = sources.open_source(spec), sources.held_out(spec)
            for source, part in ((train, "train"), (test, "t10k")):
                pixels = np.stack([source.read(i) for i in range(len(source))])
                np.testing.assert_array_equal(pixels[..., 0], written[part])
                np.testing.assert_array_equal(source.labels, np.arange(len(source)) % 10)
            with self.assertRaisesRegex(UserError, "No such file"):
                sources.open_source(f"idx:{folder}/absent-idx3-ubyte")
            (folder / "cut").write_bytes(bytes([0, 0, 8, 3]) + np.ones(3, ">u4").tobytes())
            with self.assertRaisesRegex(UserError, "the size that it states"):
                sources.open_source(f"idx:{folder}/cut")

    def test_the_examples_of_the_python_page_run(self):
        folder = Path(self.create_tempdir().full_path)
        code = cli.run(
            [
                "train",
                "--config=simclr:digits",
                f"--workdir={folder / 'W'}",
                "--config.backbone.width=4",
                "--config.train.steps=20",
                "--config.evals.every=-1",
            ]
        )
        self.assertEqual(code, 0)
        with contextlib.chdir(folder):
            exec(compile(examples("python.md"), "docs/python.md", "exec"), {})


if __name__ == "__main__":
    absltest.main()
