"""By whose code figures were made: recorded with every shard, and compared before a stored one is shown again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from robench import registry
from robench.errors import BadInput
from robench.store.code import plugin_digest

# a plugin's kind and name
PluginName = tuple[str, str]


def sources_of(plugins: Iterable[PluginName]) -> dict[str, str]:
    """The digests of plugins' sources by "attack pgd". Raises BadInput for one that is not installed."""
    return {f"{kind} {name}": plugin_digest(registry.load(kind, name).base) for kind, name in plugins}


def foreign(notes: Mapping[str, Any], plugins: Iterable[PluginName]) -> str:
    """What in a stored shard was made by other code than today's, such as "another source of the attack 'mine'"; ""
    where nothing was.

    notes: what was noted with the shard. Of one from before sources were noted, robench's own plugins are taken for
    what they are, since their versions say when figures change; those of others are not.
    """
    known = notes.get("sources")
    for kind, name in plugins:
        if not isinstance(known, dict):
            if not registry.bundled(kind, name):
                return f"a source of the {kind} {name!r} that was not recorded"
        elif known.get(f"{kind} {name}") != sources_of([(kind, name)])[f"{kind} {name}"]:
            return f"another source of the {kind} {name!r}"
    return ""


def aged(notes: Iterable[Mapping[str, Any]]) -> str:
    """What in stored shards was made by other code than today's, as far as their own notes tell; "" where nothing."""
    for note in notes:
        known = note.get("sources")
        plugins = [(kind, name) for key in (known or {}) for kind, _, name in [key.partition(" ")]]
        try:
            found = foreign(note, plugins)
        except BadInput:  # a plugin that is not installed today
            continue
        if found:
            return found
    return ""
