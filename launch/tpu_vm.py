"""`python -m launch.tpu_vm`: a run or a sweep on a Cloud TPU by gcloud. Hosts detect each other.

python -m launch.tpu_vm --tpu=NAME --zone=us-west4-a --config=simclr:imagenet --workdir=/nfs/W
"""

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from ssl_jax.core.config import flag

from . import job as jobs


@dataclass(frozen=True, kw_only=True)
class Flags(jobs.JobFlags):
    tpu: jobs.Word = flag("name of the TPU VM")
    zone: jobs.Word = flag("zone of the TPU VM")
    project: jobs.Word | None = flag("Google Cloud project; by default gcloud's", None)
    accelerator: jobs.Word | None = flag("type of TPU to create first, such as v5litepod-64", None)
    version: jobs.Word = flag("software version, with --accelerator", "v2-alpha-tpuv5-lite")
    before: str = flag(
        "shell commands to run first on every host, such as 'source ~/venv/bin/activate'", ""
    )


def main(argv: Sequence[str]) -> int:
    job, flags = jobs.parse(argv, __doc__, Flags)
    commands = render(job, flags)
    if job.dry_run:
        print("\n".join(shlex.join(command) for command in commands))
        return 0
    jobs.need("gcloud")
    return max(subprocess.run(command, check=False).returncode for command in commands)


def render(job: jobs.Job, flags: Flags) -> list[list[str]]:
    """List the gcloud commands: create the TPU if requested, then run on all of its hosts."""
    where = [flags.tpu, f"--zone={flags.zone}"]
    where += [f"--project={flags.project}"] if flags.project else []
    gcloud = ["gcloud", "compute", "tpus", "tpu-vm"]
    commands = []
    if flags.accelerator:
        kind = [f"--accelerator-type={flags.accelerator}", f"--version={flags.version}"]
        commands.append([*gcloud, "create", *where, *kind])
    before = [flags.before] if flags.before else []
    for command in job.commands:
        line = " && ".join([*before, shlex.join(command)])
        commands.append([*gcloud, "ssh", *where, "--worker=all", f"--command={line}"])
    return commands


if __name__ == "__main__":
    jobs.main(main)
