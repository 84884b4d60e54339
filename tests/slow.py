"""Writer of slow.txt, the tests of the full set that take long:

rm -rf /tmp/ssl_jax_test_cache /tmp/cpu.tsv
pytest -m "full or not full" -n auto --cpu=/tmp/cpu.tsv && python tests/slow.py /tmp/cpu.tsv

Tests that are not in the file of seconds stay in the list.
"""

import string
import sys
from collections.abc import Iterable
from pathlib import Path

LIMIT = 0.7  # CPU seconds of a test of the default set
# Comparisons with the authors' values are of the default set, unless they are marked: all those of
# losses, and of others with several numbered inputs the first one.
GOLDEN = ("olden", "eleased")
# So are one test each of what a user cannot do without, and the cases of real use (BUILD_NOTES.md).
KEEP = ("bfloat16_test", "auto_test", "two_processes_write_one_file")
KEEP += ("api_test", "fuzz_texts", "contract_test", "recipes_test", "old_runs_test")
KEEP += ("architecture_test", "style_test", "surface_test", "docs_test", "faults/safety_test")
KEEP += ("a_run_and_all_that_looks_at_it", "a_run_with_a_chain_of_a_config_file")
KEEP += ("endings_that_pillow_reads_are_taken", "other_files_are_counted_by_their_ending")
KEEP += ("a_metric_that_no_checkpoint_has", "the_metric_of_the_best_is_misspelt")
KEEP += ("values_and_gradients_are_those_of_one_device0", "without_jit_and_without_a_context")
KEEP += ("encoder_test.py::EncoderTest::test_class_token", "the_network_s_own_output")
KEEP += ("test_on_any_mesh0", "weights_file_test.py::WeightsFileTest::test_evaluate")
KEEP += ("going_on_needs_no_room", "text_test.py::LearnedTest", "in_ours_is_refused")
KEEP += ("paths_that_lead_nowhere", "EditedTest", "ViTTest::test_stages")
KEEP += ("labels_never_stop_it", "streams_test")
LIST = Path(__file__).parent / "slow.txt"


def main(path: str) -> None:
    seconds: dict[str, float] = {}
    for line in Path(path).read_text().splitlines():
        value, _, name = line.partition("\t")
        seconds[name] = float(value)
    old = set(LIST.read_text().splitlines()) if LIST.exists() else set()
    slow = {name for name, value in seconds.items() if value > LIMIT}
    listed = slow | (old - seconds.keys())
    golden = {name for name in seconds.keys() | old if any(word in name for word in GOLDEN)}
    listed -= firsts(golden) | {name for name in golden if name.startswith("tests/losses/")}
    listed -= {name for name in listed if any(word in name for word in KEEP)}
    LIST.write_text("\n".join(sorted(listed)) + "\n")
    print(f"{LIST}: {len(slow)} of {len(seconds)} tests take over {LIMIT} CPU seconds")


def firsts(names: Iterable[str]) -> set[str]:
    """Return those of `names` with the lowest number at their end, or with none."""
    lowest: dict[str, str] = {}
    for name in sorted(names, key=lambda n: (len(n), n)):
        lowest.setdefault(name.rstrip(string.digits), name)
    return set(lowest.values())


if __name__ == "__main__":
    main(sys.argv[1])
