"""A model by reference, from whatever source: the module, its name, its digest, and how other processes come by it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch import nn

from robench.attack.classifier import REJECTING
from robench.attack.guard import making
from robench.attack.inspection import check_values
from robench.data.dataset import DataInfo, Dataset
from robench.data.sources import sized_folder
from robench.errors import BadInput
from robench.models.adapted import Adaptation, Adapted
from robench.models.factories import made_by_code, place_of_code
from robench.models.libraries import Sizing
from robench.models.outside import NEEDED, from_library, installed, tell
from robench.models.settings import adaptation_of, give_weights
from robench.models.trained import data_of, trained_module
from robench.progress import say
from robench.references import FILES, LIBRARIES, Reference
from robench.store.contents import contents_digest
from robench.store.files import identity
from robench.store.known import remember
from robench.store.runs import Store, digest_of_card


@dataclass(frozen=True)
class LoadedModel:
    """A model: its name in tables, its digest, its data if robench trained it, and how to get the module.

    reference: how to find it again on the command line, "" for a module handed over in a program. packed: a pickle of
    such a module as it was handed over, None where there is none. place: what another process needs to load it by
    itself, None where robench has to. defense: of a model that robench trained. sizing: how files of images are brought
    to its size, where its library says so. adaptation: what stands around it.
    """

    name: str
    load: Callable[[], nn.Module]
    digest: str
    reference: str = ""
    data: DataInfo | None = None
    packed: bytes | None = None
    place: Mapping[str, Any] | None = None
    defense: str = ""
    sizing: Sizing | None = None
    adaptation: Adaptation = field(default_factory=Adaptation)

    @cached_property
    def module(self) -> nn.Module:
        """The module, read when it is first asked for. Raises BadInput where that fails."""
        return self.load()

    def on(self, dataset: Dataset) -> Dataset:
        """The data, of as many classes as the model answers for where labels alone cannot say how many there are."""
        if not dataset.open_ended:
            return dataset
        return dataset.answered(self.data.classes if self.data else _outputs(self.module, dataset))

    def sized(self, data: str) -> str:
        """The name of data for this model: of a folder whose size nobody said, with the way its library brings images
        to a size."""
        way = self.sizing
        kind, _, place = data.partition(":")
        if way is None or kind != "folder" or way.crop[0] != way.crop[1] or sized_folder(place)[1] is not None:
            return data
        return f"{data}@{way.crop[0]}-{'x'.join(map(str, way.resize))}-{way.interpolation}"

    def check_channels(self, channels: int) -> None:
        """Raise BadInput where --mean or --std are for images of other channels."""
        for flag, value in (("--mean", self.adaptation.mean), ("--std", self.adaptation.std)):
            if value is not None and len(value) not in (1, channels):
                raise BadInput(
                    f"{flag} has {len(value)} numbers, but the images have {channels} "
                    f"channel{'s' * (channels > 1)}; give as many, or one for all."
                )

    def release(self) -> None:
        """Give up the module; it is read again when it is asked for."""
        vars(self).pop("module", None)

    @property
    def handle(self) -> str | nn.Module:
        """What opens it again in this process."""
        return self.reference or self.module

    @property
    def title(self) -> str:
        """The name, with the digest's beginning where only that tells one module from another of its class."""
        return self.name if self.reference else f"{self.name}#{self.digest[:6]}"


def load_model(reference: str | nn.Module, store: Store) -> LoadedModel:
    """The model behind a name or a reference (see `robench list sources`), or the module itself.

    Raises BadInput for anything that cannot be found or loaded.
    """
    if isinstance(reference, nn.Module):
        return _handed(reference)
    parsed = Reference.parse(reference)
    if parsed.kind == "trained" or reference in store.model_names():
        return _trained(reference, parsed, store)
    _check_code(parsed.bare if parsed.kind == "module" and not parsed.place else parsed.place, parsed)
    if parsed.kind in NEEDED:
        installed(parsed)
    with making() as made:  # what code and libraries do to torch or to the process is undone, and told of the model
        found = _found(parsed)
        made.append(found.module)
    if parsed.runs_code:
        remember(str(parsed))
    return found


def _found(parsed: Reference) -> LoadedModel:
    """The model of code, a library or a file."""
    if parsed.kind in LIBRARIES or parsed.kind in FILES:
        outside = from_library(parsed)
        return _opened(parsed, outside.module, outside.place, outside.adaptation, outside.sizing)
    here = os.getcwd()
    module, arguments = made_by_code(parsed)
    os.chdir(here)  # where the paths that were given lead from, wherever the factory went
    return _opened(parsed, module, place_of_code(parsed, arguments), Adaptation(), None)


def _opened(
    parsed: Reference, module: nn.Module, place: dict[str, Any], library: Adaptation, sizing: Sizing | None
) -> LoadedModel:
    """A model that was made, with what stands around it."""
    _check_alone(module)
    if "weights" in parsed.settings:
        told = give_weights(module, parsed.settings["weights"])
        if told:
            say(told)
        place = {**place, "weights": str(Path(parsed.settings["weights"]).expanduser().absolute())}
    check_values(module)
    own = adaptation_of(parsed.settings)
    whole = together(library, own)
    if library != Adaptation():
        tell(parsed.bare, whole)
    digest = digest_of(module)
    if whole != Adaptation():
        module, digest = Adapted(module, whole), _around(digest, whole)
        place = {**place, "adaptation": whole.to_json()}
    return LoadedModel(
        _label(parsed, own), lambda: module, digest, str(parsed), place=place, sizing=sizing, adaptation=whole
    )


