"""Reads GPTQ checkpoints with the standard library alone, by the description of the format.

Shares no code with Quern: safetensors, bit streams, float16 and bfloat16 are read here from scratch.
compare_folders() raises AssertionError with the tensor's name at the first difference.
"""

import array
import hashlib
import json
import pathlib
import re
import struct

ITEM = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4}


class Folder:
    """All tensors of a folder: name -> (dtype, shape, bytes)."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.config = json.loads((self.path / "config.json").read_text())
        self.tensors = {}
        self.shards = {}
        index = self.path / "model.safetensors.index.json"
        if index.exists():
            weight_map = json.loads(index.read_text())["weight_map"]
            for name in sorted(set(weight_map.values())):
                self._read(name)
            shards = {t: s for s, names in self.shards.items() for t in names}
            assert shards == weight_map, f"{index}: does not agree with the shards"
        else:
            self._read("model.safetensors")

    def _read(self, file_name):
        blob = (self.path / file_name).read_bytes()
        (length,) = struct.unpack_from("<Q", blob)
        assert length % 8 == 0, f"{file_name}: header of {length} bytes is not padded to 8"
        header = json.loads(blob[8 : 8 + length])
        assert header.pop("__metadata__", None) == {"format": "pt"}, f"{file_name}: metadata"
        assert list(header) == sorted(header), f"{file_name}: names are not sorted"
        at = 0
        for name, row in header.items():
            begin, end = row["data_offsets"]
            elems = 1
            for dim in row["shape"]:
                elems *= dim
            assert begin == at and end - begin == elems * ITEM[row["dtype"]], f"{name}: offsets"
            assert name not in self.tensors, f"{name}: twice"
            self.tensors[name] = (row["dtype"], row["shape"], blob[8 + length + begin : 8 + length + end])
            at = end
        assert 8 + length + at == len(blob), f"{file_name}: bytes behind the last tensor"
        self.shards[file_name] = list(header)

    def read(self, name, dtype, shape):
        found, dims, data = self.tensors[name]
        assert (found, dims) == (dtype, shape), f"{name}: {found} {dims}, expected {dtype} {shape}"
        return array.array({"I32": "I", "F16": "H", "BF16": "H"}[dtype], data)


def half(bits):
    return struct.unpack("<e", struct.pack("<H", bits))[0]


def bf16(value):
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


def as_half(tensor):
    """A BF16 tensor as F16: the packed modules' biases."""
    dtype, shape, data = tensor
    assert dtype == "BF16"
    values = (struct.unpack("<f", struct.pack("<I", b << 16))[0] for b in array.array("H", data))
    return "F16", shape, b"".join(struct.pack("<e", value) for value in values)


class Rounded(dict):
    """(scale bits, code - zero) -> bfloat16 bits of their product; the product is exact."""

    def __missing__(self, key):
        self[key] = bf16(half(key >> 10) * ((key & 1023) - 512))
        return self[key]


def field(words, index, bits):
    """Field of a little-endian bit stream of 32-bit words."""
    word, shift = divmod(index * bits, 32)
    window = words[word] | (words[word + 1] << 32 if shift + bits > 32 else 0)
    return window >> shift & ((1 << bits) - 1)


def overrides(config, module):
    """None for a module that is left alone, else what differs for it."""
    rows = config.get("dynamic", {}).items()
    for expression, _ in rows:
        if expression.startswith("-:") and re.match(expression[2:], module):
            return None
    for expression, row in rows:
        if not expression.startswith("-:") and re.match(expression.removeprefix("+:"), module):
            return row
    return {}


def check_zeros(bits, words, name):
    """Symmetric grids of the first format store 2^(b-1) - 1 everywhere."""
    # 3 bits: 011 thirty-two times, the bytes DB B6 6D repeated.
    patterns = {
        2: [0x55555555],
        3: [0xDB6DB6DB, 0xB6DB6DB6, 0x6DB6DB6D],
        4: [0x77777777],
        8: [0x7F7F7F7F],
    }
    pattern = patterns[bits]
    for i, word in enumerate(words):
        assert word == pattern[i % len(pattern)], f"{name}: word {i} of qzeros is {word:#x}"


