"""GGUF files beside the Python package gguf and, where asked for, llama.cpp itself (for tools/check_exports.py).

Every grid is written as gguf and as dense (the reference: s (q - z), in f32). The package's names, row order and
dequantization must give the dense folder's tensors bit for bit, and so must `cbq convert` of the file.

With --run (package cyllama, which brings llama.cpp) llama.cpp computes the logits of a text's segments. It rounds the inputs
of products with integer weights to 8 bits, so that logits differ; perplexity must stay within --perplexity of the reference,
which transformers computes in f32 from the dense folder.
"""
import json
import pathlib
import tempfile

import numpy
from safetensors import safe_open
from safetensors.numpy import load_file

GROUP = ["--group-size", "32"]
F16, E5M6 = ["--scale-type", "f16"], ["--scale-type", "e5m6"]
GRIDS = [["--wbits", str(bits)] + more + F16
         for bits in (2, 3, 4)
         for more in ([], ["--symmetric"], GROUP, GROUP + ["--symmetric"])]
GRIDS += [["--wbits", "4"] + GROUP + E5M6, ["--wbits", "5"] + F16, ["--wbits", "6", "--symmetric"] + F16]
GRIDS += [["--wbits", "8", "--symmetric"] + more + F16 for more in ([], GROUP)]


def floating_point(config, multiple):
    """--layer-bits for the layers whose inputs are no multiple: they stay in floating point."""
    names = []
    if config["hidden_size"] % multiple:
        names += ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]
    if config["num_attention_heads"] * (config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]) % multiple:
        names.append("o_proj")
    if config["intermediate_size"] % multiple:
        names.append("down_proj")
    return ["--layer-bits", ",".join(f"{name}=16" for name in names)] if names else []


