"""What the tests of the Python package share: small models, a reader of safetensors, the program cbq."""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import numpy

ROOT = pathlib.Path(__file__).resolve().parents[3]
EMBEDDED = ROOT / "models/embedded"
FIXTURES = ROOT / "tests/fixtures/models"


def program():
    """The program cbq of the same build."""
    return os.environ.get("TESTED_PROGRAM", str(ROOT / "build/cpu/bin/cbq"))


def run_program(*arguments):
    result = subprocess.run([program(), *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0:
        raise AssertionError(f"cbq {' '.join(map(str, arguments))}: {result.stderr}")
    return result.stdout


def read_safetensors(path):
    """{name: float32 or integer array}, by the format's definition."""
    data = pathlib.Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[8 + size + begin:8 + size + end]
        if entry["dtype"] == "BF16":
            array = (numpy.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        else:
            array = numpy.frombuffer(raw, {"F16": "<f2", "F32": "<f4", "I32": "<i4", "U8": "u1"}[entry["dtype"]])
            array = array.astype("<f4") if entry["dtype"] == "F16" else array
        tensors[name] = array.reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    header, at, parts = {}, 0, []
    for name, array in tensors.items():
        raw = numpy.ascontiguousarray(array, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        parts.append(raw)
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def write_tiny_model(folder, blocks=2, hidden=16):
    """A LLaMA model with weights far larger than those that training starts with."""
    random = numpy.random.default_rng(3)
    middle, vocabulary = 24 if hidden == 16 else 2 * hidden, 48
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary,
              "hidden_size": hidden, "intermediate_size": middle, "num_hidden_layers": blocks,
              "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16, "rms_norm_eps": 1e-6,
              "hidden_act": "silu", "torch_dtype": "float32", "rope_theta": 10000.0, "tie_word_embeddings": False}
    keys = hidden // 2
    shapes = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden),
              "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, hidden),
              "mlp.gate_proj": (middle, hidden), "mlp.up_proj": (middle, hidden),
              "mlp.down_proj": (hidden, middle)}
    tensors = {"model.embed_tokens.weight": random.normal(0, 0.4, (vocabulary, hidden)),
               "model.norm.weight": random.uniform(0.5, 1.5, hidden),
               "lm_head.weight": random.normal(0, 0.4, (vocabulary, hidden))}
    for i in range(blocks):
        for name, shape in shapes.items():
            tensors[f"model.layers.{i}.{name}.weight"] = random.normal(0, 0.4, shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{i}.{name}.weight"] = random.uniform(0.5, 1.5, hidden)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def tiny_ids(count, length, seed=7):
    return numpy.random.default_rng(seed).integers(0, 48, (count, length)).astype("int32")


class FolderTest(unittest.TestCase):
    """Tests with a folder of their own: self.path."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name)
