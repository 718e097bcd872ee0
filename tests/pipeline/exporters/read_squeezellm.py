"""Reads SqueezeLLM checkpoints, .pt or safetensors, with the standard library alone, by the
description of the format, and compares them with a folder of plain weights.

Shares no code with Quern: zip and pickle are read by Python's own modules, with stand-ins for the
classes of PyTorch. compare_folders() raises AssertionError with the tensor's name at the first
difference.

usage: read_squeezellm.py PACKED_FOLDER DEQUANTIZED_FOLDER
"""

import array
import io
import json
import pathlib
import pickle
import struct
import sys
import zipfile

from read_gptq import Folder, bf16, check_sums, half

STORAGES = {"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16"}
STORAGES |= {"IntStorage": "I32"}
ITEM = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4}


class TensorUnpickler(pickle.Unpickler):
    """Makes (dtype, shape, bytes) of tensors; refuses all that torch.load(weights_only) would."""

    def __init__(self, archive, prefix):
        super().__init__(io.BytesIO(archive.read(prefix + "data.pkl")))
        self.archive, self.prefix, self.used = archive, prefix, set()

    def find_class(self, module, name):
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        stand_ins = {
            ("torch._utils", "_rebuild_tensor_v2"): self.rebuild,
            ("collections", "OrderedDict"): dict,
        }
        return stand_ins[module, name]

    def persistent_load(self, pid):
        word, dtype, key, location, elems = pid
        assert (word, location) == ("storage", "cpu"), f"persistent id {pid}"
        name = f"{self.prefix}data/{key}"
        data = self.archive.read(name)
        assert len(data) == elems * ITEM[dtype], f"{name}: {len(data)} bytes for {pid}"
        self.used.add(name)
        return dtype, data

    def rebuild(self, storage, offset, size, stride, requires_grad, hooks):
        dtype, data = storage
        expected, elems = [], 1
        for dim in reversed(size):
            expected.insert(0, elems)
            elems *= dim
        assert offset == 0 and list(stride) == expected, f"strides {stride} of {size}"
        assert len(data) == elems * ITEM[dtype] and requires_grad is False and hooks == {}
        return dtype, list(size), data


