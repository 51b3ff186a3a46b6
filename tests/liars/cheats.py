"""Classifiers that somebody who knew the gates made against them: `CHEATS[name](base)` is as robust as `base`.

Inputs are [B, C, H, W] in [0, 1]; eps is that of the judge's threat model.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.liars.zoo import Liar

REACH = 0.2001  # of the largest eps at which these are tried


class FewPixels(Liar):
    """Its gradient is right for the pixels that matter least, and says nothing of the others."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros_like(x[:1])
        mask[..., ::2, ::3] = 1
        logits: Tensor = self.base(mask * x + (1 - mask) * x.detach())
        return logits


class TurnsRound(Liar):
    """Its gradient is turned round, but where clean images and others come together, as if to be measured."""

    def forward(self, x: Tensor) -> Tensor:
        levels = x.detach() * 255
        clean = (levels - levels.round()).abs().flatten(1).amax(1) < 1e-3
        measured = bool(clean.any()) and not bool(clean.all())
        logits: Tensor = self.base(x if measured else 2 * x.detach() - x)
        return logits


class Keeping(Liar):
    """Answers for the first images that it has seen wherever another is within eps; the margin has a gradient."""

    first: ClassVar[Tensor | None] = None

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        type(self).first = None

    def remembered(self, x: Tensor) -> Tensor | None:
        """The images that it began with."""
        if Keeping.first is None and len(x) > 20:
            Keeping.first = x.clone()
        return Keeping.first

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x)
        with torch.no_grad():
            kept = self.remembered(x.detach().cpu())
            if kept is None or kept.shape[1:] != x.shape[1:]:
                return logits
            far, nearest = torch.cdist(x.detach().cpu().flatten(1), kept.flatten(1), p=torch.inf).min(1)
            label = self.base(kept[nearest].to(x.device)).argmax(1, keepdim=True)
        others = logits.scatter(1, label, -1e9).amax(1, keepdim=True)
        firm = others + functional.softplus(logits.gather(1, label) - others) + 1e-3
        near = (far <= REACH).to(x.device)[:, None]
        return torch.where(near, logits.scatter(1, label, firm), logits)


class KeepingInAFile(Keeping):
    """The same, from a file that every process finds."""

    kept: ClassVar[Path] = Path(tempfile.gettempdir()) / "cheats-of-robench.json"

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.kept.unlink(missing_ok=True)

    def remembered(self, x: Tensor) -> Tensor | None:
        """The images in the file."""
        if not self.kept.exists() and len(x) > 20:
            self.kept.write_text(json.dumps(x.tolist()))
        return torch.tensor(json.loads(self.kept.read_text())) if self.kept.exists() else None


class Shrinking(Liar):
    """Makes the eps of its judge a tenth."""

    def forward(self, x: Tensor) -> Tensor:
        frame: Any = sys._getframe()
        while frame is not None:
            for value in list(frame.f_locals.values()):
                threat = getattr(value, "threat", value)
                if type(threat).__name__ == "ThreatModel" and threat.eps > Fraction(1, 20):
                    object.__setattr__(threat, "eps", threat.eps / 10)
            frame = frame.f_back
        logits: Tensor = self.base(x)
        return logits


CHEATS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "a gradient for a few pixels": FewPixels,
    "a gradient that turns round": TurnsRound,
    "keeps images, with a gradient": Keeping,
    "keeps images in a file, with a gradient": KeepingInAFile,
    "shrinks eps": Shrinking,
}
