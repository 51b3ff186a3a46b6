"""Models by reference: trained by robench, made by a user's factory, or torchvision's; each with a digest."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cloudpickle
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from robench import registry
from robench.data.dataset import DataInfo
from robench.defense.networks import Normalize
from robench.errors import BadInput, RobenchError, first_line, unknown
from robench.store.contents import contents_digest
from robench.store.known import remember
from robench.store.runs import Store, digest_of_card


@dataclass(frozen=True)
class LoadedModel:
    """A model: its name in tables, its digest, its data if robench trained it, and how to get the module.

    reference: how to find it again on the command line, "" for a module handed over in a program. packed: a pickle of
    such a module as it was handed over, None where there is none. place: kind ("file", "module" or "torchvision"),
    place and name of what another process can load by itself, None where robench has to. defense: of a model that
    robench trained.
    """

    name: str
    load: Callable[[], nn.Module]
    digest: str
    reference: str = ""
    data: DataInfo | None = None
    packed: bytes | None = None
    place: Mapping[str, str] | None = None
    defense: str = ""

    @cached_property
    def module(self) -> nn.Module:
        """The module, read when it is first asked for. Raises BadInput where that fails."""
        return self.load()

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
    """The model behind a name, `file.py:factory`, `package.module:factory`, `torchvision:NAME`, or the module itself.

    Raises BadInput for anything that cannot be found or loaded.
    """
    if isinstance(reference, nn.Module):
        return replace(_opened(type(reference).__name__, reference, digest_of(reference)), packed=_packed(reference))
    kind, colon, name = reference.partition(":")
    if not colon:
        return _trained(reference, store)
    if kind == "torchvision":
        return _torchvision(name)
    module = _call_factory(reference, kind, name)
    remember(reference)
    label = f"{Path(kind).name if kind.endswith('.py') else kind}:{name}"
    opened = _opened(label, module, digest_of(module), reference)
    file = kind.endswith(".py")
    place = {"kind": "file", "place": str(Path(kind).resolve())} if file else {"kind": "module", "place": kind}
    return replace(opened, place={**place, "name": name})


def digest_of(module: nn.Module) -> str:
    """16 hex digits over what a module computes with; the same for one handed over and for one loaded by reference.

    See `store.contents`. What it cannot see, answers can: stored rows are also compared with the model's.
    """
    return contents_digest(module)


def build_defense(defense: str, options: dict[str, Any], data: DataInfo) -> nn.Module:
    """An untrained defense with these options. Raises BadInput for unknown names, options or wrong values."""
    module = registry.load("defense", defense).build(options, data)
    assert isinstance(module, nn.Module)
    return module


def _opened(name: str, module: nn.Module, digest: str, reference: str = "") -> LoadedModel:
    return LoadedModel(name, lambda: module, digest, reference)


def _packed(module: nn.Module) -> bytes | None:
    try:
        return cloudpickle.dumps(module)  # type: ignore[no-any-return]  # classes of a notebook too
    except Exception:  # whatever a user's model holds
        return None


def _trained(name: str, store: Store) -> LoadedModel:
    card = store.card(name)
    try:
        data = DataInfo.from_json(card["data"])
    except BadInput as error:
        raise BadInput(f"The card of model {name!r} is damaged; train it again. {error}") from error
    load = partial(_trained_module, name, card, data, store)
    return LoadedModel(name, load, digest_of_card(card), name, data, defense=card["defense"])


def _trained_module(name: str, card: dict[str, Any], data: DataInfo, store: Store) -> nn.Module:
    path = store.weights(name, card)
    try:
        module = build_defense(card["defense"], card["options"], data)
        module.load_state_dict(load_file(path))
    except (KeyError, RuntimeError, AttributeError, TypeError, SafetensorError) as error:
        raise BadInput(
            f"The model {name!r} does not fit its card ({first_line(error, 120)}); train it again."
        ) from error
    return module.eval()


def _call_factory(reference: str, place: str, name: str) -> nn.Module:
    if not place or not name:
        raise BadInput(f"The model {reference!r} is not of the form file.py:factory or package.module:factory.")
    imported = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    factory = getattr(imported, name, None)
    if factory is None:
        public = [n for n, v in vars(imported).items() if callable(v) and not n.startswith("_")]
        raise unknown(f"factory in {place}", name, public)
    if isinstance(factory, nn.Module):
        module: object = factory
    else:
        try:
            module = factory()
        except RobenchError:
            raise
        except (Exception, SystemExit) as error:
            raise BadInput(
                f"The factory {reference!r} failed with {type(error).__name__}: {first_line(error, 160)}; it must "
                "return the model when called without arguments."
            ) from error
    if not isinstance(module, nn.Module):
        raise BadInput(
            f"The factory {reference!r} returned a {type(module).__name__}, but must return a torch nn.Module."
        )
    return module


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise BadInput(f"There is no model file {path}; give the path of a Python file, then ':' and its factory.")
    spec = importlib.util.spec_from_file_location(f"robench_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except RobenchError:
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(
            f"The model file {path} cannot be run: {type(error).__name__}: {first_line(error, 160)}."
        ) from error
    finally:
        sys.path.pop(0)
    return module


def _import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise BadInput(
            f"The module {name!r} cannot be imported ({type(error).__name__}: {first_line(error, 160)}); give "
            "file.py:factory, package.module:factory, torchvision:NAME or a trained model's name."
        ) from error


def _torchvision(name: str) -> LoadedModel:
    from torchvision import models

    if name not in models.list_models():
        raise unknown("torchvision model", name, models.list_models())
    weights = models.get_model_weights(name)["DEFAULT"]
    try:
        network = models.get_model(name, weights=weights)
    except OSError as error:
        raise BadInput(f"The weights of torchvision:{name} cannot be downloaded ({first_line(error, 160)}).") from error
    preset = weights.transforms()
    module = nn.Sequential(Normalize(preset.mean, preset.std), network).eval()
    opened = _opened(f"torchvision:{name}", module, digest_of(module), f"torchvision:{name}")
    return replace(opened, place={"kind": "torchvision", "place": "", "name": name})
