"""Verdicts of another store, kept where this one has none: of the same settings, and as their own figures allow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from robench.suites.claims import Claim, Claims, Verdict, by_key, too_wide
from robench.suites.settings import settings
from robench.suites.suite import ScaledSuite

# what is said of a verdict that another store gave, and of one whose file has no digest of its settings
KEPT = "; kept, not of this store"
UNRECORDED = "; its settings were not recorded"
# points of percent: what the ends of an interval lose in a file
ROUNDING = 0.006


def keeping(claims: Claims, earlier: Iterable[Claim], suites: Iterable[ScaledSuite]) -> Claims:
    """The claims with the verdicts of another store where these have none at the same scale, which say that they are
    kept; suites: at all scales, as they are today.

    A verdict of today whose interval is too wide gives way to one whose interval is not. What no table claims any more,
    or prints or sets otherwise, is not kept; nor is what the rule of today leaves untested.
    """
    today = {(suite.name, suite.scale, *key): found for suite in suites for key, found in settings(suite).items()}
    tested = by_key(_kept(claim) for claim in earlier if _stands(claim) and _same(claim, today))
    found = by_key(claims.claims)
    for key, mine in found.items():
        own = [claim for claim in mine if claim.verdict is not Verdict.UNTESTED]
        scales, firm = {claim.scale for claim in own}, {claim.scale for claim in own if not _wide(claim)}
        more = [
            claim for claim in tested.get(key, ())
            if claim.scale not in firm and not (claim.scale in scales and _wide(claim))
        ]  # fmt: skip
        instead = {claim.scale for claim in more}
        found[key] = [claim for claim in own if claim.scale not in instead] + more or mine
    return replace(claims, claims=tuple(claim for mine in found.values() for claim in mine))


def contradicts(claim: Claim) -> bool:
    """Whether the verdict on a printed value is one that its own interval cannot give, up to rounding."""
    printed = _printed(claim)
    if claim.interval is None or printed is None or claim.verdict is Verdict.UNTESTED:
        return False
    (low, high), slack = claim.interval, ROUNDING if claim.verdict is Verdict.REPRODUCED else -ROUNDING
    inside = low - slack <= printed <= high + slack
    return inside is not (claim.verdict is Verdict.REPRODUCED)


def _kept(claim: Claim) -> Claim:
    why = claim.why.removesuffix(UNRECORDED).removesuffix(KEPT) + KEPT
    return replace(claim, why=why if claim.settings else why + UNRECORDED)


def _same(claim: Claim, today: dict[tuple[str, str, str, str], str]) -> bool:
    """Whether the suite says today what it said when the verdict was given, as far as that is known."""
    return not claim.settings or today.get((claim.suite, claim.scale, claim.claim, claim.printed)) == claim.settings


def _stands(claim: Claim) -> bool:
    """Whether it is a verdict by the rule of today."""
    printed = _printed(claim)
    if claim.interval is None or printed is None or claim.verdict is not Verdict.REPRODUCED:
        return claim.verdict is not Verdict.UNTESTED
    return not too_wide(claim.interval)


def _wide(claim: Claim) -> bool:
    return claim.interval is not None and too_wide(claim.interval)


def _printed(claim: Claim) -> float | None:
    """The printed value, None of an order of rows."""
    try:
        return float(claim.printed)
    except ValueError:
        return None
