"""What a module must be before it is attacked: in eval mode, and open to gradients."""

from __future__ import annotations

import torch
from torch import nn

from robench.errors import BadInput


def check_gradients(module: nn.Module) -> None:
    """Raise BadInput for a model through which no gradient passes, for it was made under inference mode."""
    tensors = [*nn.Module.parameters(module), *nn.Module.buffers(module)]
    if any(tensor.is_inference() for tensor in tensors):
        raise BadInput(
            "The model's tensors were made under torch.inference_mode(), so no gradient passes through it; make the "
            "model outside of it."
        )


def check_eval_mode(module: nn.Module) -> None:
    """Raise BadInput if any part of the module is in train mode."""
    parts = nn.Module.named_modules(module)  # torch's own, whatever the model makes of it
    training = next((name or type(m).__name__ for name, m in parts if getattr(m, "training", False)), None)
    if training is not None and _exported(module):
        return  # what it does was fixed when it was exported
    if training is not None:
        raise BadInput(
            f"The model is in train mode (at {training!r}), where its answers depend on the batch; "
            "call model.eval() before handing it over."
        )


def _exported(module: nn.Module) -> bool:
    """Whether it is what torch.export made of a model, which has no modes: asked for one, it raises."""
    switch = vars(module).get("eval")
    if switch is None or not isinstance(module, torch.fx.GraphModule):
        return False
    try:
        switch()
    except NotImplementedError:
        return True
    return False
