"""Rendered launcher files parse, are sound bash, and contain commands that run."""

import contextlib
import dataclasses
import io
import os
import re
import shlex
import stat
import subprocess
from pathlib import Path

import yaml
from absl.testing import absltest, parameterized

from launch import gke, job, local, skypilot, slurm, tpu_vm
from ssl_jax.core import trust
from ssl_jax.core.errors import UserError
from ssl_jax.run import evolution
from ssl_jax.run.commands import train
from ssl_jax.training.metrics import read_metrics

RUN = (
    "--config=simclr:digits",
    "--workdir=/nfs/a run",
    "--config.optim.lr=1e-3",
    "--config.objective.projector=(8,8)",
)
SWEEP = (
    "--evaluate=/nfs/W1,/nfs/W2@1000",
    "--eval=knn",
    "--suite=suites:digits",
    "--sweep=k=1,5",
    "--sweep=stage=-1",
)
TRAIN = (
    "ssl-jax",
    "train",
    *RUN[:2],
    "--config.optim.lr=1e-3",
    "--config.objective.projector=(8,8)",
    "--restarts=5",
)
EVALUATIONS = [
    ("ssl-jax", "evaluate", "--workdir=/nfs/W1", *SWEEP[1:]),
    ("ssl-jax", "evaluate", "--workdir=/nfs/W2", "--step=1000", *SWEEP[1:]),
]
OWN = {
    slurm: ("--before=source ~/venv/bin/activate",),
    skypilot: (),
    gke: ("--image=images/ssl-jax", "--volume=claim:/nfs"),
    tpu_vm: ("--tpu=name", "--zone=us-west4-a"),
    local: (),
}


def dry(launcher, *argv) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), trust.scope():
        code = launcher.main(["launch", *OWN[launcher], *argv, "--dry_run"])
    assert code == 0
    return out.getvalue()


def bash(launcher, *argv) -> str:
    """Extract the part of the rendered text that bash runs on the worker."""
    text = dry(launcher, *argv)
    if launcher is slurm:
        return text.partition("\n# written")[0]
    if launcher is skypilot:
        return yaml.safe_load(text)["run"]
    if launcher is gke:
        spec = yaml.safe_load(text)["spec"]
        work = spec if "template" in spec else spec["replicatedJobs"][0]["template"]["spec"]
        return work["template"]["spec"]["containers"][0]["command"][2]
    if launcher is tpu_vm:
        words = [shlex.split(line)[-1].removeprefix("--command=") for line in text.splitlines()]
        return "\n".join(words)
    return text


