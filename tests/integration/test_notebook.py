"""The notebook of the documentation runs as it stands, and shows a table, rows and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(bool(line.strip()) for cell in code for line in cell.source.splitlines()) < 20
    assert not any(cell.outputs for cell in code)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.data for cell in code for output in cell.outputs if "data" in output]
    table, frame, rows = (each["text/html"] for each in shown[:3])
    assert table.count("<table>") == 2
    assert all(word in table for word in (">mine<", ">worst case<", "linf eps 0.02", "linf eps 0.05", "n = 100"))
    assert "robust_accuracy" in frame
    assert "adv_pred" in rows
    assert any("image/png" in each for each in shown)
    assert (tmp_path / "runs" / "evaluations").is_dir()
