"""The networks of a file of weights by our names, and what of the file was used.

`load` reads our own files and, by `releases`, public ones. Variables are named by their paths,
"backbone/stem/0/conv/kernel": parameters and running statistics alike, as no two share a name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Tree
from ssl_jax.nets import make_backbone
from ssl_jax.nets.functional import Net
from ssl_jax.weights import files, releases, resnet, swin, vit
from ssl_jax.weights.places import Arrays, put, take, under

OWN = "ssl_jax"  # the metadata's "format" in our files
LIBRARIES = ("timm", "torchvision")  # and in those that we write for them
STUDENT, TEACHER, REST = "student", "teacher", "rest"
FAMILIES: Mapping[str, ModuleType] = {
    "resnet": resnet,
    "resnet_small": resnet,
    "vit": vit,
    "swin": swin,
}
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Report:
    """What became of a file's tensors.

    Attributes:
      loaded: tensors that were used, how many.
      found: what was found where, "resnet at 'module.encoder_q.'".
      skipped: names in the file of what no network of ours has, counters left out.
      missing: variables of the backbone that the file lacks, by our paths.
      wrong: likewise of another shape, with both shapes.
    """

    loaded: int
    found: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    def complaint(self) -> str:
        """What is missing or wrong, or ""."""
        said = [f"missing {few(self.missing)}"] if self.missing else []
        return "; ".join(said + ([f"of another shape {few(self.wrong)}"] if self.wrong else []))


@dataclass(frozen=True)
class Weights:
    """What a file holds, by our names.

    Attributes:
      networks: "student", "teacher" or both -> variables by path: those of "backbone/" and of the
        heads beside it, "projector/", ...
      encoder: which of them makes the representation.
      rest: of a whole run, what else its state held, by path.
      backbone: the section `backbone` of a config that makes this network.
      channels: of its images.
      metadata: the file's.
      report: what was used.
      name: of the file, for messages.
    """

    networks: Mapping[str, Mapping[str, np.ndarray]]
    encoder: str
    backbone: Mapping[str, Any]
    channels: int
    rest: Mapping[str, np.ndarray] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    report: Report = Report(0)
    name: str = "the file"

    @property
    def net(self) -> Net:
        """The backbone without its weights."""
        return build(self.backbone, self.channels)

    def variables(self) -> tuple[Tree, Tree]:
        """(params, stats) of the encoder's backbone.

        Raises:
          UserError: the file lacks some of them.
        """
        given = under(self.networks[self.encoder], "backbone/")
        return fill(given, shapes(self.net), self.name)

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
    """The networks of a file of weights, ours or a public one.

    Args:
      backbone: the section `backbone` of a config. Without a "name" it is what changes in, or what
        is missing from, the one that the file's names and shapes say.
      channels: of the images; by default the file's.
      layout, prefix: of a public file; see `releases.find`.
      strict: every variable of the backbone must be there, in its shape. Else what fits is taken.

    Raises:
      UserError: an unreadable file, no network of a known layout in it, or another network than
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
    """`load` of what was read already; `name` is for messages."""
    if file.metadata.get("format") == OWN:
        return _own(file, name, backbone, channels)
    try:
        found = releases.find(file.tensors, layout, prefix)
        given, channels = _described(found[0], file.metadata, dict(backbone or {}), channels)
    except UserError as e:
        raise UserError(f"{name}: {e}") from None
    except (KeyError, ValueError, IndexError) as e:
        raise UserError(f"{name}: names of a known layout, but other tensors ({e})") from None
    kind = FAMILIES.get(str(given["name"]))
    if kind is not FAMILIES[found[0].family]:
        raise UserError(f"{name} holds a {found[0].family}, and backbone.name is {given['name']!r}")
    like = shapes(build(given, channels))
    networks, reports = {}, []
    for one in found:
        variables, report = convert(one, like, given)
        if strict and report.complaint():
            raise UserError(
                f"{name}: another network than `backbone`: {report.complaint()}. "
                f"{_looks_like(found[0])}"
            )
        networks[TEACHER if one.average else STUDENT] = _float32(variables)
        reports.append((one, report))
    encoder = TEACHER if TEACHER in networks and _is_kept(found) else STUDENT
    encoder = encoder if encoder in networks else next(iter(networks))
    report = _merged(reports, file.tensors)
    return Weights(networks, encoder, given, channels, {}, file.metadata, report, name)


