"""All that a page shows, gathered from a runs folder without writing there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from robench.environment import __version__
from robench.page.boards import Shown, shown
from robench.page.claims import VERDICTS, Claim
from robench.page.models import Model, model_of
from robench.store.runs import Store
from robench.suites.claims import RULE
from robench.suites.suite import titles
from robench.tables.board import Board
from robench.threat import ThreatModel
from robench.trust.diagnosis import findings
from robench.trust.flags import LESS_WITHIN, advice
from robench.trust.gates import Finding

# images of each model in a board, at most and at least, and of all models in all boards together: a picture takes about
# a kilobyte, and the page stays below some megabytes
MOST, LEAST, TOGETHER = 24, 4, 1600


@dataclass(frozen=True)
class Contents:
    """What the page shows.

    models: by digest; findings: by the digests of model and data, the norm and how many images, with spaces between;
    advice: by flag; rule: of the verdicts on claims; claims: None where there is no table of them; tables: the papers'
    tables that claims are about, by their suites' names.
    """

    version: str
    boards: list[Shown]
    models: dict[str, Model]
    findings: dict[str, list[Finding]]
    advice: dict[str, str]
    verdicts: tuple[str, ...]
    rule: str
    claims: list[Claim] | None
    tables: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)


def _place(board: Board) -> tuple[object, ...]:
    """Where a board stands on the page: by its data, norm and eps, the one of most models and of most images first."""
    radius = ThreatModel.of(board.norm, board.eps).radius
    return board.dataset, board.norm, radius, -len(board.rows), -board.count, board.name


def contents_of(
    store: Store, boards: Sequence[Board], claims: Sequence[Claim] | None = None, data: Path | None = None
) -> Contents:
    """The contents of a page of the store's boards; data: where datasets are, None for the usual place."""
    lines = sum(len(board.rows) for board in boards)
    count = max(LEAST, min(MOST, TOGETHER // max(lines, 1)))
    pages = [shown(board, store, data, count) for board in sorted(boards, key=_place)]
    models, found = dict[str, Model](), dict[str, list[Finding]]()
    for page in pages:
        for row in page.rows:
            if not row.made:
                continue
            folder = store.evaluation(row.made[0].setting.evaluation)
            if row.digest not in models:
                models[row.digest] = model_of(store, row.digest, folder.about)
            key = " ".join((row.digest, folder.spec["data_digest"], page.norm, str(page.count)))
            if key not in found:
                found[key] = findings(store, row.model, folder)
    rows = [row for page in pages for row in page.rows]
    flags = {flag for row in rows for made in row.made for flag in made.setting.flags}
    flags |= {flag for row in rows for flag in row.cells[1]["flags"] if flag.startswith(LESS_WITHIN)}
    return Contents(
        __version__, pages, models, found, {flag: advice(flag) for flag in sorted(flags)}, VERDICTS, RULE,
        None if claims is None else [replace(claim, settings="") for claim in claims],  # a digest is nothing to read
        titles() if claims else {},
    )  # fmt: skip
