"""What of a GPU's rate reaches an attack: input gradients of WRN-28-10 at CIFAR-10's size, and PGD beside its peers.

python benchmarks/gpu.py                      # random weights: about 90 seconds of an H100 or H200
python benchmarks/gpu.py --model NAME --runs runs --data ~/datasets     # a trained model: also verdicts by precision
python benchmarks/gpu.py --device cpu --toy   # the same lines on a small network, to try the script

A FLOP is an addition or a multiplication of a convolution or a matrix product, counted from the layers; the backward
pass to the input alone takes as many as the forward pass, so an input gradient counts as two forward passes.
"float32" is robench's: TensorFloat-32 off. Peers run as they are shipped, which is with torch's defaults: convolutions
in TensorFloat-32, and in float32 proper once more.
With random weights eps is 1e-7, so that no image is broken and everybody computes 40 gradients for each. A trained
model is attacked at eps 8/255, where robench leaves out images that are broken; the others go on.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from gpu_table import Row, table
from torch import Tensor, nn

from robench import DataInfo, ThreatModel, build_backbone, open_dataset, registry
from robench.attack.base import Batch
from robench.attack.classifier import Classifier, Rough
from robench.attack.judge import Examples, Settings, attack_shard
from robench.attack.objectives import cross_entropy
from robench.attack.rough import LOOKED, copied, rough_of
from robench.device import full_precision
from robench.models import load_model
from robench.store.runs import Store, runs_root

CIFAR = DataInfo("cifar10", 3, 32, 32, 10, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), "cifar10")


class Plan:
    """How large everything is; `toy` is for a CPU."""

    def __init__(self, *, toy: bool) -> None:
        self.backbone = "resnet-8" if toy else "wrn-28-10"
        self.matrix = 256 if toy else 8192
        self.batches = (4, 8) if toy else (128, 250, 512, 1000)
        self.batch = 8 if toy else 250
        self.gradients = 2 if toy else 8
        self.steps = 4 if toy else 40
        # images per run: in bfloat16, in TensorFloat-32, in float32; and how often each runs
        self.images = (16, 16, 8) if toy else (1000, 500, 250)
        self.rounds = (2, 2, 1) if toy else (3, 3, 2)


class Subject:
    """The model, the images, and what a second is worth."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.device = arguments, torch.device(arguments.device)
        self.plan, self.began = Plan(toy=arguments.toy), time.monotonic()
        torch.manual_seed(0)
        count = max(self.plan.images)
        if arguments.model:
            loaded = load_model(arguments.model, Store(runs_root(arguments.runs)))
            assert loaded.data is not None
            split = open_dataset(arguments.dataset or loaded.data.name, arguments.data).test
            self.module, self.classes = loaded.module, loaded.data.classes
            self.x, self.y, self.eps = split.pixels(slice(0, count)), split.labels[:count], "8/255"
        else:
            backbone = build_backbone(self.plan.backbone, CIFAR)
            self.module, self.classes, self.eps = nn.Sequential(backbone, nn.Linear(backbone.width, 10)), 10, "1e-7"
            self.x = torch.rand(count, *CIFAR.shape)
        # parameters ask for gradients, as they do in a model that was handed over; robench's handle stops that
        self.module = self.module.eval().to(self.device, memory_format=torch.channels_last)
        if not arguments.model:
            with full_precision(), torch.no_grad():
                parts = [self.module(self.on(part)).argmax(1).cpu() for part in self.x.split(self.plan.batch)]
            self.y = torch.cat(parts)
        self.flops = forward_flops(self.module, self.on(self.x[:1]))

    def on(self, x: Tensor) -> Tensor:
        """Images on the device, laid out for convolutions."""
        return x.to(self.device).contiguous(memory_format=torch.channels_last)

    def seconds(self, work: Callable[[], object]) -> float:
        """How long work takes, to its end on the device."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def left(self) -> float:
        """Seconds that are left to measure in."""
        return float(self.arguments.seconds) - (time.monotonic() - self.began)


def forward_flops(module: nn.Module, x: Tensor) -> int:
    """Additions and multiplications of convolutions and matrix products in a forward pass of x [1, C, H, W]."""
    found: list[int] = []

    def count(layer: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        del given
        weight: Tensor = layer.weight  # type: ignore[assignment]
        places = answer[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
        found.append(2 * weight.numel() * places)

    hooks = [part.register_forward_hook(count) for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    return sum(found)


@contextlib.contextmanager
def shipped() -> Iterator[None]:
    """torch's own settings, as a library finds them."""
    yield


