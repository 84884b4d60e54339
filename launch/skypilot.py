"""`python -m launch.skypilot`: a task file for SkyPilot, which provisions machines in any cloud.

python -m launch.skypilot --num_hosts=2 --accelerators=H100:8 --config=dino:imagenet --workdir=/W
"""

from collections.abc import Sequence

from . import job as jobs

PORT = 8476
FLAGS = {
    "accelerators": "accelerators per host; default H100:8",
    "setup": "shell commands that install ssl_jax; default: from the current clone",
    "spot": "true to use spot machines, which may be reclaimed",
}


def main(argv: Sequence[str]) -> int:
    job = jobs.parse(argv, __doc__, FLAGS)
    file = f"{job.name}.yaml"
    return jobs.submit(job, file, render(job), ["sky", "launch", "--cluster", job.name, file])


def render(job: jobs.Job) -> str:
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
            "accelerators": job.word("accelerators", "H100:8"),
            "use_spot": job.option("spot", "false").lower() == "true",
        },
        "workdir": ".",  # copied to every host; setup and run start in it
        "setup": job.option("setup", "pip install -c constraints.txt -e '.[gpu]'"),
        "run": f"set -eu\n{run}\n",
    }
    return jobs.to_yaml(task)


if __name__ == "__main__":
    jobs.main(main)
