"""Peak rates of chips: the constants behind utilisation and roofline bounds, in one table."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One accelerator, by its data sheet; 0 for unpublished values.

    Attributes:
      kind: prefix of jax's `device_kind`.
      flops: dense bfloat16 FLOP/s.
      hbm: bytes of memory. A compiler leaves a little of it free.
      bandwidth: bytes/s between the chip and its memory.
      ici: bytes/s that a chip can send to its neighbours in the slice, over all links.
      dcn: bytes/s that a chip can send to other slices: its share of the host's network cards.
    """

    kind: str
    flops: float
    hbm: int = 0
    bandwidth: float = 0.0
    ici: float = 0.0
    dcn: float = 0.0


# TPUs: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e, read in November 2026. `ici` is half
# of the "bidirectional" bandwidth there; v4's from Jouppi et al. 2023 (arXiv:2304.01433), six links
# of 50 GB/s. `dcn` of v5e: 2 x 100 Gb/s for 8 chips; v5p: 50 Gb/s per chip; for v4, v6e the pages
# have none. GPUs: NVIDIA's data sheets.
_V4 = Chip("TPU v4", 275e12, 32 * GIB, 1200e9, 300e9)
_V5E = Chip("TPU v5 lite", 197e12, 16 * GIB, 819e9, 200e9, 3.125e9)
_V5P = Chip("TPU v5", 459e12, 95 * GIB, 2765e9, 600e9, 6.25e9)
_V6E = Chip("TPU v6 lite", 918e12, 32 * GIB, 1638e9, 400e9)
TPUS = {"v4": _V4, "v5e": _V5E, "v5p": _V5P, "v6e": _V6E}
CHIPS = (
    *TPUS.values(),
    Chip("NVIDIA A100", 312e12),
    Chip("NVIDIA H100", 989e12),
    Chip("NVIDIA H200", 989e12),
)


def chip(device_kind: str) -> Chip | None:
    """Return the chip of this `device_kind`, or None if it is unknown (a CPU)."""
    aliases = {"TPU v5e": "TPU v5 lite", "TPU v6e": "TPU v6 lite"}
    kind = next((new for old, new in aliases.items() if device_kind.startswith(old)), device_kind)
    candidates = [candidate for candidate in CHIPS if kind.startswith(candidate.kind)]
    return max(candidates, key=lambda candidate: len(candidate.kind), default=None)
