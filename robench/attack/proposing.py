"""What an attack proposes for a batch, whatever becomes of its budget, and which of its stages were run."""

from __future__ import annotations

import torch
from torch import Tensor

from robench.attack.base import Attack, Batch, Proposal
from robench.attack.budget import Asked, Exhausted
from robench.attack.classifier import Classifier
from robench.errors import Misbehaved


def propose(
    attack: Attack, model: Classifier, batch: Batch, examples: Tensor, *, targeted: bool, last: bool
) -> Proposal:
    """What an attack proposes for a batch of the `examples`, int64 [B]; see `Asked` for `targeted` and `last`.

    Of examples whose budget is spent it is the best image that was asked about: what the attack makes of answers that
    are none says nothing. Raises ValueError where it tells of stages that it does not have.
    """
    none = torch.full_like(examples, -1)
    if model.budget is None:
        return _checked(attack, attack.perturb(model.rows(examples), batch), none)
    model.asked = asked = Asked(batch, examples, targeted=targeted, last=last)
    try:
        found = _checked(attack, attack.perturb(model.rows(examples), batch), none)
    except Exhausted:
        found = Proposal(asked.x, none)
    finally:
        model.asked = None
    cut = model.budget.out[examples]
    x = asked.instead(found.x.detach().float().cpu(), cut)
    return Proposal(x, torch.where(cut, none, found.step), found.stages)


def _checked(attack: Attack, answer: Tensor | Proposal, step: Tensor) -> Proposal:
    """The answer as a proposal, its stages on the CPU."""
    if not isinstance(answer, Proposal):
        return Proposal(answer, step)
    if answer.stages is None:
        return answer
    if int(answer.stages.min()) < 0 or int(answer.stages.max()) >> len(attack.stages):
        raise Misbehaved(f"{type(attack).__name__} tells of stages beside {attack.stages}")
    return Proposal(answer.x, answer.step, answer.stages.cpu())


def names_of(attack: Attack, run: int) -> str:
    """The stages in a row's bits, by their names, with semicolons between."""
    return ";".join(name for k, name in enumerate(attack.stages) if run >> k & 1)
