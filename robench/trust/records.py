"""What an evaluation's record says of itself beside what its spec, its model and its rows say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from robench.attack.gradient import kind_of
from robench.errors import BadInput
from robench.results.summary import NEAR, NOT_SEALED, Summary
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import Damaged
from robench.store.specs import GUIDED_BY, CraftSpec, sizes_told
from robench.threat import ThreatModel
from robench.trust.names import misnamed, others_named
from robench.trust.opened import Opened


def misrecorded(opened: Opened) -> list[str]:
    """The fields of about.json that are not what follows from the spec, the model, the attack and the store."""
    spec, about = opened.spec, opened.about
    surrogate = _surrogate(opened)
    expected = {
        "metric": opened.attacker.metric,
        "access": opened.access,
        "eps": opened.threat.eps_text,
        "surrogate": surrogate,
        "surrogate_digest": spec.get("surrogate") or "",
        "guide": about.guide if spec.get("guide") else "",  # that the spec knows by its digest alone: see `_other`
        "against": _against(opened, surrogate),
        "images": len(opened.dataset.test),
        "classes": opened.dataset.classes,
        "chance": opened.dataset.chance,
        "names": opened.dataset.names or None,
    }
    if opened.attack is not None:
        expected["kind"] = kind_of(opened.attack, opened.threat, opened.access)
    if opened.how.model is None:  # else the name is what another called it
        expected["model"] = opened.model.name
    # what early records lack is not shown of them either
    silent = {
        name
        for name in ("kind", "surrogate", "surrogate_digest", "images", "classes", "chance", "names")
        if name in about.lacks
    }
    other = ["split"] if spec.get("split", "test") != "test" else []  # the data's digest is that of the test images
    wrong = other + [name for name, value in expected.items() if name not in silent and getattr(about, name) != value]
    wrong += [name for name in _other(opened) if name not in wrong]
    return wrong + (["given_options"] if _misgiven(opened) and _of_today(opened) else [])


def _other(opened: Opened) -> list[str]:
    """The fields that name another model than the one whose digest the spec has, as far as the store knows it."""
    spec, about, store = opened.spec, opened.about, opened.store
    named = [(kind, getattr(about, kind), kind) for kind in ("surrogate", "guide")]
    if about.guide_reference in store.model_names():  # else it may be a path, or a model with something around it
        named.append(("guide_reference", about.guide_reference, "guide"))
    return [field for field, name, kind in named if spec.get(kind) and misnamed(store, name, spec[kind])]


def unjudged(opened: Opened) -> str:
    """Why the label cannot be judged: an earlier version of the attack may have had other defaults, or a model that it
    names was trained again; "" where it can."""
    if _of_today(opened) or not _misgiven(opened):
        return others_named(opened)
    return (
        f"The evaluation {opened.folder.job_id} was made by another version of {opened.spec['attack']}, and its "
        "options do not follow from its label by today's; verify it with that one."
    )


def misstated(folder: EvaluationFolder, figures: Summary) -> list[str]:
    """The fields of result.json that are not what the rows say; all of it where it is damaged."""
    try:
        stated = folder.stated
    except Damaged:
        return ["result.json"]
    if stated and "second" not in stated:  # as before verdicts were taken a second time; readers add the flag
        figures = replace(figures, flags=tuple(flag for flag in figures.flags if flag != NOT_SEALED))
        stated["flags"] = [flag for flag in stated.get("flags", []) if flag != NOT_SEALED]
    expected = json.loads(json.dumps(figures.to_json()))
    return [key for key in expected if key != "seconds" and not alike(expected[key], stated.get(key))] if stated else []


def alike(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same, numbers as nearly as libraries and their versions compute them."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(alike(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, (int, float)):
        return abs(one - other) <= NEAR
    return bool(one == other)


def _misgiven(opened: Opened) -> bool:
    """Whether the options that a label shows do not lead to those that the attack had."""
    try:
        shown = opened.plugin.options(opened.about.given_options)
    except BadInput:
        return True
    had = _comparable(opened.spec["attack_options"])
    given = _comparable(opened.about.given_options)
    return _comparable(shown) != had or any(had.get(name) != value for name, value in given.items())


def _of_today(opened: Opened) -> bool:
    """Whether it was made by the version of its attack that is installed, as far as that is known."""
    return opened.attack is None or bool(opened.spec["attack_version"] == opened.attack.edition)


def _comparable(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON has them, without the version of a library, which differs from machine to machine."""
    found: dict[str, Any] = json.loads(json.dumps({k: v for k, v in options.items() if k != "library"}))
    return found


def _against(opened: Opened, surrogate: str) -> str:
    """The end of the label: what the attack was up against beside the model, and how its gradients were taken."""
    spec = opened.spec
    found = f" + {opened.watch.name}" if opened.watch else f" from {surrogate}" if surrogate else ""
    found += f"{GUIDED_BY}{opened.about.guide}" if spec.get("guide") else ""
    found += f" [eot {spec['eot']}]" if (spec.get("eot") or 1) > 1 else ""
    found += f" [bpda {', '.join(spec['bpda'])}]" if spec.get("bpda") else ""
    found += f" [search {spec['search_precision']}]" if spec.get("search_precision") else ""
    found += f" [max {spec['max_passes']} passes]" if spec.get("max_passes") else ""
    found += f" [below {_above(opened)}]" if spec.get("below") else ""
    if not spec.get("after"):
        return found + sizes_told(spec)
    try:
        names = ", ".join(before.spec["attack"] for before in opened.chain)
    except BadInput:  # what it goes on from is not here
        names = opened.about.against.partition(" after ")[2]
    return f"{found} after {names}{sizes_told(spec)}"


def _above(opened: Opened) -> str:
    """The larger eps that the evaluation goes by; as its label has it where that evaluation is not here."""
    try:
        above = opened.store.evaluation(opened.spec["below"]).spec
        return ThreatModel.of(above["norm"], above["eps"]).eps_text
    except BadInput:
        return opened.about.against.partition("[below ")[2].partition("]")[0]


def _surrogate(opened: Opened) -> str:
    """The surrogate's title by the record of what was crafted on it; as the evaluation has it where that is gone."""
    spec = opened.spec
    if not spec.get("surrogate"):
        return ""
    try:
        crafted = EvaluationFolder(opened.store.crafted / CraftSpec.of(spec).job_id).about
    except BadInput:
        return opened.about.surrogate
    return crafted.model if crafted.reference else f"{crafted.model}#{spec['surrogate'][:6]}"
