"""Runs of quern that the tests of the packed formats have in common."""

import json
import pathlib
import subprocess
import sys

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


def run_cases(cases, check_case):
    """For a test started with QUERN and REPOSITORY: check_case(quern, repository, case) of each case,
    whose first field is its name; a failed one does not stop the others."""
    quern, root = sys.argv[1], pathlib.Path(sys.argv[2])
    failed = 0
    for case in cases:
        try:
            check_case(quern, root, case)
        except AssertionError as error:
            failed += 1
            print(f"{case[0]}: FAILED: {error}", flush=True)
    sys.exit(1 if failed else 0)
