"""Two figures of benchmarks/versus.py that are no comparison with a peer: the loop's own cost, and memory."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import attack_loop
import numpy as np
from speed_table import Row

# networks, and images per batch
LOOPS = {"cnn": 250, "resnet-20": 100}
# restarts and classes; images, of which this many are attacked to the end, since the others are wrong from the start
CASES, IMAGES, ATTACKED = ((1, 10), (20, 10), (1, 100), (20, 100)), 10_000, 250
MODEL = """
import torch
from torch import nn
from robench import DataInfo, build_backbone


def load():
    torch.manual_seed(0)
    data = DataInfo("images", 3, 32, 32, {classes}, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "cifar10")
    backbone = build_backbone("resnet-20", data)
    return nn.Sequential(backbone, nn.Linear(backbone.width, {classes})).eval()
"""


def overhead(arguments: argparse.Namespace) -> Row:
    """What robench's loop takes beside forward and backward passes alone, pair by pair in this process."""
    found = [attack_loop.measure(name, batch, 100, arguments.repeats, "cpu") for name, batch in LOOPS.items()]
    lines = [
        [row["model"], row["batch"], row["bare_us_per_gradient"], row["loop_us_per_gradient"],
         f"{row['ratio_min']:.3f} / {row['ratio_median']:.3f} / {row['ratio_max']:.3f}"]
        for row in found
    ]  # fmt: skip
    worst = max(float(str(row["ratio_median"])) for row in found)
    return {
        "group": "overhead", "model": "random weights",
        "about": "100 steps of `untargeted` on images that are never broken, beside forward and backward passes alone; "
                 f"CPU time per gradient and image. Goal: at most 1.03 by the median: "
                 f"{'met' if worst <= 1.03 else 'missed'}.",
        "heads": ["network", "batch", "passes alone, us", "loop, us", "ratio: least / median / most"],
        "lines": lines, "command": f"python benchmarks/versus.py --only overhead --repeats {arguments.repeats}",
    }  # fmt: skip


def memory(arguments: argparse.Namespace) -> Row:
    """The most memory that an evaluation of many images takes, in a process of its own each."""
    del arguments
    with tempfile.TemporaryDirectory() as folder:
        lines = [[restarts, classes, f"{peak(Path(folder), restarts, classes):.2f}"] for restarts, classes in CASES]
    most = max(float(line[2]) for line in lines)
    return {
        "group": "memory", "model": "ResNet-20, random weights",
        "about": f"`robench evaluate` with PGD of 2 steps on {IMAGES:,} images of 3 x 32 x 32, of which {ATTACKED} "
                 f"stand to the end and the others are wrong at once. Goal: below 2 GiB, whatever the restarts and "
                 f"classes: {'met' if most < 2 else 'missed'}.",
        "heads": ["restarts", "classes", "most memory, GiB"], "lines": lines,
        "command": "python benchmarks/versus.py --only memory",
    }  # fmt: skip


def peak(folder: Path, restarts: int, classes: int) -> float:
    """GiB that one evaluation took at most: of its process or of the one that judges again, whichever took more."""
    place, model = folder / f"images-{classes}.npz", folder / f"net_{classes}.py"
    if not place.exists():
        noise = np.random.default_rng(0)
        x = noise.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
        model.write_text(MODEL.format(classes=classes))
        y = _labels(folder, model.name, x, classes)
        np.savez(place, x_test=x, y_test=y, x_train=x[: 2 * classes], y_train=np.arange(2 * classes) % classes)
    words = [sys.executable, "-m", "robench", "evaluate", f"{model.name}:load", "--dataset", f"npz:{place.name}"]
    words += ["-a", "pgd", "--steps", "2", "--restarts", str(restarts), "--eps", "1e-6", "--runs", f"runs-{classes}"]
    code = (
        "import resource, subprocess, sys; "
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
        "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True, check=True)
    status, most = map(int, ran.stdout.split()[-2:])
    if status:
        raise RuntimeError(ran.stderr)
    return most / 2**20  # of KiB


def _labels(folder: Path, model: str, x: np.ndarray, classes: int) -> np.ndarray:
    """The model's answers to the first images, and wrong ones for the rest."""
    code = (
        "import sys, runpy, numpy as np, torch; net = runpy.run_path(sys.argv[1])['load'](); "
        "x = torch.from_numpy(np.load('x.npy')).permute(0, 3, 1, 2).float() / 255\n"
        "with torch.no_grad(): np.save('y.npy', torch.cat([net(p).argmax(1) for p in x.split(250)]).numpy())"
    )
    np.save(folder / "x.npy", x)
    subprocess.run([sys.executable, "-c", code, model], cwd=folder, check=True)
    found: np.ndarray = np.load(folder / "y.npy")
    found[ATTACKED:] = (found[ATTACKED:] + 1) % classes
    return found
