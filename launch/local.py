"""`python -m launch.local`: a run in several processes on this machine, or a sweep.

python -m launch.local --config=simclr:digits --workdir=W --num_hosts=2
python -m launch.local --evaluate=W1,W2@1000
"""

import shlex
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from ssl_jax.core import trust
from ssl_jax.core.config import flag
from ssl_jax.core.ranges import Count

from . import job as jobs


@dataclass(frozen=True, kw_only=True)
class Flags(jobs.JobFlags):
    devices: Count | None = flag(
        "devices per process: fake CPU devices, or GPUs; by default all", None
    )


def main(argv: Sequence[str]) -> int:
    job, flags = jobs.parse(argv, __doc__, Flags)
    if job.sweep:
        runs = [[(command, place(0, flags.devices))] for command in job.commands]
    else:
        port = free_port()
        (command,) = job.commands
        several = [
            f"--coordinator=127.0.0.1:{port}",
            f"--num_processes={job.num_hosts}",
        ]
        runs = [
            [
                ((*command, *several, f"--process_id={i}"), place(i, flags.devices))
                for i in range(job.num_hosts)
            ]
        ]
    if job.dry_run:
        for together in runs:
            for command, env in together:
                print(shlex.join([*(f"{k}={v}" for k, v in env.items()), *command]))
        return 0
    return max(run(together) for together in runs)


def run(together: Sequence[tuple[Sequence[str], dict[str, str]]]) -> int:
    """Run commands in parallel; return the largest of their exit codes."""
    words, base = trust.python("ssl_jax")
    started = [
        subprocess.Popen([*words, *command[1:]], env={**base, **env}) for command, env in together
    ]
    try:
        return max(abs(process.wait()) for process in started)
    except KeyboardInterrupt:
        return max(abs(process.wait()) for process in started)


def place(process: int, devices: int | None) -> dict[str, str]:
    """Environment variables that give a process its devices."""
    if not devices:
        return {}
    gpus = ",".join(str(process * devices + i) for i in range(devices))
    return {"JAX_NUM_CPU_DEVICES": str(devices), "CUDA_VISIBLE_DEVICES": gpus}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


if __name__ == "__main__":
    jobs.main(main)
