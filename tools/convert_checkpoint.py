#!/usr/bin/env python3
"""Converts a model folder's pickled PyTorch weights to safetensors, once.

    python3 tools/convert_checkpoint.py FOLDER [--output FOLDER] [--dtype float16|bfloat16|float32]

Reads pytorch_model.bin, or the shards that pytorch_model.bin.index.json lists, with torch.load(weights_only=True):
tensors and containers are unpickled, nothing else. Writes one .safetensors file per .bin (and an index for shards);
with --output elsewhere, config.json and tokenizer files are copied along. A shard at a time is in memory.
Needs torch and safetensors.
"""
import argparse
import json
import pathlib
import pickle
import shutil
import sys

INDEX = "pytorch_model.bin.index.json"
SINGLE = "pytorch_model.bin"
COPIED = ("*.json", "*.model", "*.txt")


def stop(message):
    sys.exit("convert_checkpoint: " + message)


def shards_of(folder):
    """Names of the .bin files, in order; every one is a plain name of a file in the folder."""
    if not folder.is_dir():
        stop(f"{folder} is not a folder")
    if (folder / SINGLE).is_file():
        return [SINGLE]
    if not (folder / INDEX).is_file():
        stop(f"{folder} has neither {SINGLE} nor {INDEX}")
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    names = sorted(set(weight_map.values()))
    for name in names:
        if pathlib.PurePath(name).name != name or not (folder / name).is_file():
            stop(f"{folder / INDEX} lists {name!r}, which is not a file of the folder")
    return names


def tensors_of(path, dtype):
    """Contiguous tensors by name; each with memory of its own, since safetensors stores no shared memory."""
    import torch
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        stop(f"{path} is damaged, or holds more than weights: {str(error).splitlines()[0]}")
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    tensors = {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            stop(f"{path}: {name!r} is a {type(value).__name__}, not a tensor")
        if dtype is not None and value.is_floating_point():
            value = value.to(getattr(torch, dtype))
        tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
    if not tensors:
        stop(f"{path} holds no tensors")
    return tensors


def convert(folder, output, dtype):
    """Writes the safetensors of `folder` to `output`; returns bytes written."""
    shards = shards_of(folder)  # before the slow imports
    from safetensors.torch import save_file
    output.mkdir(parents=True, exist_ok=True)
    weight_map, total = {}, 0
    for name in shards:
        tensors = tensors_of(folder / name, dtype)
        target = "model" + name.removeprefix("pytorch_model").removesuffix(".bin") + ".safetensors"
        save_file(tensors, output / (target + ".part"), {"format": "pt"})
        (output / (target + ".part")).replace(output / target)  # complete or not at all
        for tensor in tensors:
            if tensor in weight_map:
                stop(f"{tensor!r} is in two shards, {weight_map[tensor]} and {target}")
            weight_map[tensor] = target
        total += sum(t.numel() * t.element_size() for t in tensors.values())
        print(f"{name} -> {target}: {len(tensors)} tensors")
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (output / "model.safetensors.index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")
    if output.resolve() != folder.resolve():
        for pattern in COPIED:
            for file in folder.glob(pattern):
                if file.name != INDEX:
                    shutil.copy2(file, output / file.name)
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="model folder with config.json and pytorch_model*.bin")
    parser.add_argument("--output", type=pathlib.Path, help="where to write; the folder itself without it")
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], help="convert floating-point weights")
    arguments = parser.parse_args()
    try:
        total = convert(arguments.folder, arguments.output or arguments.folder, arguments.dtype)
    except ImportError as error:
        stop(f"{error}; install torch and safetensors (pip install torch safetensors)")
    print(f"{total / 2**20:.1f} MiB of weights in {arguments.output or arguments.folder}")


if __name__ == "__main__":
    main()
