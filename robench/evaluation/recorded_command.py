"""From what is recorded to the command that makes it again: the spec of an evaluation, the card of a model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from robench import norms, registry
from robench.errors import BadInput
from robench.references import Reference
from robench.store.chains import rungs_of
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import Damaged, read_json
from robench.store.records import DetectorRecord
from robench.store.runs import Store
from robench.store.specs import CraftSpec
from robench.text.escaping import command_line, visible

# the kinds of values that can be written as -o KEY=VALUE
WRITABLE = (bool, int, float, str)
# options that say where a machine keeps its files
PLACES = ("--data", "--runs", "--out")


def command_of(folder: EvaluationFolder) -> str:
    """The `robench evaluate` command that comes to this evaluation's id.

    Where there is none, since a program handed over its model, or the options are of several attacks in a way that one
    command cannot tell apart, it is the command that was recorded. Raises Damaged where the record is damaged.
    """
    spec, about = folder.spec, folder.about
    if spec.get("imported"):  # whose file nobody knows the place of
        return portable(about.command)
    try:
        attacks, options = _attacks(folder)
        rungs = _rungs(folder)
        surrogate = ["--surrogate", _surrogate(folder)] if spec.get("surrogate") else []
        surrogate += ["--guide", _guide(folder)] if spec.get("guide") else []
        detector, theirs = _detector(folder) if spec.get("detector") else ([], {})
        if any(name in spec["attack_options"] and spec["attack_options"][name] != theirs[name] for name in theirs):
            raise _Unwritable
        options = {**theirs, **options}
        if not about.reference or not all(isinstance(value, WRITABLE) for value in options.values()):
            raise _Unwritable
    except _Unwritable:
        return portable(about.command)
    words = [
        "robench",
        "evaluate",
        *_model(about.reference),
        "--dataset",
        about.dataset,
        *attacks,
        *_pairs("-o", options),
    ]
    words += ["--norm", spec["norm"]] if spec["norm"] != norms.DEFAULT else []
    words += ["--eps", ",".join(_eps(rung.spec["eps"], rung.about.eps) for rung in rungs), "-n", str(spec["count"])]
    words += ["--seed", str(spec["seed"])] if spec["seed"] else []
    words += ["--eot", str(spec["eot"])] if spec.get("eot") else []
    for name in ("batch_size", "shard_size"):
        sizes = [link.spec[name] for link in _chain(folder) if link.spec.get(name)]
        words += [f"--{name.replace('_', '-')}", str(sizes[0])] if sizes else []
    searched = [link.spec["search_precision"] for link in _chain(folder) if link.spec.get("search_precision")]
    words += ["--search-precision", searched[0]] if searched else []
    words += ["--max-passes", str(spec["max_passes"])] if spec.get("max_passes") else []
    words += [word for layer in spec.get("bpda") or [] for word in ("--bpda", layer)]
    return command_line([*words, *surrogate, *detector])


def _model(text: str) -> list[str]:
    """A model's reference as words of a command, with options for what is behind its name."""
    named = Reference.parse(text)
    if named.kind == "trained":
        return [text]
    around = [word for name, value in named.settings.items() for word in (f"--{name}", *([value] if value else []))]
    return [named.bare, *_pairs("-m", named.arguments), *around]


def train_command_of(card: Mapping[str, Any]) -> str:
    """The `robench train` command that makes a model with this card's settings, under its name.

    Where its defense or recipe is no longer what it was, it is the command that was recorded.
    """
    from robench.data.dataset import DataInfo  # these two take seconds, and evaluations do without them
    from robench.defense.recipe import find_recipe

    try:
        plugin = registry.load("defense", card["defense"])
        recipe = find_recipe(plugin.recipes, card["defense"], DataInfo.from_json(card["data"]), card["recipe_name"])
        options = _differing(plugin, card["options"], recipe.options)
        own = {name: card["recipe"][name] for name in ("epochs", "batch_size")}
        whole = replace(recipe.lasting(own["epochs"]), **own, precision=card["recipe"].get("precision", "float32"))
        if json.loads(json.dumps(whole.to_json())) != card["recipe"]:
            raise _Unwritable
    except (BadInput, KeyError, TypeError, ValueError, _Unwritable):
        return portable(str(card.get("command", "")))
    words = ["robench", "train", card["defense"], "--dataset", card["data"]["name"]]
    words += ["--recipe", card["recipe_name"]] if card["recipe_name"] != "quick" else []
    words += ["--classes", str(card["classes"])] if card.get("classes") else []
    words += _pairs("-o", options)
    for name, flag in (("epochs", "--epochs"), ("batch_size", "--batch-size")):
        words += [flag, str(card["recipe"][name])] if card["recipe"][name] != getattr(recipe, name) else []
    words += ["--precision", whole.precision] if whole.precision != recipe.precision else []
    words += ["--seed", str(card["seed"])] if card.get("seed") else []
    return command_line([*words, "--name", card["name"]])


