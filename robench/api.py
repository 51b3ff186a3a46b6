"""robench in a program: `robench.evaluate(model, dataset="mnist", attacks=["multi-targeted"], eps="0.1")`."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import nn

from robench import norms
from robench.data.handed import hand_over
from robench.data_names import with_settings
from robench.detector.request import DetectorRequest
from robench.errors import require, unknown
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate as run
from robench.store.runs import Store, runs_root
from robench.tables.report import Report as Report
from robench.threat import ThreatModel

# what goes to the request as it is
SETTINGS = ("count", "options", "seed", "batch_size", "shard_size", "device", "surrogates", "eot", "bpda",
            "search_precision", "max_passes", "cascade", "classes", "fresh", "probe")  # fmt: skip

# how data are to be read, as the options of the command line say it
READING = ("ids", "labels_from", "layout", "range", "draw")

# the name that DetectorRequest had until 0.1; goes with the next version
Guard = DetectorRequest


def evaluate(
    model: str | nn.Module | Sequence[str | nn.Module],
    dataset: object = None,
    attacks: str | Sequence[str] = ("multi-targeted",),
    eps: str | float | Fraction | None = None,
    norm: str = norms.DEFAULT,
    *,
    detector: str | DetectorRequest | None = None,
    runs: str | Path | None = None,
    data: object = None,
    **settings: Any,
) -> Report:
    """Attack one or several models and judge the result, as `robench evaluate` does; returns a Report.

    model: an nn.Module in eval mode from float32 [B, C, H, W] in [0, 1] to logits [B, classes], or a reference as on
    the command line. dataset: a name as on the command line, or data: a pair of images and labels (arrays or tensors),
    a TensorDataset, another data set of such pairs, or a DataLoader, whose data set is meant. eps: in pixels of [0, 1],
    8/255 by default in linf. detector: a detector's name, or a DetectorRequest with what it learns from. data: the
    folder of datasets, or data as under `dataset`. settings: count (of test images), options, seed, batch_size,
    shard_size, device, search_precision ("bf16" takes the gradients of searches in bfloat16), max_passes (what an image
    may cost in forward passes), fresh (compute anew what is in the store), classes (how many your data have, where
    labels do not show it, or their names), ids (a file that lists test images), labels_from, layout, range, draw (how
    data are read, see docs/data.md).
    The float 8/255 means "8/255", any other float its shortest decimal. Raises BadInput for input that cannot be used.
    """
    reading = {name: str(settings.pop(name)) for name in READING if settings.get(name) is not None}
    for name in settings:
        if name not in SETTINGS:
            raise unknown("setting of robench.evaluate", name, (*SETTINGS, *READING))
    require(isinstance(runs, str | Path | None), "runs", runs, "a folder")
    if not isinstance(data, str | Path | None):
        require(dataset is None, "dataset", dataset, "left out where data are handed over")
        dataset, data = data, None
    folder = Path(data) if isinstance(data, str | Path) and data else None
    named = dataset if isinstance(dataset, str | None) else hand_over(dataset)
    names = settings.get("classes")
    if isinstance(names, list | tuple) and names and all(isinstance(each, str) for each in names):
        reading["names"], settings["classes"] = ",".join(names), None
    named = with_settings(named, **reading)
    require(isinstance(detector, str | DetectorRequest | None), "detector", detector, "a name or a DetectorRequest")
    request = Request(
        models=model,  # type: ignore[arg-type]  # one, or several: it takes both
        attacks=attacks,
        threat=ThreatModel.of(norm, eps),
        dataset=named,
        data_root=folder,
        guard=DetectorRequest(detector) if isinstance(detector, str) else detector,
        **settings,
    )
    store = Store(runs_root(Path(runs) if runs else None))
    done = run(request, store)
    return Report.of(done, store)
