"""A runs folder that a page is made of: evaluations of digits whose rows and images are made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from robench.data.dataset import open_dataset
from robench.store.about import About
from robench.store.runs import EvaluationFolder, Store, digest_of_card
from robench.store.specs import EvalSpec
from tests.made import whole

N = 40
HOSTILE = "</script><img src=x onerror=alert(1)>"
ENVIRONMENT: dict[str, Any] = {"commit": "abc1234", "cores": 2, "machine": "x86_64", "packages": {"torch": "2.15.0"}}
# the models of the store: how many images, counted from the end, each leaves to an attack within eps 0.1 and 0.3
MODELS = {"sturdy": (6, 12), "middling": (8, 16), "weak": (20, 39), HOSTILE: (9, 18)}
TRAINED = "sturdy"


def card(name: str = TRAINED, seed: int = 7, weights: str = "b", steps: int = 5) -> dict[str, Any]:
    """The card of the only model that was trained in the store, or of another of its training."""
    return {
        "name": name, "spec_id": "a" * 12, "defense": "madry", "options": {"eps": "0.3", "steps": steps},
        "digest": weights * 64, "seconds": 4000.0,
        "accuracy": {"test": 0.95, "test_count": 360, "test_digest": "d" * 16, "test_interval": [0.92, 0.97],
                     "validation": 0.94},
        "data": {"name": "digits", "channels": 1, "height": 8, "width": 8, "classes": 10, "mean": [0.3], "std": [0.3],
                 "family": "digits"},
        "recipe_name": "quick", "recipe": {"epochs": 3, "lr": 0.01}, "seed": seed, "command": "robench train madry",
        "device": "cpu", "environment": ENVIRONMENT,
        "history": [{"epoch": i, "total": 1.0 / (i + 1), "val_accuracy": 0.9 + i / 50} for i in range(3)],
    }  # fmt: skip


def rows_of(labels: list[int], fallen: list[int], change: float) -> pd.DataFrame:
    """Rows of the first images of digits, of which those at the places `fallen` are broken by `change` in linf."""
    n = len(labels)
    won = np.isin(np.arange(n), fallen)
    label = np.array(labels)
    return whole(pd.DataFrame({
        "example_id": range(n), "label": label, "clean_pred": label, "adv_pred": np.where(won, (label + 1) % 10, label),
        "clean_correct": True, "success": won, "linf": change, "l2": change,
    }))  # fmt: skip


def add(
    store: Store,
    model: str,
    digest: str,
    eps: str,
    fallen: list[int],
    attack: str = "pgd",
    flags: tuple[str, ...] = (),
    options: dict[str, Any] | None = None,
    kind: str = "iterative",
    count: int = N,
    access: str = "white-box",
    against: str = "",
    **more: Any,
) -> EvaluationFolder:
    """An evaluation of the first images of digits; one corner of each is moved by eps. more: of its spec."""
    spec = EvalSpec(
        model_digest=digest, data_digest="d" * 16, count=count, norm="linf", eps=eps, attack=attack, attack_version=1,
        attack_options={"steps": 3}, seed=0, **more,
    )  # fmt: skip
    about = About(
        model=model, reference=model, dataset="digits", eps=eps, given_options=options or {}, metric="robust accuracy",
        access=access, against=against, command=f"robench evaluate {model} -a {attack}", environment=ENVIRONMENT,
        kind=kind, classes=10, device="cpu", names=[f"digit {i}" for i in range(9)] + [HOSTILE],
    )  # fmt: skip
    split = open_dataset("digits").test.subset(slice(0, count))
    images, change = split.pixels(slice(None)), float(eps)
    images[:, :, 0, 0] += change
    folder = store.evaluation(spec.job_id)
    folder.begin(spec.model_dump(mode="json"), about)
    rows = rows_of(split.labels.tolist(), fallen, change)
    folder.save_shard(0, count, rows, images.to(torch.float32), {"flags": list(flags), "seconds": 1.5})
    folder.save_second(None, {"flags": [], "counts": False, "passes": 0, "seconds": 0.0})
    folder.finish(folder.summarised(about.metric))
    return folder


def page_store(root: Path) -> Store:
    """Four models, one of them trained and one of a hostile name, within two eps."""
    store = Store(root)
    store.finish_model(TRAINED, card())
    for place, (model, lost) in enumerate(MODELS.items()):
        digest = digest_of_card(card()) if model == TRAINED else f"{place}" * 16
        for eps, count in zip(("0.1", "0.3"), lost, strict=True):
            flags = ("randomised", HOSTILE) if model == HOSTILE else ()
            add(store, model, digest, eps, list(range(N - count, N)), flags=flags)
            add(store, model, digest, eps, [place], "fgsm")
    return store
