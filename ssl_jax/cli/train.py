"""`ssl-jax train`: train any method on any images; run it again to go on where it stopped.

ssl-jax train --config=simclr:digits --workdir=W
ssl-jax train --config=simclr:imagenet --workdir=W --data=folder:/images --config.optim.lr=0.2
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ssl_jax.cli import auto, pretrained, restart
from ssl_jax.cli import flags as command_line
from ssl_jax.cli.configs import configured, override
from ssl_jax.cli.experiment import Experiment
from ssl_jax.cli.table import final_table, terminal
from ssl_jax.cli.training import Training
from ssl_jax.core import distributed, tree
from ssl_jax.core.errors import UserError
from ssl_jax.train import workdir
from ssl_jax.train.profile import Profile

FLAGS = {
    "config": "METHOD:RECIPE (simclr:digits) or PATH.py:RECIPE",
    "workdir": "folder of the run: config, metrics, checkpoints",
    "data": "training images: digits, folder:DIR, npz:FILE, ... (docs/data.md); else the config's",
    "eval_data": "evaluation images, written like --data",
    "profile": "FIRST:LAST: trace these steps for XProf, --profile=100:105, into WORKDIR/profile",
    "accept_changes": "go on with a run though its config or data were others",
    "restarts": "go on by itself after a crash, so often without a newer checkpoint; by default 0",
    "config.SECTION.KEY": "any key of the config, --config.optim.lr=0.3",
    **distributed.FLAGS,
}


def main(argv: list[str]) -> int:
    flags, overrides = command_line.parse(argv, __doc__, FLAGS, True, switches=("accept_changes",))
    folder = Path(command_line.require(flags, "workdir", "name a folder for the run, --workdir=W"))
    restarts = command_line.whole("restarts", flags.restarts)
    if restarts is not None and restart.CHILD not in os.environ:
        return restart.until_done(argv, folder, restarts)
    with distributed.session(flags.flag_values_dict()):
        return start(flags, overrides, folder)


def start(flags: Any, overrides: Sequence[command_line.Override], folder: Path) -> int:
    """Resolve the run, check it, train it, and show what was learned; the exit code."""
    profile = Profile(flags.profile, folder / "profile", distributed.primary())
    console, chosen = terminal(), False
    if flags.config:
        config = configured(flags.config, overrides, flags.data, flags.eval_data)
    elif (folder / "config.json").exists():
        config = workdir.read_config(folder)
        given = {"data.train": flags.data, "data.eval": flags.eval_data}
        override(config, [(key, value) for key, value in given.items() if value])
        override(config, overrides)
    elif flags.data:
        chosen = True
        config, reasons = auto.choose(flags.data, *auto.start_of(overrides))
        console.print("no --config: chosen for these images and this machine")
        console.print("\n".join(f"  {reason}" for reason in reasons))
        override(config, [("data.eval", flags.eval_data)] if flags.eval_data else [])
        override(config, overrides)
    else:
        raise UserError(
            "--config is missing: name a method and recipe, --config=simclr:digits, or only your "
            "images, --data=folder:/path"
        )
    config.pop("spec", None)  # it follows from the rest
    experiment = Experiment.from_config(config, folder)
    # All that a user can get wrong is checked before a file is written.
    experiment.check_batch()
    resolved = experiment.resolved()
    if not (folder / "config.json").exists():
        pretrained.check(experiment)
    announce(console, experiment)
    if chosen:
        console.print(auto.estimate(experiment))
    accept = flags.accept_changes
    with workdir.opened(folder, resolved, experiment.defaults(), accept):
        if distributed.primary():
            experiment.keep_tokenizer(folder)
        training = Training(experiment, resolved, folder, console, profile, accept)
        if code := training.run():
            return code
    probe = experiment.objective.probe
    before = "at the start" if experiment.train.init_from else "untrained"
    final_table(console, training.last, f"stage {probe.stage}, pooling {probe.pool}", before)
    files = "config.json, metrics.jsonl, summary.json, checkpoints, events"
    console.print(f"written to {folder}/: {files}")
    console.print(f"next: ssl-jax report --workdir={folder} (one page to look at)")
    console.print(f"next: ssl-jax evaluate --workdir={folder}")
    return 0


def announce(console: Console, experiment: Experiment) -> None:
    """What will run, before it does."""
    spec, mesh = experiment.spec, experiment.mesh
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    params = tree.count(experiment.abstract_state.params)
    console.print(
        f"[bold]{experiment.raw['objective']['name']}[/]: {params:,} parameters on {mesh.size} "
        f"{mesh.devices.flat[0].device_kind} device(s), mesh {shape}\n"
        f"{experiment.data.train}: {spec.num_examples:,} images, {spec.total_steps:,} steps of "
        f"{spec.global_batch} ({spec.steps_per_epoch:,} steps an epoch)",
    )
    if experiment.train.online_probe is not None and not experiment.probed:
        console.print("train.online_probe: these images have no labels, so none is trained along")
