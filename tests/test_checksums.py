"""A refactoring changes no digit: trainings of every rule come to the checksums stored before it.

`checksums.json` holds, for each processor and torch on which it was written, a hash of what each of some
hundred short trainings ends with: every rule on a perceptron, a convolutional and a residual network, in
fp32 and bf16 alone and in fp32 as a stack of two seeds. Where no checksums were written on a processor and
torch like this one, the test is skipped: digits are the hardware's there.

Written anew, from the commit before a refactoring or after a change that is meant to change digits, by::

    python tests/test_checksums.py --write
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import torch.utils._pytree as pytree
import yaml

from fdfa_cli.cli import run
from fdfa_cli.rules.base import RULES

FILE = Path(__file__).with_name("checksums.json")

#: Options of the three networks on 8×8 digits, small enough that 300 trainings take a minute or two.
NETWORKS = {
    "mlp": {"name": "mlp", "hidden": [32, 16], "dropout": 0.1},
    "cnn": {"name": "cnn", "channels": [8, 16], "kernels": [3], "pools": [2, 1], "hidden": [16]},
    "resnet": {"name": "resnet", "depth": 8, "width": 4},
}


def machine() -> str:
    """What decides the digits: the processor, the instructions torch uses of it, and torch itself."""
    try:
        described = Path("/proc/cpuinfo").read_text()
    except OSError:
        described = ""
    facts = [re.search(rf"(?m)^{key}\s*: (.*)$", described) for key in ("vendor_id", "cpu family", "model")]
    processor = " ".join(fact[1] for fact in facts if fact) or "unknown processor"
    return f"{processor}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def checksums(network: str, folder: Path) -> dict[str, str]:
    """A hash of each training on `network`, by ``network/rule/precision/alone|stacked/seed``."""
    found = {}
    for engine, precisions in (("serial", ["fp32", "bf16"]), ("batched", ["fp32"])):
        file = folder / f"{network}-{engine}.yaml"
        sweep = {
            "seeds": 2 if engine == "batched" else 1,
            "parameters": {
                "rule": {"values": list(RULES)},
                "training.precision": {"values": precisions},
            },
        }
        recipe = {
            "data": {"name": "digits", "limit": 96},
            "network": NETWORKS[network],
            "rule": "bp",
            "training": {"epochs": 2, "batch_size": 20, "threads": 1},
            "sweep": sweep,
        }
        file.write_text(yaml.safe_dump(recipe))
        results = folder / file.stem
        code = run(["sweep", str(file), "--engine", engine, "--results", str(results), "--quiet"])
        assert code in (0, 1), "a training may diverge, nothing else may happen"
        kind = "stacked" if engine == "batched" else "alone"
        for path in sorted(results.rglob("checkpoint.pt")):
            training = yaml.safe_load((path.parent / "recipe.yaml").read_text())
            name = (network, training["rule"]["name"], training["training"]["precision"], kind)
            found["/".join((*name, str(training["training"]["seed"])))] = digest(path)
    return found


def digest(checkpoint: Path) -> str:
    """A hash of all floating-point tensors of a checkpoint, whatever their names and order are."""
    leaves = pytree.tree_leaves(torch.load(checkpoint, weights_only=True))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    hashes = sorted(map(_hash, tensors))
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def _hash(tensor: torch.Tensor) -> str:
    content = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode() + content).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_trainings_come_to_the_stored_digits(network, tmp_path, capsys):
    stored = json.loads(FILE.read_text()).get(machine())
    if stored is None:
        pytest.skip(f"no checksums were written on {machine()}")
    expected = {name: value for name, value in stored.items() if name.startswith(f"{network}/")}
    actual = checksums(network, tmp_path)
    assert {name: value for name, value in actual.items() if name in expected} == expected


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    written: dict[str, str] = {}
    for each in NETWORKS:
        with tempfile.TemporaryDirectory() as place:
            written |= checksums(each, Path(place))
    known[machine()] = written
    FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    print(f"{len(written)} checksums on {machine()}", file=sys.stderr)
