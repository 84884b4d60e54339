import jax
from absl.testing import absltest

from ssl_jax.core.versions import version


class VersionTest(absltest.TestCase):
    def test_a_package_that_is_not_installed_has_no_version_and_no_error(self):
        self.assertEqual(version("jax"), jax.__version__)
        self.assertEqual(version("no-such-package"), "not installed")


if __name__ == "__main__":
    absltest.main()
