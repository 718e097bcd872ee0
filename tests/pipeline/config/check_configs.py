"""Validates the example run files, and mistaken ones, against run.schema.json."""

import copy
import json
import pathlib
import sys

try:
    import jsonschema
    import yaml
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

MISTAKES = [
    ("quantize", "bits", 9),
    ("quantize", "bits", "4"),
    ("quantize", "group_size", 100),
    ("quantize", "group_size", 0),
    ("quantize", "damping", 0),
    ("quantize", "method", "awq"),
    ("quantize", "sparsity", 0.6),
    ("quantize", "sparsity", {"total": 0.1}),
    ("quantize", "sparsity", [0.1]),
    ("quantize", "target_bits", 1.5),
    ("quantize", "symmetric", "yes"),
    ("quantize", "bist", 4),
    ("quantize", "rules", [{"bits": 4}]),
    ("quantize", "rules", [{"match": "a", "bit": 4}]),
    ("output", "shard_size", "5gb"),
    ("output", "shard_size", 12),
    ("run", "watchdog", "5 minutes"),
    ("run", "directory", None),
    ("calibration", "source", {}),
    ("sweep", "bits", [9]),
    ("sweep", "damping", [0.1]),
    ("sweep", "points", [{"bit": 3}]),
]
ACCEPTED = [
    ("quantize", "group_size", -1),
    ("quantize", "damping", 1),
    ("output", "shard_size", "500MB"),
    ("output", "shard_size", 123456),
    ("run", "watchdog", "5min"),
    ("calibration", "source", ["a", "b"]),
    ("evaluate", "source", []),
    ("quantize", "sparsity", 0),
    ("quantize", "sparsity", {"sensitive": 0.01, "rule": "joint", "budget": "model"}),
    ("quantize", "target_bits", 2),
    ("sweep", "bits", [3]),
    ("sweep", "bits", 3),
    ("sweep", "sparsity", [0, 0.0045, {"magnitude": 0.1}]),
    ("sweep", "points", [{"method": "rtn", "bits": 3}]),
]


def changed(run, section, key, value):
    result = copy.deepcopy(run)
    result.setdefault(section, {"source": "e"} if section == "evaluate" else {})[key] = value
    return result


def main(folder):
    schema = json.loads((folder / "run.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    failures = []
    for path in sorted(folder.glob("*.yaml")):
        for error in validator.iter_errors(yaml.safe_load(path.read_text())):
            failures.append(f"{path.name}: {error.json_path}: {error.message}")
    run = yaml.safe_load((folder / "gptq-w4.yaml").read_text())
    failures += [f"refused: {c}" for c in ACCEPTED if not validator.is_valid(changed(run, *c))]
    failures += [f"accepted: {c}" for c in MISTAKES if validator.is_valid(changed(run, *c))]
    for section in ("model", "calibration", "output", "run"):
        if validator.is_valid({k: v for k, v in run.items() if k != section}):
            failures.append(f"accepted without {section}")
    print("\n".join(failures) or "all run files fit the schema")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