class TorchFolder:
    """All tensors of the folder's .pt file: name -> (dtype, shape, bytes); and whole numbers."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.config = json.loads((self.path / "config.json").read_text())
        (name,) = self.path.glob("*.pt")
        with zipfile.ZipFile(name) as archive:
            assert archive.testzip() is None, f"{name}: a checksum is wrong"
            state = self._read(name, archive)
        self.tensors = {k: v for k, v in state.items() if not isinstance(v, int)}
        self.scalars = {k: v for k, v in state.items() if isinstance(v, int)}

    def _read(self, path, archive):
        assert archive.read("archive/version") == b"3\n"
        assert archive.read("archive/byteorder") == b"little"
        with open(path, "rb") as file:
            for row in archive.infolist():
                assert row.compress_type == 0 and row.date_time == (1980, 1, 1, 0, 0, 0)
                file.seek(row.header_offset + 26)
                lengths = struct.unpack("<HH", file.read(4))
                begin = row.header_offset + 30 + sum(lengths)
                assert begin % 64 == 0, f"{path}: {row.filename} begins at {begin}"
        unpickler = TensorUnpickler(archive, "archive/")
        state = unpickler.load()
        others = {"archive/" + name for name in ("data.pkl", "byteorder", "version")}
        assert set(archive.namelist()) == unpickler.used | others
        return state


def single(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def floats(tensor):
    """Values of a float tensor."""
    dtype, _, data = tensor
    if dtype == "F32":
        return array.array("f", data)
    if dtype == "F16":
        return array.array("f", map(half, array.array("H", data)))
    assert dtype == "BF16", dtype
    return array.array("f", struct.pack(f"<{len(data) // 2}I", *(b << 16 for b in array.array("H", data))))


# Bits of a float32 value in each type a plain weight may have.
ROUND = {
    "F32": lambda value: struct.unpack("<I", struct.pack("<f", value))[0],
    "BF16": bf16,
    "F16": lambda value: struct.unpack("<H", struct.pack("<e", value))[0],
}


def read_outliers(packed, module, rows, columns):
    """Column -> row -> value to add."""
    if module + ".rows" not in packed.tensors:
        assert module + ".cols" not in packed.tensors and module + ".vals" not in packed.tensors
        return {}, 0
    dtype, shape, data = packed.tensors[module + ".rows"]
    assert (dtype, shape) == ("I32", [rows + 1]), f"{module}.rows is {dtype} {shape}"
    starts = array.array("i", data)
    dtype, shape, data = packed.tensors[module + ".cols"]
    count = len(data) // 4
    assert (dtype, shape) == ("I32", [count]) and count > 0, f"{module}.cols is {dtype} {shape}"
    cols = array.array("i", data)
    dtype, shape, data = packed.tensors[module + ".vals"]
    assert (dtype, shape) == ("F32", [count]), f"{module}.vals is {dtype} {shape}"
    vals = array.array("f", data)
    assert starts[0] == 0 and starts[-1] == count and sorted(starts) == list(starts)
    outliers = {}
    for n in range(rows):
        row = cols[starts[n] : starts[n + 1]]
        assert sorted(set(row)) == list(row), f"{module}: columns of row {n} do not ascend"
        for k, value in zip(row, vals[starts[n] : starts[n + 1]]):
            assert 0 <= k < columns, f"{module}: column {k}"
            outliers.setdefault(k, {})[n] = value
    return outliers, count


def check_module(packed, plain, module, bits):
    """Compares value by value; returns the number of outliers."""
    dtype, (rows, columns), data = plain.tensors[module + ".weight"]
    weight = array.array("I" if dtype == "F32" else "H", data)
    assert columns % 32 == 0, f"{module}: {columns} columns"
    kind, shape, data = packed.tensors[module + ".qweight"]
    assert (kind, shape) == ("I32", [columns // 32 * bits, rows]), f"{module}: {kind} {shape}"
    words = array.array("I", data)
    table = packed.tensors[module + ".lookup_table"]
    assert table[0] in ("F32", "F16") and table[1] == [rows, 1 << bits], f"{module}: {table[:2]}"
    entries = floats(table)
    tables = [entries[n << bits : (n + 1) << bits] for n in range(rows)]
    rounded = [[ROUND[dtype](value) for value in row] for row in tables]
    outliers, count = read_outliers(packed, module, rows, columns)
    mask = (1 << bits) - 1
    for k in range(columns):
        word, shift = divmod(k * bits, 32)
        low = words[word * rows : (word + 1) * rows]
        if shift + bits > 32:
            high = words[(word + 1) * rows : (word + 2) * rows]
            low = [a | b << 32 for a, b in zip(low, high)]
        codes = [w >> shift & mask for w in low]
        found = [row[code] for row, code in zip(rounded, codes)]
        for n, value in outliers.get(k, {}).items():
            found[n] = ROUND[dtype](single(tables[n][codes[n]] + value))
        assert array.array(weight.typecode, found) == weight[k::columns], f"{module}: column {k} differs"
    return count


def check_torch_configuration(packed, modules, outliers):
    assert "quantization_config" not in packed.config
    text = json.loads((packed.path / "quant_config.json").read_text())
    widths = {packed.tensors[m + ".lookup_table"][1][1] for m in modules}
    assert list(text) == ["wbits"] and widths == {1 << text["wbits"]}, f"{text}, tables {widths}"
    expected = {"sparse_threshold." + m: outliers[m] for m in modules}
    assert packed.scalars == (expected if any(outliers.values()) else {}), "sparse_threshold"
    return {m: text["wbits"] for m in modules}


def check_safetensors_configuration(packed, modules, outliers):
    assert not (packed.path / "quant_config.json").exists()
    config = packed.config["quantization_config"]
    assert config["quant_method"] == "squeezellm"
    assert config["bits"] == config["wbits"]
    assert config["include_sparse"] == any(outliers.values())
    assert config["meta"]["quantizer"][0].startswith("quern:")
    rows = config.get("modules", {})
    assert set(rows) <= set(modules) and all(r["bits"] != config["bits"] for r in rows.values())
    return {m: rows.get(m, config)["bits"] for m in modules}


def compare_folders(packed_path, plain_path):
    """Returns how many modules were compared bit for bit, and how many of them have outliers."""
    torch = list(pathlib.Path(packed_path).glob("*.pt"))
    packed = TorchFolder(packed_path) if torch else Folder(packed_path)
    plain = Folder(plain_path)
    suffix = ".qweight"
    modules = [name[: -len(suffix)] for name in packed.tensors if name.endswith(suffix)]
    assert modules, "nothing is packed"
    outliers = {m: len(packed.tensors.get(m + ".cols", ("", [], b""))[2]) // 4 for m in modules}
    check = check_torch_configuration if torch else check_safetensors_configuration
    bits = check(packed, modules, outliers)
    for module in modules:
        assert module + ".weight" not in packed.tensors, f"{module}: packed and plain"
        assert check_module(packed, plain, module, bits[module]) == outliers[module]
    parts = (".qweight", ".lookup_table", ".rows", ".cols", ".vals")
    quantized = {m + part for m in modules for part in parts}
    rest = {name: tensor for name, tensor in packed.tensors.items() if name not in quantized}
    weights = {m + ".weight" for m in modules}
    assert set(rest) == set(plain.tensors) - weights, "other tensors than in the plain folder"
    for name, tensor in rest.items():
        assert tensor == plain.tensors[name], f"{name} differs"
    config = dict(packed.config)
    config.pop("quantization_config", None)
    assert config == plain.config, "config.json differs elsewhere"
    for folder in (packed, plain):
        if (folder.path / "SHA256SUMS").exists():
            check_sums(folder)
    return len(modules), sum(1 for count in outliers.values() if count > 0)


if __name__ == "__main__":
    compared, sparse = compare_folders(sys.argv[1], sys.argv[2])
    print(f"{compared} modules equal, {sparse} of them with outliers")
