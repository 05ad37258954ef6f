"""Folders in GPTQ's, AutoRound's and AWQ's formats unpacked by their published layouts and, where asked for, loaded by other programs (for tools/check_exports.py).

"gptq" (formats gptq_v2 and, of symmetric grids, gptq), "auto_round" and "awq": every grid is written in the format and as dense, the
reference. The tensors are unpacked here with NumPy; s (q - z) must be the dense folder's weights, bit for bit. With --run another
program loads the folder: GPTQModel with its kernel in PyTorch (gptq, gptq_v2, awq), transformers with the package auto-round
(auto_round). They multiply in f16, so that logits are compared within --tolerance-half. With --text the mean loss per token of its segments is printed beside that of `cbq evaluate`, too.
"""
import json
import pathlib
import re
import tempfile

import numpy
from safetensors.numpy import load_file

from exports_gguf import least_bits, read_segments

SCALES = ["--scale-type", "f16"]
GRIDS = [["--wbits", str(bits)] + more + SCALES
         for bits in (2, 3, 4, 8)
         for more in ([], ["--symmetric"], ["--group-size", "32"], ["--group-size", "32", "--symmetric"])]
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def formats_of(name, grid):
    if name == "gptq":
        return ["gptq_v2"] + (["gptq"] if "--symmetric" in grid else [])
    if name == "awq" and grid[1] != "4":
        return []
    return [name]


def unpacked(words, bits):
    """Values of b bits from a stream along the last axis of words, lowest bits first."""
    stream = (words.astype(numpy.uint32)[..., None] >> numpy.arange(32, dtype=numpy.uint32)) & 1
    stream = stream.reshape(*words.shape[:-1], -1, bits)
    return (stream << numpy.arange(bits, dtype=numpy.uint32)).sum(-1).astype(numpy.int64)


def unpacked_awq(words):
    """Nibble i of a word, the lowest first, belongs to output AWQ_ORDER[i] of its eight."""
    nibbles = unpacked(words, 4).reshape(*words.shape, 8)
    values = numpy.empty_like(nibbles)
    values[..., AWQ_ORDER] = nibbles
    return values.reshape(*words.shape[:-1], -1)


def bits_of(section, layer):
    """The layer's bits, where others differ from the most frequent ones."""
    for rule, changes in section.get("dynamic", {}).items():
        if rule.startswith("+:") and re.match(rule[2:], layer):
            return changes["bits"]
    return section.get("extra_config", {}).get(layer, section)["bits"]


def weight_of(section, tensors, layer):
    """The layer's weight [out, in] in f32, from its codes."""
    scales = tensors[layer + ".scales"].astype(numpy.float32)
    words, zero_words = tensors[layer + ".qweight"], tensors[layer + ".qzeros"]
    if section["quant_method"] == "awq":
        codes, zeros = unpacked_awq(words).T, unpacked_awq(zero_words)
    else:
        bits = bits_of(section, layer)
        codes = unpacked(words.T, bits)
        zeros = unpacked(zero_words, bits) + (section.get("checkpoint_format") == "gptq")
    inputs = codes.shape[1]
    index = tensors.get(layer + ".g_idx", numpy.arange(inputs) // (inputs // scales.shape[0]))
    return (scales[index].T * (codes - zeros[index].T).astype(numpy.float32)).astype(numpy.float32)


def check_folder(exported, dense):
    section = json.loads((exported / "config.json").read_text())["quantization_config"]
    tensors, reference = load_file(exported / "model.safetensors"), load_file(dense / "model.safetensors")
    layers = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    for layer in layers:
        weight, expected = weight_of(section, tensors, layer), reference[layer + ".weight"]
        if weight.shape != expected.shape or weight.tobytes() != expected.tobytes():
            raise SystemExit(f"{exported}: {layer}: the unpacked weight is not the dense one")
    for name, tensor in tensors.items():
        if name in reference and tensor.tobytes() != reference[name].tobytes():
            raise SystemExit(f"{exported}: {name} is not that of the dense folder")
    parts = (".qweight", ".qzeros", ".scales", ".g_idx")
    stored = sum(tensors[layer + part].nbytes for layer in layers for part in parts if layer + part in tensors)
    return len(layers), 8 * stored / sum(reference[layer + ".weight"].size for layer in layers)


def model_of(folder, format):
    import torch
    if format in ("gptq", "gptq_v2", "awq"):
        from gptqmodel import BACKEND, GPTQModel
        backend = BACKEND.TORCH_AWQ if format == "awq" else BACKEND.TORCH
        return GPTQModel.load(str(folder), backend=backend, device="cpu", dtype=torch.float16).model
    import transformers
    if format == "auto_round":
        import auto_round  # noqa: F401: registers its quantizer
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu")


def logits_of(model, ids):
    import torch
    with torch.inference_mode():
        return model.eval()(ids).logits.float()


def difference_of_logits(model, dense):
    import torch
    ids = torch.arange(2 * 16).reshape(2, 16) % 30
    expected, found = logits_of(model_of(dense, "dense"), ids), logits_of(model, ids)
    return ((found - expected).abs().max() / expected.abs().max()).item()


def mean_losses(cbq, run, model, place, options):
    """Mean loss per token of the text: in the other program, and of `cbq evaluate`."""
    import torch
    segments = torch.tensor(read_segments(cbq, run, options, place)).long()[:, :options.segment_length]
    total = 0.0
    for segment in segments:
        logits = logits_of(model, segment[None])[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, segment[1:], reduction="sum").item()
    run(cbq, "evaluate", place / "q", "--tokens", place / "t.h5", "--segments", len(segments), "--json", place / "e.json")
    result = json.loads((place / "e.json").read_text())["results"]
    ours = next(iter(result.values()))
    return total / (segments.shape[0] * (segments.shape[1] - 1)), ours["mean_nll"]


def check(cbq, run, models, options, name="gptq"):
    worst = 0.0
    for model in models:
        config = json.loads((model / "config.json").read_text())
        if config["model_type"] not in ("llama", "mistral", "qwen2", "qwen3"):
            continue
        for grid in GRIDS:
            for format in formats_of(name, grid):
                with tempfile.TemporaryDirectory() as place:
                    place = pathlib.Path(place)
                    run(cbq, "quantize", model, "-o", place / "q", "--reconstruct", "none", "--device", "cpu", *grid)
                    for written in ("dense", format):
                        run(cbq, "export", place / "q", "--format", written, "-o", place / written, "--device", "cpu")
                    layers, bits = check_folder(place / format, place / "dense")
                    line = (f"{format} {model.name} {' '.join(grid)}: {layers} layers equal, {bits:.3f} bits per weight "
                            f"(least: {least_bits(place / 'q'):.3f})")
                    if options.run:
                        loaded = model_of(place / format, format)
                        difference = difference_of_logits(loaded, place / "dense")
                        worst = max(worst, difference)
                        line += f", logits of the other program differ by {difference:.2g}"
                        if options.text:
                            theirs, ours = mean_losses(cbq, run, loaded, place, options)
                            line += f", mean loss {theirs:.6f} there, {ours:.6f} here ({theirs - ours:+.1e})"
                    print(line, flush=True)
    if worst > options.tolerance_half:
        raise SystemExit(f"logits differ by {worst:.2g}, more than {options.tolerance_half:g}")
