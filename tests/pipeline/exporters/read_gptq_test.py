"""Quantizes small models in many ways and compares the packed folder, read by read_gptq.py, with
the dequantized folder of the same run, bit for bit.

usage: read_gptq_test.py QUERN REPOSITORY
"""

import json
import pathlib
import random
import shutil
import struct
import tempfile

from quern_runs import RUN_FILE, check_perplexity, quantize, run_cases
from read_gptq import bf16, compare_folders


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


if __name__ == "__main__":
    run_cases(cases(), check_case)
