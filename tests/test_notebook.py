"""The notebook in docs/ runs, and what it shows is what it says."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "python.ipynb"


@pytest.fixture(scope="module")
def executed() -> list[nbformat.NotebookNode]:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # stored without: digits are a machine's
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: nbformat.NotebookNode) -> str:
    return "".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs
    )


def test_every_cell_runs_and_shows_something(executed):
    assert all(cell.outputs for cell in executed)


def test_a_training_is_shown_by_a_bar_and_a_line_for_each_epoch(executed):
    assert shown(executed[0]).count("epoch ") >= 5
    assert "stderr" not in {output.get("name") for output in executed[0].outputs}  # which notebooks make red


def test_the_frame_has_the_runs_of_all_that_trained_three_epochs(executed):
    frame = next(shown(cell) for cell in executed if "to_pandas" in cell.source)
    assert frame.count("fdfa") == 3
    assert frame.count("bp") >= 3
