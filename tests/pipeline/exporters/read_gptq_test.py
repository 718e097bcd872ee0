"""Quantizes the small model in many ways and compares the packed folder, read by read_gptq.py, with
the dequantized folder of the same run, bit for bit.

usage: read_gptq_test.py QUERN REPOSITORY
"""

import os
import pathlib
import subprocess
import sys
import tempfile

from read_gptq import compare_folders

RUN_FILE = """
model: {{path: {root}/tests/data/llama3m}}
calibration:
  source: {root}/tests/data/calibration.txt
  samples: 4
  sequence_length: 64
  micro_batch: 2
quantize: {{method: gptq, bits: 4, group_size: 64}}
output: {{path: packed, format: gptq}}
run: {{directory: run, log_level: error, device: cpu, threads: 2}}
"""


def cases():
    for bits in (2, 3, 4, 8):
        for symmetric in ("true", "false"):
            for order in ("none", "full"):
                settings = {"bits": bits, "symmetric": symmetric, "act_order": order}
                yield f"{bits} bits, symmetric {symmetric}, act_order {order}", settings, 28
    yield "one group, group aware", {"group_size": -1, "act_order": "group_aware"}, 28
    yield "a short last group", {"group_size": 128, "bits": 3}, 28
    yield "with the head", {"lm_head": "true"}, 29
    yield "round to nearest with the head", {"method": "rtn", "lm_head": "true", "bits": 3}, 29
    rules = (
        "[{match: '.*down_proj', bits: 8, group_size: 32}, {match: '.*layers.2.*', skip: true},"
        " {match: '.*q_proj', symmetric: false}]"
    )
    yield "rules", {"rules": rules}, 22


def quantize(quern, run_file, folder, settings):
    command = [quern, "quantize", str(run_file)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}"


def main():
    quern, root = sys.argv[1:]
    failed = 0
    for name, settings, expected in cases():
        with tempfile.TemporaryDirectory(prefix="quern-read-") as folder:
            run_file = pathlib.Path(folder) / "run.yaml"
            run_file.write_text(RUN_FILE.format(root=root))
            sets = {f"quantize.{key}": value for key, value in settings.items()}
            try:
                quantize(quern, run_file, folder, sets)
                plain = {"output.format": "dequantized", "output.path": "plain"}
                quantize(quern, run_file, folder, sets | plain)
                model = os.path.join(root, "tests/data/llama3m")
                found = compare_folders(
                    os.path.join(folder, "packed"), os.path.join(folder, "plain"), model
                )
                assert found == expected, f"{found} modules are packed, expected {expected}"
                print(f"{name}: {found} modules equal", flush=True)
            except AssertionError as error:
                failed += 1
                print(f"{name}: FAILED: {error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
