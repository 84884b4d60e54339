"""`ssl-jax config`: every key with its help, and config files in and out."""

import contextlib
import io
from pathlib import Path

from absl.testing import absltest, parameterized

from ssl_jax import cli
from ssl_jax.run.configs import load_config, methods, recipes
from ssl_jax.run.keys import keys


def command(*argv: str) -> tuple[int, str]:
    """Run a subcommand; return its exit code and what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = cli.run([*argv])
    return code, out.getvalue()


class ConfigTest(parameterized.TestCase):
    def test_every_key_of_every_method_has_help(self):
        silent: set[str] = set()
        for name in methods():
            for key in keys(load_config(f"{name}:{recipes(name)[0]}")):
                silent |= {key.name} if not key.help else set()
        self.assertEqual(silent, set())

    def test_it_lists_what_a_pattern_matches(self):
        code, out = command("config", "simclr:digits", "--grep=^optim.lr$")
        self.assertEqual(code, 0, out)
        self.assertContainsInOrder(
            ["* optim.lr = 0.002", "number", "default 0.001", "peak learning rate", "1 of "], out
        )

    def test_an_override_shows(self):
        _, out = command("config", "simclr:digits", "--grep=lr$", "--config.optim.lr=0.5")
        self.assertIn("optim.lr = 0.5", out)

    @parameterized.parameters("mine.yaml", "mine.yml", "mine.py")
    def test_a_saved_config_is_the_same(self, name):
        path = Path(self.create_tempdir().full_path) / name
        code, out = command(
            "config", "byol:digits", "--config.optim.lr=0.5", "--grep=none", f"--save={path}"
        )
        self.assertEqual(code, 0, out)
        before = load_config("byol:digits")
        before["optim"]["lr"] = 0.5
        after = load_config(str(path))
        self.assertEqual(list(map(str, keys(after))), list(map(str, keys(before))))
        code, out = command("config", "byol:digits", f"--save={path}")
        self.assertEqual((code, out.splitlines()[-1][-11:]), (2, "File exists"))

    @parameterized.parameters(
        (("simclr:digits", "--save=mine.txt"), "expected a name that ends in .py, .yaml or .yml"),
        (("simclr:digits", "--grep=("), "not a regular expression"),
        (("simclr:digit",), "did you mean 'digits'"),
        (("none.yaml",), "--config=none.yaml: No such file or directory"),
        ((), "--config is missing"),
    )
    def test_a_mistake_is_one_line(self, argv, message):
        code, out = command("config", *argv)
        self.assertEqual(code, 2)
        self.assertIn(message, out)
        self.assertLen(out.splitlines(), 1, out)

    @parameterized.parameters("[1, 2]", "a: [", "3")
    def test_a_yaml_file_of_another_form(self, text):
        path = Path(self.create_tempdir().full_path) / "broken.yaml"
        path.write_text(text)
        code, out = command("config", str(path))
        self.assertEqual((code, len(out.splitlines())), (2, 1), out)


if __name__ == "__main__":
    absltest.main()
