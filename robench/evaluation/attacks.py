"""The names of a request looked up: its attacks and its detector, each with the options that are its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from robench import registry
from robench.attack.base import Attack, check_norm
from robench.detector.request import DetectorRequest
from robench.errors import BadInput
from robench.evaluation.address import Address, After
from robench.evaluation.guides import check_guided
from robench.evaluation.request import Request
from robench.progress import say
from robench.results.accuracy import Measure, entering
from robench.results.summary import label
from robench.store.evaluation_folder import EvaluationFolder
from robench.threat import ThreatModel


@dataclass(frozen=True)
class NamedAttack:
    """An attack, the name it goes by, the options that were given for it, and every option, defaults included."""

    name: str
    attack: Attack
    given: dict[str, Any]
    options: dict[str, Any]

    @property
    def access(self) -> str:
        """What it is up against by itself."""
        return self.attack.access

    @property
    def metric(self) -> str:
        """What its figure counts."""
        return self.attack.metric

    @classmethod
    def of(cls, plugin: registry.Plugin, given: Mapping[str, Any], threat: ThreatModel) -> NamedAttack:
        """The attack with the given options.

        Raises BadInput for an option that it does not have or that is out of range, and for a norm it does not support.
        """
        attack, options = plugin.build(given), plugin.options(given)
        check_norm(attack, repr(plugin.name), threat.norm)
        return cls(plugin.name, attack, unusual(plugin, {k: options[k] for k in given if k in options}), options)


def unusual(plugin: registry.Plugin, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that are not what they are by default: `pgd` with `steps=40` is `pgd`."""
    usual = plugin.options({})
    return {name: value for name, value in given.items() if name not in usual or usual[name] != value}


def label_of(folder: EvaluationFolder) -> str:
    """A stored evaluation's label: the attack with the options that are not its own, and what it was up against.

    Options as they were given where the attack is not installed. Raises Damaged.
    """
    name, about = folder.spec["attack"], folder.about
    try:
        given = unusual(registry.load("attack", name), about.given_options)
    except BadInput:
        given = about.given_options
    return label(name, given, about.against)


@dataclass(frozen=True)
class Resolved:
    """A request, its attacks, and its detector with the options that this one has, if it names a detector."""

    request: Request
    attacks: tuple[NamedAttack, ...]
    guard: DetectorRequest | None = None

    def address(
        self,
        model: str | nn.Module,
        named: NamedAttack,
        *,
        surrogate: str | nn.Module | None = None,
        guide: str | nn.Module | None = None,
        behind: bool = False,
        after: After | None = None,
    ) -> Address:
        """One of the attacks on one model; `behind`: together with the detector."""
        request = self.request
        return Address(
            model=model,
            attack=named.name,
            options=named.given,
            threat=request.threat,
            dataset=request.dataset,
            count=request.count,
            seed=request.seed,
            surrogate=surrogate,
            guide=guide,
            guard=self.guard if behind else None,
            eot=request.eot,
            bpda=tuple(request.bpda),
            after=after,
            classes=request.classes,
            search_precision=request.precision,
            max_passes=request.max_passes,
            how=request.how,
        )


def resolve(request: Request) -> Resolved:
    """Look up a request's names. Raises BadInput as `attacks_of`."""
    guard, own = request.guard, dict[str, Any]()
    if guard is not None:
        known = registry.load("detector", guard.detector).options({})
        own = {name: value for name, value in request.options.items() if name in known}
        guard = replace(guard, options=own)
    attacks = attacks_of(request.attacks, request.options, request.threat, own)
    if request.guide is not None:
        check_guided(attacks)
    exact = [named.name for named in attacks if not named.attack.rough]
    if request.search_precision == "bf16" and exact:
        say(f"--search-precision bf16 changes nothing for {', '.join(exact)}, whose gradients, if any, stay float32.")
    if request.search_precision == "bf16" and guard is not None and guard.adaptive:
        say("--search-precision bf16 changes nothing where model and detector are attacked together.")
    return Resolved(request, tuple(attacks), guard)


def attacks_of(
    names: Sequence[str], options: Mapping[str, Any], threat: ThreatModel, taken: Iterable[str] = ()
) -> list[NamedAttack]:
    """Every attack, once, with the given options that it has; an option that none has, nor is taken, is refused.

    names: of attacks and sets. Raises BadInput as `NamedAttack.of`.
    """
    found, used = list[NamedAttack](), set(taken)
    for name, preset in registry.expand(names, threat.norm):
        plugin = registry.load("attack", name)
        known, alone = plugin.parameters(), list(names) == [name]
        chosen = {k: v for k, v in options.items() if k in known or (alone and k not in used)}
        used |= set(chosen)
        named = NamedAttack.of(plugin, {**preset, **chosen}, threat)
        if not any((each.name, each.options) == (named.name, named.options) for each in found):
            found.append(named)
    unused = [name for name in options if name not in used]
    if unused:
        raise BadInput(f"Option {unused[0]!r} belongs to none of the attacks {', '.join(names)}; remove it.")
    return found


def attack_at(address: Address) -> NamedAttack:
    """The attack of an address. Raises BadInput as `NamedAttack.of`."""
    return NamedAttack.of(registry.load("attack", address.attack), address.options, address.threat)


def cascade_fault(attacks: Sequence[NamedAttack]) -> str:
    """Why attacks cannot go on from one another so that the last figure is their worst case; "" where they can."""
    aimed = [named.name for named in attacks if Measure(named.metric) is Measure.SUCCESS]
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
