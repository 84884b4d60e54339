"""The place of a process; tests/cli/processes_test.py has real processes."""

import dataclasses
from unittest import mock

from absl.testing import absltest, parameterized

from ssl_jax.core import config, distributed
from ssl_jax.core.distributed import Membership, ProcessFlags
from ssl_jax.core.errors import UserError

NONE = ProcessFlags()
THREE = ProcessFlags(coordinator="host:1234", num_processes=4, process_id=3)
ALONE = ProcessFlags(coordinator="host:1234", num_processes=1, process_id=0)
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[001-002]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


class DistributedTest(parameterized.TestCase):
    @parameterized.parameters(
        (NONE, {}, None),
        (THREE, {}, Membership("deactivate", "host:1234", 4, 3)),
        (THREE, SLURM, Membership("deactivate", "host:1234", 4, 3)),
        (ALONE, {}, None),
        (NONE, SLURM, Membership("slurm")),
        (NONE, SLURM | {"SLURM_NTASKS": "1"}, None),
        (NONE, {"SLURM_NTASKS": "8"}, None),  # a shell in an allocation, not one of its tasks
        (NONE, {"OMPI_COMM_WORLD_SIZE": "2"}, Membership("ompi")),
    )
    def test_the_place_of_a_process(self, flags, env, place):
        self.assertEqual(distributed.find(flags, env), place)

    @parameterized.parameters(
        ({}, Membership("gcetpu")),
        ({"JAX_PLATFORMS": "cpu"}, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, Membership("gketpu")),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, Membership("gketpu")),
    )
    def test_on_a_tpu(self, env, place):
        with mock.patch.object(distributed, "_tpu_chips", lambda: True):
            self.assertEqual(distributed.find(NONE, env), place)

    @parameterized.parameters(
        ({"coordinator": None}, "--coordinator is missing: .* go together"),
        ({"process_id": None}, "--process_id is missing"),
        ({"process_id": 4}, "--process_id=4 of --num_processes=4: expected 0 to 3"),
    )
    def test_flags_that_do_not_fit(self, change, message):
        flags = dataclasses.replace(THREE, **change)
        with self.assertRaisesRegex(UserError, message), distributed.session(flags):
            self.fail("entered")

    @parameterized.parameters(
        ("num_processes", "x", "--num_processes: expected int"),
        ("coordinator", "host", "--coordinator: expected HOST:PORT, got 'host'"),
        ("dead_timeout", 0, "--dead_timeout: expected a whole number of at least 1, got 0"),
    )
    def test_values_of_the_wrong_form(self, name, value, message):
        with self.assertRaisesRegex(UserError, message):
            config.build(ProcessFlags, {name: value}, config.FLAGS)

    def test_a_process_alone(self):
        with distributed.session(NONE):
            self.assertTrue(distributed.primary())
            distributed.barrier("nobody else comes")
            distributed.at("data", 3)


if __name__ == "__main__":
    absltest.main()
