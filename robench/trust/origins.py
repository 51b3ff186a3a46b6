"""By whose code figures were made: part of an evaluation's identity, but where a plugin's version speaks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from robench import registry
from robench.errors import BadInput
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.reach import plugin_digest
from robench.store.released import unreleased
from robench.store.specs import GUIDE, SURROGATE

# a plugin's kind and name
PluginName = tuple[str, str]


def sources_of(plugins: Iterable[PluginName]) -> dict[str, str]:
    """The digests of plugins' code by "attack pgd". Raises BadInput for one that is not installed."""
    return {f"{kind} {name}": plugin_digest(_base(kind, name)) for kind, name in plugins}


def identified(plugins: Iterable[PluginName]) -> dict[str, str] | None:
    """The digests, by "attack mine", of those plugins whose version does not speak for their code; None for none."""
    found = {f"{kind} {name}": unreleased(_base(kind, name)) for kind, name in plugins}
    return {key: digest for key, digest in found.items() if digest is not None} or None


def _base(kind: str, name: str) -> type:
    base: type = registry.load(kind.removeprefix(SURROGATE).removeprefix(GUIDE), name).base
    return base


def marked(folder: EvaluationFolder) -> str:
    """What stands behind the label of an evaluation that other code than today's made. Raises Damaged."""
    return " [other code]" if aged(folder) else ""


def aged(folder: EvaluationFolder) -> str:
    """What in an evaluation was made by other code than today's, such as "another source of the attack 'mine'"; ""
    where nothing was, as far as its spec and the notes of its shards tell. Raises Damaged.

    An evaluation of before code entered identities says nothing of the code; robench's own plugins are then taken for
    what they are, since their versions say when figures change.
    """
    spec, noted = folder.spec, set[str]()
    for notes in folder.notes():
        noted |= (notes.get("sources") or {}).keys()
    then: Mapping[str, str] = spec.get("sources") or {}
    for key in sorted({f"attack {spec['attack']}", *then, *noted}):
        whose = next((each for each in (SURROGATE, GUIDE) if key.startswith(each)), "")
        kind, _, name = key.removeprefix(whose).partition(" ")
        try:
            now = (identified([(whose + kind, name)]) or {}).get(key)
            recorded = key in then or registry.bundled(kind, name)
        except BadInput:  # a plugin that is not installed today
            continue
        if then.get(key) != now:
            what = f"the {kind} {name!r}"
            return f"another source of {what}" if recorded else f"a source of {what} that was not recorded"
    return ""
