"""Weights from a file, laid out as a model wants them.

Needs nothing but torch and safetensors: the process that gives second verdicts reads this file by its path. What cannot
be used is a ValueError of one sentence.
"""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# what training scripts put around names
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.")
# where they keep weights, what is looked for first first
PLACES = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module",
          "ema", "ema_state_dict", "model_ema", "state_dict_ema", "ema_model", "teacher", "student")  # fmt: skip
# of an average over training, and of batch norms before they counted: of no use to an answer
UNUSED = ("n_averaged",)
COUNTER = "num_batches_tracked"
# kinds of objects in checkpoints that are data
HARMLESS = (argparse.Namespace, np.dtype)
NAMED = 4

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Fitted:
    """Weights that fit a model, from which entry of the file, and the other entries that would have fitted too."""

    weights: Weights
    entry: str = ""
    others: tuple[str, ...] = ()


def fit_file(place: str, model: nn.Module) -> Fitted:
    """The weights of FILE, or of FILE@ENTRY, under the names that the model has. Raises ValueError."""
    path, entry = _entry_of(place)
    held = _held(_read(path), path)
    if entry and entry not in held:
        raise ValueError(f"the file {path} has no entry {entry!r} of weights; it has {_few(held)}")
    tried = {entry: held[entry]} if entry else held
    own = model.state_dict()
    fitted = {name: found for name, weights in tried.items() if (found := _fitting(weights, own)) is not None}
    if not fitted:
        raise ValueError(_misfit(path, *next(iter(tried.items())), own))
    first, *others = fitted
    return Fitted(fitted[first], first, tuple(others))


def load_into(place: str, model: nn.Module) -> Fitted:
    """Give the model the weights of a file, and put it into eval mode. Raises ValueError."""
    found = fit_file(place, model)
    model.load_state_dict(found.weights, strict=True)
    model.eval()
    return found


def _entry_of(place: str) -> tuple[Path, str]:
    path = Path(os.path.expanduser(place))
    if path.is_file() or "@" not in place:
        return path, ""
    file, _, entry = place.rpartition("@")
    return Path(os.path.expanduser(file)), entry


def _read(path: Path) -> Any:
    """What a file of weights holds, on the CPU whatever device it was written on."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path, device="cpu")
    try:
        with torch.serialization.safe_globals([*HARMLESS, *_numbers()]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with open(path, "rb") as stream:
            if stream.read(2)[:1] not in (b"P", b"\x80"):  # neither an archive nor a pickle
                raise ValueError(f"the file {path} is no file of weights") from error
        raise ValueError(_refused(path, str(error))) from error
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise ValueError(f"the file {path} is a whole TorchScript model; give jit:{path} as the model") from error
        raise


def _numbers() -> list[Any]:
    """The kinds of numpy's numbers, which training scripts save losses as, under the names of both of its versions."""
    scalar: Any = getattr(np, "_core").multiarray.scalar  # noqa: B009  # numpy's own stubs hide it
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")]
    return [*kinds, scalar, (scalar, "numpy.core.multiarray.scalar")]


def _refused(path: Path, said: str) -> str:
    """Why a pickle is not read, and what makes a file of it that is."""
    marks = [part.partition(" ")[0].strip("'\"`.,") for part in said.split("GLOBAL ")[1:]]
    what = f"objects of {marks[0]}" if marks else "more than tensors"
    new = path.with_name(f"{path.stem}-weights.pt")
    return (
        f"the file {path} holds {what}, as a whole pickled model does, and to read that would run code; where you "
        f"trust it, convert it once beside its code: model = torch.load({str(path)!r}, weights_only=False, "
        f"map_location='cpu') and then torch.save(model.state_dict(), {str(new)!r}); give --weights {new}"
    )


def _held(value: Any, path: Path) -> dict[str, Weights]:
    """The sets of weights in what a file held, by where they are; "" for the file itself."""
    found = dict(_sets(value))
    if not found:
        what = f"a dictionary of {_few(value)}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
        raise ValueError(
            f"the file {path} holds {what} and no state_dict, or a dictionary with one under {', '.join(PLACES[:4])}"
        )
    return found


def _sets(value: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Weights]]:
    if not isinstance(value, Mapping):
        return
    if value and all(isinstance(each, Tensor) or name in UNUSED for name, each in value.items()):
        yield place, {str(name): each for name, each in value.items() if isinstance(each, Tensor)}
        return
    known = [name for name in PLACES if name in value]
    others = [name for name in value if isinstance(name, str) and name not in known and name != "optimizer"]
    for name in [*known, *others] if depth < 2 else []:
        yield from _sets(value[name], f"{place}.{name}" if place else name, depth + 1)


def _fitting(weights: Weights, own: Mapping[str, Tensor]) -> Weights | None:
    """The weights under the model's names; None where they are not all there with the right shapes."""
    found = _renamed(weights, own)
    lacking = {name for name in own.keys() - found.keys() if not name.endswith(COUNTER)}
    if lacking or found.keys() - own.keys() or any(found[name].shape != own[name].shape for name in found):
        return None
    return {**{name: tensor for name, tensor in own.items() if name.endswith(COUNTER)}, **found}


def _renamed(weights: Weights, own: Mapping[str, Tensor]) -> Weights:
    """The weights by names of the model's, where those differ by what scripts put before all of them."""
    stripped = {_bare(name): name for name in own}
    options = [
        {name: tensor for name, tensor in weights.items() if name not in UNUSED},
        *({_without(name, i): tensor for name, tensor in weights.items() if name not in UNUSED} for i in (1, 2, 3)),
    ]
    best = max(options, key=lambda names: len(names.keys() & own.keys()))
    if own.keys() - best.keys() and len(stripped) == len(own):
        bare = {stripped.get(_bare(name), name): tensor for name, tensor in weights.items() if name not in UNUSED}
        if len(bare.keys() & own.keys()) > len(best.keys() & own.keys()):
            return bare
    return best


def _without(name: str, times: int) -> str:
    """A name without the first of the prefixes, so many times."""
    for _ in range(times):
        name = next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)
    return name


def _bare(name: str) -> str:
    return _without(name, 3)


def _misfit(path: Path, place: str, weights: Weights, own: Mapping[str, Tensor]) -> str:
    """What of the weights does not fit, by name."""
    found = _renamed(weights, own)
    missing = sorted(name for name in own.keys() - found.keys() if not name.endswith(COUNTER))
    unexpected = sorted(found.keys() - own.keys())
    shaped = [f"{name} {_by(found[name])} for {_by(own[name])}" for name in found if name in own
              and found[name].shape != own[name].shape]  # fmt: skip
    parts = [f"{len(missing)} missing ({_few(missing)})"] if missing else []
    parts += [f"{len(unexpected)} that it has no place for ({_few(unexpected)})"] if unexpected else []
    parts += [f"{len(shaped)} of another shape ({_few(shaped)})"] if shaped else []
    where = f"{path} under {place!r}" if place else str(path)
    return f"the weights in {where} do not fit the model: {'; '.join(parts)}"


def _few(names: Any) -> str:
    names = list(map(str, names))
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _by(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "number"