def build(backbone: Mapping[str, Any], channels: int) -> Net:
    """The network that a section `backbone` names."""
    options = dict(backbone)
    return make_backbone(str(options.pop("name", "resnet")), channels, options)


def shapes(net: Net) -> tuple[Tree, Tree]:
    """Shapes of (params, stats)."""
    return jax.eval_shape(net.init, jax.random.key(0))


def flat(params: Tree, stats: Tree) -> dict[str, Any]:
    """Leaves of both by path."""
    return tree.named_leaves(params) | tree.named_leaves(stats)


def fill(given: Arrays, like: tuple[Tree, Tree], name: str) -> tuple[Tree, Tree]:
    """Trees as `like` of variables by path.

    Raises:
      UserError: one is missing or of another shape.
    """
    missing, wrong = compare(given, like)
    if missing or wrong:
        complaint = Report(0, missing=missing, wrong=wrong).complaint()
        raise UserError(f"{name}: another network than `backbone`: {complaint}")
    params, stats = (tree.map_with_name(lambda path, _: given[path], part) for part in like)
    return params, stats


def compare(given: Arrays, like: tuple[Tree, Tree]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths that `given` lacks, and those of another shape with both shapes."""
    wanted = flat(*like)
    missing = tuple(path for path in wanted if path not in given)
    wrong = tuple(
        f"{path} {given[path].shape} for {leaf.shape}"
        for path, leaf in wanted.items()
        if path in given and given[path].shape != leaf.shape
    )
    return missing, wrong


def few(names: tuple[str, ...]) -> str:
    """The first of them, and how many more."""
    shown = ", ".join(names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def to_timm(variables: Arrays, backbone: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A backbone's variables by timm's names, in PyTorch's layout.

    Raises:
      UserError: some that those libraries have no name for.
    """
    place = FAMILIES[str(backbone.get("name", "resnet"))].place
    out: dict[str, np.ndarray] = {}
    for path, array in variables.items():
        out |= put(np.asarray(array), place(path, array.shape))
    return out


def convert(
    found: releases.Found, like: tuple[Tree, Tree], backbone: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], Report]:
    """Variables by path of the backbone, whose (params, stats) have the shapes `like`,
    and of the heads. What does not fit is left out; the report names it.
    """
    family, wanted = FAMILIES[found.family], flat(*like)
    tensors, out = found.tensors, {}
    if family is vit:
        tensors = vit.fitted(tensors, {path: leaf.shape for path, leaf in wanted.items()})
    used: set[str] = set()
    missing, wrong = [], []
    for path, leaf in wanted.items():
        place = family.place(path, leaf.shape)
        lacking = [name for name in place.names if name not in tensors]
        if lacking:
            missing.append(f"{path} ({lacking[0]})")
            continue
        used |= set(place.names)
        array = take(tensors, place)
        if array.shape != leaf.shape:
            wrong.append(f"{path} {array.shape} for {leaf.shape}")
        else:
            out[f"backbone/{path}"] = array
    if family is vit and "pos_embed" in tensors and "pos_embed" not in used:
        kind, table = backbone.get("position", "learned"), tensors["pos_embed"]
        with_class = "cls_token" in tensors
        if kind in vit.FIXED_ORDERS and vit.fixed_position(table, with_class) == kind:
            used.add("pos_embed")
        elif kind in vit.FIXED_ORDERS:
            wrong.append("pos_embed, which is not the fixed table of backbone.position")
    for head, variables in found.heads.items():
        for path, array in variables.items():
            out[f"{head}/{path}" if path else head] = array
    skipped = [found.prefix + name for name in tensors if name not in used]
    loaded = len(used) + len(found.read)
    kept = tuple(name for name in skipped if name not in found.read)
    where = f"{found.layout} at {found.prefix!r}" if found.prefix else found.layout
    return out, Report(loaded, (where,), kept, tuple(missing), tuple(wrong))


