"""How long the step of a ViT-L takes to compile beside that of a ViT-S.

    python benchmarks/compile_time.py [--topology=v5e:2x2] [--repeats=1]

Compiles `mae:imagenet` with either encoder for a TPU slice (libtpu must be installed, a TPU need
not be there), 16 images a chip, each in a fresh process: CPU seconds of tracing and compiling, of
all threads, the median. The blocks are scanned, so that their number should not matter; widths do.
Prints one line of JSON.
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
        for size, found in seconds.items():
            changes = [("backbone.size", size), ("train.batch_size", 16 * chips)]
            report = compile_step(configured("mae:imagenet", changes), args.topology)
            found.append(report["compile_cpu_seconds"])
    small, large = (statistics.median(found) for found in seconds.values())
    out = {"vit_s_cpu_s": round(small, 1), "vit_l_cpu_s": round(large, 1)}
    print(json.dumps({"topology": args.topology, **out, "ratio": round(large / small, 3)}))


if __name__ == "__main__":
    main()
