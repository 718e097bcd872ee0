"""Reads a checkpoint of FP8 blocks with nothing but the format's definition, and compares with what
quern reads: modules that a run skips are exported as they were read.

usage: read_fp8_test.py QUERN REPOSITORY"""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile

QUERN, REPOSITORY = sys.argv[1], pathlib.Path(sys.argv[2])


def tensors_of(folder):
    """Name -> (dtype, shape, bytes) of every safetensors file in a folder."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        raw = path.read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8 : 8 + length])
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            data = raw[8 + length + begin : 8 + length + end]
            tensors[name] = (entry["dtype"], entry["shape"], data)
    return tensors


def e4m3(code):
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = code >> 3 & 15, code & 7
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


def dequantized(weight, scales):
    """float32 bytes; a product of 4 and 24 significant bits is exact in a double."""
    assert weight[0] == "F8_E4M3" and scales[0] == "F32"
    rows, columns = weight[1]
    across = (columns + 127) // 128
    assert scales[1] == [(rows + 127) // 128, across], scales[1]
    scale = struct.unpack(f"<{len(scales[2]) // 4}f", scales[2])
    values = [
        e4m3(weight[2][n * columns + k]) * scale[n // 128 * across + k // 128]
        for n in range(rows)
        for k in range(columns)
    ]
    deviation = (sum(v * v for v in values) / len(values)) ** 0.5
    assert abs(deviation / 0.02 - 1) < 0.05, deviation
    return struct.pack(f"<{len(values)}f", *values)


def run(*command):
    subprocess.run([QUERN, *command], check=True, stdout=subprocess.DEVNULL)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source = REPOSITORY / "tests/data/llama3m"
        config = json.loads((source / "config.json").read_text())
        config["dtype"] = "float32"
        (folder / "config.json").write_text(json.dumps(config))
        run("synthesize", "--config", f"{folder}/config.json", "--output", f"{folder}/model",
            "--dtype", "float8_e4m3", "--layers", "1", "--shard-size", "300KB",
            "--tokenizer", str(source))
        (folder / "run.yaml").write_text(f"""
model: {{path: {folder}/model}}
quantize:
  method: rtn
  bits: 4
  group_size: 64
  rules: [{{match: '.*(q_proj|o_proj|gate_proj|down_proj)', skip: true}}]
output: {{path: {folder}/out, format: dequantized}}
run: {{directory: {folder}/run, device: cpu}}
""")
        run("quantize", f"{folder}/run.yaml")
        stored, read = tensors_of(folder / "model"), tensors_of(folder / "out")
        compared = 0
        for module in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
            weight = f"model.layers.0.{module}.weight"
            expected = dequantized(stored[weight], stored[weight + "_scale_inv"])
            assert read[weight] == ("F32", stored[weight][1], expected), weight
            assert len(set(stored[weight][2])) > 200, "codes of the whole range"
            compared += 1
        assert compared == 4
        assert not any(tensor.endswith("_scale_inv") for tensor in read)
        assert "quantization_config" not in json.loads((folder / "out/config.json").read_text())


main()
