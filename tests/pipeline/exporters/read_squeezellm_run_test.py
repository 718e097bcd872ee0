"""Quantizes the small model into tables in many ways and compares the packed folder, read by
read_squeezellm.py, with the dequantized folder of the same run, bit for bit.

usage: read_squeezellm_run_test.py QUERN REPOSITORY
"""

import pathlib
import tempfile

from quern_runs import RUN_FILE, check_perplexity, quantize, run_cases
from read_squeezellm import compare_folders

MODULES = 28
TORCH, SAFETENSORS = "squeezellm", "squeezellm_safetensors"


def cases():
    """Name, formats, settings, how many modules have outliers."""
    for bits in (2, 3, 4):
        both = (TORCH, SAFETENSORS) if bits == 3 else (TORCH,)
        yield f"{bits} bits", (TORCH,), {"bits": bits}, 0
        yield f"{bits} bits and outliers", both, {"bits": bits, "sparsity": 0.0045}, MODULES
    lnq = {"bits": 2, "codebook_search": "lnq", "output.shard_size": "1MB"}
    lnq |= {"sparsity": "{sensitive: 0.0045, rule: joint}"}
    yield "refined against H, several files", (SAFETENSORS,), lnq, MODULES
    half = {"bits": 4, "codebook_type": "float16"}
    yield "tables of half precision", (SAFETENSORS,), half, 0
    rules = {"bits": 3, "rules": "[{match: '.*layers.2.*', skip: true}]"}
    yield "rules", (TORCH,), rules, 0
    yield "bits by a target", (SAFETENSORS,), {"target_bits": 4.7}, 0


def check_case(quern, root, case):
    name, formats, settings, sparse = case
    model = root / "tests/data/llama3m"
    expected = (MODULES if name != "rules" else 21, sparse)
    with tempfile.TemporaryDirectory(prefix="quern-read-") as temporary:
        folder = pathlib.Path(temporary)
        method = {"quantize": "method: squeezellm", "format": "dequantized"}
        (folder / "run.yaml").write_text(RUN_FILE.format(root=root, model=model, **method))
        quantize(quern, folder, settings | {"output.path": "plain"})
        for kind in formats:
            packed = {"output.format": kind, "output.path": kind}
            quantize(quern, folder, settings | packed)
            found = compare_folders(folder / kind, folder / "plain")
            assert found == expected, f"{kind}: modules and sparse ones {found}, not {expected}"
        if settings.get("bits") == 4:
            (folder / formats[0]).rename(folder / "packed")
            check_perplexity(quern, folder, model)
        print(f"{name}: {found[0]} modules equal in {' and '.join(formats)}", flush=True)


if __name__ == "__main__":
    run_cases(cases(), check_case)
