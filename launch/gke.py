"""`python -m launch.gke`: a JobSet for TPU slices on GKE, or an indexed Job for a sweep.

python -m launch.gke --accelerator=tpu-v5-lite-podslice --topology=8x8 --num_slices=2 \\
    --image=IMAGE --volume=my-claim:/nfs --config=simclr:imagenet --workdir=/nfs/W
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Matching

from . import job as jobs

Sides = Annotated[str, Matching(r"\d+(x\d+)*", "sides, as in 8x8 or 4x4x8")]
Volume = Annotated[
    str,
    Matching(
        r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?:/.*",
        "CLAIM:/PATH with the name of a claim, lower-case letters, digits, dots and hyphens",
    ),
]
FINAL = [2, 130]  # exit codes that a restart cannot fix


@dataclass(frozen=True, kw_only=True)
class Flags(jobs.JobFlags):
    accelerator: jobs.Word = flag("GKE's name of the TPU", "tpu-v5-lite-podslice")
    topology: Sides | None = flag("chips of a slice; by default 4x4, for a sweep 2x2", None)
    chips_per_host: Count = flag("TPU chips per machine", 4)
    num_slices: Count = flag("slices of the run, along --config.mesh.replica", 1)
    image: jobs.Word = flag("container image with ssl_jax")
    volume: Volume | None = flag(
        "CLAIM:PATH of a volume claim that all pods mount, for data and workdir", None
    )


def main(argv: Sequence[str]) -> int:
    job, flags = jobs.parse(argv, __doc__, Flags)
    if flags.num_slices > 1 and not any("--config.mesh.replica=" in w for w in job.commands[0]):
        across = f"--config.mesh.replica={flags.num_slices}"
        job = replace(job, commands=tuple((*command, across) for command in job.commands))
    file = f"{job.name}.yaml"
    return jobs.submit(job, file, render(job, flags), ["kubectl", "apply", "-f", file])


def render(job: jobs.Job, flags: Flags) -> str:
    """Render the YAML. Pods restart with the whole JobSet, unless an error is final."""
    topology = flags.topology or ("2x2" if job.sweep else "4x4")
    chips = math.prod(map(int, topology.split("x")))
    each, slices = flags.chips_per_host, flags.num_slices
    if chips % each:
        raise UserError(f"--topology={topology}: expected a multiple of {each} chips, got {chips}")
    hosts = chips // each
    if flags.num_hosts and job.num_hosts != hosts * slices:
        raise UserError(
            f"--num_hosts={job.num_hosts}: expected {hosts * slices}, for {slices} slice(s) of "
            f"{topology} with {each} chips per host"
        )
    if job.sweep and hosts > 1:
        raise UserError(f"--topology={topology}: expected a slice of one host for a sweep")
    pods = len(job.commands) if job.sweep else hosts
    work = {
        "parallelism": pods,
        "completions": pods,
        "completionMode": "Indexed",
        "backoffLimit": 3 * pods if job.sweep else 0,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": FINAL}},
            ]
        },
        "template": {"spec": pod(job, flags, topology)},
    }
    if job.sweep:
        return dump({"apiVersion": "batch/v1", "kind": "Job"}, job, {}, work)
    exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    spec = {
        "failurePolicy": {
            "maxRestarts": flags.restarts,
            "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
        },
        "replicatedJobs": [{"name": "slice", "replicas": slices, "template": {"spec": work}}],
    }
    kind = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet"}
    return dump(kind, job, exclusive, spec)


def pod(job: jobs.Job, flags: Flags, topology: str) -> dict[str, Any]:
    """Specify the pod of one host. JAX learns about the other hosts from GKE's variables."""
    container: dict[str, Any] = {
        "name": "ssl-jax",
        "image": flags.image,
        "command": ["bash", "-c", f"set -eu\n{job.shell('JOB_COMPLETION_INDEX')}\n"],
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}, {"containerPort": 8482}],
        "securityContext": {"privileged": True},
        "resources": {"limits": {"google.com/tpu": flags.chips_per_host}},
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": flags.accelerator,
            "cloud.google.com/gke-tpu-topology": topology,
        },
        "containers": [container],
    }
    if flags.volume:
        claim, _, path = flags.volume.partition(":")
        container["volumeMounts"] = [{"name": "shared", "mountPath": path}]
        spec["volumes"] = [{"name": "shared", "persistentVolumeClaim": {"claimName": claim}}]
    return spec


def dump(
    kind: dict[str, str], job: jobs.Job, annotations: dict[str, str], spec: dict[str, Any]
) -> str:
    metadata: dict[str, Any] = {"name": job.name}
    if annotations:
        metadata["annotations"] = annotations
    return jobs.to_yaml({**kind, "metadata": metadata, "spec": spec})


if __name__ == "__main__":
    jobs.main(main)
