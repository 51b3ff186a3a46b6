"""robench in a program: `robench.evaluate(model, data=(x, y), attacks="standard", eps="8/255", n=1000)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, Never

from torch import nn

from robench.data.handed import hand_over
from robench.data_names import with_settings
from robench.detector.request import DetectorRequest
from robench.errors import BadInput, DiskError, require, unknown
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate as run
from robench.evaluation.several import Eps, own_threats, requests_for, seeds_of, threats_of
from robench.evaluation.summaries import Evaluated
from robench.models.settings import ModelSettings
from robench.registry import read_attacks
from robench.store.runs import Store, runs_root
from robench.tables.report import Report as Report

# the name that DetectorRequest had until 0.1; goes with the next version
Guard = DetectorRequest
Model = str | nn.Module


def evaluate(
    model: Model | Sequence[Model] | Mapping[str, Model],
    dataset: object = None,
    attacks: str | Sequence[str] = ("multi-targeted",),
    eps: Eps | None = None,
    norm: str | Sequence[str] | None = None,
    *,
    data: object = None,
    n: int | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int | str | Sequence[int] = 0,
    detector: str | DetectorRequest | None = None,
    surrogates: Model | Sequence[Model] = (),
    guide: Model | None = None,
    cascade: bool = False,
    max_passes: int | None = None,
    eot: int = 1,
    bpda: str | Sequence[str] = (),
    search_precision: str = "fp32",
    classes: int | Sequence[str] | None = None,
    ids: str | Path | None = None,
    labels_from: int | None = None,
    layout: str | None = None,
    range: str | None = None,
    draw: str | None = None,
    weights: str | Path | None = None,
    mean: float | str | Sequence[float] | None = None,
    std: float | str | Sequence[float] | None = None,
    pixels: str | None = None,
    output: str | int | None = None,
    binary: bool = False,
    log_probabilities: bool = False,
    model_options: Mapping[str, Any] | None = None,
    batch_size: int = 250,
    shard_size: int = 250,
    device: str = "auto",
    runs: str | Path | None = None,
    fresh: bool = False,
    probe: bool = False,
    count: int | None = None,
    **unknown_settings: Never,
) -> Report:
    """Attack one or several models and judge the result, as `robench evaluate` does; returns a Report.

    model: an nn.Module in eval mode from float32 [B, C, H, W] in [0, 1] to logits [B, classes], a reference as on the
    command line, several of them, or a dictionary of them by the names that tables give them. data: a pair of images
    and labels (arrays or tensors), a TensorDataset, another data set of such pairs, or a DataLoader, whose data set is
    meant; or the folder of datasets, as --data. dataset: a name as on the command line, or what `data` takes.
    attacks: names of attacks and sets, in a list or with commas between.

    eps: in pixels of [0, 1], 8/255 by default in linf: text, a Fraction or a float, where 8/255 means "8/255" and any
    other its shortest decimal; or several, "2/255,4/255" or a list, with several norms {"linf": ..., "l2": ...}. seed:
    one or several. Of several there is a table for each norm and eps; over several seeds it has mean and spread.

    n: how many test images (`count` is its older name). options: of attacks and detector, in their own types or as
    text. detector: its name, or a DetectorRequest with what it learns from. surrogates: craft on these instead.
    guide: follow this model's gradients, by the answers of the models that are attacked.
    cascade: each attack sees what those before it left. max_passes: what an image may cost in forward passes. eot,
    bpda: for gradients of models that are random or have none. search_precision: "bf16" takes gradients of searches in
    bfloat16. classes: how many your data have, where labels do not show it, or their names. ids: a file that lists test
    images. labels_from, layout, range, draw: how data are read. weights, mean, std, pixels ("-1..1"), output, binary,
    log_probabilities: what stands around the models; model_options: arguments of factories. batch_size, shard_size,
    device: speed. runs: where evaluations are kept. fresh: compute anew what is in the store. probe: leave it out of
    leaderboards.

    Raises BadInput for input that cannot be used.
    """
    for name in unknown_settings:
        raise unknown("setting of robench.evaluate", name, [*signature(evaluate).parameters][:-1])
    require(isinstance(runs, str | Path | None), "runs", runs, "a folder")
    require(isinstance(detector, str | DetectorRequest | None), "detector", detector, "a name or a DetectorRequest")
    if n is not None and count is not None:
        raise BadInput(f"n is {n} and count is {count}, which mean the same; give n alone.")
    named, folder, classes = _data(
        dataset, data, classes, ids=ids, labels_from=labels_from, layout=layout, range=range, draw=draw
    )
    settings = ModelSettings(
        {} if model_options is None else model_options, weights, mean, std, pixels, output, binary, log_probabilities
    )
    own = own_threats(named, norm, eps)
    threats, seeds, models = list(own.values()) or threats_of(norm, eps), seeds_of(seed), _models(model, settings)
    request = Request(
        models=list(models.values()) if isinstance(models, Mapping) else models,
        attacks=_attacks(attacks),
        threat=threats[0],
        dataset=named,
        count=count if n is None else n,
        options={} if options is None else options,
        seed=seeds[0],
        batch_size=batch_size,
        shard_size=shard_size,
        device=device,
        data_root=folder,
        guide=guide,
        surrogates=surrogates,  # type: ignore[arg-type]  # one, or several: it takes both
        guard=DetectorRequest(detector) if isinstance(detector, str) else detector,
        eot=eot,
        bpda=bpda,
        search_precision=search_precision,
        max_passes=max_passes,
        cascade=cascade,
        classes=classes,
        fresh=fresh,
        probe=probe,
    )
    store = Store(runs_root(Path(runs) if runs else None))

    def done(request: Request) -> Evaluated:
        first, *others = requests_for(request, norm, eps, seed)
        return run(first, store, None, others)

    return Report.of(_named(models, request, done) if isinstance(models, Mapping) else done(request), store)


def _attacks(attacks: object) -> list[str]:
    """Names of attacks and sets; raises BadInput for anything else, before the models are looked at."""
    texts = [attacks] if isinstance(attacks, str) else attacks
    named = isinstance(texts, Sequence) and all(isinstance(each, str) for each in texts)
    require(named, "--attack", attacks, "a list of names of attacks or sets")
    return read_attacks(texts) if isinstance(texts, Sequence) else []


def _models(model: object, settings: ModelSettings) -> Any:
    """One model, several, or several by name, with what stands around them. Raises BadInput for an empty dictionary, or
    names that are no text."""
    if isinstance(model, Mapping):
        named = bool(model) and all(isinstance(name, str) and name for name in model)
        require(named, "model", sorted(map(str, model)), 'a dictionary of models by name, such as {"mine": model}')
        return {name: settings.around(each) for name, each in model.items()}
    return settings.around(model)


def _data(
    dataset: object, data: object, classes: int | Sequence[str] | None, **reading: Any
) -> tuple[str | None, Path | None, int | None]:
    """The name of the data, the folder of datasets, and the number of classes if it was given."""
    settings = {name: str(value) for name, value in reading.items() if value is not None}
    if not isinstance(data, str | Path | None):
        require(dataset is None, "dataset", dataset, "left out where data are handed over")
        dataset, data = data, None
    folder = Path(data) if isinstance(data, str | Path) and data else None
    named = dataset if isinstance(dataset, str | None) else hand_over(dataset)
    if isinstance(classes, Sequence) and classes and all(isinstance(each, str) for each in classes):
        settings["names"], classes = ",".join(classes), None
    return with_settings(named, **settings), folder, classes  # type: ignore[return-value]  # Request looks at it


def _named(models: Mapping[str, Model], request: Request, done: Callable[[Request], Evaluated]) -> Evaluated:
    """Every model evaluated under its name. Raises BadInput where none can be used."""
    found, refused = Evaluated(), list[BadInput]()
    for name, each in models.items():
        try:
            mine = done(replace(request, models=[each]))
        except DiskError:
            raise
        except BadInput as error:
            refused.append(error)
            found.refused.append(f"{name}: {error}")
            continue
        found.results += [replace(one, about=replace(one.about, model=name)) for one in mine.results]
        found.detections += [replace(one, model=name) for one in mine.detections]
        found.findings += [replace(one, model=name) for one in mine.findings]
        found.refused += [f"{name}: {sentence}" for sentence in mine.refused]
    if refused and not found.results:
        raise refused[0]
    return found