class LaunchTest(parameterized.TestCase):
    @parameterized.parameters(*OWN)
    def test_invalid_names(self, launcher):
        names = ("x\ntouch WRITTEN", "../../x", "My run", "-x", "x-", "a" * 41, "ü", "x_y", "1st")
        for name in names:
            with self.assertRaisesRegex(UserError, "--name: expected at most 40 lower-case"):
                dry(launcher, *RUN, f"--name={name}")

    @parameterized.parameters(
        (slurm, "partition"),
        (slurm, "time"),
        (tpu_vm, "tpu"),
        (tpu_vm, "zone"),
        (tpu_vm, "project"),
        (tpu_vm, "accelerator"),
        (gke, "image"),
        (gke, "accelerator"),
        (gke, "volume"),
        (skypilot, "accelerators"),
    )
    def test_words_of_a_script(self, launcher, flag):
        for text in ("x\n#SBATCH --exclusive", "-x", "a b", "$(x)"):
            with self.assertRaisesRegex(UserError, f"--{flag}: expected"):
                dry(launcher, *RUN, f"--{flag}={text}")

    def test_code_of_a_run_is_trusted_by_the_job(self):
        self.assertIn("--restarts=5 --trust_code", dry(slurm, *RUN, "--trust_code"))

    def test_homes_are_those_of_the_machines(self):
        self.assertIn("'--workdir=~/W'", dry(slurm, RUN[0], "--workdir=~/W"))

    def test_folders_with_an_at_or_a_comma(self):
        with contextlib.chdir(self.create_tempdir().full_path):
            Path("a,b@7").mkdir()
            self.assertIn("--workdir=a,b@7", dry(slurm, "--evaluate=a,b@7"))
        self.assertIn("--workdir=/a@b/w ", dry(slurm, "--evaluate=/a@b/w", "--eval=knn"))

    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def calls(self, script, **env):
        """Run `script` with a stand-in for ssl-jax; return the argument lists of its calls."""
        tools = {
            "ssl-jax": 'printf "%s\\0" ssl-jax "$@" >> "$CALLS"; printf "\\n" >> "$CALLS"',
            "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
            "source": "",
        }
        for name, body in tools.items():
            path = self.folder / name
            path.write_text(f"#!/usr/bin/env bash\n{body}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        calls = self.folder / "calls"
        calls.write_text("")
        script = script.replace("source ~/venv/bin/activate\n", "")
        env = (
            os.environ | {"PATH": f"{self.folder}:{os.environ['PATH']}", "CALLS": str(calls)} | env
        )
        subprocess.run(["bash", "-c", script], env=env, check=True)
        return [tuple(line.split("\0")[:-1]) for line in calls.read_text().splitlines()]

    @parameterized.product(launcher=[slurm, skypilot, gke, tpu_vm, local], argv=[RUN, SWEEP])
    def test_sound_bash(self, launcher, argv):
        script = bash(launcher, *argv)
        path = self.folder / "script.sh"
        path.write_text(script if script.startswith("#!") else f"#!/usr/bin/env bash\n{script}")
        subprocess.run(["bash", "-n", path], check=True)
        # Slurm, SkyPilot and Kubernetes define the variables; a user's file is not followed.
        check = subprocess.run(
            ["shellcheck", "--exclude=SC2154,SC1090", path], capture_output=True, text=True
        )
        self.assertEqual(check.returncode, 0, check.stdout + check.stderr)

    def test_the_same_command_everywhere(self):
        sky = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2"}
        sky |= {"SKYPILOT_NODE_RANK": "1"}
        place = ("--coordinator=10.0.0.1:8476", "--num_processes=2", "--process_id=1")
        for launcher in (slurm, gke, tpu_vm):
            self.assertEqual(self.calls(bash(launcher, *RUN)), [TRAIN])
        self.assertEqual(self.calls(bash(skypilot, *RUN), **sky), [(*TRAIN, *place)])
        calls = self.calls(bash(local, *RUN, "--num_hosts=3"))
        self.assertEqual([call[: len(TRAIN)] for call in calls], [TRAIN] * 3)
        self.assertEqual([call[-1] for call in calls], [f"--process_id={i}" for i in range(3)])
        self.assertLen({call[-3] for call in calls}, 1)
        for word in calls[0][2:]:  # `ssl-jax train` knows every flag
            name = re.match(r"--([^=.]+)", word)[1]
            self.assertIn(name, {field.name for field in dataclasses.fields(train.Flags)})

    def test_a_sweep_is_shared_out(self):
        for launcher, name in ((slurm, "SLURM_ARRAY_TASK_ID"), (gke, "JOB_COMPLETION_INDEX")):
            script = bash(launcher, *SWEEP)
            for i, evaluation in enumerate(EVALUATIONS):
                self.assertEqual(self.calls(script, **{name: str(i)}), [evaluation])
        self.assertIn("--array=0-1\n", dry(slurm, *SWEEP))
        script = bash(skypilot, *SWEEP, "--num_hosts=2")
        for nodes, rank, expected in (
            (2, 0, EVALUATIONS[:1]),
            (2, 1, EVALUATIONS[1:]),
            (1, 0, EVALUATIONS),
        ):
            env = {"SKYPILOT_NUM_NODES": str(nodes), "SKYPILOT_NODE_RANK": str(rank)}
            self.assertEqual(self.calls(script, **env), expected)
        for launcher in (tpu_vm, local):
            self.assertEqual(self.calls(bash(launcher, *SWEEP)), EVALUATIONS)

    def test_the_runs_of_a_study_are_an_array(self):
        study = self.folder / "study.py"
        runs = {"a": {"config": "simclr:digits"}, "b": {"config": "byol:digits", "optim.lr": 0.1}}
        study.write_text(f"def get_config(name=''):\n    return {runs}\n")
        argv = (f"--study={study}", "--workdir=/nfs/S", "--config.train.steps=5")
        expected = [
            (
                *("ssl-jax", "train", f"--config={method}:digits", f"--workdir=/nfs/S/{name}"),
                *(*more, "--config.train.steps=5", "--restarts=5"),
            )
            for name, method, more in (
                ("a", "simclr", ()),
                ("b", "byol", ("--config.optim.lr=0.1",)),
            )
        ]
        self.assertIn("--array=0-1\n", dry(slurm, *argv))
        for i, run in enumerate(expected):
            script = bash(slurm, *argv)
            self.assertEqual(self.calls(script, SLURM_ARRAY_TASK_ID=str(i)), [run])
        self.assertEqual(self.calls(bash(local, *argv)), expected)
        with self.assertRaisesRegex(UserError, "expected --config for a run or --study, not both"):
            dry(slurm, *argv, "--config=simclr:digits")
        with self.assertRaisesRegex(UserError, "its runs start from each other"):
            dry(slurm, "--study=studies:simclr_v2", "--workdir=/nfs/S")

    def test_a_generation_is_an_array(self):
        plan = evolution.SearchPlan(
            config="simclr:digits",
            overrides={"train.steps": "5"},
            genes="objective.weights",
            names=("a", "b"),
            fitness="diag/zipf_kl",
            maximize=False,
            data="digits",
            eval_data="",
            settings=evolution.Settings(population=2, generations=2),
        )
        plan.begin(self.folder)
        genome = evolution.ask(plan.settings, 2, [])[1]
        argv = ("--evolve", f"--workdir={self.folder}")
        self.assertIn("--array=0-1\n", dry(slurm, *argv))
        (command,) = self.calls(bash(slurm, *argv), SLURM_ARRAY_TASK_ID="1")
        self.assertEqual(
            command,
            (
                *("ssl-jax", "train", "--config=simclr:digits", "--data=digits"),
                f"--workdir={self.folder}/g00-m01",
                "--config.train.steps=5",
                f"--config.objective.weights.a={genome[0]}",
                f"--config.objective.weights.b={genome[1]}",
                "--restarts=5",
            ),
        )
        with self.assertRaisesRegex(UserError, "--evolve: the search in --workdir has the config"):
            dry(slurm, *argv, "--config=simclr:digits")
        with self.assertRaisesRegex(UserError, "no search in /nfs/S: start one with"):
            dry(slurm, "--evolve", "--workdir=/nfs/S")

    def test_a_jobset(self):
        text = dry(gke, *RUN, "--topology=8x8", "--num_slices=2")
        jobset = yaml.safe_load(text)
        self.assertEqual(jobset["kind"], "JobSet")
        (slices,) = jobset["spec"]["replicatedJobs"]
        work = slices["template"]["spec"]
        self.assertEqual(
            (slices["replicas"], work["completions"], work["parallelism"]), (2, 16, 16)
        )
        pod = work["template"]["spec"]
        self.assertEqual(pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"], "8x8")
        self.assertEqual(pod["volumes"][0]["persistentVolumeClaim"]["claimName"], "claim")
        self.assertIn("--config.mesh.replica=2", pod["containers"][0]["command"][2])
        # Errors that the user has to fix are not retried.
        (rule,) = work["podFailurePolicy"]["rules"]
        self.assertEqual(rule["action"], "FailJob")
        self.assertIn(2, rule["onExitCodes"]["values"])
        sweep = yaml.safe_load(dry(gke, *SWEEP))
        self.assertEqual((sweep["kind"], sweep["spec"]["completions"]), ("Job", 2))

    def test_a_run_in_two_processes(self):
        workdir = self.folder / "W"
        argv = (
            "--config=simclr:digits",
            f"--workdir={workdir}",
            "--num_hosts=2",
            "--devices=1",
            "--config.backbone.width=4",
            "--config.objective.projector=(8,8)",
            "--config.train.batch_size=32",
            "--config.train.steps=2",
            "--config.evals.every=-1",
        )
        self.assertEqual(local.main(["launch.local", *argv]), 0)
        self.assertEqual(read_metrics(workdir)[-1]["step"], 2)

    @parameterized.parameters(
        (slurm, (), "expected --workdir=W for a run or --evaluate"),
        (slurm, (*RUN, *SWEEP), "expected --workdir=W for a run or --evaluate"),
        (slurm, (*RUN, "--gpu=8"), "unknown flag --gpu; did you mean 'gpus'"),
        (slurm, (*RUN, "--gpus=many"), "--gpus: expected int, got 'many'"),
        (gke, (*RUN, "--topology=big"), "--topology: expected sides"),
        (
            gke,
            (*RUN, "--topology=8x8", "--num_hosts=2"),
            "--num_hosts=2: expected 16, for 1 slice",
        ),
        (gke, (*RUN, "--image="), "--image is missing"),
        (tpu_vm, (*RUN, "--zone="), "--zone is missing"),
    )
    def test_errors(self, launcher, argv, message):
        with self.assertRaisesRegex(UserError, message):
            launcher.main(["launch", *OWN[launcher], *argv, "--dry_run"])

    def test_a_program_that_is_not_installed(self):
        with self.assertRaisesRegex(UserError, "no-such is not installed; --dry_run shows"):
            job.need("no-such")


if __name__ == "__main__":
    absltest.main()
