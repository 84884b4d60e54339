"""Cache of compiled programs: a command that was run before starts without compiling again."""

import hashlib
import importlib.util
import platform
from pathlib import Path

import jax

from ssl_jax.core import files
from ssl_jax.data import cache

MOST = 2**30  # bytes; the programs that were not used for longest are deleted first


def folder() -> Path:
    """Return the folder of the programs, beside the indexes of data sets (`data.cache`).

    Each kind of CPU has its own, as a program may use instructions that other kinds lack.

    Raises:
      OSError: there is none.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    instructions = next((x for x in lines if x.startswith(("flags", "Features"))), "")
    kind = f"{platform.machine()} {platform.processor()} {instructions}"
    return cache.folder() / "programs" / hashlib.blake2b(kind.encode(), digest_size=8).hexdigest()


def keep() -> None:
    """Let JAX keep this process's programs; call it before the first is compiled.

    JAX_COMPILATION_CACHE_DIR takes precedence; JAX_ENABLE_COMPILATION_CACHE=false disables it.
    Runs of several processes keep none, as all must execute the same program; nor does anyone
    without the package filelock, which JAX needs to limit the size.
    """
    named = jax.config.jax_compilation_cache_dir is not None  # type: ignore[attr-defined]
    if named or jax.distributed.is_initialized() or not importlib.util.find_spec("filelock"):
        return
    try:
        place = folder()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return
    if not files.unwritable(place):
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_compilation_cache_max_size", MOST)
