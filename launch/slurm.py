"""`python -m launch.slurm`: a run on GPU nodes, one task per GPU, or a sweep as a job array.

python -m launch.slurm --num_hosts=4 --gpus=8 --config=moco_v3:imagenet --workdir=/nfs/W
python -m launch.slurm --evaluate=/nfs/W1,/nfs/W2@1000 --eval=knn
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ssl_jax.core.config import flag
from ssl_jax.core.ranges import Count

from . import job as jobs


@dataclass(frozen=True, kw_only=True)
class Flags(jobs.JobFlags):
    gpus: Count = flag("GPUs per node", 8)
    cpus: Count = flag("CPU cores per GPU", 8)
    time: jobs.Word = flag("time limit, HH:MM:SS", "24:00:00")
    partition: jobs.Word | None = flag("partition of the cluster; by default the cluster's", None)
    before: str = flag("shell commands to run first, such as 'source ~/venv/bin/activate'", "")


def main(argv: Sequence[str]) -> int:
    job, flags = jobs.parse(argv, __doc__, Flags)
    file = f"{job.name}.sbatch"
    return jobs.submit(job, file, render(job, flags), ["sbatch", file])


def render(job: jobs.Job, flags: Flags) -> str:
    """Render the script for sbatch. JAX assigns each task of a node the GPU of its local rank."""
    gpus = 1 if job.sweep else flags.gpus
    options = {
        "job-name": job.name,
        "nodes": 1 if job.sweep else job.num_hosts,
        "ntasks-per-node": gpus,
        "gpus-per-node": gpus,
        "cpus-per-task": flags.cpus,
        "time": flags.time,
        "partition": flags.partition,
        "array": f"0-{len(job.commands) - 1}" if job.sweep else "",
        "output": f"{job.name}-%A_%a.log" if job.sweep else f"{job.name}-%j.log",
    }
    head = [f"#SBATCH --{key}={value}" for key, value in options.items() if value]
    body = job.shell("SLURM_ARRAY_TASK_ID")
    return jobs.script(
        *head,
        "#SBATCH --requeue",
        "set -euo pipefail",
        *([flags.before] if flags.before else []),
        body if job.sweep else f"srun --kill-on-bad-exit=0 {body}",
    )


if __name__ == "__main__":
    jobs.main(main)
