"""Quantizes small models in many ways and compares the packed folder, read by read_gptq.py, with
the dequantized folder of the same run, bit for bit.

usage: read_gptq_test.py QUERN REPOSITORY
"""

import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile

from read_gptq import bf16, compare_folders

RUN_FILE = """
model: {{path: {model}}}
calibration:
  source: {root}/tests/data/calibration.txt
  samples: 4
  sequence_length: 64
  micro_batch: 2
quantize: {{{quantize}}}
output: {{path: packed, format: {format}}}
evaluate: {{source: {root}/tests/data/evaluation.txt, sequence_length: 64, samples: 8}}
run: {{directory: run, log_level: error, device: cpu, threads: 2}}
"""


def write_qwen(folder, small):
    """Two random layers with biases and a tied head, and the tokenizer of the small model."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(small / name, folder / name)
    hidden, wide, vocab = 64, 96, 4096
    config = {"model_type": "qwen2", "hidden_size": hidden, "intermediate_size": wide}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config |= {"vocab_size": vocab, "max_position_embeddings": 512, "tie_word_embeddings": True}
    config |= {"rope_theta": 1e6, "torch_dtype": "bfloat16", "bos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": [vocab, hidden], "model.norm.weight": [hidden]}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        for name, rows in (("q", hidden), ("k", hidden // 2), ("v", hidden // 2)):
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = [rows, hidden]
            shapes[f"{prefix}self_attn.{name}_proj.bias"] = [rows]
        shapes[prefix + "self_attn.o_proj.weight"] = [hidden, hidden]
        shapes[prefix + "mlp.gate_proj.weight"] = [wide, hidden]
        shapes[prefix + "mlp.up_proj.weight"] = [wide, hidden]
        shapes[prefix + "mlp.down_proj.weight"] = [hidden, wide]
        shapes[prefix + "input_layernorm.weight"] = [hidden]
        shapes[prefix + "post_attention_layernorm.weight"] = [hidden]
    chance = random.Random(5)
    header, data = {}, b""
    for name, shape in sorted(shapes.items()):
        elems = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = [bf16(chance.gauss(0.0, 0.1)) for _ in range(elems)]
        blob = struct.pack(f"<{elems}H", *values)
        offsets = [len(data), len(data) + len(blob)]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
        data += blob
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def cases():
    """Name, model, settings, number of packed modules."""
    for bits in (2, 3, 4, 8):
        for symmetric in ("true", "false"):
            for order in ("none", "full"):
                settings = {"bits": bits, "symmetric": symmetric, "act_order": order}
                yield f"{bits} bits, symmetric {symmetric}, order {order}", "small", settings, 28
    aware = {"group_size": -1, "act_order": "group_aware"}
    yield "one group, group aware", "small", aware, 28
    shards = {"group_size": 128, "bits": 3, "output.shard_size": "1MB"}
    yield "a short last group, several files", "small", shards, 28
    yield "with the head", "small", {"lm_head": "true"}, 29
    plain = {"method": "rtn", "lm_head": "true", "bits": 3}
    yield "round to nearest, with the head", "small", plain, 29
    rules = (
        "[{match: '.*down_proj', bits: 8, group_size: 32}, {match: '.*layers.2.*', skip: true},"
        " {match: '.*q_proj', symmetric: false}]"
    )
    yield "rules", "small", {"rules": rules}, 22
    yield "biases and a tied head", "qwen", {"symmetric": "false", "group_size": 32}, 14


def run_quern(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}"
    return done.stdout


def quantize(quern, folder, settings):
    command = [quern, "quantize", "run.yaml"]
    for key, value in settings.items():
        command += ["--set", f"{key if '.' in key else 'quantize.' + key}={value}"]
    run_quern(command, folder)


def check_perplexity(quern, folder, model):
    """Both folders compute the same but for the rounding of the plain one to bfloat16."""
    figures = []
    for name in ("packed", "plain", str(model)):
        command = [quern, "evaluate", "run.yaml", "--folder", name, "--json"]
        figures.append(json.loads(run_quern(command, folder))["perplexity"])
    packed, plain, original = figures
    assert abs(packed / plain - 1) < 5e-3, f"perplexity {packed} packed, {plain} plain"
    assert packed / original < 2, f"perplexity {original} before, {packed} after"


def check_that_damage_is_seen(folder, model):
    """One flipped bit in the packed data must show in the values."""
    path = folder / "packed" / "model.safetensors"
    whole = path.read_bytes()
    for place in (len(whole) - 1, len(whole) * 2 // 3, len(whole) // 3):
        damaged = bytearray(whole)
        damaged[place] ^= 16
        path.write_bytes(damaged)
        try:
            compare_folders(folder / "packed", folder / "plain", model)
        except AssertionError as error:
            assert "SHA-256" not in str(error), f"byte {place} shows in the checksum alone"
            continue
        raise AssertionError(f"byte {place} of {path.name} was changed and nobody saw it")


def check_case(quern, root, case):
    name, model, settings, expected = case
    with tempfile.TemporaryDirectory(prefix="quern-read-") as temporary:
        folder = pathlib.Path(temporary)
        models = {"small": root / "tests/data/llama3m", "qwen": folder / "qwen"}
        if model == "qwen":
            write_qwen(models["qwen"], models["small"])
        method = {"quantize": "method: gptq, bits: 4, group_size: 64", "format": "gptq"}
        (folder / "run.yaml").write_text(RUN_FILE.format(root=root, model=models[model], **method))
        quantize(quern, folder, settings)
        plain = {"output.format": "dequantized", "output.path": "plain"}
        quantize(quern, folder, settings | plain)
        found = compare_folders(folder / "packed", folder / "plain", models[model])
        assert found == expected, f"{found} modules are packed, expected {expected}"
        if "lm_head" in settings:
            check_perplexity(quern, folder, models[model])
        if model == "qwen":
            check_that_damage_is_seen(folder, models[model])
        print(f"{name}: {found} modules equal", flush=True)


def main():
    quern, root = sys.argv[1], pathlib.Path(sys.argv[2])
    failed = 0
    for case in cases():
        try:
            check_case(quern, root, case)
        except AssertionError as error:
            failed += 1
            print(f"{case[0]}: FAILED: {error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
