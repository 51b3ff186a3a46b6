"""From addresses to jobs: models opened, every evaluation with its spec and folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robench.attack.base import Attack
from robench.attack.gradient import kind_of
from robench.attack.judge import Settings
from robench.attack.modes import check_eval_mode
from robench.data.dataset import Dataset, Split, open_dataset
from robench.data_names import completed, parse
from robench.detector.fitting import Watch, explain, watch
from robench.detector.request import DetectorRequest
from robench.device import choose_device
from robench.environment import command, environment
from robench.errors import BadInput
from robench.evaluation.address import SIZE, Address
from robench.evaluation.attacks import NamedAttack
from robench.evaluation.given import Given, given
from robench.evaluation.guides import check_guide
from robench.evaluation.request import Request
from robench.evaluation.transfer import Craft
from robench.models import LoadedModel, load_model
from robench.store.about import About, depends_on_folder
from robench.store.chains import chain_of, spent_on, stood_in
from robench.store.runs import EvaluationFolder, Store
from robench.store.specs import GUIDE, GUIDED_BY, SURROGATE, CraftSpec, EvalSpec, access_of, sizes_told
from robench.threat import ThreatModel
from robench.trust.bounds import walked
from robench.trust.origins import PluginName, identified, sources_of


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

    @property
    def defense(self) -> str:
        """The defense that it is, "" for a model that robench did not train."""
        return self.model.defense

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """[C, H, W] of the test images."""
        return tuple(self.dataset.test.images(slice(0, 1)).shape[1:])


@dataclass(frozen=True)
class Job:
    """One evaluation: a model, an attack, the data, and the folder its shards go to.

    guide: the model whose gradients are followed. given: images that were made elsewhere, in place of the attack's own.
    plugins: whose code its figure rests on beside robench's own.
    """

    spec: EvalSpec
    model: LoadedModel
    attack: Attack
    threat: ThreatModel
    split: Split
    classes: int
    folder: EvaluationFolder
    about: About
    craft: Craft | None = None
    guide: LoadedModel | None = None
    before: EvaluationFolder | None = None
    above: EvaluationFolder | None = None
    plugins: tuple[PluginName, ...] = ()
    given: Given | None = None

    @property
    def title(self) -> str:
        """Model and attack in words."""
        return f"{self.model.name}  {self.spec.attack}{self.about.against}"

    @property
    def boundary(self) -> bool:
        """Whether an attack along the decision boundary tried it, or will, as far as it has begun. Raises Damaged."""
        before = self.before if self.before is not None and self.before.path.exists() else None
        return self.attack.boundary or (before is not None and walked(before))

    def prior(self, start: int, stop: int) -> Tensor | None:
        """What the attack before this one, or within a larger eps, made of the examples [start, stop), float32
        [n, C, H, W]; None without one.

        Raises BadInput where it is not complete.
        """
        earlier = self.before or self.above
        if earlier is None:
            return None
        if earlier.missing(start, stop, stop - start):
            raise BadInput(f"The evaluation {earlier.job_id}, which {self.title} goes on from, is not complete.")
        images: Tensor = earlier.span(start, stop)
        return images

    def stood(self, start: int, stop: int) -> Tensor | None:
        """Which of the examples [start, stop) stood within the larger eps before this one, bool [n]; None without one.
        Raises Damaged."""
        return None if self.above is None else torch.from_numpy(stood_in(self.above, start, stop))

    def spent(self, start: int, stop: int) -> Tensor | None:
        """What the attacks before this one spent on the examples [start, stop), int64 [n], where that counts: under a
        budget. Raises Damaged where one of them is not complete."""
        if self.before is None or self.spec.max_passes is None:
            return None
        return torch.from_numpy(spent_on(chain_of(self.before), range(start, stop)))


def references(request: Request, store: Store) -> list[str | nn.Module]:
    """The models named, or every trained one on the data. Raises BadInput where there is none."""
    if request.models:
        return list(request.models)
    names = store.model_names()
    if request.dataset is not None and (base := parse(request.dataset).base):
        names = [name for name in names if _data_of(name, store) in (request.dataset, base, None)]
    if not names:
        on = f" trained on {request.dataset!r}" if request.dataset else ""
        raise BadInput(
            f"There is no model{on} in {store.models}; name one, such as file.py:factory, or train one with "
            "'robench train standard --dataset digits'."
        )
    return list(names)


def _data_of(name: str, store: Store) -> str | None:
    """The data that a model was trained on; None where its card is damaged, which is said when it is opened."""
    try:
        return str(store.card(name)["data"]["name"])
    except BadInput:
        return None


# how a dataset is opened: by its name, the folder of data, and the number of classes if it was given
Opener = Callable[[str, Path | None, int | None], Dataset]


def open_target(
    reference: str | nn.Module,
    store: Store,
    dataset: str | None = None,
    data_root: Path | None = None,
    classes: int | None = None,
    opener: Opener = open_dataset,
) -> Target:
    """The model, and the data of that name or its own. Raises BadInput where they cannot be loaded or do not fit each
    other."""
    model = load_model(reference, store)
    if model.data is None:  # a stored figure must not answer for a stranger's model in another mode
        check_eval_mode(model.module)
    name = completed(dataset, model.data.name if model.data else None)
    if name is None:
        raise BadInput(f"The model {model.name!r} was not trained by robench; say which data with --dataset NAME.")
    target = Target(model, model.on(opener(model.sized(name), data_root, classes)))
    model.check_channels(target.shape[0])
    if model.data is not None and (model.data.shape, model.data.classes) != (target.shape, target.dataset.classes):
        raise BadInput(
            f"The model {model.name!r} takes images {model.data.shape} of {model.data.classes} classes, but {name} has "
            f"{target.shape} of {target.dataset.classes}; choose other data."
        )
    return target


def watched(
    target: Target, guard: DetectorRequest, threat: ThreatModel, settings: Settings, store: Store, *, anew: bool = False
) -> Target:
    """The target behind a detector, which is fitted if need be, or `anew`. Raises BadInput as `watch`."""
    found = watch(guard, target, threat, settings, store, anew=anew)
    explain(found, target.dataset)
    return replace(target, watch=found)


def make_job(
    address: Address,
    store: Store,
    target: Target,
    named: NamedAttack,
    source: Target | None = None,
    guide: Target | None = None,
) -> Job:
    """The evaluation at an address, whose target, attack, surrogate and guide are `target`, `named`, `source`, `guide`.

    Raises BadInput where the data have too few images, the threat model does not fit them, or a surrogate or a guide
    does not fit the target.
    """
    model, watch = target.model, target.watch
    draw = address.way(target.dataset)
    split = target.dataset.drawn(draw)
    count = len(split) if address.count is None else address.count
    if address.start + count > len(split):
        raise BadInput(f"-n is {count}, but {target.dataset.name} has {len(split)} test images; give at most that.")
    address.threat.check_shape(target.shape)
    if guide is not None:
        check_guide(target, guide, draw)
    plugins = _plugins(address, target, named, source, guide)
    spec = EvalSpec(
        model_digest=model.digest,
        data_digest=split.digest,
        draw=draw,
        start=address.start,
        count=count,
        norm=address.threat.norm,
        eps=str(address.threat.eps),
        attack=named.name,
        attack_version=named.attack.edition,
        attack_options=named.options,
        seed=address.seed,
        detector=watch.spec.job_id if watch else None,
        surrogate=source.model.digest if source else None,
        guide=guide.model.digest if guide else None,
        eot=address.eot if address.eot > 1 else None,
        bpda=list(address.bpda) or None,
        after=address.after.job if address.after else None,
        below=address.below.job if address.below else None,
        search_precision=_searched(address, target, named),
        max_passes=_allowed(address, named),
        in_turn=_allowed(address, named) is not None or None,
        sources=identified(plugins),
        imported=address.imported,
        **_sizes(address, named),
    )
    about = _about(address, target, named, source, guide)
    craft = _craft(store, source, named, spec, about, plugins) if source else None
    if watch:
        model = replace(model, load=partial(_guarded, model, watch))
    folder = store.evaluation(spec.job_id)
    before = store.evaluation(address.after.job) if address.after else None
    above = store.evaluation(address.below.job) if address.below else None
    elsewhere = None
    if address.imported:
        elsewhere = given(store.imported(address.imported), named.attack, named.name, address.start, count)
    return Job(
        spec, model, named.attack, address.threat, split, target.dataset.classes, folder, about, craft,
        guide.model if guide else None, before, above, plugins, elsewhere,
    )  # fmt: skip


def _sizes(address: Address, named: NamedAttack) -> dict[str, Any]:
    """The unusual sizes that a figure depends on: below a larger eps, a shard decides as a whole."""
    sizes = address.how.batches(named.attack)
    unusual = address.below is not None and address.how.shard_size != SIZE
    return {**sizes, "shard_size": address.how.shard_size} if unusual else sizes


def _searched(address: Address, target: Target, named: NamedAttack) -> str | None:
    """What gradients are taken in, None for float32: a detector's densities are no numbers for eight bits."""
    rough = address.search_precision == "bf16" and named.attack.rough and target.watch is None
    return address.search_precision if rough else None


