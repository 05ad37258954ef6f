"""GPTQ folders unpacked by their published layout and, where asked for, loaded by GPTQModel (for tools/check_exports.py).

Every grid is written as gptq_v2 (symmetric ones as gptq, too) and as dense, the reference. The tensors are unpacked here with
NumPy; s (q - z) must be the dense folder's weights, bit for bit. With --run the package gptqmodel loads the folder with its
kernel in PyTorch; it multiplies in its own precision, so that logits are compared within --tolerance-gptq.
"""
import json
import pathlib
import tempfile

import numpy
from safetensors.numpy import load_file

from exports_gguf import least_bits

SCALES = ["--scale-type", "f16"]
GRIDS = [["--wbits", str(bits)] + more + SCALES
         for bits in (2, 3, 4, 8)
         for more in ([], ["--symmetric"], ["--group-size", "32"], ["--group-size", "32", "--symmetric"])]


def unpacked(words, bits):
    """Values of b bits from a stream along the last axis of words, lowest bits first."""
    stream = (words.astype(numpy.uint32)[..., None] >> numpy.arange(32, dtype=numpy.uint32)) & 1
    stream = stream.reshape(*words.shape[:-1], -1, bits)
    return (stream << numpy.arange(bits, dtype=numpy.uint32)).sum(-1).astype(numpy.int64)


def bits_of(section, layer):
    """The layer's bits: "dynamic" names those that differ."""
    import re
    for rule, changes in section.get("dynamic", {}).items():
        if rule.startswith("+:") and re.match(rule[2:], layer):
            return changes["bits"]
    return section["bits"]


def check_folder(exported, dense):
    section = json.loads((exported / "config.json").read_text())["quantization_config"]
    tensors, reference = load_file(exported / "model.safetensors"), load_file(dense / "model.safetensors")
    layers = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    for layer in layers:
        bits, scales = bits_of(section, layer), tensors[layer + ".scales"].astype(numpy.float32)
        codes = unpacked(tensors[layer + ".qweight"].T, bits)
        zeros = unpacked(tensors[layer + ".qzeros"], bits) + (section["checkpoint_format"] == "gptq")
        index = tensors[layer + ".g_idx"]
        weight = scales[index].T * (codes - zeros[index].T).astype(numpy.float32)
        expected = reference[layer + ".weight"]
        if weight.shape != expected.shape or weight.astype(numpy.float32).tobytes() != expected.tobytes():
            raise SystemExit(f"{exported}: {layer}: the unpacked weight is not the dense one")
    for name, tensor in tensors.items():
        if name in reference and tensor.tobytes() != reference[name].tobytes():
            raise SystemExit(f"{exported}: {name} is not that of the dense folder")
    stored = sum(tensors[layer + name].nbytes for layer in layers for name in (".qweight", ".qzeros", ".scales", ".g_idx"))
    return len(layers), 8 * stored / sum(reference[layer + ".weight"].size for layer in layers)


def logits_of(folder, ids, quantized):
    import torch
    if quantized:
        from gptqmodel import BACKEND, GPTQModel
        model = GPTQModel.load(str(folder), backend=BACKEND.TORCH, device="cpu", dtype=torch.float32)
        model = model.model
    else:
        import transformers
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return model.eval()(ids).logits.float()


def check(cbq, run, models, options):
    worst = 0.0
    for model in models:
        config = json.loads((model / "config.json").read_text())
        if config["model_type"] not in ("llama", "mistral", "qwen2", "qwen3"):
            continue
        for grid in GRIDS:
            for format in ["gptq_v2"] + (["gptq"] if "--symmetric" in grid else []):
                with tempfile.TemporaryDirectory() as place:
                    place = pathlib.Path(place)
                    run(cbq, "quantize", model, "-o", place / "q", "--reconstruct", "none", "--device", "cpu", *grid)
                    for name in ("dense", format):
                        run(cbq, "export", place / "q", "--format", name, "-o", place / name, "--device", "cpu")
                    layers, bits = check_folder(place / format, place / "dense")
                    line = (f"{format} {model.name} {' '.join(grid)}: {layers} layers equal, {bits:.3f} bits per weight "
                            f"(least: {least_bits(place / 'q'):.3f})")
                    if options.run:
                        import torch
                        ids = torch.arange(2 * 16).reshape(2, 16) % 30
                        expected = logits_of(place / "dense", ids, False)
                        found = logits_of(place / format, ids, True)
                        difference = ((found - expected).abs().max() / expected.abs().max()).item()
                        worst = max(worst, difference)
                        line += f", logits of gptqmodel differ by {difference:.2g}"
                    print(line, flush=True)
    if worst > options.tolerance_gptq:
        raise SystemExit(f"logits differ by {worst:.2g}, more than {options.tolerance_gptq:g}")
