"""The rules of the layout: who may import whom, and how long a file may be."""

import ast
from pathlib import Path

from absl.testing import absltest, parameterized

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ssl_jax"

LOWER = {"core"}
MIDDLE = {"nets", "losses", "augment", "control", "data", "optim"}
ALLOWED = {
    "core": set(),
    "control": LOWER,
    "nets": LOWER | {"losses"},  # vectors of unit length
    "losses": set(),  # usable alone in any JAX project
    "augment": LOWER,
    "data": LOWER | {"control"},
    "optim": LOWER,
    "weights": LOWER | {"nets"},
    "objectives": LOWER | {"nets", "losses", "augment"},
    "training": LOWER | MIDDLE | {"objectives"},
    "evals": LOWER | MIDDLE | {"objectives", "weights"},
    "cost": LOWER | MIDDLE | {"objectives", "training"},
    "embeddings": LOWER | MIDDLE | {"objectives", "evals"},
    "report": LOWER | MIDDLE | {"objectives", "training", "evals"},
    "run": LOWER
    | MIDDLE
    | {"objectives", "training", "evals", "cost", "embeddings", "weights", "report"},
    "cli": LOWER
    | MIDDLE
    | {"objectives", "training", "evals", "cost", "embeddings", "report", "weights", "run"},
}


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def sources(*parts: str) -> list[Path]:
    paths = sorted(PACKAGE.joinpath(*parts).rglob("*.py"))
    assert paths, parts
    return paths


class ArchitectureTest(parameterized.TestCase):
    @parameterized.parameters(*ALLOWED)
    def test_imports_go_one_way(self, package: str):
        for path in sources(package):
            for name in imported(path):
                if not name.startswith("ssl_jax."):
                    continue
                other = name.split(".")[1]
                if other in ALLOWED and other != package:
                    self.assertIn(other, ALLOWED[package], f"{path} imports {name}")

    def test_only_the_command_line_knows_the_command_line(self):
        others = [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "launch").rglob("*.py")]
        for path in (*others, PACKAGE / "__init__.py", *PACKAGE.glob("api*.py")):
            users = [name for name in imported(path) if name.startswith("ssl_jax.cli")]
            self.assertEqual(users, [], f"{path}: use ssl_jax.run")

    def test_no_circle_of_modules(self):
        names = {
            ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
            for p in sources()
            if p.parent != PACKAGE  # whose names are looked up when they are used
        }
        left = {name: imported(path) & names.keys() - {name} for name, path in names.items()}
        while leaves := [name for name, needs in left.items() if not needs & left.keys()]:
            for name in leaves:
                del left[name]
        self.assertEqual(left, {}, "these import each other")

    def test_every_package_is_covered(self):
        packages = {p.name for p in PACKAGE.iterdir() if p.is_dir() and any(p.glob("*.py"))}
        self.assertEqual(packages, set(ALLOWED))

    def test_flax_only_in_nets(self):
        users = {
            p.relative_to(PACKAGE).parts[0]
            for p in sources()
            if any(n.split(".")[0] == "flax" for n in imported(p))
        }
        self.assertEqual(users, {"nets"})

    def test_orbax_only_in_checkpoint(self):
        users = [p for p in sources() if any(n.split(".")[0] == "orbax" for n in imported(p))]
        self.assertEqual(users, [PACKAGE / "training" / "checkpoint.py"])

    def test_no_jax_in_data(self):
        """Readers and decoders know no devices; `core/placement.py` puts arrays on them."""
        users = [p for p in sources("data") if any(n.split(".")[0] == "jax" for n in imported(p))]
        self.assertEqual(users, [])

    def test_nothing_deprecated(self):
        for path in sources():
            for name in ("pmap", "pjit"):
                self.assertNotRegex(path.read_text(), rf"\b{name}\(", str(path))

    def test_no_file_is_long(self):
        for folder in ("ssl_jax", "configs", "launch", "tests", "benchmarks"):
            for path in (ROOT / folder).rglob("*.py"):
                self.assertLessEqual(len(path.read_text().splitlines()), 500, str(path))

    def test_a_class_name_means_one_class(self):
        files: dict[str, list[Path]] = {}
        for path in (*sources(), *(ROOT / "benchmarks").rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    files.setdefault(node.name, []).append(path)
        backbones = PACKAGE / "nets" / "backbones"  # one file each, with one `Config`
        self.assertEqual({path.parent for path in files.pop("Config")}, {backbones})
        # Each subcommand has one file, with one `Flags`.
        commands = {PACKAGE / "cli", PACKAGE / "run" / "commands"}
        self.assertEqual({path.parent for path in files.pop("Flags")}, commands)
        self.assertEqual({k: v for k, v in files.items() if len(v) > 1}, {})

    def test_no_method_is_named_outside_its_own_files(self):
        methods = {p.stem for p in (PACKAGE / "objectives").glob("*.py")} - {"__init__", "base"}
        self.assertIn("simclr", methods)
        for package in ("core", "data", "training", "evals", "cost", "report", "run", "cli"):
            for path in sources(package):
                strings = {
                    node.value
                    for node in ast.walk(ast.parse(path.read_text()))
                    if isinstance(node, ast.Constant) and isinstance(node.value, str)
                }
                # There they name an augmentation, and the linear probes of those papers.
                papers = {"simclr", "moco_v3", "byol", "swav", "barlow_twins", "mae"}
                papers |= {"colorization", "rotnet"}
                grid = {"dino", "dinov2", "beit"}
                meant = {"inputs.py": {"simclr"}, "linear.py": papers | grid}
                meant |= {"linear_grid.py": grid}
                meant |= {"chain.py": {"simclr", "byol"}, "logistic.py": {"dinov2"}}
                names = strings & methods - meant.get(path.name, set())
                self.assertEqual(names, set(), str(path))


if __name__ == "__main__":
    absltest.main()
