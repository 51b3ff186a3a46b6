"""From what a user asks for to jobs: models opened, attacks built, every evaluation with its spec and folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robench import registry
from robench.attack.base import Attack
from robench.attack.classifier import check_eval_mode
from robench.attack.gradient import GradientAttack
from robench.data.dataset import Dataset, Split, open_dataset
from robench.detector.fitting import Watch, explain, watch
from robench.device import choose_device
from robench.environment import command, environment
from robench.errors import BadInput
from robench.evaluation.request import Request
from robench.evaluation.transfer import Craft
from robench.models import LoadedModel, load_model
from robench.results.accuracy import Measure, entering
from robench.store.about import About
from robench.store.runs import EvaluationFolder, Store
from robench.store.specs import CraftSpec, EvalSpec
from robench.threat import ThreatModel


@dataclass(frozen=True)
class NamedAttack:
    """An attack, the name it goes by, and the options that were given for it."""

    name: str
    attack: Attack
    given: dict[str, Any]

    @property
    def access(self) -> str:
        """What it is up against by itself."""
        return self.attack.access

    @property
    def metric(self) -> str:
        """What its figure counts."""
        return self.attack.metric

    @property
    def options(self) -> dict[str, Any]:
        """Every option, defaults included."""
        return registry.load("attack", self.name).options(self.given)


@dataclass(frozen=True)
class Target:
    """What jobs attack: a model on its data, alone or behind a detector."""

    model: LoadedModel
    dataset: Dataset
    watch: Watch | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    @property
    def module(self) -> nn.Module:
        """The model's module, read when it is first asked for."""
        return self.model.module

    @property
    def digest(self) -> str:
        """What the model's answers depend on."""
        return self.model.digest


@dataclass(frozen=True)
class Job:
    """One evaluation: a model, an attack, the data, and the folder its shards go to."""

    spec: EvalSpec
    model: LoadedModel
    attack: Attack
    threat: ThreatModel
    split: Split
    classes: int
    folder: EvaluationFolder
    about: About
    craft: Craft | None = None
    before: EvaluationFolder | None = None

    @property
    def title(self) -> str:
        """Model and attack in words."""
        return f"{self.model.name}  {self.spec.attack}{self.about.against}"

    def prior(self, start: int, stop: int) -> Tensor | None:
        """What the attack before this one made of the examples [start, stop), float32 [n, C, H, W]; None without one.

        Raises BadInput where it is not complete.
        """
        if self.before is None:
            return None
        if self.before.missing(start, stop, stop - start):
            raise BadInput(f"The evaluation {self.before.job_id}, which {self.title} goes on from, is not complete.")
        images: Tensor = self.before.span(start, stop)
        return images


def attacks_of(request: Request) -> list[NamedAttack]:
    """Every attack with the given options that it has; an option that none of them has is refused."""
    found = []
    used = set(detector_options(request))
    for name, preset in registry.expand(request.attacks):
        plugin = registry.load("attack", name)
        known, alone = plugin.options({}), list(request.attacks) == [name]
        chosen = {k: v for k, v in request.options.items() if k in known or (alone and k not in used)}
        used |= set(chosen)
        given = {**preset, **chosen}
        attack = plugin.build(given)
        if request.threat.norm not in attack.norms:
            raise BadInput(
                f"The attack {name!r} does not support norm {request.threat.norm}; it supports {attack.norms}."
            )
        found.append(NamedAttack(name, attack, {k: plugin.options(given)[k] for k in given}))
    unused = [name for name in request.options if name not in used]
    if unused:
        raise BadInput(f"Option {unused[0]!r} belongs to none of the attacks {', '.join(request.attacks)}; remove it.")
    return found


def references(request: Request, store: Store) -> list[str | nn.Module]:
    """The models named, or every trained one on the data. Raises BadInput where there is none."""
    if request.models:
        return list(request.models)
    names = store.model_names()
    if request.dataset is not None:
        names = [name for name in names if store.card(name)["data"]["name"] == request.dataset]
    if not names:
        on = f" trained on {request.dataset!r}" if request.dataset else ""
        raise BadInput(
            f"There is no model{on} in {store.models}; name one, such as file.py:factory, or train one with "
            "'robench train standard --dataset digits'."
        )
    return list(names)


# how a dataset is opened: by its name and the folder of data
Opener = Callable[[str, Path | None], Dataset]


def open_target(reference: str | nn.Module, request: Request, store: Store, opener: Opener = open_dataset) -> Target:
    """The model and its data. Raises BadInput where they cannot be loaded or do not fit each other."""
    model = load_model(reference, store)
    if model.data is None:  # a stored figure must not answer for a stranger's model in another mode
        check_eval_mode(model.module)
    name = request.dataset or (model.data.name if model.data else None)
    if name is None:
        raise BadInput(f"The model {model.name!r} was not trained by robench; say which data with --dataset NAME.")
    dataset = opener(name, request.data_root)
    if model.data is not None and (model.data.shape, model.data.classes) != (_shape(dataset), dataset.classes):
        raise BadInput(
            f"The model {model.name!r} takes images {model.data.shape} of {model.data.classes} classes, but {name} has "
            f"{_shape(dataset)} of {dataset.classes}; choose other data."
        )
    return Target(model, dataset)


def _shape(dataset: Dataset) -> tuple[int, ...]:
    return tuple(dataset.test.images(slice(0, 1)).shape[1:])


