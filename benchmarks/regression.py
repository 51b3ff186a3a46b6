"""How often `robench check` is right: an unchanged model must pass, one that fell by five points must fail. Example:

python benchmarks/regression.py standard-mnist --data ~/datasets --eps 0.05

Every check evaluates anew, in a runs folder of its own. The models that fell are the trained one with noise on its
weights, a seed each, as much of it as takes the wanted share of robust accuracy away, measured with the same attack.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import torch
from scipy.stats import binomtest
from torch import nn

import robench
from robench.models import load_model
from robench.regression.baseline import Baseline, make, read, write
from robench.regression.check import Rerun, check
from robench.regression.report import Checked
from robench.regression.verdict import Line
from robench.results.statistics import mcnemar
from robench.store.runs import Store, runs_root

HEADERS = ("models", "checks", "exit 0", "exit 1", "drop in points", "fell", "rose", "p", "seconds a check")
# how far from the wanted drop a model's may be, as a fraction of it
NEAR = 0.1


@dataclass
class Bench:
    """The trained model, how it is attacked, and its baseline."""

    module: nn.Module
    dataset: str
    data: Path | None
    attack: str
    steps: int
    eps: str
    n: int
    baseline: Baseline = field(init=False)

    def __post_init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            options = {"steps": self.steps} if self.steps else {}
            report = robench.evaluate(
                self.module, self.dataset, [self.attack], self.eps, count=self.n, options=options, runs=folder,
                data=self.data,
            )  # fmt: skip
            names = [row["evaluation"] for row in report.rows]
            write(make(names, Store(Path(folder))), Path(folder) / "baseline.json")
            self.baseline = read(Path(folder) / "baseline.json")

    def check(self, module: nn.Module, batch_size: int = 250) -> Checked:
        """A check of a module in a fresh folder."""
        (name,) = self.baseline.models
        with tempfile.TemporaryDirectory() as folder:
            rerun = Rerun({name: module}, batch_size=batch_size, shard_size=self.n, data_root=self.data)
            return check(self.baseline, Store(Path(folder)), rerun)

    def fallen(self, drop: float, models: int) -> Iterator[Checked]:
        """Checks of models whose robust accuracy fell by about `drop`, a fraction; each a seed of noise."""
        scale, made, seed = 0.1, 0, 0  # the next model's search starts where the last one's ended
        while made < models:
            low, high, seed = 0.0, math.inf, seed + 1
            for _ in range(8):
                checked = self.check(shaken(self.module, scale, seed))
                found = -robust(checked).change
                if abs(found - drop) <= NEAR * drop:
                    made += 1
                    yield checked
                    break
                low, high = (scale, high) if found < drop else (low, scale)
                scale = 1.3 * scale if high == math.inf else (low + high) / 2


def robust(checked: Checked) -> Line:
    """The line of the attack."""
    return checked.lines[-1]


def shaken(module: nn.Module, scale: float, seed: int) -> nn.Module:
    """A copy with Gaussian noise on its weights, `scale` times their own standard deviation."""
    noise, found = torch.Generator().manual_seed(seed), copy.deepcopy(module)
    with torch.no_grad():
        for weights in found.parameters():
            if weights.dim() > 1:
                weights += scale * weights.std() * torch.randn(weights.shape, generator=noise)
    return found


def counted(fell: int, rose: int) -> float:
    """McNemar's exact p by counting in whole numbers, without scipy."""
    n = fell + rose
    tail = Fraction(sum(math.comb(n, k) for k in range(min(fell, rose) + 1)), 2**n)
    return float(min(Fraction(1), 2 * tail))


def span(values: Sequence[float], form: str) -> str:
    """Least, median and largest."""
    ordered = sorted(values)
    picked = dict.fromkeys(form.format(v) for v in (ordered[0], ordered[len(ordered) // 2], ordered[-1]))
    return " / ".join(picked)


def row(name: str, checks: Sequence[Checked]) -> str:
    """A line of the table."""
    lines = [robust(each) for each in checks]
    codes = [each.exit_code for each in checks]
    cells = [
        name, str(len(checks)), str(codes.count(0)), str(codes.count(1)),
        span([100 * (line.fell - line.rose) / line.n for line in lines], "{:.1f}"),
        span([line.fell for line in lines], "{:.0f}"),
        span([line.rose for line in lines], "{:.0f}"), span([line.p for line in lines], "{:.2g}"),
        span([line.seconds for line in lines], "{:.1f}"),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table: least / median / largest of each figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--attack", default="pgd")
    parser.add_argument("--steps", type=int, default=20, help="0 for an attack without steps")
    parser.add_argument("--eps", default="0.05")
    parser.add_argument("--checks", type=int, default=50)
    o = parser.parse_args()
    module = load_model(o.model, Store(runs_root(o.runs))).module
    bench = Bench(module, o.dataset, o.data, o.attack, o.steps, o.eps, o.n)
    (kept,) = bench.baseline.kept
    figures = f"clean {100 * kept.clean_accuracy:.1f}%, robust {100 * kept.figure:.1f}%"
    print(f"{o.model}: {kept.label}, n = {o.n:,}; {figures}.")
    print("Least / median / largest of each figure.\n")
    print(f"| {' | '.join(HEADERS)} |\n|{'---|' * len(HEADERS)}", flush=True)
    sizes = [16 + 20 * i for i in range(o.checks)]
    print(row("unchanged, batches of 16 to 1,000", [bench.check(module, size) for size in sizes]), flush=True)
    print(row("fell by 5 points", list(bench.fallen(0.05, o.checks))), flush=True)
    slight = list(bench.fallen(0.01, max(1, o.checks // 5)))
    print(row("fell by 1 point", slight), flush=True)
    lines = [line for each in slight for line in each.lines]
    print("\nclean or robust line, fell, rose: p printed, scipy's, counted")
    for line in lines:
        scipy = binomtest(line.fell, line.fell + line.rose).pvalue if line.fell + line.rose else 1.0
        print(
            f"{line.attack}, {line.fell}, {line.rose}: {line.p!r}, {float(scipy)!r}, {counted(line.fell, line.rose)!r}"
        )
    pairs = [(line.fell, line.rose) for line in lines] + [(a, b) for a in range(100) for b in range(100)]
    worst = max(abs(mcnemar(*pair) / counted(*pair) - 1) for pair in pairs)
    print(f"\n{len(pairs):,} pairs of counts: p differs from the counted one by a factor of 1 +- {worst:.1g} at most.")


if __name__ == "__main__":
    main()
