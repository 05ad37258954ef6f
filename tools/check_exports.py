#!/usr/bin/env python3
"""Exported folders beside the Python packages that they are made for.

    tools/check_exports.py --cbq build/cpu/bin/cbq [--model FOLDER ...] [--formats FORMAT ...] [--run]

Formats: compressed-tensors (the default), int-quantized (the same format with quantized inputs), gguf, gptq, auto_round, awq.
tools/exports_int_quantized.py, tools/exports_gguf.py and tools/exports_gptq.py (the last three) say what is compared, and which
packages that needs.
Compressed-tensors: for every model (default: fixtures of LLaMA, OPT and BLOOM) and grid, `cbq quantize` makes a packed result, and `cbq export`
writes it as dense (the reference: s (q - z), in f32) and as compressed-tensors. Then

  1. the package compressed-tensors decompresses every layer; all weights must be those of the dense folder, bit for bit;
  2. the package packs the integers again; words and zero points must be the folder's;
  3. transformers loads both folders, of symmetric grids; the largest difference of their logits must stay below --tolerance.
     transformers 5.24 with versions 0.18 and 0.20 of the package refuses asymmetric ones, those that the package wrote itself
     included: while it loads, it expects zero points that are not packed.

That needs torch, transformers, compressed-tensors (0.18 or later) and safetensors. Prints a line per case; exits 1 for any
difference.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

GRIDS = [["--wbits", str(bits)] + more
         for bits in (2, 3, 4, 8)
         for more in ([], ["--symmetric"], ["--group-size", "8"], ["--group-size", "8", "--symmetric"])]
GRIDS += [["--wbits", "4", "--layer-bits", "*.0.*=8"] + more for more in ([], ["--symmetric"])]


def run(*arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, arguments))}: {done.stderr}")


def tensors_of(folder):
    from safetensors import safe_open
    tensors = {}
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            tensors.update({name: opened.get_tensor(name) for name in opened.keys()})
    return tensors


def scheme_of(config, layer):
    """The scheme whose targets name the layer, or the class of all layers."""
    for scheme in config.config_groups.values():
        if layer in scheme.targets or "Linear" in scheme.targets:
            return scheme
    sys.exit(f"{layer}: no group of config.json has it")


def check_layers(exported, dense):
    """The number of layers, after they were decompressed and packed again by the package."""
    import torch
    from compressed_tensors.compressors.pack_quantized import (PackedQuantizationCompressor, pack_to_int32,
                                                               unpack_from_int32)
    from compressed_tensors.quantization import QuantizationConfig
    section = json.loads((exported / "config.json").read_text())["quantization_config"]
    config = QuantizationConfig.model_validate({k: v for k, v in section.items() if k != "quant_method"})
    ours, reference = tensors_of(exported), tensors_of(dense)
    layers = [name.removesuffix(".weight_packed") for name in ours if name.endswith(".weight_packed")]
    for layer in layers:
        scheme = scheme_of(config, layer)
        bits = scheme.weights.num_bits
        state = {name.removeprefix(layer + "."): t for name, t in ours.items() if name.startswith(layer + ".")}
        weight = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
        if not torch.equal(weight, reference[layer + ".weight"]):
            sys.exit(f"{exported}: {layer}: the decompressed weight is not the dense one")
        codes = unpack_from_int32(state["weight_packed"], bits, state["weight_shape"])
        if not torch.equal(pack_to_int32(codes, bits), state["weight_packed"]):
            sys.exit(f"{exported}: {layer}: the package packs the codes in other words")
        if not scheme.weights.symmetric:
            shape = (weight.shape[0], state["weight_scale"].shape[1])
            zeros = unpack_from_int32(state["weight_zero_point"], bits, shape, packed_dim=0)
            if not torch.equal(pack_to_int32(zeros, bits, packed_dim=0), state["weight_zero_point"]):
                sys.exit(f"{exported}: {layer}: the package packs the zero points in other words")
    return len(layers)


def logits_of(folder, ids):
    import torch
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return model.eval()(ids).logits


def check_compressed_tensors(options):
    import compressed_tensors
    import torch
    import transformers
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, "
          f"compressed-tensors {compressed_tensors.__version__}")
    worst = 0.0
    for model in options.model:
        for grid in GRIDS:
            with tempfile.TemporaryDirectory() as place:
                place = pathlib.Path(place)
                run(options.cbq, "quantize", model, "-o", place / "q", "--reconstruct", "none", "--device", "cpu", *grid)
                for name in ("dense", "compressed-tensors"):
                    run(options.cbq, "export", place / "q", "--format", name, "-o", place / name, "--device", "cpu")
                layers = check_layers(place / "compressed-tensors", place / "dense")
                case = f"{model.name} {' '.join(grid)}: {layers} layers equal"
                if "--symmetric" not in grid:
                    print(case, flush=True)
                    continue
                ids = torch.arange(2 * 8).reshape(2, 8) % 30
                expected = logits_of(place / "dense", ids)
                found = logits_of(place / "compressed-tensors", ids)
                difference = ((found - expected).abs().max() / expected.abs().max()).item()
                worst = max(worst, difference)
                print(f"{case}, logits differ by {difference:.2g}", flush=True)
                if difference > options.tolerance:
                    sys.exit(f"logits differ by {difference:.2g}, more than {options.tolerance:g}")
    print(f"all equal; logits differ by at most {worst:.2g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cbq", required=True)
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--model", nargs="*", type=pathlib.Path, help="default: fixtures; models/embedded for all formats but compressed-tensors")
    parser.add_argument("--formats", nargs="*", choices=["compressed-tensors", "int-quantized", "gguf", "gptq", "auto_round", "awq"], default=["compressed-tensors"])
    parser.add_argument("--tolerance", type=float, default=1e-6, help="of logits, relative to the largest one")
    parser.add_argument("--run", action="store_true", help="all but compressed-tensors: load the files with llama.cpp, GPTQModel, transformers, too")
    parser.add_argument("--tolerance-half", type=float, default=3e-3, help="likewise, of programs that compute in f16")
    parser.add_argument("--tolerance-loss", type=float, default=1e-4, help="of the mean loss per token, int-quantized")
    parser.add_argument("--perplexity", type=float, default=0.005, help="largest relative difference of llama.cpp's")
    parser.add_argument("--text", type=pathlib.Path, help="that the other programs are scored on, with --run (needs h5py)")
    parser.add_argument("--tokenizer", type=pathlib.Path, default=root / "models/embedded")
    parser.add_argument("--segments", type=int, default=4)
    parser.add_argument("--segment-length", type=int, default=256)
    options = parser.parse_args()
    given = options.model
    for name in options.formats:
        if name == "compressed-tensors":
            options.model = given or [root / "tests/fixtures/models" / family for family in ("llama", "opt", "bloom")]
            check_compressed_tensors(options)
            continue
        if name == "int-quantized":
            import exports_int_quantized
            fixtures = [] if options.text else [root / "tests/fixtures/models/llama"]
            models = given or fixtures + [root / "models/embedded"]
            exports_int_quantized.check(options.cbq, run, models, options, tensors_of)
            continue
        if name == "gguf":
            import exports_gguf
            fixtures = [] if options.run else [root / "tests/fixtures/models" / family
                                               for family in ("llama", "mistral", "qwen2", "qwen3")]
            exports_gguf.check(options.cbq, run, given or fixtures + [root / "models/embedded"], options)
        else:
            import exports_gptq
            exports_gptq.check(options.cbq, run, given or [root / "models/embedded"], options, name)


if __name__ == "__main__":
    main()
