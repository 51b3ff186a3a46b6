"""robench in a program: `robench.evaluate(model, dataset="mnist", attacks=["multi-targeted"], eps="0.1")`."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import nn

from robench import norms
from robench.detector.request import DetectorRequest
from robench.errors import require, unknown
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate as run
from robench.models.settings import ModelSettings
from robench.store.runs import Store, runs_root
from robench.tables.report import Report as Report
from robench.threat import ThreatModel

# what goes to the request as it is
SETTINGS = ("count", "options", "seed", "batch_size", "shard_size", "device", "surrogates", "eot", "bpda",
            "search_precision", "max_passes", "cascade", "classes", "fresh", "probe")  # fmt: skip
# what stands around the models, by the names that ModelSettings has
AROUND = {"model_options": "options", "weights": "weights", "mean": "mean", "std": "std", "pixels": "pixels",
          "output": "output", "binary": "binary", "log_probabilities": "log_probabilities"}  # fmt: skip

# the name that DetectorRequest had until 0.1; goes with the next version
Guard = DetectorRequest


def evaluate(
    model: str | nn.Module | Sequence[str | nn.Module],
    dataset: str | None = None,
    attacks: str | Sequence[str] = ("multi-targeted",),
    eps: str | float | Fraction | None = None,
    norm: str = norms.DEFAULT,
    *,
    detector: str | DetectorRequest | None = None,
    runs: str | Path | None = None,
    data: str | Path | None = None,
    **settings: Any,
) -> Report:
    """Attack one or several models and judge the result, as `robench evaluate` does; returns a Report.

    model: an nn.Module in eval mode from float32 [B, C, H, W] in [0, 1] to logits [B, classes], or a reference as on
    the command line. eps: in pixels of [0, 1], 8/255 by default in linf. detector: a detector's name, or a
    DetectorRequest with what it learns from. settings: count (of test images), options, seed, batch_size, shard_size,
    device, search_precision ("bf16" takes the gradients of searches in bfloat16), max_passes (what an image may cost
    in forward passes), fresh (compute anew what is in the store), classes (how many npz: data have, where labels do not
    show it); and what stands around the models, as on the command line: weights, mean, std, pixels ("-1..1"), output,
    binary, log_probabilities, model_options (arguments of factories).
    The float 8/255 means "8/255", any other float its shortest decimal. Raises BadInput for input that cannot be used.
    """
    for name in settings:
        if name not in (*SETTINGS, *AROUND):
            raise unknown("setting of robench.evaluate", name, (*SETTINGS, *AROUND))
    around = ModelSettings(**{own: settings.pop(name) for name, own in AROUND.items() if name in settings})
    require(isinstance(runs, str | Path | None), "runs", runs, "a folder")
    require(isinstance(data, str | Path | None), "data", data, "a folder")
    require(isinstance(detector, str | DetectorRequest | None), "detector", detector, "a name or a DetectorRequest")
    request = Request(
        models=around.around(model),
        attacks=attacks,
        threat=ThreatModel.of(norm, eps),
        dataset=dataset,
        data_root=Path(data) if data else None,
        guard=DetectorRequest(detector) if isinstance(detector, str) else detector,
        **settings,
    )
    store = Store(runs_root(Path(runs) if runs else None))
    done = run(request, store)
    return Report.of(done, store)
