"""Values of the command line: texts until the type of their flag or key is known."""

import contextlib
import io
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from absl.testing import absltest, parameterized

from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import Text
from ssl_jax.core.ranges import Count, Probability
from ssl_jax.evals.protocols.knn import Knn
from ssl_jax.evals.protocols.linear import Linear
from ssl_jax.run import configs, flags


@dataclass(frozen=True, kw_only=True)
class Flags(flags.ConfigFlags):
    """One flag of each kind."""

    workdir: Path = flag("folder")
    data: str = flag("images", "")
    output: Path | None = flag("file", None)
    examples: Count = flag("images", 12)
    share: Probability = flag("a part", 0.5)
    step: Count | Literal["all"] | None = flag("step", None)
    stage: int | str | None = flag("layer", None)
    split: Literal["train", "eval"] = flag("part", "train")
    names: tuple[str, ...] = flag("several", ())
    sweep: tuple[str, ...] = flag("repeated", (), repeated=True)
    verify: bool = flag("a switch", False)
    strict: bool = flag("a switch that is on", True)


def parse(*words: str) -> Flags:
    return flags.parse(["command", "--workdir=W", *words], "doc", Flags)


class ParseTest(parameterized.TestCase):
    @parameterized.parameters(
        (("--examples=3",), "examples", 3),
        (("--examples", "3"), "examples", 3),
        (("-examples=3",), "examples", 3),
        (("--examples=3", "--examples=4"), "examples", 4),
        (("--examples=",), "examples", 12),
        (("--share=1",), "share", 1.0),
        (("--step=5",), "step", 5),
        (("--step=all",), "step", "all"),
        (("--step=none",), "step", None),
        (("--stage=-2",), "stage", -2),
        (("--stage=stage2",), "stage", "stage2"),
        (("--split=eval",), "split", "eval"),
        (("--names=knn",), "names", ("knn",)),
        (("--names=knn,linear",), "names", ("knn", "linear")),
        (("--sweep=k=1,5", "--sweep=stage=-1"), "sweep", ("k=1,5", "stage=-1")),
        (("--verify",), "verify", True),
        (("--verify=1",), "verify", True),
        (("--verify=False",), "verify", False),
        (("--verify", "--noverify"), "verify", False),
        (("--nostrict",), "strict", False),
        (("--strict=false",), "strict", False),
        (("--output=x/y.npz",), "output", Path("x/y.npz")),
        (("--config.optim.lr=1", "--data=d"), "overrides", (("optim.lr", "1"),)),
        (("--config.optim.lr", "1"), "overrides", (("optim.lr", "1"),)),
    )
    def test_values(self, words, name, expected):
        value = getattr(parse(*words), name)
        self.assertEqual(value, expected)
        self.assertIs(type(value), type(expected))

    @parameterized.parameters("7", "none", "'a'", "(1, 2)", "true", "a,b", "x=y")
    def test_texts_and_paths_are_taken_as_they_are(self, name):
        made = parse(f"--data={name}", f"--output={name}")
        self.assertEqual((made.data, made.output), (name, Path(name)))

    def test_a_tilde_is_the_home(self):
        self.assertEqual(parse("--output=~/x").output, Path.home() / "x")
        there = flags.parse(["command", "--workdir=~/x"], "", Flags, here=False)
        self.assertEqual(there.workdir, Path("~/x"))

    @parameterized.parameters(
        (("--examples=0",), "--examples: expected a whole number of at least 1, got 0"),
        (("--examples=1.5",), "--examples: expected int, got 1.5"),
        (("--share=2",), r"--share: expected a number in \[0, 1\], got 2"),
        (("--step=al",), r"--step: expected int \| 'all' \| None, got 'al'"),
        (("--step=0",), "--step: expected a whole number of at least 1, got 0"),
        (("--split=test",), "--split: expected one of 'train', 'eval', got 'test'"),
        (("--verify=maybe",), "--verify: expected bool, got 'maybe'"),
        (("--noverify=true",), "--noverify=true does not take an argument"),
        (("--examples",), "Missing value for flag --examples"),
        (("--exampels=3",), "unknown flag --exampels; did you mean 'examples'"),
        (("--workdir=",), "--workdir is missing: folder"),
        (("here",), "stray argument 'here'"),
    )
    def test_errors(self, words, message):
        with self.assertRaisesRegex(UserError, message):
            parse(*words)

    def test_a_command_line_has_what_differs_from_the_defaults(self):
        words = (
            "--data=folder:my images",
            "--names=knn,linear",
            "--sweep=k=1,5",
            "--sweep=stage=-1",
        )
        words += ("--verify", "--nostrict", "--config.optim.lr=0.3", "--config.train.steps=4")
        line = flags.command("command", parse(*words, "--examples=12"))
        self.assertTrue(line.startswith("ssl-jax command "), line)
        self.assertCountEqual(shlex.split(line)[2:], ["--workdir=W", *words])

    def test_which_flags_are_given(self):
        made = parse("--stage=3", "--data=d")
        self.assertTrue(made.is_set("stage"))
        self.assertFalse(made.is_set("output") or made.is_set("verify"))
        self.assertTrue(parse("--stage=0").is_set("stage"))
        made.refuse_both(("data", "output"))
        with self.assertRaisesRegex(UserError, "give --data or --stage, not both"):
            made.refuse_both(("output", "data"), ("data", "stage"))

    def test_help(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), self.assertRaises(SystemExit) as ended:
            parse("--help")
        self.assertEqual(ended.exception.code, 0)
        lines = {line.split()[0]: line for line in out.getvalue().splitlines() if line.strip()}
        ends = {
            "--workdir": "folder (required)",
            "--data": "images",
            "--examples": "images (whole number of at least 1; default 12)",
            "--share": "a part (number in [0, 1]; default 0.5)",
            "--step": "step (whole number of at least 1 or all)",
            "--stage": "layer",
            "--split": "part (train, eval; default train)",
            "--names": "several (separated by commas)",
            "--sweep": "repeated",
            "--verify": "a switch",
            "--strict": "a switch that is on (default true)",
            "--config.SECTION.KEY": "any key of the config, --config.optim.lr=0.3",
        }
        for name, text in ends.items():
            self.assertEqual(lines[name].split(maxsplit=1)[1], text)


class FlagsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("10,20", ["10", "20"]),
        ("(1, 5),(1,10)", ["(1, 5)", "(1,10)"]),
        ("none,-1", ["none", "-1"]),
        ("/a,/b", ["/a", "/b"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("007,x", ["007", "x"]),
        ("é,1", ["é", "1"]),
    )
    def test_texts(self, text, expected):
        self.assertEqual(flags.texts(text), expected)

    def test_literals(self):
        self.assertEqual(flags.values("1,(2, 3),none,a"), [1, (2, 3), None, "a"])

    def test_overrides_take_the_type_of_their_key(self):
        config = configs.load_config("simclr:digits")
        words = {
            "data.labelled": "5",
            "data.cache": "none",
            "data.eval": "none",
            "optim.lr_scaling": "none",
            "optim.clip_norm": "none",
            "optim.lr": "1",
            "train.init_from": "7",
            "backbone.width": "8",
            "objective.view.recipe": "none",
            "objective.view.area": "0.5,1",
            "objective.temperature": "1",
            "evals.knn.k": "3",
            "evals.protocols": "knn, linear",
            "evals.fewshot.shots": "5",
        }
        configs.override(config, [(key, Text(text)) for key, text in words.items()])
        flat = {key: self.at(config, key) for key in words}
        expected = ("5", "none", None, "none", None, 1, "7", 8, "none", (0.5, 1), 1, 3)
        expected += (("knn", "linear"), (5,))
        self.assertEqual(flat, dict(zip(words, expected, strict=True)))
        self.assertFalse([value for value in flat.values() if isinstance(value, Text)])

    def at(self, config, key):
        for part in key.split("."):
            config = config[part]
        return config

    @parameterized.parameters(
        ("optim.lr", "fast", "optim.lr: expected float, got 'fast'"),
        ("backbone.width", "-3", "backbone.width: expected a whole number of at least 1, got -3"),
        ("objective.view.size", "big", r"view.size: expected int \| tuple\[int, int\], got 'big'"),
        ("objective.temprature", "1", None),  # an unknown key is left to the builder
    )
    def test_errors_name_the_key(self, key, text, message):
        config = configs.load_config("simclr:digits")
        if message is None:
            configs.override(config, [(key, Text(text))])
            return
        with self.assertRaisesRegex(UserError, message):
            configs.override(config, [(key, Text(text))])

    def test_sweeps_take_the_type_of_their_setting(self):
        from ssl_jax.run.commands.evaluate import grid
        from ssl_jax.run.suites import settings

        variants = settings(Knn(), "knn", grid(["k=5,10", "stage=none,-2"]))
        self.assertEqual(
            {(p.k, p.stage) for p in variants}, {(5, None), (5, -2), (10, None), (10, -2)}
        )
        (linear,) = settings(Linear(), "linear", grid(["weight_decay=1"]))
        self.assertIsInstance(linear.weight_decay, float)
        with self.assertRaisesRegex(UserError, "knn.k: expected int, got 'few'"):
            settings(Knn(), "knn", grid(["k=few"]))


if __name__ == "__main__":
    absltest.main()
