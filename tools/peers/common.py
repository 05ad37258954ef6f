"""What the scripts of all packages share: the ids that go in, the dense folder that comes out, and a record of the run.

A script calls main() with a function quantize(options, segments), which returns

    dense     a function without arguments: yields (name, weight), the weight dequantized, under the name that it has in
              the model folder. It is called when the clock has stopped.
    settings  what the package was told, for the record.

Weights that dense() does not give stay those of the model folder.
"""
import argparse
import importlib.metadata
import json
import os
import pathlib
import random
import resource
import shutil
import sys

import h5py
import numpy
import torch
from safetensors import safe_open
from safetensors.torch import save_file


def read_segments(path, count, length):
    """The first segments of a token file of `cbq data`, as lists of ids; all must have the same length."""
    with h5py.File(path) as file:
        ids, offsets = file["ids"][:].tolist(), file["offsets"][:].tolist()
    segments = [ids[a:b] for a, b in zip(offsets, offsets[1:])]
    if count > len(segments):
        sys.exit(f"{path}: {len(segments)} segments, {count} asked for")
    segments = segments[:count] if count else segments
    for segment in segments:
        if len(segment) != length:
            sys.exit(f"{path}: a segment of {len(segment)} ids among those of {length}")
    return segments


class WatchedIds:
    """Every row of ids that an embedding was looked up for, while the context is open.

    All packages run the model on their calibration ids, and the model looks its embedding up first. So this tells which
    ids a package used, whatever it does with the data set that it is given.
    """
    def __enter__(self):
        self.rows = set()
        self.original = torch.nn.functional.embedding

        def embedding(ids, *arguments, **named):
            if ids.device.type != "meta":
                self.rows.update(map(tuple, ids.reshape(-1, ids.shape[-1]).tolist()))
            return self.original(ids, *arguments, **named)

        torch.nn.functional.embedding = embedding
        return self

    def __exit__(self, *_):
        torch.nn.functional.embedding = self.original

    def compared(self, segments):
        given = set(map(tuple, segments))
        return {"given": len(given), "seen": len(given & self.rows), "others": len(self.rows - given)}


def processor_seconds():
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def peak_bytes():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def load_model(folder):
    """The model folder in f32, by transformers."""
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def state_of(folder, model):
    """All weights of a model in memory that the folder has, too."""
    names = set(names_of(folder))
    return ((name, weight) for name, weight in model.state_dict().items() if name in names)


def shards_of(folder):
    return sorted(pathlib.Path(folder).glob("*.safetensors"))


def names_of(folder):
    for shard in shards_of(folder):
        with safe_open(shard, "pt") as opened:
            yield from opened.keys()


def write_dense(model, folder, weights):
    """The model folder with these weights in place of its own, all in f32."""
    changed = {}
    for name, weight in weights:
        changed[name] = weight.detach().to("cpu", torch.float32).contiguous().clone()
    tensors = {}
    for shard in shards_of(model):
        with safe_open(shard, "pt") as opened:
            for name in opened.keys():
                original = opened.get_tensor(name).float()
                tensors[name] = changed.pop(name, original)
                if tensors[name].shape != original.shape:
                    sys.exit(f"{name}: {tuple(tensors[name].shape)}, {tuple(original.shape)} in {model}")
    if changed:
        sys.exit(f"not in {model}: {', '.join(changed)}")
    folder.mkdir(parents=True)
    for file in pathlib.Path(model).iterdir():
        if file.is_file() and ".safetensors" not in file.name:
            shutil.copy(file, folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def versions_of(packages):
    return {package: importlib.metadata.version(package) for package in packages}


def main(description, quantize, packages, methods=(), more=()):
    """packages: whose versions the record names; methods: choices of --method; more: options (name, arguments)."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=pathlib.Path, help="folder")
    parser.add_argument("--calibration", required=True, help="token file of cbq data (.h5)")
    parser.add_argument("--segments", type=int, default=64, help="the first so many; 0: all")
    parser.add_argument("--segment-length", type=int, default=256)
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--group-size", type=int, default=-1, help="-1: a row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", required=True, type=pathlib.Path, help="folder for the dense model and run.json")
    if methods:
        parser.add_argument("--method", choices=methods, default=methods[0])
    for name, arguments in more:
        parser.add_argument(name, **arguments)
    options = parser.parse_args()

    options.output.mkdir(parents=True, exist_ok=True)
    segments = read_segments(options.calibration, options.segments, options.segment_length)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    random.seed(options.seed)
    numpy.random.seed(options.seed)
    torch.manual_seed(options.seed)
    before = processor_seconds()
    with WatchedIds() as watched:
        dense, settings = quantize(options, segments)
    record = {"settings": settings, "ids": watched.compared(segments),
              "processor_seconds": processor_seconds(), "processor_seconds_before": before,
              "peak_bytes": peak_bytes(), "versions": versions_of(packages)}
    write_dense(options.model, options.output / "dense", dense())
    (options.output / "run.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
    sys.stdout.flush()
