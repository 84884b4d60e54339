"""Fine-tune a run, or a weights file, to a classifier of labelled images, and report on it."""

import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from ssl_jax.core import hub, sharding
from ssl_jax.core.config import flag
from ssl_jax.core.errors import AtOnce, UserError
from ssl_jax.core.files import write_json
from ssl_jax.core.ranges import BelowOne
from ssl_jax.core.stop import Interrupted, Stop
from ssl_jax.core.versions import versions
from ssl_jax.data.sources import Source
from ssl_jax.embeddings.encoder import ImageEncoder
from ssl_jax.evals import calibration
from ssl_jax.run import classifier as classifiers
from ssl_jax.run import finetuning, pretrained, probing, roles, scoring, scoring_sets, weights_file
from ssl_jax.run import flags as command_line
from ssl_jax.run.classifier import ImageClassifier, Loading
from ssl_jax.run.configs import override
from ssl_jax.run.console import terminal
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.restored import RestoredRun
from ssl_jax.run.trainer import UNTOUCHED, Training
from ssl_jax.training import paths, workdir
from ssl_jax.training.checkpoint import Checkpoints
from ssl_jax.training.profile import Profile
from ssl_jax.training.progress import ProgressLine, duration
from ssl_jax.weights import files, networks

PROBE = "linear_probe.safetensors"  # what fine-tuning starts from
PROBES = "probes.json"
PAGE = "classifier.html"


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.ConfigFlags):
    workdir: Path | None = flag("folder of the run to fine-tune", None)
    weights: Path | None = flag(
        "a weights file in the place of a run, ours or a public one (docs/weights.md)", None
    )
    data: str = flag("labelled images: folder:DIR with a folder per class, ... (docs/data.md)")
    eval_data: str = flag(
        "labelled images to test on; by default what --data defines, else a fifth of it", ""
    )
    output: Path = flag("folder of the classifier, its checkpoints and its report")
    holdout: BelowOne = flag(
        "share of the training images that choose and calibrate the classifier; 0 learns from all",
        0.2,
    )


class Candidate(NamedTuple):
    """A classifier among which the held-out images choose.

    Attributes:
      step: of its checkpoint; 0 is the linear probe.
      temperature: fitted to the held-out images.
      score: accuracy ("top1") or mean average precision ("map") on these.
      loss: cross-entropy, with the temperature, on these.
    """

    step: int
    temperature: float
    score: dict[str, float]
    loss: float

    @classmethod
    def of(cls, step: int, held: probing.Measured) -> "Candidate | None":
        """Measure a candidate on the held-out images; None if its logits are not finite."""
        labels, logits = held.labels[held.selected], held.logits[held.selected]
        if not len(labels) or not np.isfinite(logits).all():
            return None
        temperature = calibration.fit_temperature(logits, labels)
        loss = calibration.log_loss(logits, labels, temperature)
        return cls(step, temperature, held.score, loss)

    def numbers(self) -> dict[str, Any]:
        """Return its description for classifier.json."""
        own = {"step": self.step, "temperature": self.temperature}
        return {"name": name_of(self.step)} | own | self.score | {"loss": self.loss}


def name_of(step: int) -> str:
    """Name the classifier of a step."""
    return f"fine-tuned, step {step:,}" if step else "linear probe"


def finetune(flags: Flags) -> tuple[int, dict[str, Any]]:
    """Make the classifier and its report, or resume it.

    Returns:
      The exit code, 0 at the end, and the content of classifier.json.

    Raises:
      UserError: an error that the user must fix.
    """
    where = weights_file.place(flags.workdir, flags.weights)
    _check_output(flags.output, where)
    loading = Loading(sharding.make_mesh(sharding.MeshConfig()))
    began = time.monotonic()
    with Stop() as stop, ProgressLine(terminal()) as line:
        try:
            with stop.region(UNTOUCHED):
                line.phase("reading the data")
                experiment, sets = prepare(flags, str(where), loading, line)
            if code := train(experiment, flags.output, line, stop):
                return code, {}
            with stop.region("the classifier is trained; the same command writes its report"):
                line.phase("choosing and testing the classifier")
                numbers = finish(flags, str(where), experiment, sets, loading)
        except Interrupted:
            line.stop()
            return AtOnce(stop.code), {}
        line.stop()
        show(line.console, flags.output, numbers, time.monotonic() - began)
    return 0, numbers