def check_module(packed, plain, module, memo):
    config = packed.config["quantization_config"]
    row = overrides(config, module)
    assert row is not None, f"{module}: packed although the configuration skips it"
    bits = row.get("bits", config["bits"])
    size = row.get("group_size", config["group_size"])
    dtype, (rows, columns), data = plain.tensors[module + ".weight"]
    assert dtype == "BF16"
    weight = array.array("H", data)
    groups = 1 if size == -1 else -(-columns // size)
    zero_words = -(-rows * bits // 32)
    words = packed.read(module + ".qweight", "I32", [-(-columns * bits // 32), rows])
    zeros = packed.read(module + ".qzeros", "I32", [groups, zero_words])
    scales = packed.read(module + ".scales", "F16", [groups, rows])
    group_of = packed.read(module + ".g_idx", "I32", [columns])
    assert all(0 < s < 0x7C00 for s in scales), f"{module}: a scale is not finite and positive"
    if config["checkpoint_format"] == "gptq":
        assert rows % 32 == 0, f"{module}: words are padded, which this test does not expect"
        check_zeros(bits, zeros, module)
    members = [0] * groups
    for k, g in enumerate(group_of):
        assert config["desc_act"] or g == (k // size if size > 0 else 0), f"{module}: g_idx[{k}]"
        members[g] += 1
    assert size == -1 or max(members) <= size, f"{module}: a group has too many members"

    add = 1 if config["checkpoint_format"] == "gptq" else 0
    base = []
    for g in range(groups):
        stream = zeros[g * zero_words : (g + 1) * zero_words]
        zero = [field(stream, n, bits) + add for n in range(rows)]
        assert max(zero) < 1 << bits, f"{module}: a zero point is out of range"
        base.append([(scales[g * rows + n] << 10) + 512 - zero[n] for n in range(rows)])
    mask = (1 << bits) - 1
    for k in range(columns):
        word, shift = divmod(k * bits, 32)
        low = words[word * rows : (word + 1) * rows]
        if shift + bits > 32:
            high = words[(word + 1) * rows : (word + 2) * rows]
            low = [a | b << 32 for a, b in zip(low, high)]
        found = [memo[b + (w >> shift & mask)] for b, w in zip(base[group_of[k]], low)]
        assert array.array("H", found) == weight[k::columns], f"{module}: column {k} differs"


def check_sums(folder):
    lines = (folder.path / "SHA256SUMS").read_text().splitlines()
    listed = {line[66:]: line[:64] for line in lines}
    files = {p.name for p in folder.path.iterdir()} - {"SHA256SUMS"}
    assert set(listed) == files, f"{folder.path}: SHA256SUMS lists {set(listed) ^ files} wrongly"
    for name, digest in listed.items():
        found = hashlib.sha256((folder.path / name).read_bytes()).hexdigest()
        assert found == digest, f"{folder.path / name}: SHA-256 differs"


def check_configuration(packed, plain, source):
    config = dict(packed.config)
    quantization = config.pop("quantization_config")
    assert config == source.config == plain.config, "config.json changed elsewhere"
    separate = json.loads((packed.path / "quantize_config.json").read_text())
    assert separate == quantization, "quantize_config.json is another object"
    assert not (plain.path / "quantize_config.json").exists()
    assert quantization["quant_method"] == quantization["method"] == "gptq"
    assert quantization["checkpoint_format"] == quantization["format"]
    assert quantization["pack_dtype"] == "int32"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for folder in (packed, plain):
            assert (folder.path / name).read_bytes() == (source.path / name).read_bytes(), name


def compare_folders(packed_path, plain_path, source_path):
    """Returns how many modules were compared bit for bit."""
    packed, plain, source = Folder(packed_path), Folder(plain_path), Folder(source_path)
    check_configuration(packed, plain, source)
    modules = [name[: -len(".qweight")] for name in packed.tensors if name.endswith(".qweight")]
    assert modules, "nothing is packed"
    assert set(plain.tensors) == set(source.tensors), "the plain folder has other tensors"
    memo = Rounded()
    for module in modules:
        assert module + ".weight" not in packed.tensors, f"{module}: packed and plain"
        check_module(packed, plain, module, memo)
    parts = {m + p for m in modules for p in (".qweight", ".qzeros", ".scales", ".g_idx")}
    weights = {m + ".weight" for m in modules}
    assert set(packed.tensors) - parts == set(source.tensors) - weights
    biases = {m + ".bias" for m in modules}
    for name in set(source.tensors) - weights:
        assert plain.tensors[name] == source.tensors[name], f"{name} differs in the plain folder"
        expected = source.tensors[name]
        if name in biases:
            expected = as_half(expected)
        assert packed.tensors[name] == expected, f"{name} differs in the packed folder"
    check_sums(packed)
    check_sums(plain)
    return len(modules)
