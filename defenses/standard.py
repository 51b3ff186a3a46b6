"""The undefended classifier every defense is compared with."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from robench import DataInfo, Defense, Recipes, build_backbone
from robench_defenses.recipes import STANDARD


class Standard(Defense):
    """A plain classifier trained on cross-entropy (the papers' "Standard").

    backbone: a network's name, or "auto" for the one that fits the data.
    """

    recipes: ClassVar[Recipes] = STANDARD

    def __init__(self, data: DataInfo, *, backbone: str = "auto") -> None:
        super().__init__(data)
        self.backbone = build_backbone(backbone, data)
        self.head = nn.Linear(self.backbone.width, data.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        logits: Tensor = self.head(self.backbone(x))
        return logits

    def loss(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"total": functional.cross_entropy(self(x), y)}
