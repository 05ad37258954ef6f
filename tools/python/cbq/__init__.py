"""Post-training quantization of large language models by cross-block reconstruction.

    import cbq
    model = cbq.load("models/embedded")
    result = cbq.quantize(model, "calibration.txt", method="cbq", wbits=2, output="quantized")
    print(cbq.evaluate(result.load(), "test.txt").perplexity)

docs/python.md in the repository explains it. Errors are exceptions with the texts of the command
line: ValueError for arguments that cannot be, FileNotFoundError for what is not there,
RuntimeError for files and machines that fail.
"""
import json
import logging
import os


def _import_core():
    """The module, with threads that wait for work as the programs' do (tensor/runtime/threads.h).

    OpenMP reads the variable when it is loaded. Threads that spin take the cores that others need.
    """
    given = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ)
    if not given:
        os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        from . import _core as core
    finally:
        if not given:
            del os.environ["GOMP_SPINCOUNT"]
    return core


_core = _import_core()
from ._core import (Block, Generation, Model, NonFiniteError, RoundingPass, Score, Tensor,
                    rounding_schemes, tensor)
from .rounding import check_rounding, register_rounding

__version__ = _core.version()
__all__ = ["Block", "Generation", "Model", "NonFiniteError", "Result", "RoundingPass", "Score",
           "Tensor", "check_rounding", "evaluate", "export", "generate", "load", "loglikelihood",
           "methods", "quantize", "register_rounding", "rounding_schemes", "settings", "tensor"]

_log = logging.getLogger("cbq")


def _log_line(line):
    _log.info("%s", line)


def _folder_of(model):
    if isinstance(model, (Model, Result)):
        return model.folder
    return os.fspath(model)


def _is_source(tokens):
    return isinstance(tokens, (str, os.PathLike))


class Result:
    """The folder that quantize() or export() has written.

    folder  its path
    report  what is in report.json: windows, losses, scores, times; None where there is none
    recipe  what is in recipe.json: settings, versions, digests; None where there is none
    """

    def __init__(self, folder):
        self.folder = os.fspath(folder)

    def _read(self, name):
        try:
            with open(os.path.join(self.folder, name), encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return None

    @property
    def report(self):
        return self._read("report.json")

    @property
    def recipe(self):
        return self._read("recipe.json")

    def load(self, **options):
        """load(folder, **options), for a result in the format "packed" or "dense"."""
        return load(self.folder, **options)

    def __fspath__(self):
        return self.folder

    def __repr__(self):
        return f"cbq.Result({self.folder!r})"


def load(folder, *, dtype="auto", device="auto", threads=0, load="auto", tokenizer=None):
    """A model folder (config.json and safetensors, floating point or quantized here) in memory.

    dtype      that it computes in: "f32", "bf16", "f16"; "auto": f32 on a CPU, on a GPU the
               checkpoint's own where that is a half type
    device     "auto", "cpu", "cuda", "cuda:1"
    threads    on the CPU; 0: one per core
    load       "whole", "blockwise" (blocks come from the disk when they are needed) or "auto"
    tokenizer  file or folder; None: the model's own

    FileNotFoundError where the folder or a file of it is not there, RuntimeError where one is
    broken, ValueError for unknown words.
    """
    return _core.load(_folder_of(folder), dtype, device, threads, load,
                      "" if tokenizer is None else os.fspath(tokenizer))


def quantize(model, calibration="model", *, output, method=None, progress=None, log=_log_line,
             **settings):
    """Quantizes a model and writes the result, as `cbq quantize` does. Returns a Result.

    model        a model folder, or a Model, whose folder is taken (it is read again)
    calibration  a text, a token file (FILE.h5, FILE.json, FILE.json:KEY), "model" (sampled from
                 the model), or ids: an array [segments, tokens] or a list of lists
    output       the folder to write; it appears when all is done
    method       a name of methods(), or the path of a file of settings; None: as the command
                 without --method
    progress     progress(done, total, what) is called with every step
    log          log(line) is called with every line of the log; by default the logger "cbq"
    settings     every option of `cbq quantize` by its name with underscores: wbits=2,
                 group_size=128, rounding="adaround", segments=64, evaluate=["test.txt"],
                 resume=True, overwrite=True, device="cpu", threads=2, ...

    Ctrl-C stops after the current step and raises KeyboardInterrupt; finished windows are kept, and
    the same call with resume=True goes on. An exception of `progress` or `log` stops it, too, and
    is raised here. ValueError for settings that cannot be, before anything is computed.
    """
    ids = None
    given = {"output": os.fspath(output), **settings}
    if method is not None:
        given["method"] = method
    if _is_source(calibration):
        given["calibration"] = os.fspath(calibration)
    else:
        ids = calibration
    _core.quantize(_folder_of(model), ids, given, progress, log)
    return Result(output)


def export(result, format, output, *, dtype=None, overwrite=False, progress=None, log=_log_line):
    """Writes a quantized result in another format, as `cbq export` does. Returns a Result.

    result  the folder that quantize() wrote in the format "packed", or its Result
    format  "dense", "compressed-tensors", "gptq", "gguf", ... (docs/exports.md)
    dtype   of the weights, where the format has a choice

    ValueError where the format cannot hold the result; the text says which can.
    """
    _core.export(_folder_of(result), {"output": os.fspath(output), "format": format, "dtype": dtype,
                                      "overwrite": overwrite}, progress, log)
    return Result(output)


def evaluate(model, tokens, *, segments=0, segment_length=0, batch=0, progress=None):
    """Perplexity of a model, as `cbq evaluate` gives it. Returns a Score.

    model           a Model, a Result or a folder
    tokens          a text, a token file, or ids: an array [segments, tokens] or a list of lists
    segments        only the first so many of a text or file; 0: all
    segment_length  tokens per segment of a text; 0: the model's context, at most 2,048
    batch           segments at a time; 0: as many as make 16,384 tokens, 8 at most

    Tokens 1 .. n-1 of every segment of n are scored, each segment on its own.
    """
    if not isinstance(model, Model):
        model = load(model)
    if _is_source(tokens):
        tokens = os.fspath(tokens)
    return _core.evaluate(model, tokens, segments, segment_length, batch, progress)


def loglikelihood(model, requests, *, encoding="joint", pass_tokens=2048, progress=None):
    """log p(continuation | context) in nats, and whether every token is the likeliest at its place.

    requests  pairs (context, continuation), both texts or both lists of ids
    encoding  of texts: "joint", "joint_without_bos" or "separate" (docs/evaluation.md)

    Returns a list of pairs (float, bool), as lm-evaluation-harness wants them.
    """
    requests = list(requests)
    if requests and not isinstance(requests[0][0], str):
        return _core.loglikelihood_ids(model, requests, pass_tokens, progress)
    return _core.loglikelihood(model, requests, encoding, pass_tokens, progress)


def generate(model, prompt, *, tokens=64, temperature=0.0, seed=0, until=(), progress=None):
    """Continues a prompt with kept keys and values. Returns a Generation.

    prompt       a text, or ids
    tokens       new ones, at most
    temperature  0: always the likeliest token
    until        texts that end the continuation; the text leaves them out, the ids have them
    """
    return _core.generate(model, prompt, tokens, temperature, seed, list(until), progress)


def methods():
    """The published methods that quantize() knows: {name: title}."""
    return _core.methods()


def settings(method="cbq", *, wbits=4, abits=16):
    """All settings of a method at these bits, by name: what quantize() starts from."""
    return _core.settings(method, wbits, abits)
