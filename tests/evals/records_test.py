import functools
import json
import multiprocessing
from pathlib import Path

from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.evals.records import ResultsFile, digest_of, key, named_files


def record(k, top1=0.5, **more):
    run = {"workdir": "W", "method": "m", "seed": 0, "step": 1, "protocol": "knn"}
    return {**run, "settings": {"k": k}, "results": {"eval/knn_top1": top1}} | more


def write_many(path, start):
    for k in range(start, start + 200):
        ResultsFile(path).append(record(k, note="x" * 5000))


class ResultsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.file = ResultsFile(Path(self.create_tempdir().full_path) / "new" / "results.jsonl")

    def test_what_is_written_is_read(self):
        self.assertEqual(self.file.read(), [])
        records = [record(1), record(2, seconds=1.0)]
        for item in records:
            self.file.append(item)
        self.assertEqual(self.file.read(), records)

    def test_the_key_depends_on_the_request(self):
        self.assertEqual(key(record(1, 0.5, seconds=3)), key(record(1, 0.6)))
        self.assertNotEqual(key(record(1)), key(record(2)))
        self.assertNotEqual(key(record(1)), key(record(1, step=3)))

    def test_files_and_folders_in_settings_are_distinguished_by_content(self):
        folder = Path(self.create_tempdir().full_path)
        names, masks = folder / "names.txt", folder / "masks"
        masks.mkdir()
        settings = {"lists": [str(names)], "train": str(masks), "k": 3, "pool": "avg", "data": ""}
        digests = []
        for name, text in ((names, "a"), (names, "b"), (masks / "1.png", "x"), (names, "a")):
            name.write_text(text)
            digests.append(named_files(settings))
            self.assertEqual(set(digests[-1]), {str(names), str(masks)})
        self.assertLen({str(item) for item in digests}, 4)
        self.assertEqual(digests[3][str(names)], digests[0][str(names)])
        named = named_files({"sets": [f"v2=folder:{masks}", f"folder:{masks}#1"]})
        self.assertEqual(set(named.values()), {digests[3][str(masks)]})
        self.assertLen(named, 2)

    def test_a_folder_of_several_settings_is_listed_once(self):
        folder = Path(self.create_tempdir().full_path)
        (folder / "1.png").write_text("x")
        listed = []
        digest = functools.cache(lambda path: listed.append(path) or digest_of(path))
        for data in (f"folder:{folder}", str(folder)):
            digests = named_files({"data": data}, digest)
            self.assertEqual(digests, named_files({"data": data}))
        self.assertEqual(listed, [folder])

    def test_a_question_has_one_answer(self):
        for top1 in (0.5, 0.6):
            self.file.append(record(1, top1))
        self.assertEqual(self.file.read(), [record(1, 0.5)])

    def test_a_torn_line_is_left_out_and_the_next_is_whole(self):
        self.file.append(record(1))
        with self.file.path.open("a") as file:
            file.write(json.dumps(record(2))[:20])
        self.file.append(record(3))
        self.assertEqual(self.file.read(), [record(1), record(3)])

    def test_another_file_is_not_appended_to(self):
        self.file.check()
        self.file.append(record(1))
        self.file.check()
        self.file.path.write_text('{"torn')
        self.file.check()
        self.file.path.write_text('{\n "objective": {}\n}\n')  # a run's config.json
        with self.assertRaisesRegex(UserError, "no file of results; name another one"):
            self.file.check()

    def test_two_processes_write_whole_lines(self):
        context = multiprocessing.get_context("spawn")
        writers = [
            context.Process(target=write_many, args=(self.file.path, start)) for start in (0, 1000)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
            self.assertEqual(writer.exitcode, 0)
        neighbours = sorted(item["settings"]["k"] for item in self.file.read())
        self.assertEqual(neighbours, [*range(200), *range(1000, 1200)])
        self.assertLen(self.file.path.read_text().splitlines(), 400)


if __name__ == "__main__":
    absltest.main()
