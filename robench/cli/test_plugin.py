"""robench test-plugin: hold an attack, a defense or a detector to the rules for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from robench.cli import options as shared
from robench.errors import BadInput, unknown
from robench.text.terminal import tell, tell_json

if TYPE_CHECKING:
    from robench.testing.rules import Verdict

KINDS = ("attack", "defense", "detector")


def check_plugin(
    name: Annotated[str, typer.Argument(help="An attack, a defense or a detector, as 'robench list' names it.")],
    kind: Annotated[
        str | None, typer.Option("--kind", help="attack, defense or detector, if the name is several.")
    ] = None,
    options: shared.Options = None,
    as_json: shared.Json = False,
) -> int:
    """Hold a plugin to the rules for all plugins of its kind, a line each; exit code 1 if one is broken."""
    from robench.registry import parse_options

    given, found = parse_options(options or []), _kind(name, kind)
    from robench.testing.check import RULES, subject_of
    from robench.testing.rules import verdicts

    results = []
    rules = RULES[found]
    width = max(len(rule.name) for rule in rules)
    for verdict in verdicts(subject_of(found, name, given), rules):
        results.append(verdict)
        if not as_json:
            said = verdict.sentence if verdict.status == "broken" else f"{verdict.status} {verdict.sentence}".strip()
            tell(f"{verdict.rule.name:<{width}}  {said}")
    if as_json:
        tell_json({"kind": found, "name": name, "rules": [_to_json(verdict) for verdict in results]})
    return int(any(verdict.status == "broken" for verdict in results))


def _kind(name: str, wanted: str | None) -> str:
    """The kind of plugin that has this name. Raises BadInput where none has it, or several and none is wanted."""
    from robench.registry import check_names, names

    if wanted is not None:
        if wanted not in KINDS:
            raise unknown("kind of plugin with rules", wanted, KINDS)
        check_names(wanted, [name])
        return wanted
    found = [kind for kind in KINDS if {name, name.partition(":")[0]} & set(names(kind))]
    if not found:
        raise unknown("attack, defense or detector", name, [each for kind in KINDS for each in names(kind)])
    if len(found) > 1:
        raise BadInput(f"{name!r} is the name of several plugins ({', '.join(found)}); say which by --kind {found[0]}.")
    return found[0]


def _to_json(verdict: Verdict) -> dict[str, str]:
    rule = verdict.rule
    return {"rule": rule.name, "expects": rule.expects, "status": verdict.status, "sentence": verdict.sentence}
