"""What makes a dense folder the result that it claims to be. Needs no package but Python's own.

Rows of quantized layers hold few distinct values and lie around the original ones, and nothing else has changed. A package that
skipped a layer or took another precision than it was told, and a script that read zero points one too low, are found here, not
in the table.
"""
import array
import json
import math
import pathlib
import re
import sys

IN_A_BLOCK = re.compile(r"\.\d+\..*\.weight$")


class Tensors:
    """The safetensors files of a folder: shapes, and values row by row."""
    def __init__(self, folder):
        self.entries = {}
        for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
            with open(file, "rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                header = json.loads(opened.read(length))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                self.entries[name] = (file, 8 + length + entry["data_offsets"][0], entry["dtype"], entry["shape"])
        if not self.entries:
            raise ValueError(f"{folder}: no safetensors file")

    def shape(self, name):
        return self.entries[name][3]

    def rows(self, name):
        """The rows of a tensor as memory views of floats; f32 only, which the scripts write."""
        file, start, dtype, shape = self.entries[name]
        if dtype != "F32":
            raise ValueError(f"{file}: {name} is {dtype}, not F32")
        columns = shape[-1] if shape else 1
        with open(file, "rb") as opened:
            opened.seek(start)
            values = array.array("f")
            values.fromfile(opened, math.prod(shape))
        if sys.byteorder == "big":
            values.byteswap()
        view = memoryview(values)
        for at in range(0, len(values), columns):
            yield view[at:at + columns]


def most_distinct(rows, originals, group_size):
    """The largest number of distinct values in a row, or in a group of columns of one; and how far their mean lies from that of
    the original, in steps of the grid, on average over rows and groups. Error for values not finite."""
    most, shifts = 0, []
    for row, original in zip(rows, originals):
        length = group_size if group_size > 0 else len(row)
        for at in range(0, len(row), length):
            ours, theirs = row[at:at + length], original[at:at + length]
            values = set(ours)
            if not all(map(math.isfinite, values)):
                raise ValueError("a weight is not finite")
            most = max(most, len(values))
            if len(values) > 1:
                ladder = sorted(values)
                step = min(b - a for a, b in zip(ladder, ladder[1:]))
                shifts.append((sum(ours) - sum(theirs)) / (len(ours) * step))
    return most, sum(shifts) / len(shifts) if shifts else 0.0


def check(dense, original, bits, group_size, may_change=()):
    """Layers, the most distinct values of a row or group, the largest shift of a layer in steps, and how many other tensors
    changed. Raises ValueError where something is not as it should be.

    All matrices of blocks must be quantized. A zero point that is one off moves all weights by a step; rounding moves them to
    both sides, so the mean of a layer stays. Of other tensors only those of blocks whose name matches one of may_change
    may differ from the original (methods that move scales into norms).
    """
    ours, theirs = Tensors(dense), Tensors(original)
    if ours.entries.keys() != theirs.entries.keys():
        raise ValueError(f"{dense}: other tensors than {original}: {sorted(ours.entries.keys() ^ theirs.entries.keys())[:5]}")
    layers, most, largest, changed = 0, 0, 0.0, 0
    for name in ours.entries:
        if ours.shape(name) != theirs.shape(name):
            raise ValueError(f"{name}: {ours.shape(name)}, {theirs.shape(name)} in the original")
        if IN_A_BLOCK.search(name) and len(ours.shape(name)) == 2:
            try:
                found, shift = most_distinct(ours.rows(name), theirs.rows(name), group_size)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            if found > 2 ** bits:
                raise ValueError(f"{name}: {found} distinct values in a {'group' if group_size > 0 else 'row'}, "
                                 f"{2 ** bits} are possible with {bits} bits")
            if abs(shift) > 0.5:
                raise ValueError(f"{name}: weights are {shift:.2f} steps beside the original ones")
            layers, most, largest = layers + 1, max(most, found), max(largest, abs(shift))
        elif any(a != b for a, b in zip(ours.rows(name), theirs.rows(name))):
            if not any(re.search(pattern, name) for pattern in may_change):
                raise ValueError(f"{name}: differs from the original, and is not to be quantized")
            changed += 1
    if layers == 0:
        raise ValueError(f"{dense}: no layer of a block found")
    return {"layers": layers, "most_distinct": most, "largest_shift": round(largest, 3), "others_changed": changed}
