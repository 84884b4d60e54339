"""`ssl-jax report`: write one self-contained HTML page on a run, or on several side by side.

ssl-jax report --workdir=W
ssl-jax report --workdir=W1,W2 --output=compare.html
ssl-jax report --workdir='runs/*' --examples=300
ssl-jax report --weights=dino.pth --data=folder:/images --output=dino.html

The page has curves, numbers beside their baselines, nearest neighbours, a map of the features,
clusters and figures of the method, from the newest checkpoint. The run need not be finished.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax

from ssl_jax.augment.recipes import title
from ssl_jax.core import hub, tree
from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Range, Whole
from ssl_jax.core.stop import interruptible
from ssl_jax.core.versions import versions
from ssl_jax.evals import protocols
from ssl_jax.evals.checks import varied
from ssl_jax.evals.images import Images
from ssl_jax.report import sheets
from ssl_jax.report.look import look
from ssl_jax.report.page import render
from ssl_jax.report.run import Run, names
from ssl_jax.run import flags as command_line
from ssl_jax.run import weights_file
from ssl_jax.run.commands.train import number_of_classes
from ssl_jax.run.configs import load_method
from ssl_jax.run.console import terminal, verdict
from ssl_jax.run.evaluation import steps_of
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.suites import evaluation_set, measured_on
from ssl_jax.training.checkpoint import Checkpoints


@dataclass(frozen=True, kw_only=True)
class Flags(weights_file.MeasurementFlags):
    output: Path | None = flag(
        "file to write; by default report.html in the run's folder, for several here", None
    )
    step: Whole | None = flag("step of the checkpoint; by default the newest", None)
    examples: Annotated[int, Range(8)] = flag(
        "number of training and of evaluation images to look at", 1000
    )


def main(argv: list[str]) -> int:
    flags = command_line.parse(argv, __doc__, Flags)
    weights = weights_file.requested(flags, ("workdir", "step"))
    folders = [weights.path] if weights else flags.folders
    if weights:
        runs = [Run(hub.beside(flags.weights or weights.path).name, weights.raw, [], [])]
    else:
        named = zip(folders, names(folders), strict=True)
        runs = [Run.read(folder, name) for folder, name in named]
    single = folders[0] if len(folders) == 1 and not weights else Path()
    output = flags.output or single / "report.html"
    if not output.parent.is_dir():
        raise UserError(f"--output={output}: no folder {output.parent}")

    with interruptible("no page is written"):
        for folder, run in zip(folders, runs, strict=True):
            try:
                examine(run, folder, flags, weights)
            except UserError as e:
                requests = weights, *map(flags.is_set, ("step", "data", "eval_data"))
                if len(folders) == 1 and any(requests):
                    raise  # the request itself is wrong
                run.notes.append(f"No pictures: {e}.")
            before = "at the start" if run.config.get("train", {}).get("init_from") else "untrained"
            if line := verdict(run.last, before):
                run.notes.append(f"{line}.")
            for note in run.notes:
                terminal().print(f"{folder}: {note}")
        date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        version = versions("ssl-jax")["ssl-jax"]
        footer = f"Made {date} by ssl-jax {version}: ssl-jax {' '.join(argv)}"
        titles = protocols.titles(name.rpartition("/")[2] for run in runs for name in run.last)
        sheets.write(output, render(runs, titles, protocols.scores(), footer))
        terminal().print(f"written to {output} ({output.stat().st_size / 1e6:.1f} MB)")
    return 0


def examine(
    run: Run, folder: Path, flags: Flags, weights: weights_file.FileExperiment | None = None
) -> None:
    """Add to `run` what needs its networks: facts, and figures of some images.

    Raises:
      UserError: its data do not exist, or no such checkpoint.
    """
    experiment: Experiment
    checkpoints: Any
    if weights:
        experiment, checkpoints = weights, weights.checkpoints()
        run.facts |= weights.described
    else:
        experiment = Experiment.of_run(folder)
        run.facts |= of_config(run, experiment, folder)
        run.facts["method"] = method_title(experiment)
        run.facts["parameters"] = (
            f"{tree.count(experiment.abstract_state.params):,} trained, "
            f"of which {tree.count(encoder_params(experiment)):,} belong to the encoder"
        )
        checkpoints = Checkpoints(folder / "checkpoints", reader=True)
    with checkpoints, jax.set_mesh(experiment.mesh):
        if not checkpoints.steps:
            raise UserError("there is no checkpoint yet, so the page shows only what was logged")
        (number,) = steps_of(folder, checkpoints, flags.step)
        if not weights:
            run.facts["checkpoint"] = f"step {number:,}"
            packages = checkpoints.metadata(number).get("versions", {})
            run.facts["trained with"] = ", ".join(f"{k} {v}" for k, v in packages.items())
        data, eval_data = ("", "") if weights else (flags.data, flags.eval_data)
        source = experiment.opened(data, "train") if data else experiment.source
        test = evaluation_set(experiment, source, data, eval_data)
        images = Images.of(
            source,
            test,
            flags.examples,
            flags.examples,
            view=experiment.objective.inputs().views[0],
            channels=experiment.spec.channels,
            batch_size=experiment.evals.batch_size,
            mesh=experiment.mesh,
            streams={} if weights else experiment.available_streams,
        )
        state = checkpoints.restore(number, experiment.abstract_state, experiment.placed)
        terminal().print(f"{folder}, step {number}: looking at some images")
        run.facts["images looked at"] = f"{source.name}; evaluation: {measured_on(images)}"
        run.notes += [f"{note}." for note in images.notes()]
        run.look = look(experiment.objective, state, images, number)
        if not varied(run.look.train.features):
            run.notes.append(
                "The features of all training images are the same; neighbours, map and clusters of "
                "the features are meaningless."
            )


def of_config(run: Run, experiment: Experiment, folder: Path) -> dict[str, str]:
    """Return the facts that follow from the config alone."""
    spec, optim = experiment.spec, experiment.sections["optim"]
    hyper = run.config.get("objective", {})
    backbone = experiment.backbone_options
    views = hyper.get("views") or [hyper.get("view")]
    crops = [
        f"{v.get('count', 1)} of {v['size']} px ({title(v.get('recipe', ''))})"
        for v in (views if isinstance(views, list) else ())
        if isinstance(v, dict) and "size" in v
    ]
    arch = " ".join([str(backbone.pop("name")), *(f"{k}={v}" for k, v in backbone.items())])
    evaluation = experiment.data.eval or "held out of it"
    facts = {
        "folder": str(folder),
        "method": str(hyper.get("name", "")),
        "data": f"{experiment.data.train}: {spec.num_examples:,} images, "
        f"{number_of_classes(spec.num_classes)}; evaluation: {evaluation}",
        "views of an image": ", ".join(crops),
        "backbone": arch,
        "optimizer": f"{optim.name}, learning rate {optim.lr:g}, {optim.schedule}, weight "
        f"decay {optim.weight_decay:g}",
        "steps": f"{run.step:,} of {spec.total_steps:,}, batches of {spec.global_batch:,}, "
        f"{spec.steps_per_epoch:,} steps per epoch",
        "seed": str(experiment.train.seed),
    }
    rate = run.last.get("perf/images_per_second")
    if rate:
        facts["speed"] = f"{rate:,.0f} images per second at the end"
    return facts


def method_title(experiment: Experiment) -> str:
    """Return the method's name and the first line of its module's docstring."""
    name = str(experiment.raw["objective"]["name"])
    doc = (load_method(name, experiment.folder).__doc__ or "").strip().splitlines()
    return f"{name}: {doc[0].partition(': ')[2] or doc[0]}" if doc else name


def encoder_params(experiment: Experiment) -> Any:
    """Return the shapes of the encoder's parameters."""
    state = experiment.abstract_state
    encode = lambda p, e: experiment.objective.encoder(p, e).params  # noqa: E731
    return jax.eval_shape(encode, state.params, state.extra)
