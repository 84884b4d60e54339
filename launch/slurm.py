"""`python -m launch.slurm`: a run on GPU nodes, one task per GPU, or a sweep as a job array.

python -m launch.slurm --num_hosts=4 --gpus=8 --config=moco_v3:imagenet --workdir=/nfs/W
python -m launch.slurm --evaluate=/nfs/W1,/nfs/W2@1000 --eval=knn
"""

from collections.abc import Sequence

from . import job as jobs

FLAGS = {
    "gpus": "GPUs per node; default 8",
    "cpus": "CPU cores per GPU; default 8",
    "time": "time limit, HH:MM:SS; default 24:00:00",
    "partition": "partition of the cluster; default: the cluster's",
    "before": "shell commands to run first, such as 'source ~/venv/bin/activate'",
}


def main(argv: Sequence[str]) -> int:
    job = jobs.parse(argv, __doc__, FLAGS)
    file = f"{job.name}.sbatch"
    return jobs.submit(job, file, render(job), ["sbatch", file])


def render(job: jobs.Job) -> str:
    """Render the script for sbatch. JAX assigns each task of a node the GPU of its local rank."""
    gpus = 1 if job.sweep else job.number("gpus", 8)
    options = {
        "job-name": job.name,
        "nodes": 1 if job.sweep else job.num_hosts,
        "ntasks-per-node": gpus,
        "gpus-per-node": gpus,
        "cpus-per-task": job.number("cpus", 8),
        "time": job.word("time", "24:00:00"),
        "partition": job.word("partition"),
        "array": f"0-{len(job.commands) - 1}" if job.sweep else "",
        "output": f"{job.name}-%A_%a.log" if job.sweep else f"{job.name}-%j.log",
    }
    head = [f"#SBATCH --{key}={value}" for key, value in options.items() if value]
    body = job.shell("SLURM_ARRAY_TASK_ID")
    return jobs.script(
        *head,
        "#SBATCH --requeue",
        "set -euo pipefail",
        *([job.option("before")] if job.option("before") else []),
        body if job.sweep else f"srun --kill-on-bad-exit=0 {body}",
    )


if __name__ == "__main__":
    jobs.main(main)
