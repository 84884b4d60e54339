"""Process of `ssl-jax compile` that loads libtpu, whose own output would disturb the terminal.

Reads one JSON object from standard input, {"config", "topology", "slices", "hlo", "trust_code"},
and writes one on the last line of standard output: the report, or {"error": message for the user}.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from ssl_jax.core import trust
from ssl_jax.core.errors import UserError
from ssl_jax.cost import aot
from ssl_jax.cost.chips import TPUS
from ssl_jax.run.experiment import Experiment

FLAT = ("v5e", "v6e")  # a torus of two dimensions, at most 16 x 16


def main() -> None:
    try:
        print(json.dumps(work(**json.load(sys.stdin))))
    except (UserError, OSError) as e:
        print(json.dumps({"error": str(e)}))


def work(
    config: dict[str, Any], topology: str, slices: int, hlo: str, trust_code: bool
) -> dict[str, Any]:
    """Compile a resolved config, which has its `spec`, for one or several slices; return the
    report. The program's text is written to the file `hlo`, if set.
    """
    if trust_code:
        trust.allow()
    experiment = Experiment.from_config(config, devices=devices(topology, slices))
    experiment.check_batch()
    report, text = aot.compile_step(
        experiment.objective,
        experiment.tx,
        experiment.schedule,
        experiment.mesh,
        experiment.abstract_state,
        experiment.placed,
    )
    if hlo and text:
        Path(hlo).write_text(text)
    return dataclasses.asdict(report)


def devices(topology: str, slices: int) -> Any:
    """Return the devices of `slices` slices like "v5e:8x8", for compiling only.

    Raises:
      UserError: no such topology.
    """
    kind, _, shape = topology.partition(":")
    sides = [int(side) for side in shape.split("x") if side.isdigit()]
    valid = len(sides) == 2 and max(sides) <= 16 if kind in FLAT else len(sides) == 3
    if kind in TPUS and valid:
        options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
        if kind == "v4":  # its two cores form one device, as on real hardware
            options["chip_config_name"] = "megacore"
        try:
            return topologies.get_topology_desc(topology, platform="tpu", **options).devices
        except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as e:
            if "lockfile" in str(e):
                raise UserError(" ".join(str(e).split())[:200]) from None
    kinds = ", ".join(TPUS)
    raise UserError(
        f"no topology {topology!r}; the kinds are {kinds}, with two numbers for v5e and v6e "
        "(v5e:8x8, up to 16x16) and three for v4 and v5p (v4:4x4x4)"
    )


if __name__ == "__main__":
    main()
