"""Versions of packages."""

import importlib.metadata

from absl.testing import absltest

from ssl_jax.core.versions import versions


class VersionsTest(absltest.TestCase):
    def test_a_package_that_is_not_installed_stops_nothing(self):
        """Once a clone that ran from its folder ended at the first save."""
        want = {"jax": importlib.metadata.version("jax"), "no-such-package": "not installed"}
        self.assertEqual(versions("jax", "no-such-package"), want)


if __name__ == "__main__":
    absltest.main()
