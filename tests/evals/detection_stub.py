"""Worker in place of `evals.detection_worker`, without torch: `python -m tests.evals.detection_stub
FOLDER`. Each start adds a line to the file `starts` in the folder of the cache.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

ERROR, CRASH = 1, 2  # seeds with which it reports an error, or exits without results


def main(folder: Path) -> None:
    with (folder.parent / "starts").open("a") as file:
        file.write("start\n")
    time.sleep(0.3)
    seed = json.loads((folder / "request.json").read_text())["settings"]["seed"]
    with np.load(folder / "weights.npz") as weights:
        total = sum(float(np.abs(weights[name]).sum()) for name in weights.files)
    print("one\nlast line")
    if seed == CRASH:
        sys.exit(3)
    result = {"error": "it diverged"} if seed == ERROR else {"numbers": {"ap": total}}
    (folder / "results.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
