"""`python -m launch.skypilot`: a task file for SkyPilot, which provisions machines in any cloud.

python -m launch.skypilot --num_hosts=2 --accelerators=H100:8 --config=dino:imagenet --workdir=/W
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ssl_jax.core.config import flag

from . import job as jobs

PORT = 8476


@dataclass(frozen=True, kw_only=True)
class Flags(jobs.JobFlags):
    accelerators: jobs.Word = flag("accelerators per host", "H100:8")
    setup: str = flag(
        "shell commands that install ssl_jax", "pip install -c constraints.txt -e '.[gpu]'"
    )
    spot: bool = flag("use spot machines, which may be reclaimed", False)


def main(argv: Sequence[str]) -> int:
    job, flags = jobs.parse(argv, __doc__, Flags)
    file = f"{job.name}.yaml"
    return jobs.submit(
        job, file, render(job, flags), ["sky", "launch", "--cluster", job.name, file]
    )


def render(job: jobs.Job, flags: Flags) -> str:
    """Render the task. The evaluations of a sweep are distributed over the hosts."""
    if job.sweep:
        each = f"i = SKYPILOT_NODE_RANK; i < {len(job.commands)}; i += SKYPILOT_NUM_NODES"
        run = f"for (({each})); do\n{job.shell('i')}\ndone"
    else:
        run = (
            'first=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)\n'
            f'{job.shell("")} --coordinator="$first:{PORT}" '
            '--num_processes="$SKYPILOT_NUM_NODES" --process_id="$SKYPILOT_NODE_RANK"'
        )
    task = {
        "name": job.name,
        "num_nodes": job.num_hosts,
        "resources": {
            "accelerators": flags.accelerators,
            "use_spot": flags.spot,
        },
        "workdir": ".",  # copied to every host; setup and run start in it
        "setup": flags.setup,
        "run": f"set -eu\n{run}\n",
    }
    return jobs.to_yaml(task)


if __name__ == "__main__":
    jobs.main(main)
