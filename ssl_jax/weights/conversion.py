"""Names and layouts of a file's tensors to ours and back, and a report of which were used."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ssl_jax import nets
from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Tree
from ssl_jax.weights import convnext, efficientnet, releases, resnet, swin, vit
from ssl_jax.weights.places import Arrays, put, take

LAYOUTS: Mapping[str, ModuleType] = {
    "resnet": resnet,
    "vit": vit,
    "swin": swin,
    "convnext": convnext,
    "efficientnet": efficientnet,
}
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class LoadReport:
    """Use of a file's tensors.

    Attributes:
      loaded: number of tensors that were used.
      networks: layout and prefix of each network, "resnet at 'module.encoder_q.'".
      skipped: names in the file that no network of ours has, except counters.
      missing: variables of the backbone that the file lacks, by our paths.
      wrong: variables of the backbone that have another shape in the file, with both shapes.
      inside: those of `skipped` that are in the modules of the backbone itself, numbers as *.
    """

    loaded: int
    networks: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()

    def complaint(self) -> str:
        """Describe what is missing, wrong or left over in the backbone; "" if nothing is."""
        parts = {
            "missing": self.missing,
            "of another shape": self.wrong,
            "the file also has": self.inside,
        }
        return "; ".join(f"{text} {few(names)}" for text, names in parts.items() if names)


def convert(
    source: releases.Network,
    like: tuple[Tree, Tree],
    backbone: Mapping[str, Any],
    inner: tuple[str, ...] = (),
) -> tuple[dict[str, np.ndarray], LoadReport]:
    """Convert a public network to variables by path: those of the backbone, whose (params, stats)
    have the shapes `like`, and those of the heads. What does not fit is left out, and named in the
    report. `inner` are the prefixes of other networks that start with this one's.
    """
    family, expected = LAYOUTS[source.family], flat(*like)
    tensors, out = source.tensors, {}
    if family is vit:
        tensors = vit.fitted(tensors, {path: leaf.shape for path, leaf in expected.items()})
    used: set[str] = set()
    missing, wrong = [], []
    for path, leaf in expected.items():
        place = family.place(path, leaf.shape)
        absent = [name for name in place.names if name not in tensors]
        if absent:
            missing.append(f"{path} ({absent[0]})")
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
    for head, variables in source.heads.items():
        for path, array in variables.items():
            out[f"{head}/{path}" if path else head] = array
    unused = [
        name
        for name in tensors
        if name not in used
        and source.prefix + name not in source.read
        and not (inner and (source.prefix + name).startswith(inner))
    ]
    inside = [re.sub(r"(?<=\.)\d+(?=\.)", "*", n) for n in unused if not releases.is_beside(n)]
    loaded = len(used) + len(source.read)
    skipped = tuple(source.prefix + name for name in unused)
    origin = f"{source.layout} at {source.prefix!r}" if source.prefix else source.layout
    distinct = tuple(dict.fromkeys(inside))
    return out, LoadReport(loaded, (origin,), skipped, tuple(missing), tuple(wrong), distinct)


def to_timm(variables: Arrays, backbone: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Convert a backbone's variables to timm's names and PyTorch's layout.

    Raises:
      UserError: timm and torchvision have no name for some of them.
    """
    name = str(backbone.get("name", nets.DEFAULT))
    layout = nets.backbone_class(name).layout
    if not layout:
        raise UserError(f"backbone.name={name!r}: timm and torchvision have no such network")
    place = LAYOUTS[layout].place
    out: dict[str, np.ndarray] = {}
    for path, array in variables.items():
        out |= put(np.asarray(array), place(path, array.shape))
    return out


def fill(variables: Arrays, like: tuple[Tree, Tree], name: str) -> tuple[Tree, Tree]:
    """Arrange variables by path in trees like `like`.

    Raises:
      UserError: a variable is missing or of another shape, or there is one too many, other than a
        mask token, on which no feature depends.
    """
    missing, wrong = compare(variables, like)
    expected = flat(*like)
    more = tuple(path for path in variables if path not in expected and path != "mask_token")
    if missing or wrong or more:
        complaint = LoadReport(0, missing=missing, wrong=wrong, inside=more).complaint()
        raise UserError(f"{name}: the network does not match `backbone`: {complaint}")
    params, stats = (tree.map_with_name(lambda path, _: variables[path], part) for part in like)
    return params, stats


def compare(variables: Arrays, like: tuple[Tree, Tree]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the paths that `variables` lack, and those of another shape with both shapes."""
    expected = flat(*like)
    missing = tuple(path for path in expected if path not in variables)
    wrong = tuple(
        f"{path} {variables[path].shape} for {leaf.shape}"
        for path, leaf in expected.items()
        if path in variables and variables[path].shape != leaf.shape
    )
    return missing, wrong


def flat(params: Tree, stats: Tree) -> dict[str, Any]:
    """Return the leaves of both trees by path."""
    return tree.named_leaves(params) | tree.named_leaves(stats)


def few(names: tuple[str, ...]) -> str:
    """Join the first `SHOWN` names, and count the others."""
    text = ", ".join(names[:SHOWN])
    return text + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def merged(reports: list[tuple[releases.Network, LoadReport]], tensors: Arrays) -> LoadReport:
    """Merge the reports of all networks; tensors that belong to none are skipped ones."""
    prefixes = tuple(source.prefix for source, _ in reports)
    read = frozenset[str]().union(*(source.read for source, _ in reports))
    outside = [
        name
        for name in tensors
        if not name.startswith(prefixes)
        and name not in read
        and not name.endswith(releases.COUNTERS)
    ]
    each = [report for _, report in reports]
    return LoadReport(
        sum(report.loaded for report in each),
        tuple(name for report in each for name in report.networks),
        tuple(name for report in each for name in report.skipped if name not in read)
        + tuple(outside),
        tuple(name for report in each for name in report.missing),
        tuple(name for report in each for name in report.wrong),
        tuple(name for report in each for name in report.inside),
    )
