#!/usr/bin/env python3
"""Folders that other Python packages wrote, read by cbq.

    tools/check_layouts.py --cbq build/cpu/bin/cbq [--model FOLDER] [--packages compressed-tensors auto-round gptqmodel]

For every grid a package quantizes a model (default: the LLaMA among the fixtures; GPTQModel needs layers of multiples of 32: models/embedded) and saves
it in its own way: to nearest, without calibration; GPTQModel by GPTQ and AWQ, on pseudo-random ids. `cbq export FOLDER --format dense` reads the folder, and all weights must be those that the package's own
decompression gives in f32, bit for bit. Needs torch, transformers, safetensors and the package. Prints a line per case; exits
1 for any difference.
"""
import argparse
import contextlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import torch
from check_exports import tensors_of
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

CT_GRIDS = [{"num_bits": bits, "type": "int", "symmetric": symmetric, **way}
            for bits in (2, 3, 4, 5, 8) for symmetric in (True, False)
            for way in ({"strategy": "channel"}, {"strategy": "group", "group_size": 8})]
GPTQ_GRIDS = [{"method": "gptq", "bits": bits, "group_size": group, "sym": symmetric, "desc_act": False, "act_group_aware": False, "format": form}
              for bits in (2, 3, 4, 8)
              for group, symmetric, form in ((-1, True, "gptq"), (32, True, "gptq"), (32, False, "gptq_v2"))]
GPTQ_GRIDS += [{"method": "gptq", "bits": bits, "group_size": 32, "sym": symmetric, "desc_act": True, "act_group_aware": False, "format": form}
               for bits, symmetric, form in ((4, True, "gptq"), (3, False, "gptq_v2"))]
GPTQ_GRIDS += [{"method": "awq", "bits": 4, "group_size": 32, "sym": symmetric, "format": "gemm"} for symmetric in (False, True)]


def linears(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and "layers" in name}


