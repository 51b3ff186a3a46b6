"""Models by reference: trained by robench, made by a user's factory, or torchvision's; each with a digest."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from robench import registry
from robench.attack.classifier import REJECTING
from robench.attack.guard import making
from robench.attack.inspection import check_values
from robench.data.dataset import DataInfo, Dataset
from robench.defense.networks import Normalize
from robench.errors import BadInput, RobenchError, crash, first_line, unknown
from robench.model_files import Space
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

    def on(self, dataset: Dataset) -> Dataset:
        """The data, of as many classes as the model answers for where labels alone cannot say how many there are."""
        if not dataset.open_ended:
            return dataset
        return dataset.answered(self.data.classes if self.data else _outputs(self.module, dataset))

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
        _check_alone(reference)
        check_values(reference)
        return replace(_opened(type(reference).__name__, reference, digest_of(reference)), packed=_packed(reference))
    kind, colon, name = reference.rpartition(":")  # a path may have colons of its own, a factory's name has none
    if not colon:
        if reference not in store.model_names():
            _check_code(reference)
        return _trained(reference, store)
    if kind == "torchvision":
        return _torchvision(name)
    _check_code(kind, named=True)
    with making() as made:  # what its file and its factory do to torch or to the process is undone, and told of it
        module = _call_factory(reference, kind, name)
        made.append(module)
    _check_alone(module)
    check_values(module)
    remember(reference)
    label = f"{Path(kind).name if kind.endswith('.py') else kind}:{name}"
    opened = _opened(label, module, digest_of(module), reference)
    file = kind.endswith(".py")
    place = {"kind": "file", "place": os.path.abspath(kind)} if file else {"kind": "module", "place": kind}
    return replace(opened, place={**place, "name": name})


# how files end that hold weights or graphs, which say nothing of the code that computes with them
WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".pkl", ".pickle", ".npz", ".npy", ".h5", ".tar", ".gz")
GRAPHS = (".onnx", ".pb", ".tflite", ".engine", ".mlmodel")


def _check_code(place: str, *, named: bool = False) -> None:
    """Raise BadInput for a file that is not code, with a factory that would read it, and for code without a factory."""
    ending = Path(place).suffix.lower()
    if ending in WEIGHTS or ending in GRAPHS:
        load = "'def load(): net = Net(); net.load_state_dict(torch.load({!r})); return net.eval()'"
        if ending == ".safetensors":
            load = load.replace("torch.load(", "safetensors.torch.load_file(")
        if ending in GRAPHS:
            load = "'def load(): return onnx2torch.convert({!r}).eval()'"
        raise BadInput(
            f"The model {place!r} is a file of {'a graph' if ending in GRAPHS else 'weights'}, but robench runs an "
            f"nn.Module; write a factory, such as {load.format(place)} in my_model.py, and give my_model.py:load."
        )
    if ending == ".py" and not named:
        raise BadInput(f"The model {place!r} names no factory; give {place}:NAME, where NAME() returns the model.")
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
    if not place.endswith(".py"):
        return _made(_import_module(place), reference, place, name)
    path = Path(place)
    if not path.is_file():
        raise BadInput(f"There is no model file {path}; give the path of a Python file, then ':' and its factory.")
    space = Space(path)
    try:
        with space.opened():
            return _made(_run_file(space, path), reference, place, name, space.plainly)
    except RobenchError:
        space.forget()
        raise


def _made(
    imported: Any,
    reference: str,
    place: str,
    name: str,
    around: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> nn.Module:
    """The model of a factory, which is called inside `around`."""
    factory = getattr(imported, name, None)
    if factory is None:
        public = [n for n, v in vars(imported).items() if callable(v) and not n.startswith("_")]
        raise unknown(f"factory in {place}", name, public)
    if isinstance(factory, nn.Module):
        module: object = factory
    else:
        try:
            with around():
                module = factory()
        except RobenchError:
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a user's code does
            raise BadInput(
                f"The factory {reference!r} failed with {crash(error)}; it must "
                "return the model when called without arguments."
            ) from error
    if not isinstance(module, nn.Module):
        raise BadInput(
            f"The factory {reference!r} returned a {type(module).__name__}, but must return a torch nn.Module."
        )
    return module


def _run_file(space: Space, path: Path) -> Any:
    try:
        return space.run()
    except RobenchError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's code does
        raise BadInput(f"The model file {path} cannot be run: {crash(error)}.") from error


def _import_module(name: str) -> Any:
    try:
        found = importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's code does
        raise BadInput(
            f"The module {name!r} cannot be imported ({type(error).__name__}: {first_line(error, 160)}); give "
            "file.py:factory, package.module:factory, torchvision:NAME or a trained model's name."
        ) from error
    _check_unedited(name)
    return found


# by module of a model's package, the time and size of its file when it was first seen
_seen: dict[str, tuple[int, int]] = {}


def _check_unedited(name: str) -> None:
    """Raise BadInput where a module of the same package was edited since this process, which imports it but once, has
    seen it first: its figures would be those of the old code under the name of the new."""
    top = name.partition(".")[0]
    for each, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if each.partition(".")[0] != top or not file or not os.path.isfile(file):
            continue
        status = os.stat(file)
        stamp = status.st_mtime_ns, status.st_size
        if _seen.setdefault(each, stamp) != stamp:
            raise BadInput(
                f"The module {each!r} of {name} was edited after this process had imported it, and runs as it was; "
                "start the program anew, or give the model as file.py:factory."
            )


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
