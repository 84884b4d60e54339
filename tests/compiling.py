"""Compiler options of users' programs, where those of tests (`conftest.py`) change the numbers."""

import os

_FLAG = "xla_cpu_use_fusion_emitters"
AS_USERS = {_FLAG: True} if _FLAG in os.environ.get("XLA_FLAGS", "") else None
