"""Write the weights of a run for use elsewhere, with their origin."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import ml_dtypes
import numpy as np

from ssl_jax.augment.recipes import plain, recipe, statistics
from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.files import replacing
from ssl_jax.core.ranges import Whole
from ssl_jax.core.tree import count
from ssl_jax.core.versions import versions
from ssl_jax.data.decode import EVAL_SHARE
from ssl_jax.embeddings.encoder import ImageEncoder
from ssl_jax.embeddings.stablehlo import PLATFORMS, stablehlo
from ssl_jax.run import flags as command_line
from ssl_jax.run import orbax_export, roles
from ssl_jax.run.console import terminal
from ssl_jax.run.evaluation import steps_of
from ssl_jax.run.experiment import Experiment
from ssl_jax.training.checkpoint import Checkpoints
from ssl_jax.training.metrics import read_summary
from ssl_jax.weights import files, networks, timm
from ssl_jax.weights.networks import REST, STUDENT
from ssl_jax.weights.places import under

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
Tensors = Mapping[str, np.ndarray]
Write = Callable[[Path, Tensors, Mapping[str, str]], None]


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.CommonFlags):
    workdir: Path = flag("folder of the run")
    format: Literal["safetensors", "npz", "orbax", "timm", "torchvision", "stablehlo"] = flag(
        "names of the weights: ours in the first three, the library's in timm and torchvision"
    )
    output: Path = flag("file to write; for orbax a new folder")
    step: Whole | None = flag("step of the checkpoint; by default the newest", None)
    part: Literal["backbone", "all"] | None = flag(
        "all: also its heads and, without --encoder, the rest of the run's state; by default "
        "backbone",
        None,
    )
    encoder: Literal["student", "teacher"] | None = flag(
        "which of the networks; by default the method's choice", None
    )
    dtype: Literal["float32", "bfloat16"] | None = flag(
        "type of the numbers; by default float32", None
    )


def export(flags: Flags) -> None:
    """Write the file, and print what it holds and how it is loaded.

    Raises:
      UserError: an error that the user must fix.
    """
    kind, output, dtype = flags.format, flags.output, DTYPES[flags.dtype or "float32"]
    if kind in networks.LIBRARIES and flags.part == "all":
        raise UserError(f"--format={kind} names only backbones; leave --part=all out")
    if kind == PROGRAM and any(map(flags.is_set, ("part", "encoder", "dtype"))):
        raise UserError(
            f"--format={kind} writes the method's encoder unchanged; leave --part, --encoder and "
            "--dtype out"
        )
    _check_output(output, kind)
    run = RestoredRun.restored(flags.workdir, flags.step)
    if kind == PROGRAM:
        program(run, output)
        return
    tensors, card = run.tensors(flags.part or "backbone", flags.encoder)
    lines: list[str] = []
    if kind in networks.LIBRARIES:
        trained = run.experiment.method.backbone.config
        if not trained.layout:
            raise UserError(
                f"--format={kind}: no network there is like {trained.title}; use safetensors or "
                "stablehlo"
            )
        variables = under(tensors, "backbone/")
        tensors, lines = timm.export(variables, run.backbone, run.channels, kind)
        card |= {"format": kind, "build": "\n".join(lines)}
    tensors = {name: _cast(array, dtype) for name, array in tensors.items()}
    FORMATS[kind](output, tensors, card | {"dtype": str(dtype)})
    console = terminal()
    size = sum(array.nbytes for array in tensors.values())
    console.print(
        f"{output}: {len(tensors)} tensors, {count(list(tensors.values())):,} numbers, "
        f"{size / 1e6:.1f} MB; {card['method']}, step {card['step']}, {card['encoder']}"
    )
    if lines:
        load = f"model.load_state_dict(safetensors.torch.load_file({str(output)!r}))"
        console.print("\n".join(["to load it:", "import safetensors.torch", *lines, load]))


def program(run: "RestoredRun", output: Path) -> None:
    """Write the encoder as one StableHLO program."""
    objective = run.experiment.objective
    encoder = ImageEncoder.of(
        objective.encoder(run.params, run.extra),
        objective.inputs().views[0],
        objective.probe,
        run.channels,
        json.loads(json.dumps(run.experiment.raw)),
        f"step {run.step} of {run.folder.name}",
    )
    results = json.loads(run.card("backbone", STUDENT)["results"])
    data = stablehlo(encoder, {"results": results, "data": run.metadata.get("data", "")})
    try:
        with replacing(output) as temporary:
            temporary.write_bytes(data)
    except OSError as e:
        raise UserError(f"cannot write --output={output}: {e.strerror}") from None
    shape = "x".join(map(str, (*encoder.view.sides, run.channels)))
    terminal().print(
        f"{output}: {len(data) / 1e6:.2f} MB, for {', '.join(PLATFORMS)}: uint8 images "
        f"(any number)x{shape} to features of {encoder.feature_shape[0]}; docs/python.md"
    )


class RestoredRun:
    """The state of a run at a step, on the host."""

    def __init__(self, experiment: Experiment, folder: Path, step: int, state: Any, metadata: Any):
        self.experiment, self.folder, self.step = experiment, folder, step
        self.params, self.extra = jax.device_get((state.params, state.extra))
        self.metadata: Mapping[str, Any] = metadata

    @classmethod
    def restored(cls, folder: Path, step: int | None = None) -> "RestoredRun":
        """Restore the state of a run from a checkpoint, by default the newest.

        Raises:
          UserError: no such run or checkpoint.
        """
        experiment = Experiment.of_run(folder)
        checkpoints = Checkpoints(folder / "checkpoints", reader=True)
        with checkpoints, jax.set_mesh(experiment.mesh):
            number = next(steps_of(folder, checkpoints, step))
            state = checkpoints.restore(number, experiment.abstract_state, experiment.placed)
            return cls(experiment, folder, number, state, checkpoints.metadata(number))

    @property
    def backbone(self) -> dict[str, Any]:
        """Section `backbone` of the config."""
        return self.experiment.backbone_options

    @property
    def channels(self) -> int:
        return self.experiment.spec.channels

    def tensors(self, part: str, encoder: str | None) -> tuple[Tensors, dict[str, str]]:
        """Return the variables to write, by our names, and the model card.

        Raises:
          UserError: the method has no teacher.
        """
        objective = self.experiment.objective
        variables, rest = roles.networks(objective, self.params, self.extra)
        default = objective.encoder(self.params, self.extra)
        role = encoder or roles.encoder_of(variables, default.params)
        if role not in variables:
            method = self.experiment.raw["objective"]["name"]
            raise UserError(f"--encoder={role}: {method} has no slow average; leave --encoder out")
        card = self.card(part, role)
        if part == "all" and not encoder:
            groups = {**variables, REST: rest}
            named = {f"{k}/{path}": x for k, group in groups.items() for path, x in group.items()}
            return named, card
        heads = part == "all"
        own = {p: x for p, x in variables[role].items() if heads or p.startswith("backbone/")}
        return own, card

    def card(self, part: str, role: str) -> dict[str, str]:
        """Return the origin of the weights and their preprocessing, as texts, most of them JSON."""
        experiment = self.experiment
        view = experiment.objective.inputs().views[0]
        mean, std = statistics(recipe(view.recipe), self.channels)
        preprocessing = {
            "size": view.size,
            "recipe": plain(view.recipe),
            "crop": EVAL_SHARE,  # of the shorter side, centered, unless that is no larger
            "scale": "pixels / 255, then (x - mean) / std",
            "mean": np.broadcast_to(mean, self.channels).astype(float).round(6).tolist(),
            "std": np.broadcast_to(std, self.channels).astype(float).round(6).tolist(),
        }
        results = read_summary(self.folder)
        prefixes = ("eval/", "diag/", "untrained/", "pixels/", "step")
        current = versions("ssl-jax", "jax", "flax", "numpy")
        texts = {
            "backbone": self.backbone,
            "config": dict(experiment.raw),
            "data": self.metadata.get("data", ""),
            "preprocessing": preprocessing,
            "probe": vars(experiment.objective.probe),
            "results": {k: v for k, v in results.items() if k.startswith(prefixes)},
            "versions": {"trained": self.metadata.get("versions", {}), "exported": current},
        }
        return {
            "format": networks.OWN,
            "method": str(experiment.raw["objective"]["name"]),
            "step": str(self.step),
            "part": part,
            "encoder": role,
            "channels": str(self.channels),
            **{name: json.dumps(value, sort_keys=True) for name, value in texts.items()},
        }


PROGRAM = "stablehlo"
FORMATS: Mapping[str, Write] = {
    "safetensors": files.write,
    "npz": files.write,
    "orbax": orbax_export.write,
    **dict.fromkeys(networks.LIBRARIES, files.write),
}
SUFFIXES = {"safetensors": ".safetensors", "npz": ".npz", PROGRAM: ".zip"} | dict.fromkeys(
    networks.LIBRARIES, ".safetensors"
)


def _check_output(output: Path, kind: str) -> None:
    """Check, before anything is read, that the name fits the format and its folder exists."""
    suffix = SUFFIXES.get(kind)
    if suffix and output.suffix != suffix:
        raise UserError(f"--output={output}: --format={kind} needs a name that ends in {suffix}")
    if output.is_dir() and suffix:
        raise UserError(f"--output={output} is a folder; name a file")
    if not output.absolute().parent.is_dir():
        raise UserError(f"--output={output}: no folder {output.parent}")


def _cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Cast floats to `dtype`; counters and indices stay as they are."""
    return array.astype(dtype) if array.dtype.kind == "f" else array