def cascade_fault(attacks: Sequence[NamedAttack]) -> str:
    """Why attacks cannot go on from one another so that the last figure is their worst case; "" where they can."""
    aimed = [named.name for named in attacks if Measure(named.attack.metric) is Measure.SUCCESS]
    if aimed:
        return f"{', '.join(aimed)}, which counts the classes it reaches and not the images it breaks"
    entered = {named.name for named in entering(attacks)}
    outside = [named.name for named in attacks if named.name not in entered]
    return f"{', '.join(outside)}, which never enters a worst case" if outside else ""


def check_cascade(attacks: Sequence[NamedAttack]) -> None:
    """Raise BadInput for attacks that cannot go on from one another."""
    fault = cascade_fault(attacks)
    if fault:
        raise BadInput(f"--cascade is given with {fault}; leave it out, or run it by itself.")


def detector_options(request: Request) -> list[str]:
    """Those of the request's options that its detector has."""
    if request.guard is None:
        return []
    return [k for k in request.options if k in registry.load("detector", request.guard.detector).options({})]


def watched(target: Target, request: Request, store: Store) -> Target | None:
    """The target behind the detector that the request names, which is fitted if need be."""
    if request.guard is None:
        return None
    guard = replace(request.guard, options={k: request.options[k] for k in detector_options(request)})
    found = watch(guard, target, request.threat, request.settings, store)
    explain(found)
    return replace(target, watch=found)


def make_job(request: Request, store: Store, target: Target, named: NamedAttack, source: Target | None = None) -> Job:
    """The evaluation of a target under an attack; with `source`, on images crafted on that model.

    Raises BadInput where the data have too few images or the threat model does not fit them.
    """
    model, split, watch = target.model, target.dataset.test, target.watch
    count = len(split) if request.count is None else request.count
    if count > len(split):
        raise BadInput(f"-n is {count}, but {target.dataset.name} has {len(split)} test images; give at most that.")
    request.threat.check_shape(_shape(target.dataset))
    spec = EvalSpec(
        model_digest=model.digest,
        data_digest=split.digest,
        count=count,
        norm=request.threat.norm,
        eps=str(request.threat.eps),
        attack=named.name,
        attack_version=named.attack.version,
        attack_options=named.options,
        seed=request.seed,
        detector=watch.spec.job_id if watch else None,
        surrogate=source.model.digest if source else None,
        eot=request.eot if request.eot > 1 else None,
        bpda=list(request.bpda) or None,
        after=request.after[0] if request.after else None,
    )
    about = _about(request, target, named, source)
    craft = _craft(request, store, source, named, spec, about) if source else None
    if watch:
        model = replace(model, load=partial(_guarded, model, watch))
    folder = store.evaluation(spec.job_id)
    before = store.evaluation(request.after[0]) if request.after else None
    return Job(spec, model, named.attack, request.threat, split, target.dataset.classes, folder, about, craft, before)


def _guarded(model: LoadedModel, watch: Watch) -> nn.Module:
    return watch.guard(model.module)


def _about(request: Request, target: Target, named: NamedAttack, source: Target | None) -> About:
    """What is recorded beside the spec: names, what the attack was up against, and what it ran on."""
    watch, surrogate = target.watch, source.model.title if source else ""
    access = "detector" if watch else "transfer" if source else named.attack.access
    against = f" + {watch.name}" if watch else f" from {surrogate}" if source else ""
    against += f" [eot {request.eot}]" if request.eot > 1 else ""
    against += f" [bpda {', '.join(request.bpda)}]" if request.bpda else ""
    against += f" after {request.after[1]}" if request.after else ""
    return About(
        model=target.model.name,
        reference=target.model.reference,
        dataset=target.dataset.name,
        eps=request.threat.eps_text,
        given_options=named.given,
        metric=named.attack.metric,
        access=access,
        kind=kind_of(named.attack, request.threat, access),
        against=against,
        surrogate=surrogate,
        surrogate_digest=source.model.digest if source else "",
        command=command(),
        environment=environment(),
        batch_size=request.batch_size,
        device=choose_device(request.device),
    )


def kind_of(attack: Attack, threat: ThreatModel, access: str) -> str:
    """How an attack searches, for the diagnostics: "single-step", "iterative", "query", or what its access is."""
    if access != "white-box":
        return access
    if isinstance(attack, GradientAttack):
        return "single-step" if len(attack.search(threat).sizes) == 1 else "iterative"
    return attack.kind


def _craft(request: Request, store: Store, source: Target, named: NamedAttack, spec: EvalSpec, about: About) -> Craft:
    """The crafting on a surrogate, the same for every target; raises BadInput where it can say nothing about them."""
    if source.dataset.test.digest != spec.data_digest:
        raise BadInput(
            f"The surrogate {source.model.title!r} has other test images ({source.dataset.name}) than the model "
            f"{about.model!r} ({about.dataset}); say which data with --dataset."
        )
    if not named.attack.transfers:
        raise BadInput(
            f"The attack {named.name!r} stops where an image breaks the surrogate, or leaves it as it is where none "
            "does, which says nothing about transfer; choose another, such as pgd or the set transfer."
        )
    craft = CraftSpec(
        model_digest=source.model.digest,
        data_digest=spec.data_digest,
        norm=spec.norm,
        eps=spec.eps,
        attack=spec.attack,
        attack_version=spec.attack_version,
        attack_options=spec.attack_options,
        seed=spec.seed,
        eot=spec.eot,
        bpda=spec.bpda,
    )
    record = replace(about, model=source.model.name, reference=source.model.reference, against="")
    folder = EvaluationFolder(store.crafted / craft.job_id)
    dataset = source.dataset
    return Craft(
        craft, source.model.module, dataset.classes, named.attack, request.threat, dataset.test, folder, record
    )
