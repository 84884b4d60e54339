"""What `import ssl_jax` and `import ssl_jax.losses` bring along, and the few names there are."""

import pkgutil
import subprocess
import sys

from absl.testing import absltest

import ssl_jax
from ssl_jax import losses
from ssl_jax.embed.encoder import Encoder


def modules_after(code: str) -> set[str]:
    """What a fresh process has imported then."""
    said = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(said.stdout.split())


class SurfaceTest(absltest.TestCase):
    def test_names(self):
        self.assertEqual(ssl_jax.__all__, ["Encoder", "load"])
        self.assertIs(ssl_jax.Encoder, Encoder)
        self.assertContainsSubset({"load", "Encoder"}, dir(ssl_jax))
        with self.assertRaisesRegex(AttributeError, "no attribute 'lode'"):
            ssl_jax.lode  # noqa: B018

    def test_the_package_is_cheap(self):
        found = modules_after("import ssl_jax")
        self.assertEqual(found & {"jax", "numpy", "flax", "ssl_jax.cli"}, set())

    def test_losses_stand_alone(self):
        names = [m.name for m in pkgutil.walk_packages(losses.__path__, "ssl_jax.losses.")]
        self.assertContainsSubset({"ssl_jax.losses.ntxent", "ssl_jax.losses.sinkhorn"}, names)
        found = modules_after("\n".join(f"import {name}" for name in names))
        own = {m for m in found if m.startswith("ssl_jax.")}
        self.assertEqual(own, {"ssl_jax.losses", *names})
        self.assertEqual(found & {"flax", "optax", "cv2", "orbax", "grain"}, set())


if __name__ == "__main__":
    absltest.main()