def matrix_rate(subject: Subject, dtype: torch.dtype) -> float:
    """TFLOP/s of a square matrix product: the best of five."""
    size, times = subject.plan.matrix, 10 if dtype is torch.bfloat16 else 1
    a, b = (torch.randn(size, size, device=subject.device).to(dtype) for _ in range(2))
    with full_precision():
        runs = [subject.seconds(lambda: [a @ b for _ in range(times)]) for _ in range(6)]
    return 2 * size**3 * times / min(runs[1:]) / 1e12


# ways to take gradients, as they are named in tables
FP32, TF32 = "robench, float32", "a bare loop, TensorFloat-32 as torch ships"
AUTOCAST, COPY, FOLDED = "robench, autocast", "robench, bfloat16 copy", "robench, bfloat16 copy with folded norms"
TUNED, COMPILED = "the same, cudnn.benchmark", "a bare loop, the same copy compiled"


def gradient_rates(subject: Subject) -> Iterator[Row]:
    """Input gradients per second, by the way they are taken and by the size of batches."""
    plan, module = subject.plan, subject.module
    yield _rate(subject, FP32, plan.batch, _handle(subject, None, plan.batch), count=2)
    yield _rate(subject, TF32, plan.batch, _bare(subject, module, plan.batch), context=shipped)
    made = {AUTOCAST: Rough(module, own=False), COPY: copied(module, folded=False, last=True),
            FOLDED: copied(module, folded=True, last=True)}  # fmt: skip
    ways = {name: rough for name, rough in made.items() if rough is not None}
    rates = {}
    for name, rough in ways.items():
        row = _rate(subject, name, plan.batch, _handle(subject, rough, plan.batch))
        rates[name] = row["images_per_second"]
        yield row
    best = max(rates, key=lambda name: rates[name])
    if subject.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        yield _rate(subject, TUNED, plan.batch, _handle(subject, ways[best], plan.batch))
        torch.backends.cudnn.benchmark = False
    for batch in plan.batches:
        if batch != plan.batch:
            yield _rate(subject, best, batch, _handle(subject, ways[best], batch))
    if subject.arguments.compile:
        compiled = torch.compile(ways[best].module)
        run = _bare(subject, compiled, plan.batch, rough=True)
        with full_precision():
            spent = subject.seconds(lambda: run(1))
        yield _rate(subject, COMPILED, plan.batch, run) | {"compile_seconds": round(spent, 1)}


# what computes a number of input gradients
Gradients = Callable[[int], object]


def _handle(subject: Subject, rough: Rough | None, batch: int) -> Gradients:
    """Input gradients as an attack of robench gets them, guarded and charged."""
    x, y = _images(subject, batch)

    def run(times: int) -> None:
        handle = Classifier(subject.module, subject.classes, batch, subject.device)
        handle.rough, rows = rough, handle.rows(torch.arange(batch))
        for _ in range(times):
            rows.gradient(x, lambda logits: cross_entropy(logits, y), rough=True)
        handle.release()

    return run


def _bare(subject: Subject, module: nn.Module, batch: int, *, rough: bool = False) -> Gradients:
    """Input gradients as nobody watches them."""
    x, y = _images(subject, batch)

    def run(times: int) -> None:
        for _ in range(times):
            pixels = x.detach().requires_grad_(True)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=rough, cache_enabled=False):
                logits = module(pixels)
            torch.autograd.grad(cross_entropy(logits.float(), y).sum(), pixels)

    return run


