"""A model with what stands around it: pixels as it wants them, and its answer as logits.

Needs nothing but torch: the process that gives second verdicts reads this file by its path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# what a logarithm of a probability is taken of at least
SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Adaptation:
    """What stands around a model, in the order in which it is done.

    size: (height, width) that images are scaled to, with `interpolation`, "bilinear" or "bicubic". pixels: what 0 and 1
    become. mean, std: what is then subtracted and divided by, a number per channel or one for all. output: which part
    of the answer holds the logits, a key, an attribute or an index. log: the answer is of probabilities. binary: it is
    one number per image, which speaks for the second of two classes.
    """

    size: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    pixels: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output: str | int | None = None
    log: bool = False
    binary: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Adaptation:
        """The settings of `to_json`."""
        found: dict[str, Any] = {n: tuple(each) if isinstance(each, list) else each for n, each in value.items()}
        return cls(**found)

    def to_json(self) -> dict[str, Any]:
        """Those that differ from what is usual, as JSON types."""
        usual = Adaptation()
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value != getattr(usual, name)
        }

    @property
    def told(self) -> str:
        """The settings in words, "" for none."""
        found = [f"scaled to {self.size[0]}x{self.size[1]} {self.interpolation}"] if self.size else []
        found += [f"pixels {self.pixels[0]:g}..{self.pixels[1]:g}"] if self.pixels else []
        found += [f"mean {','.join(f'{each:g}' for each in self.mean)}"] if self.mean else []
        found += [f"std {','.join(f'{each:g}' for each in self.std)}"] if self.std else []
        found += [f"output {self.output}"] if self.output is not None else []
        found += ["log of probabilities"] if self.log else []
        found += ["binary"] if self.binary else []
        return "; ".join(found)


class Adapted(nn.Module):
    """A model of images float32 [B, C, H, W] in [0, 1] and logits [B, classes], made of one that is not.

    It is in eval mode; the mode of the model inside is its own.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, adaptation: Adaptation) -> None:
        super().__init__()
        self.model, self.adaptation = model, adaptation
        for name, value in (("mean", adaptation.mean or (0.0,)), ("std", adaptation.std or (1.0,))):
            tensor = torch.tensor(value, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images. Raises ValueError for an answer that is not what the settings say."""
        return self._logits(self.model(self._pixels(x)))

    def _pixels(self, x: Tensor) -> Tensor:
        wanted = self.adaptation
        if wanted.size is not None and tuple(x.shape[-2:]) != tuple(wanted.size):
            x = functional.interpolate(x, wanted.size, mode=wanted.interpolation, antialias=True, align_corners=False)
        if wanted.pixels is not None:
            low, high = wanted.pixels
            x = x * (high - low) + low
        if wanted.mean is not None:
            x = x - self.mean.to(x.dtype)
        return x / self.std.to(x.dtype) if wanted.std is not None else x

    def _logits(self, answer: Any) -> Tensor:
        wanted = self.adaptation
        if wanted.output is not None:
            answer = part_of(answer, wanted.output)
        if not (wanted.log or wanted.binary):
            return answer  # type: ignore[no-any-return]  # the harness looks at it
        if not isinstance(answer, Tensor):
            raise ValueError(f"the answer is a {type(answer).__name__}, so say with --output which part is meant")
        return _two(answer, wanted.log) if wanted.binary else answer.float().clamp_min(SMALLEST).log()


def part_of(answer: Any, part: str | int) -> Any:
    """The part of an answer that a key, an attribute or an index names. Raises ValueError where there is none."""
    if isinstance(answer, Tensor):
        raise ValueError("the model answers with a tensor, which has no parts, so leave --output out")
    if isinstance(answer, Mapping) and part in answer:
        return answer[part]
    if isinstance(part, int) and isinstance(answer, tuple | list) and -len(answer) <= part < len(answer):
        return answer[part]
    if isinstance(part, str) and isinstance(getattr(answer, part, None), Tensor):
        return getattr(answer, part)
    raise ValueError(f"the answer, {parts_told(answer)}, has no part {part!r}, which --output names")


def parts_told(answer: Any) -> str:
    """An answer that is no tensor in words, with the names of its parts."""
    if isinstance(answer, Mapping):
        return f"a {type(answer).__name__} of {', '.join(map(repr, list(answer)[:8]))}"
    if isinstance(answer, tuple | list):
        return f"a {type(answer).__name__} of {len(answer)}"
    named = [name for name, value in vars(answer).items() if isinstance(value, Tensor)] if _has_parts(answer) else []
    return f"a {type(answer).__name__}" + (f" with {', '.join(map(repr, named[:8]))}" if named else "")


def _has_parts(answer: Any) -> bool:
    return hasattr(answer, "__dict__") and not isinstance(answer, type)


def _two(answer: Tensor, probabilities: bool) -> Tensor:
    """Logits [B, 2] of one number per image, [B] or [B, 1]: a logit, which is how far the second class lies above the
    first, or its probability."""
    if answer.dim() > 2 or (answer.dim() == 2 and answer.shape[1] != 1):
        raise ValueError(f"--binary is for one number per image, but the answer has shape {tuple(answer.shape)}")
    second = answer.reshape(-1, 1).float()
    if probabilities:
        return torch.cat([1 - second, second], 1).clamp_min(SMALLEST).log()
    return torch.cat([torch.zeros_like(second), second], 1)
