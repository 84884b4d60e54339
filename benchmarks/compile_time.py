"""Compile time of a ViT-L's train step compared with a ViT-S's.

    python benchmarks/compile_time.py [--topology=v5e:2x2] [--repeats=1]

Compiles `mae:imagenet` with either encoder for a TPU slice (needs libtpu but no TPU), 16 images per
chip, each in a fresh process: median CPU seconds of tracing and compiling, over all threads. The
blocks are scanned, so the time should depend on their width but not on their number. Prints one
JSON line.
"""

import argparse
import json
import math
import statistics


def main() -> None:
    from ssl_jax.run.compile import compile_step
    from ssl_jax.run.configs import configured

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    chips = math.prod(int(n) for n in args.topology.partition(":")[2].split("x"))
    seconds: dict[str, list[float]] = {"small": [], "large": []}
    for _ in range(args.repeats):
        for size, times in seconds.items():
            changes = [("backbone.size", size), ("train.batch_size", 16 * chips)]
            report = compile_step(configured("mae:imagenet", changes), args.topology)
            times.append(report["compile_cpu_seconds"])
    small, large = (statistics.median(times) for times in seconds.values())
    out = {"vit_s_cpu_s": round(small, 1), "vit_l_cpu_s": round(large, 1)}
    print(json.dumps({"topology": args.topology, **out, "ratio": round(large / small, 3)}))


if __name__ == "__main__":
    main()
