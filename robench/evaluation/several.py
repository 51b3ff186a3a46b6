"""Several eps, norms and seeds of one command: the threat models and seeds that texts and values name, and a request
for each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from robench.data.draw import eps_listed
from robench.data_names import parse, with_settings
from robench.environment import expanded
from robench.errors import BadInput, shown
from robench.evaluation.request import Request
from robench.norms import DEFAULT, NORMS, parse_norm
from robench.ranges import read_whole, whole
from robench.threat import ThreatModel

# an eps, or several, in pixels of [0, 1]; several also as "2/255,4/255", and with their norm as "linf:8/255,l2:0.5"
# a decimal comma
POINTLESS = re.compile(r" *0,[0-9]+ *")
One = str | float | Fraction
Eps = One | Sequence[One] | Mapping[str, One | Sequence[One]]


def threats_of(norm: str | Sequence[str] | None, eps: Eps | None) -> list[ThreatModel]:
    """The threat models of one or several norms and eps, each once, by norm as named, eps as given.

    norm: names, with commas between or as a list; None for those that `eps` names, or the usual one. With several norms
    each eps says whose it is, and a norm without one has its default. Raises BadInput for anything else.
    """
    named, given = _names(norm), _pairs(eps)
    norms = list(dict.fromkeys(map(parse_norm, named or [name for name, _ in given if name] or [DEFAULT])))
    found: list[ThreatModel] = []
    for name, each in given:
        if name is None and len(norms) > 1:
            example = ",".join(f"{one}:{NORMS[one].example}" for one in norms)
            raise BadInput(f"eps is {shown(each)} with the norms {', '.join(norms)}; say whose it is, as in {example}.")
        if name is not None and parse_norm(name) not in norms:
            raise BadInput(f"eps is {name}:{each}, but the norm is {', '.join(norms)}; add {name} to --norm.")
    for name in norms:
        mine = [each for whose, each in given if whose in (None, name)]
        found += [ThreatModel.of(name, each) for each in mine or [None]]
    return list(dict.fromkeys(found))


def _pairs(eps: Eps | None) -> list[tuple[str | None, Any]]:
    """Every eps with the norm that it names, if it names one."""
    if eps is None:
        return []
    if isinstance(eps, Mapping):
        return [(str(name), each) for name, several in eps.items() for _, each in _pairs(several)]
    if isinstance(eps, str):
        if POINTLESS.fullmatch(eps):
            raise BadInput(
                f"eps is {eps!r}, which would be two; give {eps.strip().replace(',', '.')} with a point, or for both "
                f"{','.join(reversed(eps.strip().split(',')))}."
            )
        parts = [part.strip(" ") for part in eps.split(",")]
        split = [part.partition(":") for part in parts]
        return [(norm.strip(" "), value.strip(" ")) if colon else (None, norm) for norm, colon, value in split]
    one = isinstance(eps, bytes) or hasattr(eps, "__float__")  # numpy's numbers can be iterated over
    if isinstance(eps, Iterable) and not one:
        return [pair for each in eps for pair in _pairs(each)]
    return [(None, eps)]


def _names(value: str | Sequence[str] | None) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip(" ") for part in value.split(",")]
    return list(value) if isinstance(value, Iterable) else [value]


def seeds_of(seed: str | int | Sequence[int]) -> list[int]:
    """One or several seeds, each once: 0, "0,1,2" or [0, 1, 2]. Raises BadInput for anything else."""
    texts: Sequence[Any] = seed.split(",") if isinstance(seed, str) else seed if isinstance(seed, Iterable) else [seed]
    return list(dict.fromkeys(whole("--seed", _read(each)) for each in texts)) or [whole("--seed", None)]


def _read(value: Any) -> Any:
    try:
        return read_whole(value.strip()) if isinstance(value, str) else value
    except ValueError:
        return value


def requests_of(request: Request, threats: Iterable[ThreatModel], seeds: Sequence[int]) -> list[Request]:
    """The same request within each threat model, with each seed."""
    return [replace(request, threat=threat, seed=seed) for threat in threats for seed in seeds]


def own_threats(dataset: str | None, norm: str | Sequence[str] | None, eps: Eps | None) -> dict[str, ThreatModel]:
    """By each eps that the listed images of `dataset` have beside them, as it is spelled, the threat model; none where
    they have no eps each. Raises BadInput for an eps or several norms beside those."""
    settings = parse(dataset or "").settings
    ids = settings.get("ids")
    own = eps_listed(expanded(ids)) if ids and "eps" not in settings else []
    norms = list(dict.fromkeys(map(parse_norm, _names(norm) or [DEFAULT])))
    for what, given in (("an eps", eps is not None), ("several norms", len(norms) > 1)):
        if own and given:
            raise BadInput(f"{ids} has an eps per image, and beside it there is {what}; leave one of them out.")
    return {text: ThreatModel.of(norms[0], text) for text in own}


def requests_for(request: Request, norm: str | Sequence[str] | None, eps: Eps | None, seed: Any) -> list[Request]:
    """The same request within each threat model that `norm` and `eps` name, with each seed; where the listed images
    have an eps each, those of each eps within that.

    Raises BadInput as `threats_of` and `own_threats`, and for a detector, a surrogate or a guide beside an eps each.
    """
    own, seeds = own_threats(request.dataset, norm, eps), seeds_of(seed)
    beside = {"a detector": request.guard, "a surrogate": request.surrogates, "a guide": request.guide}
    for what in (what for what, given in beside.items() if own and given):
        raise BadInput(f"The listed images have an eps each, and beside it there is {what}; leave one of them out.")
    if not own:
        return requests_of(request, threats_of(norm, eps), seeds)
    return [
        replace(each, dataset=with_settings(request.dataset, eps=text))
        for text, threat in own.items()
        for each in requests_of(request, [threat], seeds)
    ]


def ladders(requests: Iterable[Request]) -> list[list[Request]]:
    """Requests that differ in eps alone together, the largest eps first; those with a detector, a surrogate or a
    guide apart."""
    found: dict[tuple[Any, ...], list[Request]] = {}
    for i, each in enumerate(requests):
        alone = i if each.guard or each.surrogates or each.guide is not None else -1
        found.setdefault((each.dataset, each.threat.norm, each.seed, alone), []).append(each)
    return [sorted(group, key=lambda each: -each.threat.eps) for group in found.values()]
