"""Whether a model's gradients say what its answers do: a search that follows others than these finds nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from robench import randomness
from robench.attack.classifier import Classifier
from robench.norms import SteepestNorm
from robench.threat import ThreatModel

# images that are looked at, and how few say nothing
LOOKED, LEAST = 8, 4
# shares of eps at which an answer's change is measured
RADII = (1 / 64, 1 / 16, 1 / 4, 1)
# a measured change agrees if it is off by at most this share of what the gradient says, and contradicts if it has the
# other sign and at least a quarter of the size; a change of fewer than so many roundings says nothing
OFF, AGAINST, ROUNDINGS = 0.5, 0.25, 16
# the share of points with a wrong gradient from which on a search cannot be trusted
SHARE = 0.5


def misleading(model: Classifier, x0: Tensor, found: Tensor, y: Tensor, ids: Tensor, threat: ThreatModel) -> bool:
    """Whether most gradients are wrong around images that an attack left standing.

    x0, found [n, C, H, W]: clean images, and where the attack ended; y, ids int64 [n]. The change of the runner-up's
    lead over the label along the steepest ascent is measured at several radii, from the clean image, a random one of
    the ball and the found one, and compared with what the gradient says. A point is wrong where the change agrees at no
    radius, or contradicts at every larger one.
    """
    geometry = threat.geometry
    if not isinstance(geometry, SteepestNorm) or threat.radius == 0 or len(x0) < LEAST:
        return False
    x0, found, y = x0[:LOOKED], found[:LOOKED], y[:LOOKED]
    keys, trials, shape = ids[:LOOKED].tolist(), [0] * len(x0), tuple(x0.shape[1:])
    uniform = randomness.uniform(0, keys, trials, "slopes", shape)
    gaussian = randomness.gaussian(0, keys, trials, "slopes", shape) if geometry.directed else None
    x = torch.cat([x0, threat.sample(x0, uniform, gaussian), found])
    logits, rival, grad = _slope(model, x, y.repeat(3))
    predicted, measured, floor = [], [], []
    for radius in RADII:
        ahead = geometry.steepest(x, grad, radius * threat.radius).clamp(0, 1)
        after = _lead(model.logits(ahead), y.repeat(3), rival)
        predicted.append((grad * (ahead - x)).flatten(1).sum(1))
        measured.append(after - _lead(logits, y.repeat(3), rival))
        floor.append(ROUNDINGS * torch.finfo(torch.float32).eps * logits.abs().amax(1))
    return _wrong(torch.stack(predicted), torch.stack(measured), torch.stack(floor))


def _wrong(predicted: Tensor, measured: Tensor, floor: Tensor) -> bool:
    """Whether most of the points that say something are wrong, from changes [radii, points]."""
    telling = predicted > floor
    agrees = telling & ((measured - predicted).abs() <= OFF * predicted)
    against = ~telling | (measured < -AGAINST * predicted)
    wrong = ~agrees.any(0) | against[1:].all(0)
    seen = telling.any(0) & measured.isfinite().all(0)
    return int(seen.sum()) >= LEAST and bool(wrong[seen].double().mean() > SHARE)


def _slope(model: Classifier, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, the highest class that is not y, and the gradient of its lead over y, all on the CPU."""
    with torch.enable_grad():
        pixels = x.to(model.device).detach().requires_grad_(True)
        answer = model.ask(pixels).float()
        logits = answer.detach().cpu()
        rival = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
        lead = _lead(answer, y.to(model.device), rival.to(model.device)).sum()
        with model.guard:
            grad = torch.autograd.grad(lead, pixels, allow_unused=True)[0] if lead.requires_grad else None
    return logits, rival, torch.zeros_like(x) if grad is None else grad.detach().float().cpu()


def _lead(logits: Tensor, y: Tensor, rival: Tensor) -> Tensor:
    """By how much the rival leads the label, [n]."""
    return (logits.gather(1, rival[:, None]) - logits.gather(1, y[:, None]))[:, 0]