def _images(subject: Subject, batch: int) -> tuple[Tensor, Tensor]:
    places = torch.arange(batch) % len(subject.x)
    return subject.on(subject.x[places]), subject.y[places].to(subject.device)


def _rate(
    subject: Subject,
    way: str,
    batch: int,
    run: Gradients,
    context: Callable[[], Any] = full_precision,
    count: int = 0,
) -> Row:
    """Images and TFLOP/s of one way, the median of three."""
    count = count or subject.plan.gradients
    with context():
        run(1)
        times = [subject.seconds(lambda: run(count)) / count for _ in range(3)]
    middle = statistics.median(times)
    return {"way": way, "batch": batch, "images_per_second": round(batch / middle, 1),
            "tflops": 2 * subject.flops * batch / middle / 1e12,
            "spread": round((max(times) - min(times)) / middle, 3)}  # fmt: skip


def pgd(subject: Subject) -> Iterator[Row]:
    """PGD of 40 steps with one random start, alternating; seconds for 1,000 images with their spread."""
    plan, eps = subject.plan, ThreatModel.of("linf", subject.eps)
    many, some, few = plan.images
    often, again, seldom = plan.rounds
    ours = registry.load("attack", "pgd").build({"steps": plan.steps, "step": str(eps.radius / 10), "restarts": 1})
    contenders: list[tuple[str, Callable[[int], float], Callable[[], Any], int, int]] = [
        ("robench, bfloat16 search", lambda n: _ours(subject, ours, eps, n, rough=True), full_precision, many, often),
        ("robench, float32", lambda n: _ours(subject, ours, eps, n, rough=False), full_precision, few, seldom),
    ]
    for name, make in (("foolbox", _foolbox), ("torchattacks", _torchattacks)):
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed, so it is left out.", file=sys.stderr)
            continue
        craft = make(subject, eps.radius)
        run = _theirs(subject, craft)
        contenders.append((f"{name} as shipped, TensorFloat-32", run, shipped, some, again))
        if name == "foolbox":
            contenders.append((f"{name}, float32", run, full_precision, few, seldom))
    found: dict[str, list[float]] = {}
    for turn in range(max(plan.rounds)):
        for name, run, context, images, rounds in contenders:
            if turn >= rounds:
                continue
            if found.get(name) and subject.left() < max(found[name]):
                print(f"No time is left for another run of {name}.", file=sys.stderr)
                continue
            with context():
                if turn == 0:
                    run(plan.batch if images > plan.batch else 1)  # kernels are chosen, memory is reserved
                found.setdefault(name, []).append(run(images))
    for name, _, _, images, _ in contenders:
        each = sorted(1000 * seconds / images for seconds in found[name])
        yield {"who": name, "images": images, "runs": len(each), "seconds_per_1000": round(statistics.median(each), 3),
               "least": round(each[0], 3), "most": round(each[-1], 3)}  # fmt: skip


def _ours(subject: Subject, attack: Any, threat: ThreatModel, count: int, *, rough: bool) -> float:
    """Seconds for robench's attack on `count` images, the making of a copy included; judging is not, as with peers."""
    handle = Classifier(subject.module, subject.classes, count, subject.device, subject.y[:count])

    def run() -> None:
        if rough:
            few = subject.x[: min(count, LOOKED)]
            taken = rough_of(handle, few, handle.logits(few))
            if taken.rough is None:
                raise RuntimeError(taken.told)
            handle.rough = taken.rough
        for ids in torch.arange(count).split(subject.plan.batch):
            y, none = subject.y[ids].to(subject.device), torch.zeros_like(ids)
            goal, group = torch.full_like(y, -1), torch.arange(len(ids))
            batch = Batch(subject.on(subject.x[ids]), y, goal, ids, none, group, threat, 0)
            attack.perturb(handle.rows(ids), batch).x.cpu()

    try:
        return subject.seconds(run)
    finally:
        handle.release()