def portable(command: str) -> str:
    """A command line without the folders of the machine it ran on, which no figure depends on, as one visible line."""
    try:
        words = shlex.split(command)
    except ValueError:  # no command line
        return visible(command)
    places = {i + more for i, word in enumerate(words) if word in PLACES for more in (0, 1)}
    places |= {i for i, word in enumerate(words) if word.startswith(tuple(f"{place}=" for place in PLACES))}
    return command_line(word for i, word in enumerate(words) if i not in places)


class _Unwritable(Exception):
    """No command says this."""


def _attacks(folder: EvaluationFolder) -> tuple[list[str], dict[str, Any]]:
    """The attacks of a command and the options given to them: several where each goes on from the one before."""
    chain = _chain(folder)
    merged: dict[str, Any] = {}
    for link in chain:
        every = link.spec["attack_options"]
        if not link.about.given_options.keys() <= every.keys():
            raise _Unwritable
        merged |= {name: every[name] for name in link.about.given_options if every[name] is not None}
    if any(link.spec["attack_options"].get(name, value) != value for link in chain for name, value in merged.items()):
        return _set(chain), {}
    names = ",".join(link.spec["attack"] for link in chain)
    return ["-a", names, *(["--cascade"] if len(chain) > 1 else [])], merged


def _set(chain: list[EvaluationFolder]) -> list[str]:
    """The set whose first members, each with the options it has there, are these attacks."""
    wanted, norm = [_full(link.spec["attack"], link.about.given_options) for link in chain], chain[0].spec["norm"]
    for name in registry.names("set"):
        members = [_full(attack, options) for attack, options in registry.expand([name], norm)]
        if members[: len(wanted)] == wanted:
            return ["-a", name, "--cascade"]
    raise _Unwritable


def _chain(folder: EvaluationFolder) -> list[EvaluationFolder]:
    """An evaluation and those that it goes on from, the first one first."""
    chain = [folder]
    try:
        while chain[0].spec.get("after"):
            chain.insert(0, EvaluationFolder(folder.path.parent / chain[0].spec["after"]))
    except Damaged:
        raise _Unwritable from None
    return chain


def _rungs(folder: EvaluationFolder) -> list[EvaluationFolder]:
    """An evaluation and those within larger eps that it goes by."""
    try:
        return rungs_of(folder)
    except Damaged:
        raise _Unwritable from None


def _full(attack: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    try:
        return attack, registry.load("attack", attack).options(given)
    except BadInput:
        return attack, dict(given)


def _surrogate(folder: EvaluationFolder) -> str:
    """How to find the surrogate: as recorded, or with the images that were crafted on it, or else by its name."""
    crafted = Store(folder.root).crafted / CraftSpec.of(folder.spec).job_id
    try:
        reference = EvaluationFolder(crafted).about.reference
    except BadInput:
        reference = folder.about.surrogate
    if not reference or "#" in reference:
        raise _Unwritable
    return str(reference)


def _guide(folder: EvaluationFolder) -> str:
    """How to find the model whose gradients were followed."""
    if not folder.about.guide_reference:
        raise _Unwritable
    return folder.about.guide_reference


def _detector(folder: EvaluationFolder) -> tuple[list[str], dict[str, Any]]:
    """The detector's part of a command, and its own options."""
    place = Store(folder.root).detectors / folder.spec["detector"] / "spec.json"
    try:
        spec = read_json(place, DetectorRecord)
        attack = registry.load("attack", spec["trained_on"].partition("@")[0])
        theirs = _differing(registry.load("detector", spec["detector"]), spec["options"])
        trained = _differing(attack, spec["attack_options"])
    except BadInput:
        raise _Unwritable from None
    words = ["--detector", spec["detector"], "--trained-on", spec["trained_on"], *_pairs("--trained-option", trained)]
    words += ["--fpr", str(spec["fpr"]), "--detector-images", str(spec["images"])]
    return words, theirs


def _differing(plugin: registry.Plugin, options: Mapping[str, Any], given: Mapping[str, Any] = {}) -> dict[str, Any]:
    """The options that are not what they are by default, or by default with those `given`."""
    usual = plugin.options(given)
    return {name: value for name, value in options.items() if value is not None and usual.get(name) != value}


def _eps(exact: str, shown: str) -> str:
    """Epsilon as it was recorded for reading, if it is the same number."""
    return shown if Fraction(shown) == Fraction(exact) else exact


def _pairs(flag: str, options: Mapping[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in (flag, f"{name}={value}")]
