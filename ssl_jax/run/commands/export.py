"""Write the weights of a run for use elsewhere, with their origin."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np

from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.files import replacing
from ssl_jax.core.ranges import Whole
from ssl_jax.core.tree import count
from ssl_jax.embeddings import onnx
from ssl_jax.embeddings.encoder import ImageEncoder
from ssl_jax.embeddings.stablehlo import PLATFORMS, stablehlo
from ssl_jax.run import flags as command_line
from ssl_jax.run import hub_export, orbax_export
from ssl_jax.run.console import terminal
from ssl_jax.run.restored import RestoredRun, Tensors
from ssl_jax.weights import files, networks, timm
from ssl_jax.weights.networks import STUDENT
from ssl_jax.weights.places import under

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
Write = Callable[[Path, Tensors, Mapping[str, str]], None]


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.CommonFlags):
    workdir: Path = flag("folder of the run")
    format: Literal[
        "safetensors", "npz", "orbax", "timm", "torchvision", "hf", "stablehlo", "onnx"
    ] = flag(
        "names of the weights: ours in the first three, the library's in timm, torchvision and hf "
        "(transformers); or a program with the weights inside"
    )
    output: Path = flag("file to write; for orbax and hf a new folder")
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
    license: str = flag("for the model card of hf: an identifier of the hub, apache-2.0", "")


def export(flags: Flags) -> None:
    """Write the file, and print what it holds and how it is loaded.

    Raises:
      UserError: an error that the user must fix.
    """
    kind, output, dtype = flags.format, flags.output, DTYPES[flags.dtype or "float32"]
    if kind in (*networks.LIBRARIES, HUB) and flags.part == "all":
        raise UserError(f"--format={kind} names only backbones; leave --part=all out")
    if flags.license and kind != HUB:
        raise UserError(f"--license is for --format={HUB}, which writes a model card; leave it out")
    if kind in PROGRAMS and any(map(flags.is_set, ("part", "encoder", "dtype"))):
        raise UserError(
            f"--format={kind} writes the method's encoder unchanged; leave --part, --encoder and "
            "--dtype out"
        )
    _check_output(output, kind)
    if kind == "onnx":
        onnx.check()
    run = RestoredRun.restored(flags.workdir, flags.step)
    if kind in PROGRAMS:
        program(run, output, kind)
        return
    if kind == HUB:
        loading = hub_export.write(
            run, output, "hf", flags.encoder, DTYPES.get(flags.dtype or ""), flags.license
        )
        names = ", ".join(sorted(path.name for path in output.iterdir()))
        terminal().print(f"{output}: {names}\nto load it, in that folder:\n{loading}")
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


def program(run: RestoredRun, output: Path, kind: str) -> None:
    """Write the encoder as one program, StableHLO or ONNX."""
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
    card = {"results": results, "data": run.metadata.get("data", "")}
    data = stablehlo(encoder, card) if kind == "stablehlo" else onnx.onnx(encoder, card)
    try:
        with replacing(output) as temporary:
            temporary.write_bytes(data)
    except OSError as e:
        raise UserError(f"cannot write --output={output}: {e.strerror}") from None
    shape = "x".join(map(str, (*encoder.view.sides, run.channels)))
    where = f"for {', '.join(PLATFORMS)}" if kind == "stablehlo" else "for ONNX runtimes"
    terminal().print(
        f"{output}: {len(data) / 1e6:.2f} MB, {where}: uint8 images "
        f"(any number)x{shape} to features of {encoder.feature_shape[0]}; docs/python.md"
    )


HUB = "hf"
FORMATS: Mapping[str, Write] = {
    "safetensors": files.write,
    "npz": files.write,
    "orbax": orbax_export.write,
    **dict.fromkeys(networks.LIBRARIES, files.write),
}
PROGRAMS = {"stablehlo": ".zip", "onnx": ".onnx"}  # format -> suffix of its files
SUFFIXES = {"safetensors": ".safetensors", "npz": ".npz", **PROGRAMS} | dict.fromkeys(
    networks.LIBRARIES, ".safetensors"
)


def _check_output(output: Path, kind: str) -> None:
    """Check, before anything is read, that the name fits the format and its folder exists."""
    suffix = SUFFIXES.get(kind)
    if suffix and output.suffix != suffix:
        raise UserError(f"--output={output}: --format={kind} needs a name that ends in {suffix}")
    if kind == HUB and output.exists():
        raise UserError(f"--output={output} exists; name a new folder")
    if output.is_dir() and suffix:
        raise UserError(f"--output={output} is a folder; name a file")
    if not output.absolute().parent.is_dir():
        raise UserError(f"--output={output}: no folder {output.parent}")


def _cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Cast floats to `dtype`; counters and indices stay as they are."""
    return array.astype(dtype) if array.dtype.kind == "f" else array
