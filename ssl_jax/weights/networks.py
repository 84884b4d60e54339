"""Networks of a file of weights by our names.

`load` reads our own files and, with `releases`, public ones. Variables are named by their paths,
"backbone/stem/0/conv/kernel": parameters and running statistics alike, as no two share a name.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax import nets
from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json
from ssl_jax.core.tree import Tree
from ssl_jax.nets.functional import Net
from ssl_jax.weights import files, huggingface, releases
from ssl_jax.weights.conversion import LAYOUTS, LoadReport, convert, few, fill, merged
from ssl_jax.weights.places import Arrays, layers, under
from ssl_jax.weights.sections import agree, build, checked, shapes

OWN = "ssl_jax"  # the metadata's "format" in our files
LIBRARIES = ("timm", "torchvision")  # the "format" in files that we write for these libraries
STUDENT, TEACHER, REST = "student", "teacher", "rest"


@dataclass(frozen=True)
class Weights:
    """Content of a file, by our names.

    Attributes:
      networks: "student", "teacher" or both -> variables by path: those of "backbone/" and of the
        heads beside it, "projector/", ...
      encoder: the one of them that makes the representation.
      backbone: the section `backbone` of a config that builds this network.
      channels: number of channels of its images.
      rest: the other variables of a whole run's state, by path.
      metadata: the metadata of the file.
      report: which tensors were used.
      name: name of the file, for messages.
    """

    networks: Mapping[str, Mapping[str, np.ndarray]]
    encoder: str
    backbone: Mapping[str, Any]
    channels: int
    rest: Mapping[str, np.ndarray] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    report: LoadReport = LoadReport(0)
    name: str = "the file"

    @property
    def net(self) -> Net:
        """The backbone without its weights."""
        return build(self.backbone, self.channels)

    def variables(self) -> tuple[Tree, Tree]:
        """Return (params, stats) of the encoder's backbone.

        Raises:
          UserError: the file lacks some of them, or holds several networks for some channels each.
        """
        variables = under(self.networks[self.encoder], "backbone/")
        if any(path.startswith("part1/") for path in variables):  # nets.split
            raise UserError(
                f"{self.name}: its backbone is made of networks that see some channels each, "
                "and only the run describes them; name the run's folder instead"
            )
        return fill(variables, shapes(self.net), self.name)

    @property
    def taken(self) -> str:
        """One line that says what was loaded from the file and what was skipped."""
        backbone = ", ".join(f"{key}={value!r}" for key, value in self.backbone.items())
        text = f"{self.name}: {self.report.loaded:,} tensors, {', '.join(self.report.networks)}"
        skipped = f"; skipped: {few(self.report.skipped)}" if self.report.skipped else ""
        return f"{text}; backbone: {backbone}, for images of {self.channels} channels{skipped}"

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the networks beside the backbones."""
        paths = [path for network in self.networks.values() for path in network]
        return tuple(dict.fromkeys(p.split("/")[0] for p in paths if not _of_backbone(p)))


def load(
    path: Path | str,
    backbone: Mapping[str, Any] | None = None,
    channels: int | None = None,
    *,
    layout: str = "",
    prefix: str | None = None,
    strict: bool = True,
) -> Weights:
    """Load the networks of a file of weights, ours or a public one.

    Args:
      backbone: the section `backbone` of a config. Without a "name", its keys change or complete
        the section that is inferred from the file's names and shapes.
      channels: number of channels of the images; by default the file's.
      layout, prefix: layout and prefix in a public file; see `releases.find`.
      strict: require every variable of the backbone with its shape, and nothing else in its
        modules. Otherwise load what fits.

    Raises:
      UserError: an unreadable file, no network of a known layout in it, or a network other than
        `backbone`.
    """
    file = files.read(path)
    return of_file(file, str(path), backbone, channels, layout, prefix, strict)


