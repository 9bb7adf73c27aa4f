"""`make audit`: what is known fails, and silence of the service is told from a clean bill.

pip-audit itself runs; the answers of PyPI are made here.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("pip_audit", reason="pip-audit is not installed: `make setup`")

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit.py"

#: Stands for PyPI in the process of pip-audit. `ANSWER` is what the test puts there.
PYPI = """\
import json, requests

def get(self, url, **options):
    name = url.split("/")[-3]
    response = requests.Response()
    response.url, response.status_code = url, 200
    content = {"vulnerabilities": []}
    ANSWER
    response._content = json.dumps(content).encode()
    return response

requests.Session.get = get
"""

ADVISORY = (
    '{"id": "PYSEC-0-1", "aliases": ["CVE-0-1"], "fixed_in": ["9999.1"], "summary": "x", "details": "x"}'
)

# what PyPI answers -> exit code, words that must be printed, words that must not
ANSWERS = {
    "nothing known": ("pass", 0, "packages audited, 0 findings", "reached"),
    "one is vulnerable": (
        f'if name == "pyyaml": content["vulnerabilities"] = [{ADVISORY}]',
        1, "PYSEC-0-1, mended in 9999.1", "reached",
    ),
    "one is not found": (
        'if name == "pyyaml": response.status_code = 404', 1, "not audited: pyyaml", "reached",
    ),
    "none is found": ("response.status_code = 404", 0, "advisories could not be reached", "findings"),
    "no connection": ("raise requests.ConnectionError('x')", 0, "advisories could not be reached", "0 f"),
    "no answer": ("raise requests.ConnectTimeout('x')", 0, "advisories could not be reached", "0 f"),
    "out of order": ("response.status_code = 503", 0, "advisories could not be reached", "findings"),
    "an answer that is none": ('content = {"vulnerabilities": [3]}', 1, "pip-audit failed", "reached"),
}  # fmt: skip


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module("audit")


def answer_by(statement: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyPI answers the processes that are started from here on by `statement`."""
    (folder / "sitecustomize.py").write_text(PYPI.replace("ANSWER", statement))
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_audit_fails_for_findings_and_not_for_silence(
    answer: str, audit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement, code, words, not_words = ANSWERS[answer]
    answer_by(statement, tmp_path, monkeypatch)
    found, lines = audit.verdict(*audit.pip_audit({"pyyaml": "6.0.3", "rich": "15.0.0"}))
    assert found == code, lines
    assert words in "\n".join(lines)
    assert not_words not in "\n".join(lines)


def test_the_command_fails_where_a_pin_of_the_project_is_vulnerable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_by(ANSWERS["one is vulnerable"][0], tmp_path, monkeypatch)
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "pyyaml 6" in done.stdout
    assert "PYSEC-0-1" in done.stdout


def test_every_pin_and_what_it_needs_is_audited(audit: ModuleType) -> None:
    pinned = audit.pins("Torch==2.0.0  # with a remark\n# a comment\n\ntypes-PyYAML==6.0\n")
    assert pinned["torch"] == "2.0.0"  # as pinned, whatever is installed
    assert pinned["types-pyyaml"] == "6.0"
    assert "pydantic-core" in pinned  # which nobody pins: pydantic needs it
    assert "fdfa-cli" not in pinned
    assert not any("+" in version for version in pinned.values())  # torch's +cpu is unknown to PyPI
