"""`python -m launch.gke`: a JobSet for TPU slices on GKE, or an indexed Job for a sweep.

python -m launch.gke --accelerator=tpu-v5-lite-podslice --topology=8x8 --num_slices=2 \\
    --image=IMAGE --volume=my-claim:/nfs --config=simclr:imagenet --workdir=/nfs/W
"""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.run import flags as command_line

from . import job as jobs

FLAGS = {
    "accelerator": "GKE's name of the TPU; default tpu-v5-lite-podslice",
    "topology": "topology of a slice; default 4x4, for a sweep 2x2",
    "chips_per_host": "TPU chips per machine; default 4",
    "num_slices": "slices of the run, along --config.mesh.replica; default 1",
    "image": "container image with ssl_jax",
    "volume": "CLAIM:PATH of a volume claim that all pods mount, for data and workdir",
}
_CLAIM = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
FINAL = [2, 130]  # exit codes that a restart cannot fix


def main(argv: Sequence[str]) -> int:
    job = jobs.parse(argv, __doc__, FLAGS)
    if not job.option("image"):
        raise UserError("--image is missing: expected a container image with ssl_jax")
    slices = job.number("num_slices", 1)
    if slices > 1 and not any("--config.mesh.replica=" in w for w in job.commands[0]):
        across = f"--config.mesh.replica={slices}"
        job = replace(job, commands=tuple((*command, across) for command in job.commands))
    file = f"{job.name}.yaml"
    return jobs.submit(job, file, render(job), ["kubectl", "apply", "-f", file])


def render(job: jobs.Job) -> str:
    """Render the YAML. Pods restart with the whole JobSet, unless an error is final."""
    topology = job.option("topology", "2x2" if job.sweep else "4x4")
    try:
        chips = math.prod(int(side) for side in topology.split("x"))
    except ValueError:
        raise UserError(f"--topology={topology}: expected sides, as in 8x8 or 4x4x8") from None
    each, slices = job.number("chips_per_host", 4), job.number("num_slices", 1)
    if chips % each:
        raise UserError(f"--topology={topology}: expected a multiple of {each} chips, got {chips}")
    hosts = chips // each
    if job.options["num_hosts"] and job.num_hosts != hosts * slices:
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
        "template": {"spec": pod(job, topology, each)},
    }
    if job.sweep:
        return dump({"apiVersion": "batch/v1", "kind": "Job"}, job, {}, work)
    exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    spec = {
        "failurePolicy": {
            "maxRestarts": command_line.whole("restarts", job.options["restarts"], 5),
            "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
        },
        "replicatedJobs": [{"name": "slice", "replicas": slices, "template": {"spec": work}}],
    }
    kind = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet"}
    return dump(kind, job, exclusive, spec)


def pod(job: jobs.Job, topology: str, chips: int) -> dict[str, Any]:
    """Specify the pod of one host. JAX learns about the other hosts from GKE's variables."""
    container: dict[str, Any] = {
        "name": "ssl-jax",
        "image": job.word("image"),
        "command": ["bash", "-c", f"set -eu\n{job.shell('JOB_COMPLETION_INDEX')}\n"],
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}, {"containerPort": 8482}],
        "securityContext": {"privileged": True},
        "resources": {"limits": {"google.com/tpu": chips}},
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": job.word("accelerator", "tpu-v5-lite-podslice"),
            "cloud.google.com/gke-tpu-topology": topology,
        },
        "containers": [container],
    }
    if job.option("volume"):
        claim, _, path = job.option("volume").partition(":")
        if not _CLAIM.fullmatch(claim) or not path.startswith("/"):
            raise UserError(
                f"--volume={job.option('volume')}: expected CLAIM:/PATH with the name of a claim, "
                "lower-case letters, digits, dots and hyphens"
            )
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