def of_file(
    file: files.TensorFile,
    name: str,
    backbone: Mapping[str, Any] | None = None,
    channels: int | None = None,
    layout: str = "",
    prefix: str | None = None,
    strict: bool = True,
) -> Weights:
    """Load the networks of a file that is already read, like `load`; `name` is for messages."""
    if file.metadata.get("format") == OWN:
        if layout or prefix:
            raise UserError(f"{name} is a file of ssl_jax; leave --layout and --prefix out")
        return _own(file, name, backbone, channels)
    try:
        return _public(file, name, dict(backbone or {}), channels, layout, prefix, strict)
    except UserError as e:
        raise UserError(f"{name}: {e}") from None
    except Exception as e:  # names and shapes may be anything
        raise UserError(
            f"{name}: names of a known layout, but unexpected tensors ({type(e).__name__}: {e})"
        ) from None


def _public(
    file: files.TensorFile,
    name: str,
    backbone: dict[str, Any],
    channels: int | None,
    layout: str,
    prefix: str | None,
    strict: bool,
) -> Weights:
    """Load the networks of a public file, like `of_file`."""
    odd = [path for path, x in file.tensors.items() if x.dtype.kind not in "biufV"]
    if odd:
        raise UserError(f"{odd[0]} holds {file.tensors[odd[0]].dtype}, not numbers")
    sources = releases.find(file.tensors, layout, prefix)
    hints = _hints(sources[0], file)
    backbone, channels = _resolved(sources[0], hints, file.metadata, backbone, channels)
    if nets.backbone_class(str(backbone["name"])).layout != sources[0].family:
        raise UserError(
            f"the file holds a {sources[0].family}, but backbone.name is {backbone['name']!r}"
        )
    like = shapes(build(backbone, channels))
    networks, reports = {}, []
    for source in sources:
        prefixes = (other.prefix for other in sources if other is not source)
        inner = tuple(prefix for prefix in prefixes if prefix.startswith(source.prefix))
        variables, report = convert(source, like, backbone, inner)
        if strict and report.complaint():
            raise UserError(
                f"the network does not match `backbone`: {report.complaint()}. "
                f"{_advice(sources[0], hints, report)}"
            )
        networks[TEACHER if source.average else STUDENT] = _numbers(variables)
        reports.append((source, report))
    if strict:
        agree(backbone, {"name": backbone["name"]} | hints, tuple(hints))
    encoder = TEACHER if TEACHER in networks and _has_teacher(sources) else STUDENT
    encoder = encoder if encoder in networks else next(iter(networks))
    report = merged(reports, file.tensors)
    return Weights(networks, encoder, backbone, channels, {}, file.metadata, report, name)


def _hints(source: releases.Network, file: files.TensorFile) -> dict[str, Any]:
    """Read the keys of the section `backbone` that the file describes: in its metadata if we wrote
    it, or in files beside it.

    Raises:
      UserError: they describe another network than the tensors.
    """
    if file.metadata.get("format") in LIBRARIES and "backbone" in file.metadata:
        backbone = from_json(file.metadata["backbone"])
        checked(backbone, from_json(file.metadata.get("channels", "3")))
        return dict(backbone)
    options, sizes = huggingface.settings(file.beside, source.family)
    if source.family == "vit":
        weight = source.tensors["patch_embed.proj.weight"]
        inferred = dict(dim=weight.shape[0], patch=weight.shape[2])
        inferred["depth"] = layers(source.tensors, "blocks.")
        for key, size in sizes.items():
            if inferred[key] != size:
                raise UserError(
                    f"the config beside the file has {key}={size}, but its tensors have "
                    f"{key}={inferred[key]}"
                )
    names = {f.name for f in dataclasses.fields(nets.backbone_class(source.family))}
    both = dict(releases.CUSTOMS.get(source.layout, {})) | options
    return {key: value for key, value in both.items() if key in names}


def _resolved(
    source: releases.Network,
    hints: Mapping[str, Any],
    metadata: Mapping[str, str],
    backbone: dict[str, Any],
    channels: int | None,
) -> tuple[dict[str, Any], int]:
    """Determine the section `backbone` and the channels: from the arguments, else from the file's
    own description, else from names and shapes.
    """
    if "name" in backbone and channels is not None:
        return backbone, channels
    if "name" in hints:
        inferred, own = dict(hints), int(metadata.get("channels", 3))
    elif "name" in backbone:
        inferred, own = backbone, source.tensors[LAYOUTS[source.family].FIRST].shape[1]
    else:
        inferred, own = LAYOUTS[source.family].infer(source.tensors, {**hints, **backbone})
        inferred |= hints
    section = backbone if "name" in backbone else inferred | backbone
    return section, own if channels is None else channels