def compressed_tensors(source, folder, weights, layout):
    """Saves the model as the package does; returns {layer: weight} as it computes with it."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus, apply_quantization_config
    from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
    from compressed_tensors.quantization.utils import calculate_qparams
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    group = {"targets": ["Linear"], "weights": weights, "format": layout}
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": group}, ignore=["lm_head"]))
    expected = {}
    with torch.no_grad():
        for name, module in linears(model).items():
            arguments = module.quantization_scheme.weights
            w = module.weight.data
            parts = w.unflatten(1, (-1, arguments.group_size or w.shape[1]))
            scale, zero = calculate_qparams(parts.amin(-1), parts.amax(-1), arguments)
            module.weight_scale.data = scale
            if not arguments.symmetric:
                module.weight_zero_point.data = zero.to(module.weight_zero_point.dtype)
            zero = None if arguments.symmetric else module.weight_zero_point
            codes = quantize(w, scale, zero, arguments, dtype=torch.int8)
            expected[name] = dequantize(codes, scale, zero, arguments)
            module.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    return expected


def auto_round(source, folder, bits, group, symmetric, layout):
    """The same of AutoRound without iterations; the reference is what its own layers unpack."""
    from auto_round import AutoRound
    from tokenizers import Tokenizer, models
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    # It asks for one, though nothing is calibrated.
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"word": 0}, unk_token="word")))
    AutoRound(model, tokenizer, bits=bits, group_size=group, sym=symmetric, iters=0, disable_opt_rtn=True,
              device_map="cpu").quantize_and_save(str(folder), format=layout)
    config = next(pathlib.Path(folder).rglob("config.json"))
    section = json.loads(config.read_text())["quantization_config"]
    packing = section.get("packing_format", section["quant_method"])
    tensors = tensors_of(config.parent)
    return packing, {name[:-8]: unpacked(packing, *(tensors[name[:-7] + part] for part in ("qweight", "qzeros", "scales")), bits)
                     for name in tensors if name.endswith(".qweight")}


def unpacked(packing, qweight, qzeros, scales, bits):
    """[out, in] of a layer in f32. AWQ's by the package's function; GPTQ's by its layer for the CPU, which multiplies."""
    scales = scales.float()
    if "awq" in packing:
        from auto_round.export.export_to_awq.utils import dequantize_gemm
        return dequantize_gemm(qweight, qzeros, scales, bits, qweight.shape[0] // scales.shape[0]).T.contiguous()
    if "gptq" in packing:  # zero points less one
        from auto_round_extension.torch.qlinear_torch_zp import QuantLinear
    else:
        from auto_round_extension.torch.qlinear_torch import QuantLinear
    inputs, outputs = qweight.shape[0] * 32 // bits, qweight.shape[1]
    layer = QuantLinear(bits, inputs // scales.shape[0], inputs, outputs, False)
    layer.qweight, layer.qzeros, layer.scales = qweight, qzeros, scales
    with torch.no_grad():  # row j of the unit matrix times W^T is column j of W, and sums of one term are exact
        return layer(torch.eye(inputs)).T.contiguous()


def gptqmodel(source, folder, method, **settings):
    """The same of GPTQModel; the reference is what its layers in PyTorch unpack from the folder, with scales in f32."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # 7.7.0 does not start with its own choice on a machine of two cores
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.quantization.config import AWQConfig, GPTQConfig
    draw = random.Random(0)
    vocabulary = json.loads((pathlib.Path(source) / "config.json").read_text())["vocab_size"]
    segments = [[draw.randrange(3, vocabulary) for _ in range(128)] for _ in range(8)]
    config = (AWQConfig if method == "awq" else GPTQConfig)(offload_to_disk=False, **settings)
    dtype = torch.float16 if method == "awq" else torch.float32  # AWQ's layers take no other
    model = GPTQModel.load(str(source), config, dtype=dtype, device="cpu")
    folder.mkdir()
    with contextlib.chdir(folder.parent):  # it writes logs where it stands
        model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in segments])
        model.save(str(folder))
    backend = BACKEND.TORCH_AWQ if method == "awq" else BACKEND.TORCH
    loaded = GPTQModel.load(str(folder), backend=backend, device="cpu", dtype=torch.float16).model
    tensors, expected = tensors_of(folder), {}
    for name, layer in loaded.named_modules():
        if not hasattr(layer, "qweight"):
            continue
        layer.scales = tensors[name + ".scales"].float()
        if method == "awq":
            from auto_round.export.export_to_awq.utils import dequantize_gemm
            size = layer.qweight.shape[0] // layer.scales.shape[0]
            weight = dequantize_gemm(tensors[name + ".qweight"], tensors[name + ".qzeros"], layer.scales, 4, size)
        else:
            weight = layer.dequantize_weight()
        expected[name] = weight.T.contiguous()
    if not expected:
        sys.exit(f"{folder}: GPTQModel has loaded no layer with codes")
    return expected


def read_by_cbq(cbq, folder, to):
    done = subprocess.run([cbq, "export", folder, "--format", "dense", "-o", to, "--dtype", "f32"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return tensors_of(to)


def compare(case, expected, dense):
    differing = [name for name, weight in expected.items() if not torch.equal(weight.float(), dense[name + ".weight"])]
    print(f"{case}: {len(expected)} layers, {len(differing)} differ", *differing[:2], flush=True)
    return bool(differing) or not expected


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cbq", required=True)
    parser.add_argument("--model")
    parser.add_argument("--packages", nargs="+", default=["compressed-tensors"], choices=["compressed-tensors", "auto-round", "gptqmodel"])
    options = parser.parse_args()
    fixture = options.model or "tests/fixtures/models/llama"
    failed = False

    def check(case, write):
        nonlocal failed
        with tempfile.TemporaryDirectory() as folder:
            written = pathlib.Path(folder) / "written"
            expected = write(written)
            inner = next((f.parent for f in written.rglob("config.json")), written)
            if isinstance(expected, tuple):
                case, expected = f"{case}, packed as {expected[0]}", expected[1]
            failed |= compare(case, expected, read_by_cbq(options.cbq, inner, pathlib.Path(folder) / "dense"))

    if "compressed-tensors" in options.packages:
        for grid in CT_GRIDS:
            for layout in ("pack-quantized", "int-quantized"):
                check(f"compressed-tensors {layout} {grid}", lambda to: compressed_tensors(fixture, to, grid, layout))
    if "auto-round" in options.packages:
        for bits, group, symmetric in ((2, 32, False), (3, 32, True), (4, 32, False), (4, 32, True), (8, -1, True)):
            check(f"auto-round {bits} bits, group {group}, {'symmetric' if symmetric else 'asymmetric'}",
                  lambda to: auto_round(fixture, to, bits, group, symmetric, "auto_round"))
        for group, symmetric in ((32, False), (32, True), (-1, False)):
            check(f"auto-round, AWQ's layout, group {group}, {'symmetric' if symmetric else 'asymmetric'}",
                  lambda to: auto_round(fixture, to, 4, group, symmetric, "auto_awq"))
    if "gptqmodel" in options.packages:
        for grid in GPTQ_GRIDS:
            check(f"GPTQModel {grid}", lambda to: gptqmodel(options.model or "models/embedded", to, **grid))
    sys.exit(failed)


if __name__ == "__main__":
    main()
