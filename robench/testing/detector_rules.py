"""Rules for detectors: their features, and what is stored of what they learnt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import torch
from safetensors.torch import load, save
from torch import Tensor

from robench.data.dataset import DataInfo
from robench.detector.base import Detector
from robench.testing.option_rules import OPTION_RULES
from robench.testing.rules import REBATCHED, REPEATED, Rule, Subject, described, expect, expect_close
from robench.testing.samples import COLOUR, GREY, SmallModel, random_images, random_split

SAMPLES = (GREY, replace(COLOUR, classes=2))


def watch(subject: Subject, data: DataInfo, count: int = 240) -> tuple[Detector, SmallModel]:
    """A detector fitted on `count` random images, and the model it watches, which has a code."""
    detector, model = subject.build(data.classes), SmallModel.of(data).requires_grad_(False)
    detector.eval().fit(model, random_split(data, count))
    return detector, model


def _each(subject: Subject) -> Iterator[tuple[Detector, SmallModel, DataInfo, Tensor]]:
    for data in SAMPLES:
        yield *watch(subject, data), data, random_images(data)[0]


def _of(data: DataInfo) -> str:
    return f"for images {list(data.shape)}"


def built(subject: Subject) -> None:
    """The constructor makes a robench.Detector from the number of classes and its options."""
    detector = subject.build()
    expect(isinstance(detector, Detector), f"it made {described(detector)}")


def features(subject: Subject) -> None:
    """It returns the model's logits [B, classes] and finite floating-point features [B, F]."""
    for detector, model, data, x in _each(subject):
        answer = detector.features(model, x)
        pair = isinstance(answer, tuple) and len(answer) == 2 and all(isinstance(part, Tensor) for part in answer)
        expect(pair, f"it returned {described(answer)} {_of(data)}, no pair of tensors")
        logits, found = answer
        expect(logits.shape == (len(x), data.classes), f"its logits are {described(logits)} for {described(x)}")
        expect_close(logits, model(x), REPEATED, f"its logits are not the model's {_of(data)}")
        table = found.dim() == 2 and len(found) == len(x) and found.shape[1] > 0 and found.is_floating_point()
        expect(table, f"its features are {described(found)} for {described(x)}")
        expect(found.isfinite().all(), f"{int((~found.isfinite()).sum())} features are not finite {_of(data)}")


def gradient_reaches_the_pixels(subject: Subject) -> None:
    """The gradient of the features reaches every image, finite and not zero, since adaptive attacks follow it."""
    for detector, model, data, x in _each(subject):
        x.requires_grad_(True)
        found = detector.features(model, x)[1]
        expect(found.requires_grad, f"the features carry no gradient {_of(data)}; something is detached")
        weight = 1 + torch.arange(found.shape[1], dtype=found.dtype)  # features such as shares may sum to a constant
        gradient = torch.autograd.grad((found * weight).sum(), x, allow_unused=True)[0]
        expect(gradient is not None, f"no gradient arrives at the pixels {_of(data)}; something is detached")
        assert gradient is not None
        expect(gradient.isfinite().all(), f"a gradient is not finite {_of(data)}")
        empty = int((gradient.flatten(1).abs().amax(1) == 0).sum())
        expect(not empty, f"the gradient is zero for {empty} of {len(x)} images {_of(data)}")


def deterministic(subject: Subject) -> None:
    """The same images have the same features twice, whatever random generators have done meanwhile."""
    for detector, model, data, x in _each(subject):
        first = detector.features(model, x)[1]
        torch.rand(7)
        again = detector.features(model, x)[1]
        expect_close(first, again, REPEATED, f"two calls differ {_of(data)}")


def independent_of_batch_neighbours(subject: Subject) -> None:
    """An image alone has the features that it has in a batch."""
    for detector, model, data, x in _each(subject):
        together = detector.features(model, x)[1]
        alone = torch.cat([detector.features(model, image[None])[1] for image in x])
        expect_close(together, alone, REBATCHED, f"alone and in a batch the features differ {_of(data)}")


def saved_and_restored(subject: Subject) -> None:
    """Built from the recorded options and given the stored tensors, it has the same features."""
    for detector, model, data, x in _each(subject):
        stored = save({name: value.cpu().contiguous() for name, value in detector.state_dict().items()})
        other = subject.plugin.build(json.loads(json.dumps(subject.options)), data.classes).eval()
        other.restore(load(stored))
        one, two = detector.features(model, x)[1], other.features(model, x)[1]
        expect_close(one, two, REPEATED, f"the copy has other features {_of(data)}; keep what fit learns by self.keep")


def fitting_twice_is_fitting_once(subject: Subject) -> None:
    """What it learnt before is gone when it is fitted anew."""
    data = replace(GREY, classes=2)
    detector, model = watch(subject, data, count=400)
    detector.fit(model, random_split(data))
    once = watch(subject, data)[0].state_dict()
    expect(
        detector.state_dict().keys() == once.keys(), f"it keeps {sorted(detector.state_dict().keys() ^ once.keys())}"
    )
    for name, value in detector.state_dict().items():
        expect_close(value, once[name], REPEATED, f"{name} differs")


def model_unchanged(subject: Subject) -> None:
    """The model it watches keeps its parameters, its modes and its hooks."""
    detector, model = watch(subject, GREY)
    detector.features(model, random_images(GREY)[0])
    untouched = SmallModel.of(GREY).state_dict()
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, untouched[name])]
    expect(not moved, f"{', '.join(moved)} moved")
    expect(not any(each.training for each in model.modules()), "a part of the model is in train mode")
    hooked = any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
    expect(not hooked, "a hook was left on the model")


DETECTOR_RULES = (
    Rule(built, founding=True),
    *OPTION_RULES,
    Rule(features, founding=True),
    *map(Rule, (
        gradient_reaches_the_pixels, deterministic, independent_of_batch_neighbours, saved_and_restored,
        fitting_twice_is_fitting_once, model_unchanged,
    )),
)  # fmt: skip
