"""Every test sees eight fake CPU devices; compiled programs are shared between runs by the
persistent cache. The tests in `slow.txt` are of the full set. `--shard` selects a part of the
tests, `--cpu` measures them.
"""

import gc
import hashlib
import itertools
import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Threads of XLA's pool: with one per device, collectives abort on a busy machine (see `cli.run`).
os.environ.setdefault("PJRT_NPROC", "32")
# Compiling is what most tests spend their time on; the programs are run a few times at most.
# The MLIR fusion emitters take two thirds of it in jaxlib 0.10.2; 0.12.0.1 has no such flag.
emitters = " --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""
os.environ.setdefault(
    "XLA_FLAGS",
    f"--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true{emitters}",
)
cache = Path(tempfile.gettempdir()) / "ssl_jax_test_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
os.environ.setdefault("SSL_JAX_CACHE", tempfile.mkdtemp(prefix="ssl_jax_index_"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

flags.FLAGS.mark_as_parsed()  # absltest's temporary folders ask for a flag


MOST_MAPS = 30_000  # memory maps; Linux gives a process 65,530
tests_since_look = itertools.count(1)


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_file() -> Iterator[None]:
    """Drop a file's compiled programs when its tests end.

    Those of thousands of tests take more memory maps than Linux gives a process, and jaxlib then
    ends in a segmentation fault.
    """
    yield
    drop_programs()


@pytest.fixture(autouse=True)
def programs_of_a_long_file() -> Iterator[None]:
    """Drop them earlier in a file that compiles very many, such as the contract in the full set."""
    yield
    if next(tests_since_look) % 20 == 0 and sys.platform == "linux":
        with Path("/proc/self/maps").open("rb") as maps:
            if sum(1 for _ in maps) > MOST_MAPS:
                drop_programs()


def drop_programs() -> None:
    jax.clear_caches()
    gc.collect()


SLOW = Path(__file__).parent / "slow.txt"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cpu", metavar="FILE", help="add the CPU seconds of each test to a file")
    parser.addoption(
        "--shard",
        metavar="K/N",
        help="run only the K-th of N parts of the selected tests, K from 0 to N - 1",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """Measure a test with its fixtures and child processes; see `slow.py`."""
    before = os.times()
    result = yield
    if path := item.config.getoption("cpu"):
        seconds = sum(os.times()[:4]) - sum(before[:4])
        with Path(path).open("a") as file:  # lines of several processes do not mix
            file.write(f"{seconds:.2f}\t{item.nodeid}\n")
    return result


def pytest_collection_finish() -> None:
    """Keep the collector from what was imported, which lives to the end: `drop_programs` calls it
    once per file, and it would look at 600,000 objects each time.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None]:
    slow = set(SLOW.read_text().splitlines())
    for item in items:
        if item.nodeid in slow:
            item.add_marker(pytest.mark.full)
    yield  # pytest selects by marks
    if not (shard := config.getoption("shard")):
        return
    number, count = map(int, shard.split("/"))
    if not 0 <= number < count:
        raise pytest.UsageError(f"--shard={shard}: expected K/N with 0 <= K < N")
    parts: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:  # by the hash of its name, so that a new test moves no other one
        digest = hashlib.blake2b(item.nodeid.encode()).digest()
        parts[int.from_bytes(digest) % count == number].append(item)
    items[:] = parts[True]
    config.hook.pytest_deselected(items=parts[False])
