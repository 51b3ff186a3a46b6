"""A small store with an honest evaluation, and a forger who makes all fit again: seals, summary, folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.results.summary import summarise
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import identity, write_json, write_sealed
from robench.store.runs import Store
from robench.threat import ThreatModel
from robench.trust.verification import Verified, verify_all
from tests.made import means_of_digits

# sources of models: what they are made of is written into them, so that nothing of robench is needed there
MODELS = '''
import torch

MEANS = torch.tensor([[...]])  # of the classes


class NearestMean(torch.nn.Module):
    """Linear logits, times a factor, with something added to all of them."""

    def __init__(self, factor=1.0, offset=0.0):
        super().__init__()
        self.factor, self.offset = factor, offset
        self.weight = torch.nn.Parameter(MEANS * 4)
        self.bias = torch.nn.Parameter(-2 * MEANS.square().sum(1))

    def forward(self, x):
        return self.factor * torch.nn.functional.linear(x.flatten(1), self.weight, self.bias) + self.offset


class OneHot(NearestMean):
    def forward(self, x):
        logits = super().forward(x)
        hot = torch.nn.functional.one_hot(logits.argmax(1), 10).float()
        return 8 * hot + logits - logits.detach()  # with a gradient


class Noisy(NearestMean):
    def forward(self, x):
        logits = super().forward(x)
        return logits + 0.02 * logits.std(1, keepdim=True) * torch.randn_like(logits)


class Dim(NearestMean):
    """No gradient passes the left half of an image."""

    def forward(self, x):
        return super().forward(torch.cat([x[..., :4].detach(), x[..., 4:]], 3))


class Quits(NearestMean):
    """Answers clean images alone."""

    def forward(self, x):
        if ((x * 255 - (x * 255).round()).abs() > 0.01).any():
            raise SystemExit(0)
        return super().forward(x)


class Looking(NearestMean):
    """Answers for the image in black and white where it sees a judge."""

    def forward(self, x):
        import sys
        return super().forward((x > 0.5).float() if "robench.attack.judge" in sys.modules else x)


def looking(): return Looking().eval()
def plain(): return NearestMean().eval()
def offset(): return NearestMean(1.0, 3e4).eval()
def large(): return NearestMean(1e4).eval()
def small(): return NearestMean(1e-4).eval()
def one_hot(): return OneHot().eval()
def noisy(): return Noisy().eval()
def dim(): return Dim().eval()
def quits(): return Quits().eval()
'''.replace("[[...]]", str(means_of_digits().tolist()))

Change = Callable[[pd.DataFrame, Tensor], None]


@dataclass(frozen=True)
class Forger:
    """One evaluation of a store in a folder of its own, and whoever changes it."""

    store: Store
    folder: EvaluationFolder

    @classmethod
    def of(
        cls, root: Path, factory: str, attack: str = "fgsm", count: int = 40, eps: str = "0.1", **more: Any
    ) -> Forger:
        """Evaluate a factory of MODELS on digits, in shards of 20."""
        root.mkdir(parents=True, exist_ok=True)
        (root / "models.py").write_text(MODELS)
        store = Store(root / "runs")
        settings = {"shard_size": 20, "device": "cpu", **more}
        threat = ThreatModel.of(settings.pop("norm", "linf"), eps)
        attacks = attack.split(",")
        found = evaluate(Request([f"{root}/models.py:{factory}"], attacks, threat, "digits", count, **settings), store)
        assert found.complete
        return cls(store, store.evaluation(found.rows[-1]["evaluation"]))

    def rows(self, change: Change, shards: slice = slice(None), **notes: Any) -> None:
        """Change rows and images of some shards, and what was noted with them; the summary follows."""
        for shard in self.folder.shards()[shards]:
            rows = self.folder.rows()
            rows = rows[(rows["example_id"] >= shard.start) & (rows["example_id"] < shard.stop)].reset_index(drop=True)
            images = self.folder.images(shard.start, shard.stop).clone()
            change(rows, images)
            kept = {key: value for key, value in shard.notes.items() if key not in ("evaluation", "range", "sha256")}
            self.folder.save_shard(shard.start, shard.stop, rows, images, {**kept, **notes})
        self.folder.finish(summarise(self.folder.rows(), self.folder.about.metric, self.folder.notes()))

    def about(self, **changes: Any) -> None:
        """Change fields of the record."""
        told = {**self.folder.about.to_json(), **changes, "evaluation": self.folder.job_id}
        write_sealed(self.folder.path / "about.json", told)

    def result(self, **changes: Any) -> None:
        """Change fields of the summary."""
        write_sealed(
            self.folder.path / "result.json", {**self.folder.stated, **changes, "evaluation": self.folder.job_id}
        )

    def spec(self, **changes: Any) -> Forger:
        """The same as another evaluation, which takes its place."""
        spec = {**self.folder.spec, **changes}
        there = Forger(self.store, self.store.evaluation(identity(spec)))
        about = {**self.folder.about.to_json(), "eps": ThreatModel.of(spec["norm"], spec["eps"]).eps_text}
        shards = [
            (shard, self.folder.rows(), self.folder.images(shard.start, shard.stop)) for shard in self.folder.shards()
        ]
        there.folder.path.mkdir()
        write_json(there.folder.path / "spec.json", spec)
        write_sealed(there.folder.path / "about.json", {**about, "evaluation": there.folder.job_id})
        for shard, rows, images in shards:
            part = rows[(rows["example_id"] >= shard.start) & (rows["example_id"] < shard.stop)]
            there.folder.save_shard(shard.start, shard.stop, part.reset_index(drop=True), images, shard.notes)
        there.folder.finish(summarise(there.folder.rows(), about["metric"], there.folder.notes()))
        shutil.rmtree(self.folder.path)
        return there

    def verify(self, names: Sequence[str] = (), **how: Any) -> Verified:
        """The outcome for this evaluation."""
        checks = verify_all(self.store, names, device="cpu", **how)
        return next(check for check in checks if check.evaluation == self.folder.job_id)


def faults(found: Verified) -> dict[str, int]:
    """The faults that there are."""
    return {kind: count for kind, count in found.faults.items() if count}


def firmly_broken(rows: pd.DataFrame) -> pd.Index[Any]:
    """The rows whose image was broken."""
    return rows.index[rows["success"]]


def flipped(rows: pd.DataFrame, images: Tensor) -> None:
    """Every broken image said to be answered rightly."""
    del images
    bad = rows["success"]
    rows.loc[bad, "adv_pred"] = rows.loc[bad, "label"]
    rows.loc[bad, "success"] = False


def nothing(rows: pd.DataFrame, images: Tensor) -> None:
    """As it is."""
    del rows, images
