"""benchmarks/gpu.py says what it is to say, on a small network and the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_line_is_measured(tmp_path: Path) -> None:
    place = tmp_path / "gpu.json"
    words = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--toy", "--json", str(place)]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(place.read_text())
    assert min(found["matrix_tflops"].values()) > 0
    ways = {row["way"] for row in found["gradients"]}
    assert {"robench, float32", "robench, autocast", "robench, bfloat16 copy with folded norms"} <= ways
    assert all(row["images_per_second"] > 0 and row["share"] > 0 for row in found["gradients"])
    assert {"robench, bfloat16 search", "robench, float32"} <= {row["who"] for row in found["pgd"]}
    assert found["verdicts"]["images"] == 16
    assert "| robench, bfloat16 search |" in ran.stdout