def _theirs(subject: Subject, craft: Callable[[Tensor, Tensor], Tensor]) -> Callable[[int], float]:
    """Seconds for a peer's attack on the first images, in the same batches."""

    def run(count: int) -> float:
        def work() -> None:
            for ids in torch.arange(count).split(subject.plan.batch):
                craft(subject.on(subject.x[ids]), subject.y[ids].to(subject.device)).cpu()

        return subject.seconds(work)

    return run


def _foolbox(subject: Subject, radius: float) -> Callable[[Tensor, Tensor], Tensor]:
    import foolbox

    model = foolbox.PyTorchModel(subject.module, bounds=(0, 1), device=subject.device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=radius / 10, steps=subject.plan.steps, random_start=True)
    return lambda x, y: attack(model, x, y, epsilons=radius)[1]


def _torchattacks(subject: Subject, radius: float) -> Callable[[Tensor, Tensor], Tensor]:
    import torchattacks

    return torchattacks.PGD(subject.module, eps=radius, alpha=radius / 10, steps=subject.plan.steps, random_start=True)


def verdicts(subject: Subject) -> Row:
    """Robust accuracy under PGD of 40 steps on the same images, searched in float32 and in bfloat16."""
    plan, threat = subject.plan, ThreatModel.of("linf", "8/255")
    attack = registry.load("attack", "pgd").build({"steps": plan.steps, "restarts": 1})
    count = min(len(subject.x), subject.arguments.verdicts)
    standing, told = {}, ""
    for precision in ("fp32", "bf16"):
        rows = []
        for ids in torch.arange(count).split(plan.batch):
            settings = Settings(batch_size=plan.batch, device=str(subject.device), channels_last=True,
                                precision=precision)  # fmt: skip
            examples = Examples(subject.x[ids], subject.y[ids], ids)
            outcome = attack_shard(subject.module, subject.classes, attack, threat, examples, settings)
            rows.append(torch.tensor((outcome.rows["clean_correct"] & ~outcome.rows["success"]).to_numpy()))
            told = outcome.search or told
        standing[precision] = torch.cat(rows)
    fp32, bf16 = standing["fp32"], standing["bf16"]
    return {"images": count, "search": told, "fp32": round(100 * float(fp32.double().mean()), 2),
            "bf16": round(100 * float(bf16.double().mean()), 2),
            "points": round(100 * float(bf16.double().mean() - fp32.double().mean()), 2),
            "differing": int((fp32 != bf16).sum())}  # fmt: skip


def main() -> None:
    """Parse, measure, print the table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="small enough for a CPU")
    parser.add_argument("--model", help="a trained model of the runs folder, instead of random weights")
    parser.add_argument("--dataset")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--verdicts", type=int, default=1000, help="images whose verdicts are compared, with --model")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes about a minute more")
    parser.add_argument("--seconds", type=float, default=90, help="no run of PGD begins that would end later")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--markdown", type=Path, help="a file for the table")
    arguments = parser.parse_args()
    subject = Subject(arguments)
    cuda = subject.device.type == "cuda"
    found: Row = {
        "device": torch.cuda.get_device_name(subject.device) if cuda else "CPU",
        "torch": torch.__version__,
        "model": arguments.model or f"{subject.plan.backbone}, random weights",
        "gflops": 2 * subject.flops / 1e9,
        "matrix": subject.plan.matrix,
        "steps": subject.plan.steps,
        "eps": subject.eps,
        "matrix_tflops": {"bf16": matrix_rate(subject, torch.bfloat16), "fp32": matrix_rate(subject, torch.float32)},
    }
    rates = []
    for row in gradient_rates(subject):
        rates.append(row | {"share": row["tflops"] / found["matrix_tflops"]["bf16"]})
        print(json.dumps(rates[-1]), file=sys.stderr, flush=True)
    found["gradients"] = rates
    found["pgd"] = list(pgd(subject))
    if arguments.model or arguments.toy:
        found["verdicts"] = verdicts(subject)
    found["seconds"] = round(time.monotonic() - subject.began, 1)
    print(table(found))
    print(json.dumps(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(table(found) + "\n")


if __name__ == "__main__":
    main()
