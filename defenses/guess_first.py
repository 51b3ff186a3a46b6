"""Guess first: a network scores every label hypothesis; its objectives, and elimination of label information."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from robench import ConvNet, DataInfo, Defense, Recipes, Variant, build_backbone, require
from robench_defenses import divergences
from robench_defenses.recipes import STANDARD, with_options

OBJECTIVES = {
    "dv": divergences.donsker_varadhan,
    "js": divergences.jensen_shannon,
    "eb": divergences.energy_based,
}

# The paper's lambda and kernel scale are lost. With the median distance as the scale, the gradient of the information
# in an untrained code is a thousand times the objective's, so training that starts with it ends in a constant code.
OURS = "lambda, kernel scale and delay ours"
ELIMINATING = with_options(STANDARD, {family: {"source": OURS} for family in STANDARD})


class GuessFirst(Defense):
    """Score T(x, y') of every label hypothesis, label information eliminated from the code (Zhu, An & Niu, 2020).

    objective: "dv" (Donsker-Varadhan, C-DV), "js" (Jensen-Shannon, C-JS) or "eb" (energy-based, cross-entropy).
    elimination: weight lambda of the information elimination (IE), 0 for none. delay: share of the training before it
    sets in. reading: "a" or "b" of `divergences.label_information`. scale: of its Gaussian kernel,
    None for the batch's median distance.
    expose_sigmoid: answer with sig(T), whose gradient vanishes where the model is sure, as the paper may have done.

    Features of the image come from the convolutions of a CNN, or from the whole of any other backbone.
    """

    recipes: ClassVar[Recipes] = ELIMINATING

    def __init__(
        self,
        data: DataInfo,
        *,
        backbone: str = "auto",
        objective: Literal["dv", "js", "eb"] = "dv",
        elimination: float = 0.01,
        delay: float = 0.25,
        reading: Literal["a", "b"] = "a",
        scale: float | None = None,
        expose_sigmoid: bool = False,
    ) -> None:
        require(elimination >= 0, "elimination", elimination, "zero or more")
        require(0 <= delay < 1, "delay", delay, "a share of the training in [0, 1)")
        require(scale is None or scale > 0, "scale", scale, "positive, or none for the median distance")
        super().__init__(data)
        self.objective, self.elimination, self.delay = objective, elimination, delay
        self.reading, self.scale, self.expose_sigmoid = reading, scale, expose_sigmoid
        self.backbone = build_backbone(backbone, data)
        if isinstance(self.backbone, ConvNet):
            self.backbone.fully_connected, self.backbone.width = nn.Sequential(), self.backbone.conv_width
        self.first = nn.Linear(self.backbone.width + data.classes, 512)
        self.second = nn.Linear(512, 256)
        self.decide = nn.Sequential(nn.Linear(256, 128), nn.ReLU(inplace=True), nn.Linear(128, 1))

    def code(self, h: Tensor) -> Tensor:
        """The second layer's output under every hypothesis: features [B, F] -> [B, classes, 256]."""
        # the layer on (h, one-hot) is a sum, and its larger part the same under all hypotheses
        of_image, of_label = torch.split(self.first.weight, [h.shape[1], self.data.classes], dim=1)
        hidden = functional.linear(h, of_image, self.first.bias)[:, None] + of_label.T
        z: Tensor = self.second(hidden.relu_())
        return z.relu_()

    def forward(self, x: Tensor) -> Tensor:
        """T [B, classes] of every hypothesis, or sig(T) with expose_sigmoid."""
        t: Tensor = self.decide(self.code(self.backbone(x))).squeeze(-1)
        return t.sigmoid() if self.expose_sigmoid else t

    def loss(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The objective, and lambda times the label information in the code; the latter moves the two layers only."""
        h = self.backbone(x)
        terms = {"objective": OBJECTIVES[self.objective](self.decide(self.code(h)).squeeze(-1), y)}
        if self.elimination and self.progress >= self.delay:
            information = divergences.label_information(self.code(h.detach()), y, self.reading, self.scale)
            terms["elimination"] = self.elimination * information
        elif self.elimination:
            terms["elimination"] = x.new_zeros(())
        return {**terms, "total": sum(terms.values(), x.new_zeros(()))}


c_dv = Variant(
    GuessFirst,
    "C-DV: label hypotheses scored under the Donsker-Varadhan bound (Zhu, An & Niu, 2020).",
    {"objective": "dv", "elimination": 0.0},
    STANDARD,
)
c_js = Variant(
    GuessFirst,
    "C-JS: label hypotheses scored under the Jensen-Shannon bound (Zhu, An & Niu, 2020).",
    {"objective": "js", "elimination": 0.0},
    STANDARD,
)
c_eb = Variant(
    GuessFirst,
    "C-EB: label hypotheses scored under the energy-based bound, cross-entropy (Zhu, An & Niu, 2020).",
    {"objective": "eb", "elimination": 0.0},
    STANDARD,
)
c_dv_ie = Variant(GuessFirst, "C-DV with information elimination (Zhu, An & Niu, 2020).", {"objective": "dv"})
c_js_ie = Variant(GuessFirst, "C-JS with information elimination (Zhu, An & Niu, 2020).", {"objective": "js"})