def _check_output(output: Path, where: Path) -> None:
    """Check that the folder may become, or is, that of a classifier.

    Raises:
      UserError: it holds something else, or is a file.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"--output={output} is a file; name a folder")
    if output.absolute() == where.absolute():
        raise UserError(f"--output={output} is what is fine-tuned; name another folder")
    if (output / "config.json").exists() and not (output / PROBE).exists():
        raise UserError(f"--output={output} holds another run; name a new folder")


def prepare(
    flags: Flags, where: str, loading: Loading, line: ProgressLine
) -> tuple[Experiment, probing.Sets]:
    """Resolve the training and, for a new one, fit and save the linear probe that it starts from.

    Raises:
      UserError: invalid data or settings, or other ones than those of a classifier that resumes.
    """
    if workdir.started(flags.output):
        experiment = resume(flags, where)
    else:
        experiment = begin(flags, where, loading, line)
    return experiment, _sets(experiment)


def resume(flags: Flags, where: str) -> Experiment:
    """Resolve the training of a classifier in --output; its settings must be those of before."""
    output = flags.output
    stored = workdir.read_config(output)
    config = {k: v for k, v in stored.items() if k != "spec"}
    requested = {"data.train": flags.data, "data.eval": flags.eval_data or None}
    override(config, [(k, v) for k, v in requested.items() if v])
    override(config, [("data.holdout", flags.holdout), *flags.overrides])
    experiment = Experiment.from_config(paths.anchored(config), output)
    try:
        workdir.check_resumable(stored, experiment.resolved(), output, experiment.defaults())
    except UserError as e:
        differences = str(e).partition("; give another")[0]
        raise UserError(f"{differences}; name another --output, or give the old values") from None
    origin = _read(output / PROBES).get("started_from")
    if origin != _origin(where):
        raise UserError(
            f"--output={output} holds a classifier that was started from {origin}; name another "
            "folder"
        )
    return experiment


def begin(flags: Flags, where: str, loading: Loading, line: ProgressLine) -> Experiment:
    """Choose the training of a new classifier; fit and save the linear probe."""
    output, console = flags.output, line.console
    settings = {
        key.partition(".")[2]: value
        for key, value in flags.overrides
        if key.startswith("backbone.") and flags.weights
    }
    start = finetuning.Start.of(where, settings)
    data, eval_data = (paths.anchor("data.train", d) for d in (flags.data, flags.eval_data))
    config, lines = finetuning.choose(
        start, data, eval_data, flags.holdout, _origin(where), flags.overrides
    )
    first = Experiment.from_config(paths.anchored(config), output)
    first.check_batch()
    pretrained.check(first)
    first.check_used([key for key, _ in flags.overrides])
    for text in lines:
        console.print(f"  {text}", markup=False)
    sets = _sets(first)
    line.phase("fitting the linear probe")
    probed = _probes(first, sets, loading, console)
    save_probe(first, output, *probed, started_from=_origin(where))
    probe = str((output / PROBE).absolute())
    config = {**first.raw, "train": {**first.raw["train"], "init_from": probe}}
    return Experiment.from_config(config, output)


def _origin(where: str) -> str:
    """Name the run or the weights so that the name holds in every folder."""
    return where if hub.is_on_hub(where) else str(Path(where).absolute())


def _sets(experiment: Experiment) -> probing.Sets:
    test = experiment.eval_source
    assert test is not None
    return probing.Sets(experiment.source, experiment.holdout, test)


def _probes(
    experiment: Experiment, sets: probing.Sets, loading: Loading, console: Console
) -> tuple[Any, probing.LinearProbe, probing.LinearProbe]:
    """Return the state before training, and the linear probes of its network and of the same
    network with random weights.
    """
    with jax.set_mesh(experiment.mesh):
        state = experiment.fresh_state(pretrained.load_backbone(experiment, console))
        probe = probing.linear_probe(encoder_of(experiment, state), sets, loading)
        fresh = encoder_of(experiment, experiment.fresh_state())
        fresh = probing.with_statistics(fresh, sets, loading)
        return state, probe, probing.linear_probe(fresh, sets, loading)


def encoder_of(experiment: Experiment, state: Any) -> ImageEncoder:
    """Return the network of a state as the head reads it."""
    encoder = experiment.objective.encoder(state.params, state.extra)
    view, channels = experiment.objective.inputs().views[0], experiment.spec.channels
    config = json.loads(json.dumps(experiment.raw))
    return ImageEncoder.of(encoder, view, classifiers.POOLED, channels, config)


def save_probe(
    experiment: Experiment,
    output: Path,
    state: Any,
    probe: probing.LinearProbe,
    untrained: probing.LinearProbe,
    started_from: str,
) -> None:
    """Write the network with the linear probe as its head, and the results of both probes."""
    run = RestoredRun(experiment, output, 0, state, {})
    role, sets = networks.STUDENT, _sets(experiment)
    variables = roles.networks(experiment.objective, run.params, run.extra)[0][role]
    tensors = {k: v for k, v in variables.items() if k.startswith("backbone/")}
    tensors |= {classifiers.KERNEL: probe.kernel, classifiers.BIAS: probe.bias}
    try:
        output.mkdir(parents=True, exist_ok=True)
        text = classifiers.metadata(sets.classes, 1.0, sets.side, sets.several)
        files.write(output / PROBE, tensors, run.card("all", role) | {classifiers.KEY: text})
        held = probe.holdout
        values = {
            "started_from": started_from,
            "penalty": probe.penalty,
            "linear_probe": probe.test.summary(),
            "untrained": untrained.test.summary(),
            "holdout": held and held.score | {"loss": held.loss},
        }
        write_json(output / PROBES, values)
    except OSError as e:
        raise UserError(f"cannot write to --output={output}: {e.strerror or e}") from None


def train(experiment: Experiment, output: Path, line: ProgressLine, stop: Stop) -> int:
    """Train, or resume the training, to its end; return the exit code."""
    resolved = experiment.resolved()
    profile = Profile("", output / "profile", True)
    with workdir.opened(output, resolved, experiment.defaults()):
        with stop.region(UNTOUCHED):
            training = Training(experiment, resolved, output, line, stop, profile)
        return training.run()


def finish(
    flags: Flags, where: str, experiment: Experiment, sets: probing.Sets, loading: Loading
) -> dict[str, Any]:
    """Choose the classifier, write its file, test it, and write its report; return the numbers."""
    output = flags.output
    stored = _read(output / PROBES)
    step, candidates = choose(experiment, output, sets, loading)
    temperature = next((c.temperature for c in candidates if c.step == step), 1.0)
    save_classifier(experiment, output, step, sets, temperature)
    classifier = ImageClassifier.read(output / classifiers.FILE, loading.mesh)
    test = measured(classifier, sets.test, sets, loading, "test")
    probes = {name: stored[name] for name in ("linear_probe", "untrained")}
    held = len(sets.holdout) if sets.holdout is not None else 0
    results = scoring_sets if sets.several else scoring
    numbers = results.score(classifier, test, probes, sets) | {
        "chosen": name_of(step),
        "step": step,
        "candidates": [c.numbers() | {"chosen": c.step == step} for c in candidates],
        "choice": (
            f"The {held:,} held-out images, which no candidate has learned from, choose the one "
            "with the lowest cross-entropy at its own temperature: of a few images it says more "
            "than the accuracy. Fine-tuning starts from the linear probe."
            if held
            else "The last step of fine-tuning, which starts from the linear probe: no images are "
            "held out to choose by."
        ),
    }
    facts = facts_of(where, experiment, sets, stored)
    version = versions("ssl-jax")["ssl-jax"]
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    footer = f"Made {date} by ssl-jax {version}: {command_line.command('finetune', flags)}"
    try:
        results.write(output, classifier, test, sets, numbers)
        results.write_page(output / PAGE, classifier, test, sets, numbers, facts, footer)
    except OSError as e:
        raise UserError(f"cannot write to --output={output}: {e.strerror or e}") from None
    return numbers


def choose(
    experiment: Experiment, output: Path, sets: probing.Sets, loading: Loading
) -> tuple[int, list[Candidate]]:
    """Return the step of the chosen classifier, 0 for the linear probe, and all candidates; without
    held-out images the last step, and none.
    """
    with Checkpoints(output / "checkpoints", reader=True) as checkpoints:
        steps = checkpoints.steps
        if sets.holdout is None:
            return steps[-1], []
        probe = ImageClassifier.read(output / PROBE, loading.mesh)
        held = measured(probe, sets.holdout, sets, loading, "held-out")
        candidates = [Candidate.of(0, held)]
        for step in steps:
            with jax.set_mesh(experiment.mesh):
                state = checkpoints.restore(step, experiment.abstract_state, experiment.placed)
                encoder = encoder_of(experiment, state)
            assert encoder.classifier is not None
            head = jax.device_get(encoder.classifier.params)["linear1"]
            classifier = ImageClassifier(encoder, head["kernel"], head["bias"], sets.classes)
            held = measured(classifier, sets.holdout, sets, loading, "held-out")
            candidates.append(Candidate.of(step, held))
    finite = [candidate for candidate in candidates if candidate is not None]
    if not finite:
        raise UserError(f"{output}: no candidate has finite logits on the held-out images")
    return min(finite, key=lambda c: c.loss).step, finite


def measured(
    classifier: ImageClassifier, source: Source, sets: probing.Sets, loading: Loading, what: str
) -> probing.Measured:
    """Return labels and logits of the labelled images of a set."""
    features, labels, index = probing.labelled_features(
        classifier.encoder, source, sets, loading, what
    )
    return probing.Measured(labels, classifier.logits(features), index)


def save_classifier(
    experiment: Experiment, output: Path, step: int, sets: probing.Sets, temperature: float
) -> None:
    """Write the file of the classifier of a step, 0 for the linear probe."""
    if step:
        run = RestoredRun.restored(output, step)
        objective = run.experiment.objective
        variables, _ = roles.networks(objective, run.params, run.extra)
        role = roles.encoder_of(variables, objective.encoder(run.params, run.extra).params)
        tensors, card = run.tensors("all", role)
    else:
        file = files.read(output / PROBE)
        tensors, card = file.tensors, dict(file.metadata)
    text = classifiers.metadata(sets.classes, temperature, sets.side, sets.several)
    card |= {classifiers.KEY: text}
    try:
        files.write(output / classifiers.FILE, tensors, card)
    except OSError as e:
        raise UserError(f"cannot write to --output={output}: {e.strerror or e}") from None


def facts_of(
    where: str, experiment: Experiment, sets: probing.Sets, stored: Mapping[str, Any]
) -> dict[str, str]:
    """List the facts of the training for the page."""
    spec, optim = experiment.spec, experiment.sections["optim"]
    view = experiment.objective.inputs().views[0]
    held = f"{len(sets.holdout):,}" if sets.holdout is not None else "none"
    return {
        "started from": where,
        "labelled images": experiment.data.train,
        "learned from": f"{len(sets.train):,} images",
        "held out to choose and calibrate": f"{held} images",
        "tested on": f"{len(sets.test):,} images of {sets.test.name}",
        "images": f"{'x'.join(map(str, (*view.sides, spec.channels)))} (height, width, channels)",
        "fine-tuning": f"{spec.total_steps:,} steps of {spec.global_batch}, {optim.name}, learning "
        f"rate {optim.lr:g}, layer decay {optim.layer_decay:g}, weight decay "
        f"{optim.weight_decay:g}",
        "penalty of the linear probe": f"{stored['penalty']:g}",
        "seed": str(experiment.train.seed),
    }


def show(console: Console, output: Path, numbers: Mapping[str, Any], seconds: float) -> None:
    """Print the scores and the files."""
    several = "threshold" in numbers
    title = "Mean average precision" if several else "Accuracy"
    table = Table(title=f"{title} on the test images", title_justify="left")
    table.add_column("classifier")
    for column in ("mAP", "of 11 points") if several else ("accuracy", "95 % interval"):
        table.add_column(column, justify="right")
    for row in scoring.titled(numbers):
        if several:
            table.add_row(row["name"], *(f"{row[name]:.3f}" for name in ("map", "11point")))
        else:
            interval = f"{row['low']:.3f} to {row['high']:.3f}"
            table.add_row(row["name"], f"{row['top1']:.3f}", interval)
    console.print(table, soft_wrap=False)
    console.print(scoring.calibrated(numbers))
    tables = "predictions.csv" if several else "confusion.csv, predictions.csv"
    written = f"{classifiers.FILE}, {PAGE}, {tables}"
    console.print(f"written to {output}/: {written} ({duration(seconds)})")
    flag = shlex.quote(f"--workdir={output}")  # to be copied into a shell
    console.print(f"next: ssl-jax predict {flag} --data=folder:/images --output=predictions.csv")


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      UserError: it is missing or damaged.
    """
    try:
        content = json.loads(path.read_text())
        if isinstance(content, dict):
            return content
    except (OSError, ValueError):
        pass
    raise UserError(f"{path} is missing or damaged; remove the folder and fine-tune again")
