"""Compares hand-made modules in both containers of the SqueezeLLM format, read by
read_squeezellm.py, with their weights, bit for bit.

usage: read_squeezellm_test.py WRITE_SQUEEZELLM
"""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile

from read_squeezellm import compare_folders


def expect_refusal(packed, plain, what):
    try:
        compare_folders(packed, plain)
    except Exception:
        return
    raise AssertionError(f"{what}, and nobody saw it")


def places(path):
    """Bytes in the middle of tensors."""
    if path.suffix == ".pt":
        with zipfile.ZipFile(path) as archive:
            rows = [row for row in archive.infolist() if "/data/" in row.filename]
        whole = path.read_bytes()
        for row in rows:
            begin = row.header_offset + 30 + sum(struct.unpack_from("<HH", whole, row.header_offset + 26))
            yield begin + row.file_size // 2
    else:
        whole = path.read_bytes()
        (length,) = struct.unpack_from("<Q", whole)
        for name, row in json.loads(whole[8 : 8 + length]).items():
            if name != "__metadata__":
                yield 8 + length + sum(row["data_offsets"]) // 2


def check_that_damage_is_seen(folder):
    """A bit flipped in any tensor must show in the values; a .pt has checksums too."""
    for packed in ("torch", "safetensors"):
        (path,) = [*(folder / packed).glob("*.pt"), *(folder / packed).glob("*.safetensors")]
        whole = path.read_bytes()
        for place in places(path):
            damaged = bytearray(whole)
            damaged[place] ^= 16
            path.write_bytes(damaged)
            expect_refusal(folder / packed, folder / "plain", f"byte {place} of {path} was changed")
        path.write_bytes(whole)
        compare_folders(folder / packed, folder / "plain")


def main():
    expected = {"mixed": (4, 3)}
    for bits in (2, 3, 4, 8):
        expected[f"w{bits}"] = (3, 2)
        expected[f"w{bits}-dense"] = (1, 0)
    with tempfile.TemporaryDirectory(prefix="quern-read-") as temporary:
        root = pathlib.Path(temporary)
        subprocess.run([sys.argv[1], temporary], check=True, timeout=60)
        assert {folder.name for folder in root.iterdir()} == set(expected)
        for name, counts in expected.items():
            for packed in ("safetensors",) if name == "mixed" else ("torch", "safetensors"):
                found = compare_folders(root / name / packed, root / name / "plain")
                assert found == counts, f"{name}/{packed}: {found} modules, expected {counts}"
                print(f"{name}/{packed}: {found[0]} modules equal", flush=True)
        check_that_damage_is_seen(root / "w3")
        expect_refusal(root / "w3/torch", root / "w4/plain", "another model's weights")


if __name__ == "__main__":
    main()
