"""Models by reference: trained by robench, made by a user's factory, or torchvision's; each with a digest."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from robench import registry
from robench.data.dataset import DataInfo
from robench.defense.networks import Normalize
from robench.errors import BadInput, RobenchError, first_line, unknown
from robench.store.known import remember
from robench.store.runs import Store, digest_of_card

# values of a module's attributes that enter its digest
PLAIN = (int, float, str, bool, tuple, list, dict, type(None))


@dataclass(frozen=True)
class LoadedModel:
    """A model: its name in tables, its digest, its data if robench trained it, and how to get the module.

    reference: how to find it again on the command line, "" for a module handed over in a program. packed: a pickle of
    such a module as it was handed over, None where there is none. place: kind ("file", "module" or "torchvision"),
    place and name of what another process can load by itself, None where robench has to.
    """

    name: str
    load: Callable[[], nn.Module]
    digest: str
    reference: str = ""
    data: DataInfo | None = None
    packed: bytes | None = None
    place: Mapping[str, str] | None = None

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
    kind, colon, name = reference.rpartition(":")  # a path may have colons of its own, a factory's name has none
    if not colon:
        return _trained(reference, store)
    if kind == "torchvision":
        return _torchvision(name)
    module, source = _call_factory(reference, kind, name)
    remember(reference)
    label = f"{Path(kind).name if kind.endswith('.py') else kind}:{name}"
    opened = _opened(label, module, digest_of(module, name.encode(errors="surrogatepass") + source), reference)
    file = kind.endswith(".py")
    place = {"kind": "file", "place": str(Path(kind).resolve())} if file else {"kind": "module", "place": kind}
    return replace(opened, place={**place, "name": name})


def digest_of(module: nn.Module, source: bytes = b"") -> str:
    """16 hex digits over what a module computes with, as far as it can be seen, and the factory's name and source.

    That is every submodule's class with its source, that of its bases and its plain settings, and every parameter and
    buffer by name. A private attribute may be a counter or a cache and is left out.
    Functions and objects that a module holds are not seen, so stored rows are also compared with its predictions.
    """
    sha = hashlib.sha256(source)
    for name, part in module.named_modules():
        plain = {k: v for k, v in vars(part).items() if not k.startswith("_") and isinstance(v, PLAIN)}
        plain.pop("training", None)
        kind: Any = type(part)
        sha.update(f"{name}{kind.__qualname__}{sorted(plain.items())}{_source(kind)}".encode(errors="surrogatepass"))
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()]):
        value = tensor.detach().cpu().contiguous()
        sha.update(f"{name}{tuple(value.shape)}{value.dtype}".encode(errors="surrogatepass"))
        sha.update(value.flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return sha.hexdigest()[:16]


@cache
def _source(kind: type) -> str:
    """The source of a class and of those it is made from, but for torch's."""
    found = ""
    for each in kind.__mro__:
        if each.__module__.partition(".")[0] not in ("torch", "builtins"):
            with contextlib.suppress(OSError, TypeError):
                found += inspect.getsource(each)
    return found


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
    return LoadedModel(name, partial(_trained_module, name, card, data, store), digest_of_card(card), name, data)


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


def _call_factory(reference: str, place: str, name: str) -> tuple[nn.Module, bytes]:
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
    origin = getattr(imported, "__file__", None)
    return module, Path(origin).read_bytes() if origin else b""


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
