#!/usr/bin/env python3
"""The four rules that keep the tree readable from left to right, checked on the text of the sources.

1. Each layer includes only itself and those to its left:  tensor <- kernels <- autograd <- nn <- quant <- cbq <-
   experiments. tests/ and tools/ may include everything; no layer includes them. Every project include resolves.
2. Inside a layer, each room (folder) includes only itself, the rooms to its left in ROOMS, and the files that
   SHARED_FILES names. A few files stand further right than their folder (ROOMS_OF_FILES).
3. The words that mean "this is CUDA" stand only in the few files that exist to hide it.
4. What exists for tests has one hook each in the library: the emulator of CUDA kernels, the recording of the CPU's work.

Run from the root; prints one line per violation and exits 1 if there is any.
"""
import fnmatch
import pathlib
import re
import sys

LAYERS = ["tensor", "kernels", "autograd", "nn", "quant", "cbq", "experiments"]
OUTSIDE = ["tools", "tests"]
# The rooms of a layer from left to right; rooms that share an entry may include each other. "" is the layer's own folder, and a
# name that is no folder stands for the files that ROOMS_OF_FILES puts there.
ROOMS = {
    "tensor": ["runtime", ""],
    "kernels": ["formulas", "launch", "matmul attention fused", ""],
    "nn": ["formats", "text", "", "families", "gguf"],
    "quant": ["", "grids", "rounding", "transforms", "solvers"],
    "cbq": ["methods", "", "exporters", "run"],
    "experiments": ["tasks", "", "figures", "program"],
}
# Files that stand further right than their folder, by pattern: bodies whose headers are below the rooms that they use, what a
# room shares with its layer's own folder, and in experiments/ the program that puts tables and figures together.
ROOMS_OF_FILES = {
    "nn/config.cpp": "families", "nn/load_model.cpp": "families", "nn/transformer.cpp": "families",
    "cbq/quantized_*": "exporters",
    "cbq/pipeline.cpp": "run", "cbq/polish.cpp": "run", "cbq/quantize_blockwise.cpp": "run",
    "experiments/*ablation*": "program", "experiments/dry_run.*": "program", "experiments/model_at_hand.*": "program",
    "experiments/report_*": "program", "experiments/figures/run_figures.*": "program",
}
# Files that every room of their layer may include.
SHARED_FILES = {"tensor/error.h", "tensor/dtype.h", "tensor/storage.h", "kernels/ops.h"}
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}

CUDA_WORDS = re.compile(
    r"\bCBQ_CUDA\b|\b__CUDA(?:CC|_ARCH)__\b|\bis_cuda\s*\(|\bKind::cuda\b|<<<|\bthrust::|\bcub::|\bncclComm|\bnccl[A-Z]"
    r"|\bcu(?:da|blas|rand)[A-Z]\w*|\b__(?:global|shared|device|host)__\b|\b__syncthreads\b|\bcuda_\w+\.h\b")
CUDA_FILES = re.compile(
    r"tensor/(?:runtime/(?:device|stream|storage)|storage|stream)"
    r"|kernels/(?:launch/|fused/|formulas/device_math|matmul/gemm|attention/(?:fused_|tensor_core))"
    r"|tensor/dtype\.h$")  # the __host__ __device__ annotation, and what reads a bf16 on either side

# The words of a hook, where they may stand, and what takes their place elsewhere.
HOOKS = [
    (re.compile(r"\bsimt\b|\bCBQ_SIMT\w*"), {"kernels/launch/device_grid.h"}, "runs_on_grid() and CBQ_KERNELS (kernels/launch/device_grid.h)"),
    (re.compile(r"\bRecording\b"),
     {"tensor/runtime/cpu_recording.h", "tensor/runtime/stream_graph.h", "tensor/runtime/stream_graph.cpp"},
     "run_or_record() (tensor/runtime/cpu_recording.h)")]


def code_only(text):
    """Without comments and string literals, which may speak of anything; line numbers are kept."""
    pattern = r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/'
    return re.sub(pattern, lambda m: "\n" * m[0].count("\n"), text, flags=re.S)


def room_number(file):
    """The place of a file's room in ROOMS, and the rooms of its layer; None where the layer has no rooms."""
    layer, *folders, _ = file.split("/")
    rooms = [entry.split(" ") for entry in ROOMS.get(layer, [""])]
    room = next((room for pattern, room in ROOMS_OF_FILES.items() if fnmatch.fnmatch(file, pattern)), folders[0] if folders else "")
    return next((i for i, entry in enumerate(rooms) if room in entry), None)


def include_violation(path, layer, included):
    target = included.split("/", 1)[0]
    if not pathlib.Path(included).is_file():
        return f'"{included}" does not exist (project includes are relative to the root)'
    if layer in OUTSIDE:
        return None
    if target in OUTSIDE:
        return f'"{included}": no layer includes {target}/'
    if target in LAYERS and LAYERS.index(target) > LAYERS.index(layer):
        return f'"{included}": {layer}/ may include only {", ".join(LAYERS[:LAYERS.index(layer) + 1])}'
    if target == layer and included not in SHARED_FILES:
        own, other = room_number(path.as_posix()), room_number(included)
        if own is None or other is None:
            return f'"{included}": one of the two files is in a room that ROOMS does not name'
        if other > own:
            return f'"{included}": the rooms of {layer}/ are ordered {ROOMS.get(layer)}, and each includes only those to its left'
    return None


def violations(path):
    layer, text = path.parts[0], path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
        message = match and include_violation(path, layer, match[1])
        if message:
            yield f"{path}:{number}: {message}"
    if layer in OUTSIDE:
        return
    for number, line in enumerate(code_only(text).splitlines(), 1):
        for words, files, instead in HOOKS:
            match = words.search(line)
            if match and path.as_posix() not in files:
                yield f"{path}:{number}: '{match[0]}' exists for tests; the hook is {instead}"
        match = CUDA_WORDS.search(line)
        if match and not CUDA_FILES.match(path.as_posix()):
            yield f"{path}:{number}: '{match[0]}' means CUDA; it belongs behind kernels/launch/launch.h (see this script's list)"


def main():
    files = [p for folder in LAYERS + OUTSIDE for p in sorted(pathlib.Path(folder).rglob("*")) if p.suffix in SUFFIXES]
    found = [line for path in files for line in violations(path)]
    print("\n".join(found + [f"{len(files)} files checked, {len(found)} violations"]))
    if not files:
        sys.exit("no sources found: run from the root of the project")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
