#!/usr/bin/env python3
"""tools/checks/check_layers.py: each of its rules refuses what it is there to refuse."""
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "tools" / "checks" / "check_layers.py"

HARMLESS = {
    "tensor/error.h": "",
    "tensor/tensor.h": '#include "tensor/runtime/device.h"\n',
    "tensor/runtime/device.h": '#include "tensor/error.h"\n',
    "kernels/launch/launch.h": "// cudaMalloc\nauto f = [] { cudaFree(nullptr); };\n",
    "kernels/ops.h": '#include "tensor/tensor.h"\n',
    "quant/grids/log.cu": '#include "quant/grid.h"\n',
    "quant/grid.h": "",
}


class CheckLayers(unittest.TestCase):
    def found(self, **changes):
        with tempfile.TemporaryDirectory() as folder:
            for path, text in {**HARMLESS, **{k.replace("__", "/"): v for k, v in changes.items()}}.items():
                file = pathlib.Path(folder, path if "." in path else path + ".h")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            done = subprocess.run([sys.executable, SCRIPT], cwd=folder, capture_output=True, text=True, check=False,
                                  env={**os.environ, "PYTHONIOENCODING": "utf-8"})
        return done.returncode, done.stdout

    def refuses(self, word, **changes):
        code, out = self.found(**changes)
        self.assertEqual(code, 1, out)
        self.assertIn(word, out)
        self.assertIn("1 violations", out)

    def test_a_tree_in_order_passes(self):
        code, out = self.found()
        self.assertEqual((code, out.strip()), (0, f"{len(HARMLESS)} files checked, 0 violations"))

    def test_a_layer_includes_those_to_its_left_alone(self):
        self.refuses("kernels/ may include only tensor, kernels", kernels__late='#include "quant/grid.h"\n')

    def test_a_layer_includes_no_test(self):
        self.refuses("no layer includes tests/", kernels__late='#include "tests/x.h"\n', tests__x="")

    def test_an_include_is_there(self):
        self.refuses("does not exist", kernels__late='#include "tensor/nothing.h"\n')

    def test_a_room_includes_those_to_its_left_alone(self):
        self.refuses("the rooms of tensor/ are ordered", tensor__runtime__late='#include "tensor/tensor.h"\n')
        self.refuses("the rooms of quant/ are ordered", quant__late='#include "quant/grids/x.h"\n',
                     quant__grids__x="")

    def test_a_body_may_stand_further_right_than_its_header(self):
        room = {"nn__families__family": '#include "nn/transformer.h"\n', "nn__transformer": ""}
        code, out = self.found(**room, **{"nn__transformer.cpp": '#include "nn/families/family.h"\n'})
        self.assertEqual(code, 0, out)
        self.refuses("the rooms of nn/ are ordered", nn__families__family="",
                     nn__transformer='#include "nn/families/family.h"\n')

    def test_a_room_without_a_place_is_a_violation(self):
        self.refuses("a room that ROOMS does not name", autograd__cellar__x='#include "autograd/var.h"\n',
                     autograd__var="")

    def test_words_of_cuda_stay_where_they_belong(self):
        self.refuses("'cudaFree' means CUDA", quant__late="void f() { cudaFree(nullptr); }\n")


if __name__ == "__main__":
    unittest.main()