def together(library: Adaptation, own: Adaptation) -> Adaptation:
    """What a library says of a model, with what the user says instead: of its pixels, or of its answer."""
    changes = {name: value for name, value in vars(own).items() if value != getattr(Adaptation(), name)}
    if changes.keys() & {"mean", "std", "pixels"}:
        library = replace(library, mean=None, std=None)
    return replace(library, **changes)


def _label(parsed: Reference, own: Adaptation) -> str:
    """What a model goes by in tables: its file or library, its factory, and what the user put around it."""
    place = Path(parsed.place).name if parsed.kind == "file" else parsed.place
    name = Path(parsed.name).name if parsed.kind in FILES else parsed.name
    found = f"{place or parsed.kind}:{name}"
    if parsed.arguments:
        found += f"?{'&'.join(f'{key}={value}' for key, value in parsed.arguments.items())}"
    weights = parsed.settings.get("weights")
    told = [*([f"weights {Path(weights).name}"] if weights else []), *([own.told] if own.told else [])]
    return f"{found} [{'; '.join(told)}]" if told else found


def _around(digest: str, adaptation: Adaptation) -> str:
    return identity({"model": digest, "adaptation": adaptation.to_json()})


def _handed(module: nn.Module) -> LoadedModel:
    """A module that a program handed over, perhaps with something around it."""
    inner, adaptation = (module.model, module.adaptation) if type(module) is Adapted else (module, Adaptation())
    _check_alone(inner)
    check_values(inner)
    digest, name = digest_of(inner), type(inner).__name__
    found = LoadedModel(name, lambda: module, digest, packed=_packed(inner), adaptation=adaptation)
    if adaptation == Adaptation():
        return found
    return replace(found, name=f"{name} [{adaptation.told}]", digest=_around(digest, adaptation))


# how files end that hold weights or graphs, which say nothing of the code that computes with them
WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".pkl", ".pickle", ".npz", ".npy", ".h5", ".tar", ".gz")
GRAPHS = (".pb", ".tflite", ".engine", ".mlmodel")
OPENED = {".onnx": "onnx", ".pt2": "pt2"}


def _check_code(place: str, parsed: Reference) -> None:
    """Raise BadInput for a file that is not code, with what would read it, and for a folder."""
    ending = Path(place).suffix.lower()
    if parsed.kind in ("file", *LIBRARIES, *FILES):
        return
    if ending in OPENED:
        raise BadInput(f"The model {place!r} is a file of a graph; give {OPENED[ending]}:{place}.")
    if ending in GRAPHS:
        raise BadInput(f"The model {place!r} is a file of a graph that robench does not read; export it as onnx:FILE.")
    if ending in WEIGHTS:
        raise BadInput(
            f"The model {place!r} is a file of weights, but robench runs an nn.Module; give the code that they are for "
            f"and --weights, as in 'my_model.py:Net --weights {place}', or jit:{place} where TorchScript saved it."
        )
    if Path(place).is_dir() and "/" in place:
        raise BadInput(f"The model {place!r} is a folder; give file.py:factory with a file of it, or a model's name.")


def digest_of(module: nn.Module) -> str:
    """16 hex digits over what a module computes with; the same for one handed over and for one loaded by reference.

    See `store.contents`. What it cannot see, answers can: stored rows are also compared with the model's.
    """
    return contents_digest(module)


def _outputs(module: nn.Module, dataset: Dataset) -> int:
    """How many classes a module answers for, 0 where it cannot be asked: the judge says why."""
    weights = next(module.parameters(), torch.empty(0))
    try:
        with torch.no_grad():
            answer: object = module(dataset.test.pixels(slice(0, 2)).to(weights.device))
    except BadInput:
        raise
    except Exception:  # whatever a user's model does
        return 0
    return answer.shape[1] if isinstance(answer, torch.Tensor) and answer.dim() == 2 else 0


def _check_alone(module: nn.Module) -> None:
    """Raise BadInput for a model that has a detector of ours before it: its rejections would count as right answers."""
    if type(module) in REJECTING:
        raise BadInput(
            f"The model is a {type(module).__name__}, which rejects images; give the model alone, and name the "
            "detector with --detector."
        )


def _packed(module: nn.Module) -> bytes | None:
    try:
        return cloudpickle.dumps(module)  # type: ignore[no-any-return]  # classes of a notebook too
    except Exception:  # whatever a user's model holds
        return None


def _trained(name: str, parsed: Reference, store: Store) -> LoadedModel:
    if name not in store.model_names():
        _check_code(parsed.name, parsed)
        if parsed.settings:
            said = ", ".join(f"--{each}" for each in parsed.settings)
            raise BadInput(
                f"{said} cannot be put around {parsed.name!r}: what robench trained takes pixels of [0, 1] and answers "
                "with logits; leave it out."
            )
    card = store.card(name)
    data = data_of(name, card)
    load = partial(trained_module, name, card, data, store)
    return LoadedModel(name, load, digest_of_card(card), name, data, defense=card["defense"])
