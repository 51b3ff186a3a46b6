"""Models of libraries and graphs by reference: looked for, loaded, refused in a sentence, with what their library does
to images."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from robench.defense.networks import Normalize
from robench.errors import BadInput, RobenchError, crash, first_line, unknown
from robench.models.adapted import Adaptation
from robench.models.factories import value_of
from robench.models.libraries import Made, Sizing, make, prepare, zoo
from robench.progress import say
from robench.references import FILES, Reference

# what each kind needs to be installed, and the extra of robench that brings it
NEEDED = {"timm": ("timm",), "hf": ("transformers",), "robustbench": ("robustbench",), "onnx": ("onnx", "onnx2torch")}
_told: set[str] = set()


@dataclass(frozen=True)
class Outside:
    """A model of a library: the module, how another process comes by it, and what is done to images before it."""

    module: nn.Module
    place: dict[str, Any]
    adaptation: Adaptation
    sizing: Sizing | None


def from_library(reference: Reference) -> Outside:
    """The model of a library's name or of a file. Raises BadInput where a package, a file or a name is not there."""
    kind, name = reference.kind, reference.name
    _check(reference)
    arguments = {key: value_of(text) for key, text in reference.arguments.items()}
    place, bare = (str(Path(name).expanduser().absolute()) if kind in FILES else name), "weights" in reference.settings
    made = _make(reference, place, arguments, bare)
    found = {"kind": kind, "place": "", "name": place, "arguments": arguments, "bare": bare}
    normalised = made.mean is not None and made.std is not None
    if kind == "torchvision" and normalised and not {"mean", "std", "pixels"} & reference.settings.keys():
        assert made.mean is not None  # as it was put together before there were adaptations
        assert made.std is not None
        whole = nn.Sequential(Normalize(made.mean, made.std), made.module).eval()
        return Outside(whole, {**found, "normalised": True}, Adaptation(), made.sizing)
    return Outside(made.module, found, _adaptation(made, kind), made.sizing)


def installed(reference: Reference) -> None:
    """Import what a kind of model needs. Raises BadInput where that is not installed."""
    for package in NEEDED[reference.kind]:
        if importlib.util.find_spec(package) is None:
            raise BadInput(
                f"The model {reference.bare!r} needs the package {package}, which is not installed; run pip install "
                f"'robench[{reference.kind}]'."
            )
        try:
            with _quiet():
                prepare(package)
                importlib.import_module(package)
        except Exception as error:  # whatever a library does
            raise BadInput(f"The package {package} cannot be imported: {crash(error)}; install it anew.") from error


def _adaptation(made: Made, kind: str) -> Adaptation:
    """What a library does to images, put inside; torchvision's networks take any size, which is left to the data."""
    plain = {"bilinear", "bicubic"}
    size = made.sizing.crop if made.sizing is not None and kind != "torchvision" else None
    usual = made.sizing.interpolation if made.sizing is not None else "bilinear"
    return Adaptation(
        size=size,
        interpolation=usual if usual in plain else "bilinear",
        mean=made.mean,
        std=made.std,
        output=made.output,
    )


def _check(reference: Reference) -> None:
    """Raise BadInput where a package, a file or a folder is not there, or nothing is named."""
    kind, name = reference.kind, reference.name
    if not name:
        raise BadInput(
            f"The model {str(reference)!r} names nothing; give {kind}:{'FILE' if kind in FILES else 'NAME'}."
        )
    path = Path(name).expanduser()
    if kind in FILES and not path.is_file():
        raise BadInput(f"There is no file {path}, which the model {reference.bare!r} names.")
    if kind == "hf" and name.startswith((".", "/", "~")) and not path.is_dir():
        raise BadInput(f"There is no folder {path}, which the model {reference.bare!r} names.")
    if kind in (*FILES, "robustbench") and "weights" in reference.settings:
        raise BadInput(f"--weights is given with {reference.bare!r}, which has weights of its own; leave it out.")
    if kind == "torchvision":
        from torchvision import models

        if name not in models.list_models():
            raise unknown("torchvision model", name, models.list_models())
    if kind == "timm":
        _check_timm(name)


def _check_timm(name: str) -> None:
    import timm

    architecture = name.partition(".")[0]
    if ":" not in name and not timm.is_model(architecture):
        near = timm.list_models(f"{architecture[:4]}*") or timm.list_models()
        raise unknown("timm model", name, near[:40])


def _make(reference: Reference, place: str, arguments: dict[str, Any], bare: bool) -> Made:
    try:
        with _quiet():
            return make(reference.kind, place, arguments, bare=bare)
    except RobenchError:
        raise
    except KeyboardInterrupt:
        raise
    except KeyError as error:
        raise BadInput(f"There is no {error} for {reference.loading!r}; look it up in {reference.kind}.") from error
    except ModuleNotFoundError as error:
        raise BadInput(
            f"The model {reference.bare!r} needs the package {error.name}, which is not installed; run pip install "
            f"'robench[{reference.kind}]'."
        ) from error
    except OSError as error:
        if reference.kind in FILES:
            raise BadInput(f"The file of {reference.bare!r} cannot be read: {crash(error)}.") from error
        raise BadInput(
            f"The weights of {reference.bare} cannot be downloaded ({first_line(error, 160)}); check the network, or "
            f"{_by_hand(reference, arguments)}."
        ) from error
    except BaseException as error:  # whatever a library does
        raise BadInput(
            f"The model {reference.loading!r} cannot be loaded: {crash(error)}{_way_out(reference, error)}."
        ) from error


def _by_hand(reference: Reference, arguments: dict[str, Any]) -> str:
    """How weights come in without a download."""
    if reference.kind != "robustbench":
        return "give --weights FILE"
    asked = zoo(arguments)
    return f"put {reference.name}.pt into {asked['model_dir']}/{asked['dataset']}/{asked['threat_model']}"


def _way_out(reference: Reference, error: BaseException) -> str:
    """What helps where onnx2torch knows an operation in older versions alone."""
    if reference.kind != "onnx" or not isinstance(error, NotImplementedError):
        return ""
    return "; export it with an older opset_version, such as 13, or by torch.export as pt2:FILE"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What a library prints while it loads does not reach stdout, which belongs to tables and JSON; nor do its warnings
    to its own authors reach anybody."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tell(name: str, adaptation: Adaptation) -> None:
    """Say once on stderr what stands around a library's model, by its settings or the user's."""
    if adaptation.told and name not in _told:
        _told.add(name)
        say(f"{name}: inside the model, as its library and you say: {adaptation.told}.")
