"""The networks of a file of weights by our names, and what of the file was used.

`load` reads our own files and, by `releases`, public ones. Variables are named by their paths,
"backbone/stem/0/conv/kernel": parameters and running statistics alike, as no two share a name.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json
from ssl_jax.core.tree import Tree
from ssl_jax.nets import BACKBONES
from ssl_jax.nets.functional import Net
from ssl_jax.weights import files, huggingface, releases, resnet, swin, vit
from ssl_jax.weights.places import Arrays, layers, put, take, under
from ssl_jax.weights.sections import agree, build, checked, shapes

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
      inside: those of them that are in the modules of the backbone itself, numbers as *.
      missing: variables of the backbone that the file lacks, by our paths.
      wrong: likewise of another shape, with both shapes.
    """

    loaded: int
    found: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()

    def complaint(self) -> str:
        """What is missing, wrong or left over in the backbone, or ""."""
        parts = {
            "missing": self.missing,
            "of another shape": self.wrong,
            "the file's has besides": self.inside,
        }
        return "; ".join(f"{what} {few(names)}" for what, names in parts.items() if names)


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
    def taken(self) -> str:
        """What was taken from the file and what was not, in one line."""
        backbone = ", ".join(f"{key}={value!r}" for key, value in self.backbone.items())
        text = f"{self.name}: {self.report.loaded:,} tensors, {', '.join(self.report.found)}"
        left = f"; left there: {few(self.report.skipped)}" if self.report.skipped else ""
        return f"{text}; backbone: {backbone}, for images of {self.channels} channels{left}"

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
      strict: every variable of the backbone must be there, in its shape, and nothing more in its
        modules. Else what fits is taken.

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
        return _public(file, name, dict(backbone or {}), channels, layout, prefix, strict)
    except UserError as e:
        raise UserError(f"{name}: {e}") from None
    except Exception as e:  # names and shapes may be anything
        raise UserError(
            f"{name}: names of a known layout, but other tensors ({type(e).__name__}: {e})"
        ) from None


def _public(
    file: files.TensorFile,
    name: str,
    given: dict[str, Any],
    channels: int | None,
    layout: str,
    prefix: str | None,
    strict: bool,
) -> Weights:
    """`of_file` of a file that is none of ours."""
    odd = [path for path, x in file.tensors.items() if x.dtype.kind not in "biufV"]
    if odd:
        raise UserError(f"{odd[0]} holds {file.tensors[odd[0]].dtype}, not numbers")
    found = releases.find(file.tensors, layout, prefix)
    told = _told(found[0], file)
    given, channels = _described(found[0], told, file.metadata, given, channels)
    kind = FAMILIES.get(str(given["name"]))
    if kind is not FAMILIES[found[0].family]:
        raise UserError(f"it holds a {found[0].family}, and backbone.name is {given['name']!r}")
    like = shapes(build(given, channels))
    networks, reports = {}, []
    for one in found:
        others = [f.prefix for f in found if f.prefix.startswith(one.prefix) and f is not one]
        variables, report = convert(one, like, given, tuple(others))
        if strict and report.complaint():
            raise UserError(
                f"another network than `backbone`: {report.complaint()}. "
                f"{_looks_like(found[0], told, report)}"
            )
        networks[TEACHER if one.average else STUDENT] = _float32(variables)
        reports.append((one, report))
    if strict:
        agree(given, {"name": given["name"]} | told, tuple(told))
    encoder = TEACHER if TEACHER in networks and _is_kept(found) else STUDENT
    encoder = encoder if encoder in networks else next(iter(networks))
    report = _merged(reports, file.tensors)
    return Weights(networks, encoder, given, channels, {}, file.metadata, report, name)


def flat(params: Tree, stats: Tree) -> dict[str, Any]:
    """Leaves of both by path."""
    return tree.named_leaves(params) | tree.named_leaves(stats)


