"""What robench show tells of a plugin, a set or a suite: options, source and cost."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from robench import norms, registry

# kinds in the order in which a name is looked for
KINDS = ("attack", "defense", "detector", "set", "suite")
# classes that a cost is told for; it is of an image that stands, in a threat model of the norm's example eps
CLASSES = 10


def kinds_of(name: str) -> list[str]:
    """The kinds that have something of this name, in their order."""
    from robench.suites.suite import names

    plugins = [kind for kind in KINDS[:-1] if {name, name.partition(":")[0]} & set(registry.names(kind))]
    return [*plugins, *(["suite"] if name in names() or name.endswith(".toml") else [])]


def names_of(kind: str) -> list[str]:
    """Every name of a kind."""
    from robench.suites.suite import names

    return names() if kind == "suite" else registry.names(kind)


def found_of(kind: str, name: str) -> dict[str, Any]:
    """What there is to tell about one of them, as JSON types."""
    found = {"set": _set, "suite": _suite}.get(kind, lambda each: _plugin(kind, each))(name)
    return {kind: name, **found}


def told_of(kind: str, name: str) -> dict[str, Any]:
    """The same for a reader."""
    found = found_of(kind, name)
    if "options" not in found:
        return found
    found["about"] = tuple(found["about"])
    return {**found, "options": {option: _option(**values) for option, values in found["options"].items()}}


def _plugin(kind: str, name: str) -> dict[str, Any]:
    plugin = registry.load(kind, name)
    values, parameters = plugin.options({}), plugin.parameters()
    options = {
        option: {
            "default": values.get(option, _usual(parameter)),
            "allowed": registry.allowed_by(parameter.annotation),
        }
        for option, parameter in parameters.items()
    }
    found: dict[str, Any] = {
        "summary": registry.summaries(kind).get(name, ""),
        "about": _about(plugin.base),
        "source": f"{plugin.base.__module__}:{plugin.base.__qualname__}",
        "options": options,
    }
    if kind == "attack":
        found |= _attack(plugin)
    if kind == "defense" and plugin.recipes:
        found["recipes"] = {data: sorted(each) for data, each in plugin.recipes.items()}
    return found


def _about(base: Any) -> list[str]:
    """The paragraphs of a docstring behind its first."""
    paragraphs = (inspect.getdoc(base) or "").split("\n\n")
    return [" ".join(paragraph.split()) for paragraph in paragraphs[1:]]


def _attack(plugin: registry.Plugin) -> dict[str, Any]:
    """An attack's norms and what it costs at its defaults; nothing where an option has no default."""
    base = plugin.base
    found = {"version": base.version, "access": base.access, "searches": base.kind, "norms": list(base.norms)}
    if any(each.default is each.empty and name not in plugin.preset for name, each in plugin.parameters().items()):
        return found
    attack = plugin.build({})
    return found | {"norms": list(attack.norms), "passes": {norm: _cost(attack, norm) for norm in attack.norms}}


def _cost(attack: Any, norm: str) -> str:
    """What an image that stands costs, in words."""
    from robench.threat import ThreatModel

    threat = ThreatModel.of(norm, norms.NORMS[norm].example)
    cost = attack.cost(threat, CLASSES)
    if cost.forwards is None and cost.backwards is None:
        return "not known beforehand"
    forwards, backwards = cost.forwards or 0, cost.backwards or 0
    return f"at most {forwards:,} forward and {backwards:,} backward per image of {CLASSES} classes"


def _set(name: str) -> dict[str, Any]:
    """A set's members in every norm, each with the options it has there and what it costs."""
    found: dict[str, Any] = {"summary": registry.summaries("set").get(name, ""), "members": {}}
    for norm in norms.NORMS:
        found["members"][norm] = [
            {"attack": member, "options": _pairs(options), "passes": _member_cost(member, options, norm)}
            for member, options in registry.expand([name], norm)
        ]
    return found


def _member_cost(name: str, options: Mapping[str, Any], norm: str) -> str:
    attack = registry.load("attack", name).build(options)
    return _cost(attack, norm) if norm in attack.norms else f"not in {norm}"


def _suite(name: str) -> dict[str, Any]:
    """A suite's table: its rows, its columns, and how large it is at each scale."""
    from robench.suites.suite import ScaledSuite, load

    suite = load(name)

    def scale(found: ScaledSuite) -> dict[str, Any]:
        images = "all" if found.count is None else f"{found.count:,}"
        return {
            "images": f"{images} of {found.dataset}",
            "models": f"{sum(len(row.seeds) for row in found.rows):,}",
            "columns": f"{len(found.columns):,}",
            "note": found.note,
        }

    largest = suite.scales["paper"] if "paper" in suite.scales else next(iter(suite.scales.values()))
    return {
        "summary": suite.title,
        "source": suite.source,
        "metric": suite.metric,
        "scales": {each: scale(found) for each, found in suite.scales.items()},
        "rows": [row.name for row in largest.rows if row.shown],
        "columns": [column.name for column in largest.columns],
        "cost": f"robench reproduce {suite.name} --dry-run",
    }


def _usual(parameter: inspect.Parameter) -> Any:
    """The default of an option that is not recorded while it has it; None where there is none."""
    return None if parameter.default is parameter.empty else parameter.default


def _option(default: Any, allowed: str) -> str:
    return f"{default!r}; {allowed}"


def _pairs(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items())