def _allowed(address: Address, named: NamedAttack) -> int | None:
    """What an image may cost, None for anything: an attack that asks the model nothing costs nothing."""
    return None if named.attack.access == "noise" else address.max_passes


def _plugins(
    address: Address, target: Target, named: NamedAttack, source: Target | None, guide: Target | None
) -> tuple[PluginName, ...]:
    """The attack and those that it goes on from, the detector and what it learnt from, and the models' defenses."""
    earlier = address.after.attacks.split(", ") if address.after else []
    found = [("attack", name) for name in (named.name, *earlier)]
    if target.watch is not None:
        learnt = target.watch.spec
        found += [("detector", learnt.detector), ("attack", learnt.trained_on.partition("@")[0])]
    found += [("defense", target.model.defense)] if target.model.defense else []
    found += [(f"{SURROGATE}defense", source.model.defense)] if source and source.model.defense else []
    found += [(f"{GUIDE}defense", guide.model.defense)] if guide and guide.model.defense else []
    return tuple(dict.fromkeys(found))


def _guarded(model: LoadedModel, watch: Watch) -> nn.Module:
    return watch.guard(model.module)


def _about(address: Address, target: Target, named: NamedAttack, source: Target | None, guide: Target | None) -> About:
    """What is recorded beside the spec: names, what the attack was up against, and what it ran on."""
    watch, surrogate = target.watch, source.model.title if source else ""
    access = access_of(watch is not None, source is not None, guide is not None) or named.attack.access
    against = f" + {watch.name}" if watch else f" from {surrogate}" if source else ""
    against += f"{GUIDED_BY}{guide.model.title}" if guide else ""
    against += f" [eot {address.eot}]" if address.eot > 1 else ""
    against += f" [bpda {', '.join(address.bpda)}]" if address.bpda else ""
    searched = _searched(address, target, named)
    against += f" [search {searched}]" if searched else ""
    allowed = _allowed(address, named)
    against += f" [max {allowed} passes]" if allowed else ""
    against += f" [below {address.below.eps}]" if address.below else ""
    against += f" after {address.after.attacks}" if address.after else ""
    against += sizes_told(_sizes(address, named))
    references = [each.model.reference for each in (target, guide) if each is not None]
    return About(
        model=target.model.name,
        reference=target.model.reference,
        dataset=target.dataset.name,
        eps=address.threat.eps_text,
        given_options=named.given,
        metric=named.attack.metric,
        access=access,
        kind=kind_of(named.attack, address.threat, access),
        against=against,
        surrogate=surrogate,
        surrogate_digest=source.model.digest if source else "",
        guide=guide.model.title if guide else "",
        guide_reference=guide.model.reference if guide else "",
        command=command(),
        environment=environment(),
        batch_size=address.how.batch_size,
        probe=address.how.probe,
        device=choose_device(address.how.device),
        folder=os.getcwd() if depends_on_folder(*references, target.dataset.name) else "",
        classes=target.dataset.classes,
        images=len(target.dataset.test),
        chance=target.dataset.chance,
        names=target.dataset.names or None,
    )


