"""The teacher of a run, from another run or a file: what is loaded, and what is refused."""

import tempfile
from pathlib import Path

import jax
from absl.testing import absltest, parameterized

from ssl_jax.cli import run as command
from ssl_jax.core.errors import UserError
from ssl_jax.run import fixed, pretrained, study
from tests.run.pretrained_test import assert_equal, experiment, saved, started

DISTILLATION = "simclr_v2_distillation"


def student(teacher_from, *overrides):
    teacher = {"name": "resnet_small", "width": 4}
    return experiment(
        DISTILLATION,
        ("objective.teacher_backbone", teacher),
        ("train.teacher_from", teacher_from),
        ("backbone.width", 8),
        *overrides,
    )


class TeacherTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = self.enterContext(tempfile.TemporaryDirectory())

    def check_loaded(self, name, encoder):
        """The teacher is the run's encoder with its classifier; the student is fresh."""
        run = student(name)
        pretrained.check(run)
        restored = started(run)
        params, stats = (restored.extra["fixed"][part] for part in ("params", "stats"))
        assert_equal(params["backbone"], encoder.params)
        assert_equal(stats["backbone"], encoder.stats)
        assert_equal(params["classifier"], encoder.classifier.params)
        fresh = jax.eval_shape(run.objective.init, jax.random.key(0))[0]
        self.assertEqual(
            jax.tree.map(lambda x: x.shape, restored.params), jax.tree.map(lambda x: x.shape, fresh)
        )

    def test_of_a_run_and_of_a_file(self):
        encoder = saved(self.folder, "supervised")
        self.check_loaded(self.folder, encoder)
        file = Path(self.folder) / "teacher.safetensors"
        flags = {"workdir": self.folder, "output": file, "format": "safetensors", "part": "all"}
        self.assertEqual(command(["export", *(f"--{k}={v}" for k, v in flags.items())]), 0)
        self.check_loaded(str(file), encoder)
        wide = ("objective.teacher_backbone", {"name": "resnet_small", "width": 8})
        message = "teacher_from: .* of another shape .*width=4"
        with self.assertRaisesRegex(UserError, message) as caught:
            fixed.check(student(str(file), wide))
        self.assertNotIn("\n", str(caught.exception))

    def test_with_a_student_that_starts_from_a_run(self):
        encoder = saved(self.folder, "supervised")
        run = student(self.folder, ("train.init_from", self.folder), ("backbone.width", 4))
        restored = started(run)
        assert_equal(restored.params["backbone"], encoder.params)
        assert_equal(restored.extra["fixed"]["params"]["backbone"], encoder.params)

    def test_without_a_teacher(self):
        with self.assertRaisesRegex(UserError, "learns from a network that was trained before"):
            fixed.check(student(""))
        with self.assertRaisesRegex(UserError, "simclr has no teacher that was trained before"):
            fixed.check(experiment("simclr", ("train.teacher_from", self.folder)))
        with self.assertRaisesRegex(UserError, "no run in"):
            fixed.check(student("/nowhere"))

    def test_another_network_is_refused(self):
        saved(self.folder, "supervised")
        for teacher, message in (
            ({"width": 8}, r"another network than the method's teacher: of another shape"),
            ({"width": 4, "neck": (4,)}, "missing backbone/neck"),
            (
                {"width": 4, "stem": "cifar"},
                "objective.teacher_backbone.stem is 'cifar' in the config but 'small'.*"
                "set --config.objective.teacher_backbone.stem=small",
            ),
            ({"width": 8, "stem": "cifar"}, "teacher: of another shape .* give objective.teacher"),
        ):
            run = student(
                self.folder, ("objective.teacher_backbone", {"name": "resnet_small"} | teacher)
            )
            with self.assertRaisesRegex(UserError, message) as caught:
                fixed.check(run)
            self.assertLen(str(caught.exception).splitlines(), 1)

    def test_a_teacher_without_a_classifier_is_refused(self):
        saved(self.folder, "simclr")
        with self.assertRaisesRegex(UserError, "has no classifier; fine-tune it"):
            fixed.check(student(self.folder))


class StudyTest(absltest.TestCase):
    def test_runs_name_those_before_them(self):
        for name in ("simclr_v2_digits", "simclr_v2"):
            runs, before = study.read(f"studies:{name}"), []
            for run in runs:
                for key in ("train.init_from", "train.teacher_from"):
                    if value := run.changes.get(key):
                        self.assertIn(Path(value).name, before)
                        self.assertIn(f"--config.{key}=S/{Path(value).name}", run.words(Path("S")))
                before.append(run.name)
            self.assertGreater(len(before), 4)


if __name__ == "__main__":
    absltest.main()