def _described(
    found: releases.Found,
    metadata: Mapping[str, str],
    given: dict[str, Any],
    channels: int | None,
) -> tuple[dict[str, Any], int]:
    """The section `backbone` and the channels: as given, else as our own export says, else as names
    and shapes do.
    """
    if "name" in given and channels is not None:
        return given, channels
    if metadata.get("format") in LIBRARIES and "backbone" in metadata:
        said, own = json.loads(metadata["backbone"]), int(metadata["channels"])
    else:
        said, own = FAMILIES[found.family].infer(found.tensors, given)
    return given if "name" in given else said | given, own if channels is None else channels


def _merged(reports: list[tuple[releases.Found, Report]], tensors: Arrays) -> Report:
    """One report of all networks, in which tensors that belong to none are skipped ones."""
    prefixes = tuple(found.prefix for found, _ in reports)
    read = frozenset[str]().union(*(found.read for found, _ in reports))
    outside = [
        name
        for name in tensors
        if not name.startswith(prefixes)
        and name not in read
        and not name.endswith(releases.COUNTERS)
    ]
    each = [report for _, report in reports]
    return Report(
        sum(report.loaded for report in each),
        tuple(name for report in each for name in report.found),
        tuple(name for report in each for name in report.skipped if name not in read)
        + tuple(outside),
        tuple(name for report in each for name in report.missing),
        tuple(name for report in each for name in report.wrong),
    )


def _own(
    file: files.TensorFile, name: str, backbone: Mapping[str, Any] | None, channels: int | None
) -> Weights:
    try:
        said = json.loads(file.metadata["backbone"])
        own = int(file.metadata["channels"])
    except (KeyError, ValueError):
        raise UserError(f"{name}: its metadata do not say which network it holds") from None
    encoder = file.metadata.get("encoder", STUDENT)
    networks = {role: under(file.tensors, f"{role}/") for role in (STUDENT, TEACHER)}
    networks = {role: variables for role, variables in networks.items() if variables}
    rest = under(file.tensors, f"{REST}/")
    if not networks:
        networks = {encoder: dict(file.tensors)}
    report = Report(len(file.tensors), ("a file of ssl_jax",))
    weights = Weights(
        {role: _float32(variables) for role, variables in networks.items()},
        encoder if encoder in networks else next(iter(networks)),
        said,
        own,
        _float32(rest),
        file.metadata,
        report,
        name,
    )
    if backbone is None or "name" not in backbone:
        return replace(weights, backbone=said | dict(backbone or {}))
    weights = replace(weights, backbone=backbone, channels=own if channels is None else channels)
    try:
        weights.variables()
    except UserError as e:
        raise UserError(f"{e}. {_is(said, own)}") from None
    return weights


def _float32(arrays: Arrays) -> dict[str, np.ndarray]:
    """Floats in float32, bfloat16 included; others as they are."""
    return {
        name: array if array.dtype.kind in "iub" else np.asarray(array, np.float32)
        for name, array in arrays.items()
    }


def _of_backbone(path: str) -> bool:
    return path.startswith("backbone/")


def _is_kept(found: list[releases.Found]) -> bool:
    """Of a teacher and a student the teacher is kept; of a trained encoder and the slow one that
    makes its keys or targets, the trained one.
    """
    return any(one.average and "teacher" in one.prefix for one in found)


def _looks_like(found: releases.Found) -> str:
    """What to set so that it would fit, as far as shapes tell."""
    try:
        inferred, channels = FAMILIES[found.family].infer(found.tensors, {})
    except (UserError, KeyError, ValueError):
        return "Give `backbone` the values of the network in the file"
    return _is(inferred, channels)


def _is(backbone: Mapping[str, Any], channels: int) -> str:
    said = ", ".join(f"{key}={value!r}" for key, value in backbone.items())
    return f"The file's is: {said}, for images of {channels} channels"
