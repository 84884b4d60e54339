"""`python -m launch.tpu_vm`: a run or a sweep on a Cloud TPU by gcloud. Hosts detect each other.

python -m launch.tpu_vm --tpu=NAME --zone=us-west4-a --config=simclr:imagenet --workdir=/nfs/W
"""

import shlex
import subprocess
from collections.abc import Sequence

from ssl_jax.core.errors import UserError

from . import job as jobs

FLAGS = {
    "tpu": "name of the TPU VM",
    "zone": "zone of the TPU VM",
    "project": "Google Cloud project; default: gcloud's",
    "accelerator": "type of TPU to create first, such as v5litepod-64",
    "version": "software version, with --accelerator; default v2-alpha-tpuv5-lite",
    "before": "shell commands to run first on every host, such as 'source ~/venv/bin/activate'",
}


def main(argv: Sequence[str]) -> int:
    job = jobs.parse(argv, __doc__, FLAGS)
    for name in ("tpu", "zone"):
        if not job.option(name):
            raise UserError(f"--{name} is missing; set it to the {FLAGS[name]}")
    commands = render(job)
    if job.dry_run:
        print("\n".join(shlex.join(command) for command in commands))
        return 0
    jobs.need("gcloud")
    return max(subprocess.run(command, check=False).returncode for command in commands)


def render(job: jobs.Job) -> list[list[str]]:
    """List the gcloud commands: create the TPU if requested, then run on all of its hosts."""
    where = [job.word("tpu"), f"--zone={job.word('zone')}"]
    where += [f"--project={job.word('project')}"] if job.option("project") else []
    gcloud = ["gcloud", "compute", "tpus", "tpu-vm"]
    commands = []
    if job.option("accelerator"):
        version = job.word("version", "v2-alpha-tpuv5-lite")
        kind = [f"--accelerator-type={job.word('accelerator')}", f"--version={version}"]
        commands.append([*gcloud, "create", *where, *kind])
    before = [job.option("before")] if job.option("before") else []
    for command in job.commands:
        line = " && ".join([*before, shlex.join(command)])
        commands.append([*gcloud, "ssh", *where, "--worker=all", f"--command={line}"])
    return commands


if __name__ == "__main__":
    jobs.main(main)
