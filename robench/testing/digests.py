"""Record what the code of a package's plugins says, version by version: `python -m robench.testing.digests PACKAGE`.

Of robench itself, as the package, its own parts are recorded that figures come out of."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from robench import registry
from robench.errors import BadInput, RobenchError, unknown
from robench.store.files import write_text
from robench.store.reach import plugin_digest
from robench.store.released import Release, place_of, recorded, text_of
from robench.testing import harness
from robench.text.terminal import tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Add the digests of today's code to the records of packages; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m robench.testing.digests", description=__doc__)
    parser.add_argument("packages", nargs="+", metavar="PACKAGE", help="a package of plugins, such as robench_attacks")
    parser.add_argument(
        "--same", action="append", default=[], metavar="CLASS",
        help="a plugin's class, as module:name, whose code was changed and whose figures are what they were",
    )  # fmt: skip
    asked = parser.parse_args(arguments)
    try:
        bases = {package: registry.classes(package) for package in asked.packages if package != "robench"}
        own = harness.parts() if "robench" in asked.packages else {}
        known = [*(Release.of(base).plugin for each in bases.values() for base in each), *(each.plugin for each in own)]
        for name in asked.same:
            if name not in known:
                raise unknown("plugin's class", name, known)
        added = sum(record(each, asked.same) for each in bases.values()) + record_at(harness.place(), own, asked.same)
    except RobenchError as error:
        tell(str(error))
        return error.exit_code
    tell(f"{added} digests were added." if added else "Every plugin's code is recorded under its version.")
    return 0


def record(bases: Sequence[type], same: Sequence[str] = ()) -> int:
    """Add what is lacking to the record of the package that these plugins are of; returns how many digests.

    Raises BadInput, and writes nothing, where a version is recorded with other code and is not said to be the `same`.
    """
    place = place_of(bases[0])
    if place is None:
        raise BadInput(f"The plugin {Release.of(bases[0]).plugin} is in no package, so nothing can be recorded of it.")
    return record_at(place, {Release.of(base): plugin_digest(base) for base in bases}, same)


def record_at(place: Path, today: Mapping[Release, str], same: Sequence[str] = ()) -> int:
    """The same of releases and the digests of their code."""
    known = recorded(place)
    new = {release: digest for release, digest in today.items() if digest not in known.get(release, ())}
    moved = [release for release in new if release in known and release.plugin not in same]
    if moved:
        told = ", ".join(f"{each.plugin} (version {each.version})" for each in moved)
        raise BadInput(
            f"The code of {told} is not what is recorded for that version; raise its version, or, where the figures "
            "are what they were, say so with --same CLASS ('make digests SAME=CLASS')."
        )
    if new:
        found = {release: known.get(release, frozenset()) | {digest} for release, digest in new.items()}
        write_text(place, text_of({**known, **found}))
        recorded.cache_clear()
    return len(new)


if __name__ == "__main__":
    sys.exit(main())
