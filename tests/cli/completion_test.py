"""`ssl-jax completion`: what bash completes, asked of bash itself, and the script for zsh."""

import contextlib
import io
import re
import subprocess

from absl.testing import absltest, parameterized

from ssl_jax import cli
from ssl_jax.cli import completion

ASK = r"""
source "$1"
COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'
COMP_LINE="$2" COMP_POINT=${#2} COMP_TYPE=9
read -ra COMP_WORDS <<< "$2"
[[ "$2" == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_ssl_jax
printf '%s\n' "${COMPREPLY[@]}"
"""


class CompletionTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.scripts = {shell: completion.script(shell) for shell in ("bash", "zsh")}

    def replies(self, line: str) -> list[str]:
        """Return what bash offers at the end of a line."""
        path = self.create_tempfile(content=self.scripts["bash"]).full_path
        done = subprocess.run(
            ["bash", "--norc", "-c", ASK, "bash", path, line],
            check=True,
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.stderr, "")
        return done.stdout.splitlines()

    @parameterized.parameters(
        ("ssl-jax tr", ["train ", "translate "]),
        ("ssl-jax --v", ["--version "]),
        ("ssl-jax train --work", ["--workdir="]),
        ("ssl-jax train --dry", ["--dry_run "]),
        # bash has split the word at = and :, so a reply does not repeat what is before them.
        ("ssl-jax train --config=simclr:dig", ["digits "]),
        ("ssl-jax train --workdir=W --config=simclr_v", ["simclr_v2:", "simclr_v2_distillation:"]),
        ("ssl-jax config simsiam:dig", ["digits "]),
        ("ssl-jax evaluate --workdir=W --eval=kn", ["knn"]),
        ("ssl-jax evaluate --eval=knn,line", ["knn,linear", "knn,linear_grid"]),
        ("ssl-jax train --config.optim.clip_n", ["--config.optim.clip_norm="]),
        ("ssl-jax completion ", ["bash ", "zsh "]),
        ("ssl-jax export --format=safe", ["safetensors "]),
        ("ssl-jax train --workdir=/tmp/x", [""]),  # left to bash, which completes files
        ("ssl-jax nothing --", [""]),
    )
    def test_bash(self, line, expected):
        replies = {re.sub(r"(?<=:).*", "", reply) for reply in self.replies(line)}
        self.assertEqual(sorted(replies), expected)

    def test_every_subcommand_has_its_flags(self):
        self.assertEqual([*map(str.strip, self.replies("ssl-jax ")[:-2])], cli.subcommands())
        for name in ("doctor", "views"):
            fields = {f"--{f}" for f in completion.flags_of(name).__dataclass_fields__}
            replies = {reply.strip().rstrip("=") for reply in self.replies(f"ssl-jax {name} --")}
            self.assertContainsSubset(fields - {"--overrides"}, replies)

    def test_zsh_reads_the_same_cases(self):
        branches = {
            shell: [line for line in text.splitlines() if line.endswith(" ;;")]
            for shell, text in self.scripts.items()
        }
        self.assertEqual(branches["bash"], branches["zsh"])
        self.assertGreater(len(branches["zsh"]), len(cli.subcommands()))
        self.assertStartsWith(self.scripts["zsh"], "#compdef ssl-jax\n")

    @parameterized.parameters((("bash",), 0), (("--shell=zsh",), 0), (("fish",), 2), ((), 2))
    def test_the_command(self, argv, expected):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = cli.run(["completion", *argv])
        self.assertEqual(code, expected, out.getvalue())
        if not expected:
            self.assertIn(out.getvalue(), self.scripts.values())
            self.assertLess(len(out.getvalue()), 100_000)


if __name__ == "__main__":
    absltest.main()
