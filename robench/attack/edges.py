"""Whether a model's lead tells of a boundary before it is reached, as an attack that follows margins needs it to."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from robench.attack.classifier import Classifier

# pairs of images between which a change of the answer is sought, the fewest that tell, and how often ways are halved
PAIRS, LEAST, HALVINGS = 16, 8, 8
# so much of the way back from that change, this share of the lead at the beginning is left at most; among some 25
# networks, standard and adversarially trained ones, the median share was 0.03 to 0.15, behind decoys 0.4 to 1
BACK, LEFT = 0.03, 1 / 3


def sudden(model: Classifier, x: Tensor, logits: Tensor) -> bool:
    """Whether the answer usually changes while most of the lead of the class before is still there.

    x [n, C, H, W] are images and `logits` [n, classes] the model's answers to them. Asked are images on the straight
    ways between two of them that are answered differently, shortly before the first answer gives way. False, too, of
    a model that cannot answer there, which attacks will find.
    """
    with contextlib.suppress(Exception):  # whatever a user's model does
        return _sudden(model, x, logits)
    return False


def _sudden(model: Classifier, x: Tensor, logits: Tensor) -> bool:
    answers = logits.argmax(1)
    begin, end = _pairs(answers)
    if len(begin) < LEAST:
        return False

    def lead(way: Tensor) -> Tensor:
        """How far the first answer lies above the others, so far along every way, [pairs]."""
        share = way.reshape(-1, *[1] * (x.dim() - 1))
        asked = model.logits(x[begin] + share * (x[end] - x[begin]))[:, : logits.shape[1]].nan_to_num()
        first = answers[begin][:, None]
        return asked.gather(1, first)[:, 0] - asked.scatter(1, first, -torch.inf).amax(1)

    before, after = torch.zeros(len(begin)), torch.ones(len(begin))
    for _ in range(HALVINGS):
        middle = (before + after) / 2
        stands = lead(middle) > 0
        before, after = torch.where(stands, middle, before), torch.where(stands, after, middle)
    whole = lead(torch.zeros(len(begin)))
    shares = (lead(before * (1 - BACK)) / whole)[whole > 0]
    return len(shares) >= LEAST and float(shares.median()) > LEFT


def _pairs(answers: Tensor) -> tuple[Tensor, Tensor]:
    """The places of the first images, and for each that of the next one that is answered differently."""
    n = len(answers)
    if bool((answers == answers[:1]).all()):
        return torch.arange(0), torch.arange(0)
    begin = torch.arange(min(PAIRS, n))
    later = (begin[:, None] + torch.arange(1, n)) % n
    other = answers[later] != answers[begin, None]
    return begin, later[begin, other.to(torch.int8).argmax(1)]