def _craft(
    store: Store, source: Target, named: NamedAttack, spec: EvalSpec, about: About, plugins: tuple[PluginName, ...]
) -> Craft:
    """The crafting on a surrogate, the same for every target; raises BadInput where it can say nothing about them."""
    split = source.dataset.drawn(spec.draw)
    if split.digest != spec.data_digest:
        raise BadInput(
            f"The surrogate {source.model.title!r} has other test images ({source.dataset.name}) than the model "
            f"{about.model!r} ({about.dataset}); say which data with --dataset."
        )
    if not named.attack.transfers:
        raise BadInput(
            f"The attack {named.name!r} stops where an image breaks the surrogate, or leaves it as it is where none "
            "does, which says nothing about transfer; choose another, such as pgd or the set transfer."
        )
    craft = CraftSpec.of(spec.to_json())
    reference, dataset = source.model.reference, source.dataset
    where = os.getcwd() if depends_on_folder(reference, dataset.name) else ""
    record = replace(about, model=source.model.name, reference=reference, against="", folder=where)
    folder = EvaluationFolder(store.crafted / craft.job_id)
    threat = ThreatModel.of(spec.norm, spec.eps)
    mine = [each for each in plugins if each == ("attack", named.name) or each[0].startswith(SURROGATE)]
    made_of = source.model.module, dataset.classes, named.attack, threat, split
    return Craft(craft, *made_of, folder, record, sources_of(mine))
