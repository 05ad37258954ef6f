#!/usr/bin/env python3
"""GPTQ and GPTAQ by the package GPTQModel (tools/peers/README.md)."""
import os

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # 7.7.0 does not start with its own choice on a machine of two cores

import torch
from gptqmodel import GPTQModel, QuantizeConfig
from gptqmodel.quantization.config import GPTAQConfig

import common


def quantize(options, segments):
    settings = {"bits": options.bits, "group_size": options.group_size, "sym": False, "desc_act": False,
                "act_group_aware": options.group_size > 0, "offload_to_disk": False,
                "format": "gptq_v2"}  # zero points as they are; the older format keeps them less one
    more = {"gptaq": GPTAQConfig()} if options.method == "gptaq" else {}
    model = GPTQModel.load(str(options.model), QuantizeConfig(**settings, **more), dtype=torch.float32, device="cpu")
    model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in segments])

    def dense():
        for name, layer in model.model.named_modules():
            if hasattr(layer, "dequantize_weight"):
                layer.scales = layer.scales.float()  # kept as f16; products with them would be rounded, too
                yield name + ".weight", layer.dequantize_weight().T

    return dense, {**settings, **({"gptaq": "default"} if more else {})}


if __name__ == "__main__":
    common.main(__doc__, quantize, ["gptqmodel", "torch", "transformers"], methods=["gptq", "gptaq"])