def fill(given: Arrays, like: tuple[Tree, Tree], name: str) -> tuple[Tree, Tree]:
    """Trees as `like` of variables by path.

    Raises:
      UserError: one is missing or of another shape, or there is one more than a mask token, which
        no feature depends on.
    """
    missing, wrong = compare(given, like)
    wanted = flat(*like)
    more = tuple(path for path in given if path not in wanted and path != "mask_token")
    if missing or wrong or more:
        complaint = Report(0, missing=missing, wrong=wrong, inside=more).complaint()
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
    found: releases.Found,
    like: tuple[Tree, Tree],
    backbone: Mapping[str, Any],
    others: tuple[str, ...] = (),
) -> tuple[dict[str, np.ndarray], Report]:
    """Variables by path of the backbone, whose (params, stats) have the shapes `like`,
    and of the heads. What does not fit is left out; the report names it. `others` are the prefixes
    of networks that lie within this one's.
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
    left = [
        name
        for name in tensors
        if name not in used
        and found.prefix + name not in found.read
        and not (others and (found.prefix + name).startswith(others))
    ]
    inside = [re.sub(r"(?<=\.)\d+(?=\.)", "*", n) for n in left if not releases.is_beside(n)]
    loaded = len(used) + len(found.read)
    kept = tuple(found.prefix + name for name in left)
    where = f"{found.layout} at {found.prefix!r}" if found.prefix else found.layout
    unread = tuple(dict.fromkeys(inside))
    return out, Report(loaded, (where,), kept, tuple(missing), tuple(wrong), unread)


def _told(found: releases.Found, file: files.TensorFile) -> dict[str, Any]:
    """Keys of the section `backbone` that the file says of itself, in its metadata where we wrote
    it, or in files beside it.

    Raises:
      UserError: they are of another network than the tensors.
    """
    if file.metadata.get("format") in LIBRARIES and "backbone" in file.metadata:
        backbone = from_json(file.metadata["backbone"])
        checked(backbone, from_json(file.metadata.get("channels", "3")))
        return dict(backbone)
    told, sizes = huggingface.settings(file.beside, found.family)
    if found.family == "vit":
        weight = found.tensors["patch_embed.proj.weight"]
        own = dict(dim=weight.shape[0], patch=weight.shape[2])
        own["depth"] = layers(found.tensors, "blocks.")
        for key, size in sizes.items():
            if own[key] != size:
                raise UserError(f"the config beside it says {key}={size}, its tensors {own[key]}")
    known = inspect.signature(BACKBONES[found.family]).parameters
    both = dict(releases.CUSTOMS.get(found.layout, {})) | told
    return {key: value for key, value in both.items() if key in known}


def _described(
    found: releases.Found,
    told: Mapping[str, Any],
    metadata: Mapping[str, str],
    given: dict[str, Any],
    channels: int | None,
) -> tuple[dict[str, Any], int]:
    """The section `backbone` and the channels: as given, else as the file says of itself, else as
    names and shapes do.
    """
    if "name" in given and channels is not None:
        return given, channels
    if "name" in told:
        inferred, own = dict(told), int(metadata.get("channels", 3))
    elif "name" in given:
        inferred, own = given, found.tensors[FIRST[found.family]].shape[1]
    else:
        inferred, own = FAMILIES[found.family].infer(found.tensors, {**told, **given})
        inferred |= told
    return given if "name" in given else inferred | given, own if channels is None else channels


FIRST = {  # the tensor whose second axis are the channels
    "resnet": "conv1.weight",
    "vit": "patch_embed.proj.weight",
    "swin": "patch_embed.proj.weight",
}


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
        tuple(name for report in each for name in report.inside),
    )


def _own(
    file: files.TensorFile, name: str, backbone: Mapping[str, Any] | None, channels: int | None
) -> Weights:
    try:
        said, own = from_json(file.metadata["backbone"]), from_json(file.metadata["channels"])
    except (KeyError, ValueError):
        raise UserError(f"{name}: its metadata do not say which network it holds") from None
    try:
        checked(said, own)
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
        weights = replace(weights, backbone=said | dict(backbone or {}))
        checked(weights.backbone, own)
        return weights
    weights = replace(weights, backbone=backbone, channels=own if channels is None else channels)
    try:
        weights.variables()
        agree(backbone, said)
    except UserError as e:
        text = str(e).removeprefix(f"{name}: ")
        raise UserError(f"{name}: {text}. {_is(said, own)}") from None
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


def _looks_like(found: releases.Found, told: Mapping[str, Any], report: Report) -> str:
    """What to set so that it would fit, as far as shapes tell."""
    if report.inside and not report.missing and not report.wrong:
        return (
            "Without these its features would be others; ssl-jax import --strict=false leaves them "
            "out all the same"
        )
    try:
        inferred, channels = FAMILIES[found.family].infer(found.tensors, told)
    except (UserError, KeyError, ValueError):
        return "Give `backbone` the values of the network in the file"
    return _is(inferred, channels)


def _is(backbone: Mapping[str, Any], channels: int) -> str:
    said = ", ".join(f"{key}={value!r}" for key, value in backbone.items())
    return f"The file's is: {said}, for images of {channels} channels"
