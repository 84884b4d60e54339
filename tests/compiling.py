"""Compiler options of users' programs, where those of tests (`conftest.py`) change the numbers or
make a long run slow.
"""

import os

_FLAG = "xla_cpu_use_fusion_emitters"
AS_USERS = {_FLAG: True} if _FLAG in os.environ.get("XLA_FLAGS", "") else None


def users_environment() -> dict[str, str]:
    """Return the environment of a child process that compiles as users do, for one device."""
    unset = {"XLA_FLAGS", "JAX_NUM_CPU_DEVICES"}
    return {name: value for name, value in os.environ.items() if name not in unset}
