"""tools/convert_checkpoint.py. Run by ctest; alone: python3 tests/test_convert_checkpoint.py. What needs torch is skipped
without it."""
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOL = pathlib.Path(__file__).parent.parent / "tools" / "convert_checkpoint.py"
HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "safetensors"))


def run(*arguments):
    return subprocess.run([sys.executable, "-B", TOOL, *map(str, arguments)], capture_output=True, text=True)


class WithoutTorch(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)

    def expect_refused(self, *parts):
        result = run(self.folder)
        self.assertEqual(result.returncode, 1, result.stdout)
        for part in parts:
            self.assertIn(part, result.stderr)
        self.assertNotIn("Traceback", result.stderr)

    def test_folder_without_weights(self):
        self.expect_refused("neither pytorch_model.bin nor")
        self.folder /= "none"
        self.expect_refused("none is not a folder")

    def test_index_may_not_leave_the_folder(self):
        for name in ("../x.bin", "/etc/passwd", "missing.bin"):
            (self.folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
            self.expect_refused(name, "not a file of the folder")


@unittest.skipUnless(HAS_TORCH, "torch and safetensors are not installed")
class WithTorch(unittest.TestCase):
    def setUp(self):
        global torch, load_file
        import torch
        from safetensors.torch import load_file
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        self.weights = {"a.weight": torch.arange(6.0).reshape(2, 3).t(), "b.bias": torch.ones(2, dtype=torch.bfloat16),
                        "n": torch.tensor([3])}

    def check(self, path, names=None):
        read = load_file(path)
        for name in names or self.weights:
            self.assertTrue(torch.equal(read[name], self.weights[name]), name)
            self.assertEqual(read[name].dtype, self.weights[name].dtype)

    def test_one_file_in_place(self):
        self.weights["tied"] = self.weights["a.weight"]  # shares memory
        torch.save(self.weights, self.folder / "pytorch_model.bin")
        result = run(self.folder)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.check(self.folder / "model.safetensors")

    def test_shards_to_another_folder_with_the_small_files(self):
        source, output = self.folder / "in", self.folder / "out"
        source.mkdir()
        files = {"a.weight": "pytorch_model-00001-of-00002.bin", "b.bias": "pytorch_model-00002-of-00002.bin",
                 "n": "pytorch_model-00002-of-00002.bin"}
        for file in set(files.values()):
            torch.save({n: self.weights[n] for n in files if files[n] == file}, source / file)
        (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
        (source / "config.json").write_text("{}")
        result = run(source, "--output", output)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.check(output / "model-00001-of-00002.safetensors", ["a.weight"])
        self.check(output / "model-00002-of-00002.safetensors", ["b.bias", "n"])
        index = json.loads((output / "model.safetensors.index.json").read_text())
        self.assertEqual(index["weight_map"]["n"], "model-00002-of-00002.safetensors")
        self.assertEqual(index["metadata"]["total_size"], 6 * 4 + 2 * 2 + 8)
        self.assertTrue((output / "config.json").exists())
        self.assertFalse((output / "pytorch_model.bin.index.json").exists())

    def test_dtype(self):
        torch.save(self.weights, self.folder / "pytorch_model.bin")
        self.assertEqual(run(self.folder, "--dtype", "float16").returncode, 0)
        read = load_file(self.folder / "model.safetensors")
        self.assertEqual([read[n].dtype for n in ("a.weight", "b.bias", "n")],
                         [torch.float16, torch.float16, torch.int64])

    def test_code_in_a_pickle_is_not_run(self):
        class Touch:
            def __reduce__(self):
                return pathlib.Path.touch, (marker,)

        marker = self.folder / "executed"
        torch.save({"a": Touch()}, self.folder / "pytorch_model.bin")
        self.assertNotEqual(run(self.folder).returncode, 0)
        self.assertFalse(marker.exists())
        self.assertFalse((self.folder / "model.safetensors").exists())


if __name__ == "__main__":
    unittest.main()
