"""The rules of each kind, and checks that raise at the first rule a plugin breaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from robench.errors import BadInput, unknown
from robench.registry import Plugin, Variant, load, plugin_of
from robench.testing.attack_rules import ATTACK_RULES
from robench.testing.defense_rules import DEFENSE_RULES, first_data
from robench.testing.detector_rules import DETECTOR_RULES
from robench.testing.rules import Rule, Subject
from robench.testing.samples import GREY

RULES: Mapping[str, tuple[Rule, ...]] = {
    "attack": ATTACK_RULES,
    "defense": DEFENSE_RULES,
    "detector": DETECTOR_RULES,
}


def check_attack(
    attack: str | type | Variant, *, options: Mapping[str, Any] | None = None, rules: Iterable[str] | None = None
) -> None:
    """Hold an attack to every rule, or to those named in `rules` (see `rule_names`).

    attack: the name of its entry point, its class or a Variant. options: over its defaults; few steps make it quick.
    Raises robench.errors.CheckFailed at the first rule that is broken, one sentence that names the rule, the plugin and
    what was seen; BadInput for a name, an option or a rule that there is not.
    """
    _check("attack", attack, options, rules)


def check_defense(
    defense: str | type | Variant, *, options: Mapping[str, Any] | None = None, rules: Iterable[str] | None = None
) -> None:
    """Hold a defense to every rule; arguments and errors as for `check_attack`."""
    _check("defense", defense, options, rules)


def check_detector(
    detector: str | type | Variant, *, options: Mapping[str, Any] | None = None, rules: Iterable[str] | None = None
) -> None:
    """Hold a detector to every rule; arguments and errors as for `check_attack`."""
    _check("detector", detector, options, rules)


def rule_names(kind: str) -> list[str]:
    """The rules for an "attack", a "defense" or a "detector", in the order in which they are checked."""
    if kind not in RULES:
        raise unknown("kind of plugin with rules", kind, RULES)
    return [rule.name for rule in RULES[kind]]


def subject_of(kind: str, plugin: str | type | Variant, options: Mapping[str, Any] | None = None) -> Subject:
    """A plugin as the rules take it. Raises BadInput for an unknown name, and for options that cannot be used."""
    found = load(kind, plugin) if isinstance(plugin, str) else _plugin(kind, plugin)
    found.options(options or {})
    bare = Subject(found, options or {})
    first: dict[str, tuple[Any, ...]] = {"attack": (), "detector": (GREY.classes,)}
    return Subject(found, options or {}, first[kind] if kind in first else (first_data(bare),))


def _plugin(kind: str, target: type | Variant) -> Plugin:
    base = target.base if isinstance(target, Variant) else target
    name = getattr(base, "__name__", repr(base))
    if getattr(base, "family", False):
        raise BadInput(f"The {kind} {name} stands for many; install it and name one of them, such as 'name:Member'.")
    return plugin_of(kind, name, target, f"{getattr(base, '__module__', '?')}:{name}")


def _check(
    kind: str, plugin: str | type | Variant, options: Mapping[str, Any] | None, rules: Iterable[str] | None
) -> None:
    subject, known = subject_of(kind, plugin, options), {rule.name: rule for rule in RULES[kind]}
    for name in rule_names(kind) if rules is None else rules:
        if name not in known:
            raise unknown(f"rule for {kind}s", name, known)
        known[name].hold(subject)
