"""Our attacks and adapters beside foolbox, ART and pyautoattack at equal settings, on the same images. Example:

python benchmarks/parity.py standard-mnist --eps 0.1 --data ~/datasets -n 1000

Robust accuracy over all images (correct and not broken), each library called directly and judged by the model itself;
for C&W also the median L2 distance over the images that both broke. `--autoattack` adds AutoAttack and our worst case.
With `--kept FOLDER` the libraries' images are kept by parts of 250, and the same command goes on from there.
The last two columns have the seconds that the attacks took, in this run or an earlier one, and the forward and backward
passes of those under our judge. Our own APGD stands beside the library's under the same judge, at equal settings.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import robench
from robench import ThreatModel, open_dataset
from robench.models import load_model
from robench.norms import NORMS
from robench.store.runs import Store, runs_root

STEPS = 40
CW = {"steps": 200, "search_steps": 5, "lr": 0.05, "initial_c": 0.01}
PART = 250
NATIVE = ("apgd-ce", "apgd-dlr", "apgd-t")
Crafted = Callable[[Tensor, Tensor], Tensor]


class Bench:
    """One model on the first n test images of its data."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.seconds, self.passes = arguments, 0.0, ""
        self.store = Store(runs_root(arguments.runs))
        loaded = load_model(arguments.model, self.store)
        self.module: nn.Module = loaded.module
        split = open_dataset(arguments.dataset or loaded.data.name, arguments.data).test
        self.x, self.y = split.pixels(slice(0, arguments.n)), split.labels[: arguments.n]
        self.classes = int(split.labels.max()) + 1
        self.eps = ThreatModel.of("linf", arguments.eps).radius
        self.identity = f"{loaded.digest} {split.digest}"

    def ours(self, attack: str, norm: str = "linf", eps: str | None = None, **options: Any) -> tuple[float, Any]:
        """Robust accuracy under one of robench's attacks or sets, and the rows of the first of them."""
        report = robench.evaluate(
            self.arguments.model, self.arguments.dataset, [attack], eps or self.arguments.eps, norm, options=options,
            count=self.arguments.n, runs=self.arguments.runs, data=self.arguments.data,
        )  # fmt: skip
        self.seconds += sum(row["seconds"] for row in report.rows)
        self.passes = " + ".join(f"{sum(row[kind] for row in report.rows):,}" for kind in ("forwards", "backwards"))
        rows = self.store.evaluation(report.rows[0]["evaluation"]).rows()
        return report.worst[0]["robust_accuracy"], rows

    @torch.no_grad()
    def standing(self, images: Tensor, norm: str, radius: float) -> Tensor:
        """Which images the model gets right, whose crafted copy inside the ball it gets right too: bool [n]."""
        inside = NORMS[norm].distance(self.x, images) <= radius + 1e-4
        images = torch.where(inside[:, None, None, None], images, self.x)
        right = torch.cat([self.module(part).argmax(1) for part in torch.split(self.x, 250)]) == self.y
        still = torch.cat([self.module(part).argmax(1) for part in torch.split(images.clamp(0, 1), 250)]) == self.y
        return right & still

    def peer(self, who: str, craft: Crafted, norm: str = "linf", radius: float | None = None) -> tuple[float, Tensor]:
        """Robust accuracy under a library called directly, and its images; `who` says what ran, for what is kept."""
        parts = []
        for start in range(0, len(self.x), PART):
            parts.append(self._part(who, craft, slice(start, start + PART)))
            print(f"{who}: {start + len(parts[-1]):,} of {len(self.x):,} images", file=sys.stderr, flush=True)
        images = torch.cat(parts)
        return float(self.standing(images, norm, radius or self.eps).float().mean()), images

    def _part(self, who: str, craft: Crafted, part: slice) -> Tensor:
        x, y, folder = self.x[part], self.y[part], self.arguments.kept
        key = hashlib.sha256(
            f"{self.identity} {who} {STEPS} {CW} {self.eps} {part.start} {len(x)}".encode()
        ).hexdigest()[:16]
        path = folder / f"{key}.pt" if folder else None
        if path is None or not path.exists():
            began = time.monotonic()
            found = {"images": craft(x, y).detach().float(), "seconds": time.monotonic() - began, "who": who}
            if path is None:
                self.seconds += found["seconds"]
                return found["images"]
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(found, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        kept = torch.load(path, weights_only=True)
        self.seconds += kept["seconds"]
        images: Tensor = kept["images"]
        return images


def foolbox_attack(bench: Bench, name: str, radius: float | None, **options: Any) -> Crafted:
    """foolbox's attack of that name; radius None for the nearest example."""
    import foolbox

    model = foolbox.PyTorchModel(bench.module, bounds=(0, 1), device="cpu")
    attack = getattr(foolbox.attacks, name)(**options)
    return lambda x, y: attack(model, x, y, epsilons=radius)[1]


def art_attack(bench: Bench, name: str, **options: Any) -> Crafted:
    """ART's attack of that name."""
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    shape = tuple(bench.x.shape[1:])
    model = PyTorchClassifier(bench.module, nn.CrossEntropyLoss(), shape, bench.classes, clip_values=(0.0, 1.0))
    attack = getattr(evasion, name)(model, eps=bench.eps, batch_size=250, **options)
    return lambda x, y: torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def autoattack(bench: Bench, *parts: str) -> Crafted:
    """pyautoattack's standard version, or some of its attacks."""
    import pyautoattack

    chosen: dict[str, Any] = {"version": "custom", "attacks": list(parts)} if parts else {"version": "standard"}
    attack = pyautoattack.AutoAttack(bench.module, norm="Linf", eps=bench.eps, seed=0, device="cpu", **chosen)
    attack.verbose = False
    return lambda x, y: attack.run_standard_evaluation(x, y, batch_size=len(x))[0]


def lines(bench: Bench) -> Iterator[tuple[str, str, Callable[[], float]]]:
    """Attack, who runs it, and how to get its robust accuracy."""
    step = str(bench.eps / 10)
    fixed = {"abs_stepsize": bench.eps / 10, "steps": STEPS, "random_start": True}
    yield "fgsm", "ours", lambda: bench.ours("fgsm")[0]
    yield "fgsm", "ours, foolbox:LinfFastGradientAttack", lambda: bench.ours("foolbox:LinfFastGradientAttack")[0]
    yield "fgsm", "foolbox", lambda: bench.peer(
        "foolbox fgsm", foolbox_attack(bench, "LinfFastGradientAttack", bench.eps))[0]  # fmt: skip
    yield "fgsm", "ART", lambda: bench.peer("ART fgsm", art_attack(bench, "FastGradientMethod"))[0]
    yield "pgd", "ours", lambda: bench.ours("pgd", steps=STEPS, step=step)[0]
    yield (
        "pgd",
        "ours, foolbox:LinfPGD",
        lambda: bench.ours("foolbox:LinfPGD", steps=STEPS, abs_stepsize=bench.eps / 10)[0],
    )
    yield "pgd", "ours, art:ProjectedGradientDescent", lambda: bench.ours(
        "art:ProjectedGradientDescent", max_iter=STEPS, eps_step=bench.eps / 10, num_random_init=1)[0]  # fmt: skip
    yield "pgd", "foolbox", lambda: bench.peer(
        "foolbox pgd", foolbox_attack(bench, "LinfPGD", bench.eps, **fixed))[0]  # fmt: skip
    yield "pgd", "ART", lambda: bench.peer(
        "ART pgd",
        art_attack(bench, "ProjectedGradientDescent", eps_step=bench.eps / 10, max_iter=STEPS, num_random_init=1,
                   verbose=False))[0]  # fmt: skip
    yield from native(bench)
    # as many restarts as the library's part alone has
    yield "apgd-ce x 5", "ours", lambda: bench.ours("apgd-ce", restarts=5)[0]
    yield "apgd-ce x 5", "pyautoattack", lambda: bench.peer("pyautoattack apgd-ce", autoattack(bench, "apgd-ce"))[0]
    if bench.arguments.autoattack:
        yield "worst case", "pyautoattack standard", lambda: bench.peer("pyautoattack standard", autoattack(bench))[0]
        yield "worst case", "ours, standard", lambda: bench.ours("standard")[0]


def native(bench: Bench) -> Iterator[tuple[str, str, Callable[[], float]]]:
    """Our own APGD beside the library's, both under our judge, in linf and, at the radius of --l2, in L2."""
    for norm, eps in (("linf", None), ("l2", bench.arguments.l2)):
        for name in NATIVE:
            for who in (name, f"library:{name}"):
                yield (
                    f"{name} {norm}",
                    f"ours, {who}",
                    lambda who=who, norm=norm, eps=eps: bench.ours(who, norm, eps)[0],
                )


def carlini_wagner(bench: Bench, radius: str) -> Iterator[tuple[str, str, float, float]]:
    """C&W: robust accuracy at an L2 radius, and the median distance over the images both broke."""
    ours, rows = bench.ours("cw", "l2", radius, **CW)
    options = {"steps": CW["steps"], "binary_search_steps": CW["search_steps"], "stepsize": CW["lr"],
               "initial_const": CW["initial_c"], "confidence": 0.0}  # fmt: skip
    craft = foolbox_attack(bench, "L2CarliniWagnerAttack", None, **options)
    theirs, images = bench.peer("foolbox cw", craft, "l2", float(radius))
    distance = NORMS["l2"].distance(bench.x, images).numpy()
    both = rows["success"].to_numpy() & ~bench.standing(images, "l2", float(radius)).numpy()
    yield "cw", "ours", ours, float(np.median(rows["l2"].to_numpy()[both]))
    yield "cw", "foolbox", theirs, float(np.median(distance[both]))


def main() -> None:
    """Parse, run every line, print it as it comes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--dataset")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--eps", default="0.1")
    parser.add_argument("--l2", default="3", help="L2 radius for C&W and APGD")
    parser.add_argument("--autoattack", action="store_true")
    parser.add_argument("--only", help="only the lines of these attacks, with commas between")
    parser.add_argument("--out", type=Path, help="a csv file that the lines are added to")
    parser.add_argument("--kept", type=Path, help="a folder for the images of libraries called directly")
    arguments = parser.parse_args()
    bench, wanted = Bench(arguments), (arguments.only or "").split(",")
    found: list[tuple[str, ...]] = []
    for attack, who, run in lines(bench):
        if wanted in ([""], []) or attack in wanted:
            bench.seconds, bench.passes = 0.0, ""
            found.append((arguments.model, attack, who, f"{100 * run():.1f}", "", f"{bench.seconds:.0f}", bench.passes))
            print(" | ".join(found[-1]), flush=True)
    if wanted in ([""], []) or "cw" in wanted:
        for attack, who, value, median in carlini_wagner(bench, arguments.l2):
            found.append((arguments.model, attack, who, f"{100 * value:.1f}", f"{median:.4f}", "", ""))
            print(" | ".join(found[-1]), flush=True)
    if arguments.out:
        with arguments.out.open("a", newline="") as handle:
            csv.writer(handle, lineterminator="\n").writerows(found)


if __name__ == "__main__":
    main()
