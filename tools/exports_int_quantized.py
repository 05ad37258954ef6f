"""Folders with quantized inputs beside the package compressed-tensors and transformers (for tools/check_exports.py).

"int-quantized": every grid is quantized to nearest with its inputs (the result), and without them as dense (the reference of the
weights, in f32). The package decompresses every layer to the reference's weights, bit for bit, and compresses those to the same
bytes. transformers loads the folder and quantizes inputs by the package's own functions; its mean loss per token must be that
of `cbq evaluate` on the result. Tokens are those of --text, with models/embedded alone, else pseudo-random ones.

The last bit of an input decides some codes: in the symmetric form x / s of a token's smallest input is -(2^b - 1) / 2, halfway
between two codes. So the package computes in f32 and in f64, too, and the program's loss may differ from the former by as much as
four standard errors of the mean difference between them, or by --tolerance-loss.
"""
import json
import pathlib
import random
import tempfile

from exports_gguf import least_bits, read_segments

GROUP = ["--group-size", "8"]
TOKEN = ["--abits", "8"]
SYMMETRIC_TOKEN = TOKEN + ["--act-symmetric", "--act-symmetric-form", "full_range"]
GRIDS = [["--wbits", "8", "--symmetric"] + inputs for inputs in (SYMMETRIC_TOKEN, TOKEN)]
GRIDS += [["--wbits", "8"] + TOKEN]
GRIDS += [["--wbits", "4", "--symmetric"] + SYMMETRIC_TOKEN, ["--wbits", "4"] + GROUP + TOKEN]
GRIDS += [["--wbits", "4", "--abits", "4"] + more for more in ([], GROUP, ["--symmetric", "--act-symmetric", "--act-symmetric-form", "full_range"])]
GRIDS += [["--wbits", "8", "--abits", "8", "--act-granularity", "per_tensor", "--segments", "4"] + more
          for more in (["--symmetric"], ["--act-symmetric", "--symmetric"])]


def without_inputs(grid):
    """The same grid of weights alone."""
    kept, words = [], iter(grid)
    for word in words:
        if word.startswith(("--abits", "--act-", "--segments")):
            if word != "--act-symmetric":
                next(words)  # its value
            continue
        kept.append(word)
    return kept


def layers_of(exported, dense, tensors_of):
    """The number of layers and their bits per weight, after the package decompressed and compressed them again."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    section = json.loads((exported / "config.json").read_text())["quantization_config"]
    config = QuantizationConfig.model_validate({k: v for k, v in section.items() if k != "quant_method"})
    (scheme,) = config.config_groups.values()
    compressor = BaseCompressor.get_value_from_registry(scheme.format or config.format)
    ours, reference = tensors_of(exported), tensors_of(dense)
    layers = [name.removesuffix(".weight_scale") for name in ours if name.endswith(".weight_scale")]
    stored = weights = 0
    for layer in layers:
        state = {name.removeprefix(layer + "."): t for name, t in ours.items() if name.startswith(layer + ".")}
        weight = compressor.decompress(state, scheme)["weight"]
        if not torch.equal(weight, reference[layer + ".weight"]):
            raise SystemExit(f"{exported}: {layer}: the decompressed weight is not the dense one")
        again = compressor.compress({**state, "weight": weight}, scheme)["weight"]
        if again.dtype != state["weight"].dtype or not torch.equal(again, state["weight"]):
            raise SystemExit(f"{exported}: {layer}: the package compresses the weight to other bytes")
        stored += sum(t.nbytes for name, t in state.items() if name.startswith("weight"))
        weights += weight.numel()
    return len(layers), 8 * stored / weights


def segments_of(cbq, run, model, place, options):
    if options.text:
        return [[int(i) for i in segment[:options.segment_length]] for segment in read_segments(cbq, run, options, place)]
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    draw = random.Random(0)
    return [[draw.randrange(vocabulary) for _ in range(16)] for _ in range(64)]


def losses_there(folder, segments, dtype):
    """Of every token, by transformers in this type."""
    import torch
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    losses = []
    for segment in segments:
        ids = torch.tensor(segment)[None]
        with torch.inference_mode():
            logits = model(ids).logits[0, :-1].double()
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    return torch.cat(losses)


def mean_losses(cbq, run, place, segments):
    """Mean loss per token: of transformers on the folder, in f32 and in f64, and of `cbq evaluate` on the result and on the folder;
    the standard error of the difference between the first two; how many tokens."""
    import torch
    single, double = (losses_there(place / "int", segments, dtype) for dtype in (torch.float32, torch.float64))
    error = (single - double).std().item() / len(single) ** 0.5
    (place / "t.json").write_text(json.dumps(segments))
    found = []
    for folder in ("q", "int"):
        run(cbq, "evaluate", place / folder, "--tokens", place / "t.json", "--json", place / "e.json", "--device", "cpu")
        found.append(next(iter(json.loads((place / "e.json").read_text())["results"].values()))["mean_nll"])
    return single.mean().item(), double.mean().item(), *found, error, len(single)


def check(cbq, run, models, options, tensors_of):
    import compressed_tensors
    import transformers
    print(f"transformers {transformers.__version__}, compressed-tensors {compressed_tensors.__version__}")
    failed = []
    for model in models:
        for grid in GRIDS:
            with tempfile.TemporaryDirectory() as place:
                place = pathlib.Path(place)
                way = ["--reconstruct", "none", "--rotation", "none", "--device", "cpu"]  # W4A4 would be rotated online
                run(cbq, "quantize", model, "-o", place / "q", *way, *grid)
                run(cbq, "quantize", model, "-o", place / "w", *way, *without_inputs(grid))
                run(cbq, "export", place / "q", "--format", "compressed-tensors", "-o", place / "int", "--device", "cpu")
                run(cbq, "export", place / "w", "--format", "dense", "-o", place / "dense", "--device", "cpu")
                layers, bits = layers_of(place / "int", place / "dense", tensors_of)
                segments = segments_of(cbq, run, model, place, options)
                there, double, here, read, error, count = mean_losses(cbq, run, place, segments)
                allowed = max(options.tolerance_loss, 4 * error)
                case = f"{model.name} {' '.join(grid)}"
                print(f"{case}: {layers} layers equal, {bits:.3f} bits per weight (least: {least_bits(place / 'q'):.3f}); mean loss of {count} "
                      f"tokens {there:.6f} there ({double:.6f} in f64), {here:.6f} here ({here - there:+.1e} of {allowed:.1e} allowed), "
                      f"{read:.6f} from the folder", flush=True)
                if max(abs(there - here), abs(there - read)) > allowed:
                    failed.append(case)
    if failed:
        raise SystemExit("other losses: " + "; ".join(failed))
