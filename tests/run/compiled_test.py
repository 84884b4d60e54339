"""The cache of compiled programs: where it lies, and who decides."""

import os
from pathlib import Path
from unittest import mock

import jax
import pytest

from ssl_jax.run import compiled

NAMES = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")


@pytest.fixture
def fresh(tmp_path):
    """No cache is configured; ours would lie in `tmp_path`."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    with mock.patch.dict(os.environ, {"SSL_JAX_CACHE": str(tmp_path / "cache")}):
        yield tmp_path / "cache"
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_beside_the_indexes(fresh):
    with mock.patch("importlib.util.find_spec"):
        compiled.keep()
    place = Path(jax.config.jax_compilation_cache_dir)
    assert place.parent == fresh / "programs" and place.is_dir()
    assert jax.config.jax_compilation_cache_max_size == compiled.MOST


def test_the_users_folder_takes_precedence(fresh):
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    compiled.keep()
    assert jax.config.jax_compilation_cache_dir == "/elsewhere"
    assert not fresh.exists()


def test_runs_of_several_processes_keep_none(fresh):
    with mock.patch.object(jax.distributed, "is_initialized", return_value=True):
        compiled.keep()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_cannot_be_made_costs_time_only(fresh):
    fresh.touch()
    compiled.keep()
    assert jax.config.jax_compilation_cache_dir is None


def test_another_kind_of_cpu_has_its_own_folder(fresh):
    here = compiled.folder()
    with mock.patch("platform.machine", return_value="another"):
        there = compiled.folder()
    assert there != here and there.parent == here.parent
