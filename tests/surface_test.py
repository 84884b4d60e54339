"""Modules that `import ssl_jax` and `import ssl_jax.losses` load, and the few public names."""

import pkgutil
import subprocess
import sys

from absl.testing import absltest

import ssl_jax
from ssl_jax import losses
from ssl_jax.embeddings.encoder import ImageEncoder


def modules_after(code: str) -> set[str]:
    """Run code in a fresh process; return the names of the modules that it has imported."""
    process = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(process.stdout.split())


class SurfaceTest(absltest.TestCase):
    def test_names(self):
        for name in ssl_jax.__all__:
            self.assertTrue(getattr(ssl_jax, name), name)
        self.assertIs(ssl_jax.ImageEncoder, ImageEncoder)
        self.assertContainsSubset(ssl_jax.__all__, dir(ssl_jax))
        self.assertRegex(ssl_jax.__version__, r"\d+\.\d+")
        with self.assertRaisesRegex(AttributeError, "no attribute 'lode'"):
            ssl_jax.lode  # noqa: B018

    def test_no_module_hides_a_function(self):
        """`import ssl_jax.x` sets the attribute `x` of the package."""
        modules = {module.name for module in pkgutil.iter_modules(ssl_jax.__path__)}
        self.assertEqual(modules & set(ssl_jax.__all__), set())

    def test_the_package_is_cheap(self):
        modules = modules_after("import ssl_jax")
        self.assertEqual(modules & {"jax", "numpy", "flax", "ssl_jax.cli"}, set())

    def test_losses_stand_alone(self):
        names = [m.name for m in pkgutil.walk_packages(losses.__path__, "ssl_jax.losses.")]
        self.assertContainsSubset({"ssl_jax.losses.ntxent", "ssl_jax.losses.sinkhorn"}, names)
        modules = modules_after("\n".join(f"import {name}" for name in names))
        own = {m for m in modules if m.startswith("ssl_jax.")}
        self.assertEqual(own, {"ssl_jax.losses", *names})
        self.assertEqual(modules & {"flax", "optax", "cv2", "orbax", "grain"}, set())


if __name__ == "__main__":
    absltest.main()