def _own(
    file: files.TensorFile, name: str, backbone: Mapping[str, Any] | None, channels: int | None
) -> Weights:
    try:
        section = from_json(file.metadata["backbone"])
        own_channels = from_json(file.metadata["channels"])
    except (KeyError, ValueError):
        raise UserError(f"{name}: the metadata do not describe the network") from None
    try:
        section = checked(section, own_channels, str((backbone or {}).get("name", "")))
        odd = [path for path, array in file.tensors.items() if array.dtype.kind not in "biufV"]
        if odd:
            raise UserError(f"{odd[0]} holds {file.tensors[odd[0]].dtype}, not numbers")
    except UserError as e:
        raise UserError(f"{name}: {e}") from None
    encoder = file.metadata.get("encoder", STUDENT)
    networks = {role: under(file.tensors, f"{role}/") for role in (STUDENT, TEACHER)}
    networks = {role: variables for role, variables in networks.items() if variables}
    rest = under(file.tensors, f"{REST}/")
    if not networks:
        networks = {encoder: dict(file.tensors)}
    report = LoadReport(len(file.tensors), ("a file of ssl_jax",))
    weights = Weights(
        {role: _numbers(variables, f"{name}: ") for role, variables in networks.items()},
        encoder if encoder in networks else next(iter(networks)),
        section,
        own_channels,
        _float32(rest),
        file.metadata,
        report,
        name,
    )
    if not backbone:
        return weights
    whole = "name" in backbone and not nets.is_file(backbone["name"])
    backbone = dict(backbone) if whole else section | dict(backbone)
    channels = own_channels if channels is None else channels
    weights = replace(weights, backbone=backbone, channels=channels)
    try:
        weights.variables()
        agree(backbone, section)
    except UserError as e:
        text = str(e).removeprefix(f"{name}: ")
        raise UserError(f"{name}: {text}. {_description(section, own_channels)}") from None
    return weights


def _float32(arrays: Arrays) -> dict[str, np.ndarray]:
    """Convert floats, including bfloat16, to float32; leave integers and booleans as they are."""
    return {
        name: array if array.dtype.kind in "iub" else np.asarray(array, np.float32)
        for name, array in arrays.items()
    }


def _numbers(variables: Arrays, where: str = "") -> dict[str, np.ndarray]:
    """Convert like `_float32`; refuse backbones of whole numbers (quantized) or with NaN."""
    out = _float32(variables)
    for path, array in out.items():
        if _of_backbone(path) and array.dtype.kind != "f":
            raise UserError(f"{where}{path} holds {array.dtype}; expected floats, not quantized")
        if _of_backbone(path) and not np.isfinite(array).all():
            raise UserError(f"{where}{path} is not finite: damaged, or of a run that diverged")
    return out


def _of_backbone(path: str) -> bool:
    return path.startswith("backbone/")


def _has_teacher(sources: list[releases.Network]) -> bool:
    """Tell whether the average is the encoder: a teacher is, as opposed to the average network of
    contrastive methods, which makes the keys or targets of the trained encoder.
    """
    return any(source.average and "teacher" in source.prefix for source in sources)


def _advice(source: releases.Network, hints: Mapping[str, Any], report: LoadReport) -> str:
    """Suggest settings that would fit, as far as shapes show them."""
    if report.inside and not report.missing and not report.wrong:
        return (
            "Without them the features would differ; ssl-jax import --strict=false leaves them out "
            "anyway"
        )
    try:
        inferred, channels = LAYOUTS[source.family].infer(source.tensors, hints)
    except (UserError, KeyError, ValueError):
        return "Set `backbone` to the values of the network in the file"
    return _description(inferred, channels)


def _description(backbone: Mapping[str, Any], channels: int) -> str:
    settings = ", ".join(f"{key}={value!r}" for key, value in backbone.items())
    return f"The file's network is: {settings}, for images of {channels} channels"