def interleaved(weight, heads):
    """The row order that llama.cpp wants of q and k of LLaMA."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def expected_tensors(dense, config):
    """The dense folder's tensors by the names that the package gives them, in the file's row order."""
    import gguf
    architecture = {"qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}.get(config["model_type"], gguf.MODEL_ARCH.LLAMA)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    expected = {}
    for name, tensor in dense.items():
        if architecture == gguf.MODEL_ARCH.LLAMA and "self_attn.q_proj." in name:
            tensor = interleaved(tensor, config["num_attention_heads"])
        if architecture == gguf.MODEL_ARCH.LLAMA and "self_attn.k_proj." in name:
            tensor = interleaved(tensor, config["num_key_value_heads"])
        expected[names.get_name(name, try_suffixes=(".weight", ".bias"))] = tensor
    return expected


def same_bits(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def types_and_bits(file):
    """The types of all coded tensors, and the bits per weight that they take."""
    import gguf
    coded = [t for t in gguf.GGUFReader(file).tensors if t.tensor_type.name.startswith("Q")]
    bits = 8 * sum(int(t.n_bytes) for t in coded) / sum(int(t.n_elements) for t in coded)
    return "+".join(sorted({t.tensor_type.name for t in coded})), bits


def least_bits(folder):
    """Bits per weight of a packed folder with codes, 16 bits per scale, and zero points where the grid is asymmetric."""
    layers = json.loads((folder / "config.json").read_text())["quantization_config"]["layers"]
    bits = weights = 0
    with safe_open(folder / "model.safetensors", "numpy") as tensors:
        for name, layer in layers.items():
            if "weight" not in layer:
                continue
            count, width = int(numpy.prod(layer["weight"]["shape"])), layer["weight"]["bits"]
            scales = int(numpy.prod(tensors.get_slice(name + ".scale").get_shape()))
            weights += count
            bits += count * width + scales * (16 + (0 if layer["weight"]["symmetric"] else width))
    return bits / weights


def check_file(cbq, run, place):
    """Compares place/gguf/model.gguf with place/dense; the number of tensors."""
    import gguf
    config = json.loads((place / "dense/config.json").read_text())
    dense = load_file(place / "dense/model.safetensors")
    expected = expected_tensors(dense, config)
    tensors = {t.name: t for t in gguf.GGUFReader(place / "gguf/model.gguf").tensors if t.name != "rope_freqs.weight"}
    if tensors.keys() != expected.keys():
        raise SystemExit(f"{place}: tensors differ: {sorted(tensors.keys() ^ expected.keys())}")
    for name, tensor in tensors.items():
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(expected[name].shape)
        if not same_bits(values, expected[name]):
            raise SystemExit(f"{place}: {name} ({tensor.tensor_type.name}): the package does not give the dense weights")
    run(cbq, "convert", place / "gguf/model.gguf", "-o", place / "back")
    back = load_file(place / "back/model.safetensors")
    if back.keys() != dense.keys() or not all(same_bits(back[name], dense[name]) for name in dense):
        raise SystemExit(f"{place}: cbq convert does not give the dense weights")
    return len(tensors)


def log_softmax(logits):
    shifted = logits.astype(numpy.float64) - logits.max(-1, keepdims=True)
    return shifted - numpy.log(numpy.exp(shifted).sum(-1, keepdims=True))


def llama_cpp_logits(file, segments, vocabulary):
    from cyllama.llama import llama_cpp as llama
    llama.disable_logging()
    llama.ggml_backend_load_all()

    class Model(llama.LlamaModel):  # version 0.2.18 of cyllama asks it for n_vocab, which it lacks
        n_vocab = property(lambda self: self.get_vocab().n_vocab)

    model = Model(str(file), llama.LlamaModelParams(), verbose=False)
    params = llama.LlamaContextParams()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = 2
    all_logits = []
    for ids in segments:
        context = llama.LlamaContext(model, params, verbose=False)
        batch = llama.LlamaBatch(n_tokens=len(ids), embd=0, n_seq_max=1, verbose=False)
        batch.add_sequence([int(i) for i in ids], 0, True)
        context.decode(batch)
        all_logits.append([numpy.array(context.get_logits_ith(i), dtype=numpy.float32) for i in range(len(ids))])
        context.close()
    return numpy.array(all_logits, dtype=numpy.float32)[:, :, :vocabulary]


def transformers_logits(folder, segments):
    import torch
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor(segments)).logits.numpy()


def scores(logits, segments):
    """Perplexity of the segments, and the likeliest token at every place."""
    logs = log_softmax(logits[:, :-1])
    targets = numpy.array(segments)[:, 1:]
    return float(numpy.exp(-numpy.take_along_axis(logs, targets[..., None], -1).mean())), logits[:, :-1].argmax(-1)


def read_segments(cbq, run, options, place):
    """Segments of --text as `cbq tokenize` cuts them."""
    import h5py
    run(cbq, "tokenize", options.text, "--tokenizer", options.tokenizer, "-o", place / "t.h5", "--segment-length", options.segment_length)
    with h5py.File(place / "t.h5") as file:
        count, length = options.segments, options.segment_length
        return file["ids"][:count * length].reshape(count, length).astype(int).tolist()


def run_case(case, place, segments, options, cache):
    """A line on what llama.cpp computes beside transformers; True if perplexities agree."""
    reference = transformers_logits(place / "dense", segments)
    expected, best = scores(reference, segments)
    found, top = scores(llama_cpp_logits(place / "gguf/model.gguf", segments, reference.shape[-1]), segments)
    same = (best == top).mean()
    # How sure the reference is where the two differ: the lead of its likeliest token, in nats.
    logs = numpy.sort(log_softmax(reference[:, :-1]), -1)
    lead = (logs[..., -1] - logs[..., -2])[best != top]
    cache.append((case, expected, found, same))
    print(f"  llama.cpp: perplexity {found:.4f}, reference {expected:.4f} ({100 * (found / expected - 1):+.3f} %); likeliest token "
          f"equal at {100 * same:.2f} % of {best.size} places, largest lead where not {lead.max() if lead.size else 0:.3f} nats", flush=True)
    return abs(found / expected - 1) < options.perplexity


def check(cbq, run, models, options):
    segments = None
    good, cache = True, []
    for model in models:
        config = json.loads((model / "config.json").read_text())
        if config["model_type"] not in ("llama", "mistral", "qwen2", "qwen3"):
            continue
        for grid in GRIDS:
            with tempfile.TemporaryDirectory() as place:
                place = pathlib.Path(place)
                run(cbq, "quantize", model, "-o", place / "q", "--reconstruct", "none", "--device", "cpu", *grid, *floating_point(config, 32))
                for name in ("dense", "gguf"):
                    run(cbq, "export", place / "q", "--format", name, "-o", place / name, "--device", "cpu")
                count = check_file(cbq, run, place)
                types, bits = types_and_bits(place / "gguf/model.gguf")
                case = f"gguf {model.name} {' '.join(grid)}"
                print(f"{case}: {count} tensors equal, {types}, {bits:.3f} bits per weight (least: {least_bits(place / 'q'):.3f})", flush=True)
                if options.run:
                    segments = segments or read_segments(cbq, run, options, place)
                    good &= run_case(case, place, segments, options, cache)
    if not good:
        raise SystemExit(f"a perplexity differs by more than {100 * options.perplexity} %")
