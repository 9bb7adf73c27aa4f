"""`make audit`: known vulnerabilities of what this project is installed with, as pip-audit finds them.

Audited are the pins of constraints.txt and whatever else is installed beside them (what they need in turn).

Exit 0: none is known; 1: some are, or a part could not be audited. Where no advisory could be read at all,
as behind a proxy that serves packages alone, it says so and exits 0: nothing was found, nothing was sought.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
OURS = "fdfa-cli"
#: How pip-audit, or the library under it, says that it got no answer.
NO_ANSWER = re.compile(r"ConnectionError|ConnectTimeout|ReadTimeout|Could not connect|ServiceError")


def pins(constraints: str) -> dict[str, str]:
    """Versions by name: of all that is installed, and over that of `constraints`."""
    installed = {normal(d.metadata["Name"]): d.version.partition("+")[0] for d in distributions()}
    installed.pop(OURS, None)
    lines = (line.partition("#")[0].strip() for line in constraints.splitlines())
    pinned = (line.partition("==") for line in lines if line)
    return installed | {normal(name): version for name, _, version in pinned}


def normal(name: str) -> str:
    """A distribution's name as registries compare it."""
    return re.sub("[-_.]+", "-", name).lower()


def pip_audit(pinned: dict[str, str]) -> tuple[str, str]:
    """What pip-audit writes to stdout (JSON) and stderr about `pinned`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pins.txt"
        file.write_text("".join(f"{name}=={version}\n" for name, version in sorted(pinned.items())))
        command = [sys.executable, "-m", "pip_audit", "-r", str(file), "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout, done.stderr


def verdict(out: str, err: str) -> tuple[int, list[str]]:
    """The exit code, and the lines to print, for what pip-audit wrote."""
    if not out.strip():
        if NO_ANSWER.search(err):
            return 0, ["advisories could not be reached, so nothing is audited:", *err.splitlines()[-1:]]
        return 1, ["pip-audit failed:", err]
    known: list[dict[str, Any]] = json.loads(out)["dependencies"]
    left_out = [entry for entry in known if "skip_reason" in entry]
    if len(left_out) == len(known):
        return 0, ["advisories could not be reached, so nothing is audited:", left_out[0]["skip_reason"]]
    lines = [f"not audited: {entry['name']}: {entry['skip_reason']}" for entry in left_out]
    for entry in known:
        for found in entry.get("vulns", ()):
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            lines.append(f"{entry['name']} {entry['version']}: {found['id']}, mended in {fixed}")
    count = len(known) - len(left_out)
    return (1 if lines else 0), [*lines, f"{count} packages audited, {len(lines)} findings"]


def main() -> int:
    """Audit, print, and return the exit code."""
    code, lines = verdict(*pip_audit(pins(CONSTRAINTS.read_text(encoding="utf-8"))))
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
