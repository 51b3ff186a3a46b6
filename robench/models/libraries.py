"""Models of libraries and from files of graphs, each by its library's own loading code.

Needs nothing but torch and the library: the process that gives second verdicts reads this file by its path. Errors are
the libraries' own; a package that is not there is a ModuleNotFoundError.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Sizing:
    """How a library brings files of images to a model's size: the shorter side is scaled to `resize`, or height and
    width are where it has two numbers, with `interpolation`; then the middle, `crop` pixels a side, is taken."""

    resize: tuple[int, ...]
    crop: tuple[int, int]
    interpolation: str


@dataclass(frozen=True)
class Made:
    """A model as its library makes it, and what that library does to images before: mean and std of pixels in [0, 1],
    and their size. `output` names the part of the answer that holds the logits."""

    module: nn.Module
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    sizing: Sizing | None = None
    output: str | None = None


def make(kind: str, name: str, arguments: Mapping[str, Any], *, bare: bool = False) -> Made:
    """The model of that name in eval mode. bare: without weights of the library's own, which others will replace, and
    so without what the library does to images for those. Raises whatever the library does."""
    found = KINDS[kind](name, dict(arguments), bare)
    if kind != "pt2":  # what was exported has no modes
        found.module.eval()
    return found


def _torchvision(name: str, arguments: dict[str, Any], bare: bool) -> Made:
    from torchvision import models

    if bare:
        return Made(models.get_model(name, weights=None, **arguments))
    weights = models.get_model_weights(name)[arguments.pop("weights", "DEFAULT")]
    network, preset = models.get_model(name, weights=weights, **arguments), weights.transforms()
    sizing = None
    if hasattr(preset, "crop_size") and hasattr(preset, "resize_size"):
        sizing = Sizing(_sides(preset.resize_size), _square(preset.crop_size), preset.interpolation.value)
    return Made(network, tuple(preset.mean), tuple(preset.std), sizing)


def _timm(name: str, arguments: dict[str, Any], bare: bool) -> Made:
    import timm
    from timm.data import resolve_model_data_config

    network = timm.create_model(name, **{"pretrained": not bare, **arguments})
    if bare:
        return Made(network)
    wanted = resolve_model_data_config(network)
    crop = _square(wanted["input_size"][1:])
    resize = tuple(int(side / wanted.get("crop_pct", 1.0)) for side in crop)
    squashed = wanted.get("crop_mode") == "squash" or crop[0] != crop[1]
    sizing = Sizing(resize if squashed else resize[:1], crop, wanted["interpolation"])
    return Made(network, tuple(wanted["mean"]), tuple(wanted["std"]), sizing)


def _hf(name: str, arguments: dict[str, Any], bare: bool) -> Made:
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    place = os.path.expanduser(name)
    if bare:
        config = AutoConfig.from_pretrained(place, **arguments)
        return Made(AutoModelForImageClassification.from_config(config), output="logits")
    network = AutoModelForImageClassification.from_pretrained(place, **arguments)
    processor = AutoImageProcessor.from_pretrained(place)

    def said(what: str, usual: Any = None) -> Any:
        return getattr(processor, what, usual)

    mean = std = None
    scale = said("rescale_factor", 1 / 255) if said("do_rescale", True) else 1.0
    if said("do_normalize", True) and said("image_mean") is not None:
        # of pixels in [0, 1]: what the processor's factor makes of 255 is another's 1
        mean = tuple(each / (255 * scale) for each in said("image_mean"))
        std = tuple(each / (255 * scale) for each in said("image_std"))
    elif abs(255 * scale - 1) > 1e-6:
        mean, std = (0.0,), (1 / (255 * scale),)
    return Made(network, mean, std, _hf_sizing(said), "logits")


def _hf_sizing(said: Callable[..., Any]) -> Sizing | None:
    """The size that a processor brings images to; None where it does not, or says it in a way of its own."""
    if not said("do_resize", True) or said("size") is None:
        return None
    size = dict(said("size"))
    if {"height", "width"} <= size.keys():
        resize: tuple[int, ...] = (size["height"], size["width"])
    elif "shortest_edge" in size:
        resize = (size["shortest_edge"],)
    else:
        return None
    crop = _square(resize)
    if said("do_center_crop") and said("crop_size") is not None:
        middle = dict(said("crop_size"))
        crop = middle["height"], middle["width"]
    elif said("crop_pct") and len(resize) == 1 and resize[0] < 384:  # as ConvNeXT's processor has it
        resize = (int(resize[0] / said("crop_pct")),)
    names = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
    return Sizing(resize, crop, names[int(said("resample", 2))])


def prepare(package: str) -> None:
    """Do what a package needs before it is imported: robustbench asks for pyautoattack by the name that it once had."""
    if package != "robustbench" or find_spec("autoattack") or not find_spec("pyautoattack"):
        return
    for name in ("", ".state"):
        sys.modules[f"autoattack{name}"] = importlib.import_module(f"pyautoattack{name}")


def _robustbench(name: str, arguments: dict[str, Any], bare: bool) -> Made:
    prepare("robustbench")
    from robustbench.utils import load_model

    del bare
    return Made(load_model(model_name=name, **zoo(arguments)))


def zoo(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What RobustBench's loading code is given; its files are in model_dir/DATASET/THREAT_MODEL."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robench" / "robustbench"
    return {"dataset": "cifar10", "threat_model": "Linf", "model_dir": str(cache), **arguments}


def _onnx(name: str, arguments: dict[str, Any], bare: bool) -> Made:
    import onnx
    from onnx2torch import convert

    del arguments, bare
    return Made(convert(onnx.load(name)))


def _pt2(name: str, arguments: dict[str, Any], bare: bool) -> Made:
    del arguments, bare
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)  # what it cannot read it tells by an error too
        try:
            return Made(torch.export.load(name).module())
        finally:
            logging.disable(before)


def _jit(name: str, arguments: dict[str, Any], bare: bool) -> Made:
    del arguments, bare
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Made(torch.jit.load(name, map_location="cpu"))  # type: ignore[no-untyped-call]


def _sides(size: Any) -> tuple[int, ...]:
    return tuple(size) if isinstance(size, list | tuple) else (size,)


def _square(size: Any) -> tuple[int, int]:
    sides = _sides(size)
    return (sides[0], sides[0]) if len(sides) == 1 else (sides[0], sides[1])


KINDS: Mapping[str, Callable[[str, dict[str, Any], bool], Made]] = {
    "torchvision": _torchvision, "timm": _timm, "hf": _hf, "robustbench": _robustbench, "onnx": _onnx, "pt2": _pt2,
    "jit": _jit,
}  # fmt: skip
