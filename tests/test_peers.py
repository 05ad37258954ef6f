#!/usr/bin/env python3
"""tools/peers: the check of dense weights, the table, and the driver with stand-ins for a package and for cbq."""
import contextlib
import io
import json
import math
import pathlib
import struct
import sys
import tempfile
import unittest

PEERS = pathlib.Path(__file__).resolve().parent.parent / "tools" / "peers"
sys.path.insert(0, str(PEERS))
import check_dense  # noqa: E402
import peers  # noqa: E402

ORIGINAL = [[.1, .9, .2, .8, .7, .3], [2.1, 2.2, 2.9, 2.8, 2.3, 2.4]]
LAYER, NORM, EMBEDDING = "model.layers.0.mlp.up_proj.weight", "model.layers.0.norm.weight", "model.embed.weight"


def write_folder(folder, tensors, dtype="F32"):
    """tensors: name to rows, or to a flat list for a vector."""
    header, body = {}, b""
    for name, rows in tensors.items():
        matrix = isinstance(rows[0], list)
        values = [value for row in rows for value in row] if matrix else rows
        data = struct.pack(f"<{len(values)}f", *values)
        shape = [len(rows), len(rows[0])] if matrix else [len(rows)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    return folder


def tensors(layer, norm=(1.0, 2.0), embedding=((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))):
    return {LAYER: layer, NORM: list(norm), EMBEDDING: [list(row) for row in embedding]}


class Folders(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name)
        self.original = write_folder(self.path / "original", tensors(ORIGINAL))


class CheckDense(Folders):
    def found(self, bits, group_size=-1, may_change=(), dtype="F32", **changes):
        dense = write_folder(self.path / "dense", tensors(**changes), dtype)
        return check_dense.check(dense, self.original, bits, group_size, may_change)

    def refuses(self, word, *arguments, **named):
        with self.assertRaisesRegex(ValueError, word):
            self.found(*arguments, **named)

    def test_as_many_values_as_the_bits_allow_pass(self):
        self.assertEqual(self.found(1, layer=[[0, 1, 0, 1, 1, 0], [2, 2, 3, 3, 2, 2]]),
                         {"layers": 1, "most_distinct": 2, "largest_shift": 0.058, "others_changed": 0})

    def test_one_value_more_is_refused(self):
        self.refuses("3 distinct values in a row, 2 are possible with 1 bits", 1, layer=[[0, 1, 0, 1, 1, 0], [2, 2, 3, 3, 2, 4]])

    def test_a_layer_that_was_not_quantized_is_refused(self):
        self.refuses("6 distinct values in a row", 2, layer=ORIGINAL)

    def test_groups_have_values_of_their_own(self):
        rows = [[0, 1, .2, .8, 1, .1], [2, 2.2, 3, 2.8, 2.4, 2.3]]
        self.assertEqual(self.found(1, 2, layer=rows)["most_distinct"], 2)
        self.refuses("3 distinct values in a group", 1, 3, layer=rows)

    def test_zero_points_that_are_one_off_are_refused(self):
        self.refuses("0.94 steps beside", 1, layer=[[1, 2, 1, 2, 2, 1], [3, 3, 4, 4, 3, 3]])
        self.refuses("-1.06 steps beside", 1, layer=[[-1, 0, -1, 0, 0, -1], [1, 1, 2, 2, 1, 1]])

    def test_zeros_of_both_signs_are_one_value(self):
        self.assertEqual(self.found(1, layer=[[0.0, -0.0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]])["most_distinct"], 2)

    def test_values_that_are_not_finite_are_refused(self):
        self.refuses("not finite", 2, layer=[[0, 0, 0, 0, 0, math.nan], [0, 0, 0, 0, 0, 0]])
        self.refuses("not finite", 2, layer=[[0, 0, 0, 0, 0, 0], [math.inf, 0, 0, 0, 0, 0]])

    def test_other_tensors_stay_as_they_are(self):
        layer = [[0, 1, 0, 1, 1, 0], [2, 2, 3, 3, 2, 2]]
        self.refuses("model.embed.weight: differs", 1, layer=layer, embedding=((1, 2, 3), (4, 5, 7)))
        self.refuses("model.layers.0.norm.weight: differs", 1, layer=layer, norm=(1, 3))
        self.assertEqual(self.found(1, -1, ["norm"], layer=layer, norm=(1, 3))["others_changed"], 1)

    def test_other_names_shapes_and_types_are_refused(self):
        self.refuses("layers.0.mlp.up_proj.weight: \\[1, 6\\]", 1, layer=[[0, 1, 0, 1, 1, 0]])
        self.refuses("BF16, not F32", 1, dtype="BF16", layer=[[0, 1, 0, 1, 1, 0], [2, 2, 3, 3, 2, 2]])
        write_folder(self.path / "fewer", {LAYER: [[0, 1], [1, 0]]})
        with self.assertRaisesRegex(ValueError, "other tensors"):
            check_dense.check(self.path / "fewer", self.original, 1, -1)


RECORD = {"settings": {}, "ids": {"given": 64, "seen": 64, "others": 0}, "processor_seconds": 12.4,
          "processor_seconds_before": 3.6, "peak_bytes": 3 * 2 ** 20, "versions": {"package": "1.2"}}

# Stands for python with the package: run as STAND_IN run_NAME.py --model ... -o FOLDER. It leaves its layer as it finds it in
# the file `layer`, and its record as in the file `record`.
PACKAGE = '''#!{python}
import json, pathlib, sys
sys.path[:0] = ["{tests}", "{peers}"]
from test_peers import tensors, write_folder
place = pathlib.Path("{place}")
(place / "calls").open("a").write(" ".join(sys.argv[1:]) + "\\n")
out = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
write_folder(out / "dense", tensors(json.loads((place / "layer").read_text())))
(out / "run.json").write_text((place / "record").read_text())
'''
CBQ = '''#!{python}
import json, sys
original = sys.argv[2].endswith("original")
files = sys.argv[sys.argv.index("--tokens") + 1:sys.argv.index("--threads")]
results = {{file: {{"mean_nll": (3.0 if original else 3.5) + file.endswith("b.h5")}} for file in sorted(files)}}
open(sys.argv[sys.argv.index("--json") + 1], "w").write(json.dumps({{"results": results}}))
'''


class Driver(Folders):
    def setUp(self):
        super().setUp()
        for name, text in (("python", PACKAGE), ("cbq", CBQ)):
            file = self.path / name
            file.write_text(text.format(python=sys.executable, tests=pathlib.Path(__file__).resolve().parent, peers=PEERS,
                                        place=self.path))
            file.chmod(0o755)
        for name in ("calibration.h5", "a.h5", "b.h5"):
            (self.path / name).write_text(name)
        self.package(RECORD)
        make, self.made = peers.make_environment, []
        self.addCleanup(setattr, peers, "make_environment", make)
        peers.make_environment = lambda name, *_: self.made.append(name) or self.path / "python"

    def package(self, record, layer=((0, 1, 0, 1, 1, 0), (2, 2, 3, 3, 2, 2))):
        (self.path / "record").write_text(json.dumps(record))
        (self.path / "layer").write_text(json.dumps([list(row) for row in layer]))

    def run_driver(self, *more):
        out, said = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            code = peers.main(["--cbq", str(self.path / "cbq"), "--model", str(self.original), "--calibration",
                               str(self.path / "calibration.h5"), "--texts", f"a={self.path / 'a.h5'}", f"b={self.path / 'b.h5'}",
                               "--methods", "gptqmodel_gptq", "--bits", "1", "-o", str(self.path / "out"), *more])
        return code, out.getvalue(), said.getvalue()

    def test_each_text_has_its_own_score(self):
        texts = {"first": self.path / "b.h5", "second": self.path / "a.h5"}
        self.assertEqual(peers.score(self.path / "cbq", "original", texts, 1, self.path / "s"), {"first": 4.0, "second": 3.0})

    def calls(self):
        file = self.path / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def test_a_row_says_what_was_measured(self):
        code, out, _ = self.run_driver()
        self.assertEqual(code, 0)
        self.assertEqual(out.splitlines()[2:],
                         ["| original |  |  | 3.00000 |  | 4.00000 |  |  |  |  |  |",
                          "| gptqmodel_gptq | 1 | row | 3.50000 | 0.50000 | 4.50000 | 0.50000 | 12 | 4 | 3 | package 1.2 |"])
        self.assertEqual((self.path / "out/table.md").read_text(), out)
        self.assertEqual(self.made, ["gptqmodel"])
        self.assertFalse((self.path / "out/gptqmodel_gptq-w1-row").exists())

    def test_the_script_is_told_the_settings(self):
        self.run_driver("--group-size", "3", "--segments", "7", "--seed", "5")
        call = self.calls()[0]
        self.assertIn("/run_gptqmodel.py --model", call)
        self.assertIn("--segments 7 --segment-length 256 --bits 1 --group-size 3 --seed 5", call)
        self.assertTrue(call.endswith("--method gptq"))

    def test_a_finished_row_is_not_run_again(self):
        first = self.run_driver()[1]
        self.assertEqual(self.run_driver()[1], first)
        self.assertEqual(len(self.calls()), 1)

    def test_rows_of_other_inputs_are_not_mixed(self):
        self.run_driver()
        (self.path / "calibration.h5").write_text("another")
        with self.assertRaisesRegex(SystemExit, "other inputs \\(calibration\\)"):
            self.run_driver()

    def failed(self, word):
        code, out, said = self.run_driver()
        self.assertEqual(code, 1)
        self.assertIn("FAILED", said)
        self.assertIn(word, said)
        self.assertNotIn("gptqmodel_gptq", out)

    def test_a_package_that_used_other_ids_fails_and_is_run_again(self):
        self.package({**RECORD, "ids": {"given": 64, "seen": 60, "others": 0}})
        self.failed("used 60, and 0 others")
        self.package({**RECORD, "ids": {"given": 64, "seen": 64, "others": 3}})
        self.failed("used 64, and 3 others")
        self.package(RECORD)
        self.assertEqual(self.run_driver()[0], 0)

    def test_weights_of_more_bits_fail(self):
        self.package(RECORD, ((0, 1, 2, 1, 1, 0), (2, 2, 3, 3, 2, 2)))
        self.failed("3 distinct values in a row")

    def test_a_script_that_ends_with_an_error_fails(self):
        (self.path / "record").unlink()
        self.failed("status 1")

    def test_a_python_that_is_too_old_is_said(self):
        peers.ENVIRONMENTS["gptqmodel"]["python"], oldest = (9, 0), peers.ENVIRONMENTS["gptqmodel"]["python"]
        self.addCleanup(peers.ENVIRONMENTS["gptqmodel"].__setitem__, "python", oldest)
        self.failed("needs Python 9.0")


# Stands for python: `-m venv --clear PLACE` copies it there, `-m pip install` writes its arguments down.
PYTHON = """#!/bin/sh
if [ "$2" = venv ]; then
    mkdir -p "$4/bin" "$4/lib/{version}/site-packages" && cp "$0" "$4/bin/python"
else
    echo "$0 $*" >> "{place}/pip"
fi
"""


class Environments(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name)
        self.python = self.path / "python"
        self.use("python3.12")

    def use(self, version):
        self.python.write_text(PYTHON.format(place=self.path, version=version))
        self.python.chmod(0o755)

    def make(self, name, *packages):
        with contextlib.redirect_stderr(io.StringIO()):
            return peers.make_environment(name, ["torch==1.0", *peers.SHARED, *packages], self.path / "all", self.python)

    def installed(self):
        return [line.replace(f"{self.path}/all/", "") for line in (self.path / "pip").read_text().splitlines()]

    def test_packages_share_a_torch_and_are_installed_once(self):
        for name in ("a", "b", "a"):
            self.assertEqual(self.make(name, name + "==2"), self.path / "all" / name / "bin/python")
        pip, shared = "bin/python -m pip install --quiet torch==1.0", "numpy h5py safetensors"
        self.assertEqual(self.installed(), [f"torch-1.0/{pip} {shared}", f"a/{pip} {shared} a==2", f"b/{pip} {shared} b==2"])
        self.assertEqual((self.path / "all/b/lib/python3.12/site-packages/torch.pth").read_text(),
                         f"{self.path}/all/torch-1.0/lib/python3.12/site-packages\n")

    def test_another_version_is_installed_anew(self):
        self.make("a", "a==2")
        self.make("a", "a==3")
        self.assertEqual([line[-4:] for line in self.installed()], ["sors", "a==2", "a==3"])

    def test_a_torch_of_another_python_is_refused(self):
        self.make("a", "a==2")
        self.use("python3.13")
        with self.assertRaisesRegex(peers.Failed, "of another Python"):
            self.make("b", "b==2")


if __name__ == "__main__":
    unittest.main()
