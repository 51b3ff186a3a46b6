"""Everything a suite names, built once before anything of it is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from robench import registry
from robench.data.catalogue import DATASETS
from robench.data_names import parse
from robench.errors import BadInput, unknown
from robench.results.accuracy import entering, enters
from robench.suites.schema import Column, inside
from robench.suites.suite import RowPlan, ScaledSuite

if TYPE_CHECKING:
    from robench.data.dataset import DataInfo
    from robench.evaluation.attacks import NamedAttack


def check(scaled: ScaledSuite) -> None:
    """Build everything that a suite names at a scale, models without their numbers, before anything of it is run.

    Raises BadInput for a defense, recipe, attack, detector or option that there is not or that is out of range, for a
    threat model that an attack does not support, and for an attack that says nothing about transfer under a surrogate.
    Models on data of the user's own are not built.
    """
    with inside(f"the suite {scaled.name!r} at scale {scaled.scale}"):
        for row in scaled.rows:
            if not row.brought:
                with inside(f"row {row.name!r}"):
                    _check_row(row)
        for column in scaled.columns:
            cells = [scaled.cell(row, column) for row in scaled.rows if row.shown] if column.attacks else []
            for cell in {repr(cell): cell for cell in cells}.values():
                with inside(f"column {column.name!r}"):
                    _check_column(cell, _data(scaled.dataset))


def _check_row(row: RowPlan) -> None:
    import torch  # what trains and attacks takes seconds to import, and a list of suites needs none of it

    from robench.defense.recipe import find_recipe

    plugin = registry.load("defense", row.defense)
    plugin.options(row.options)
    data = _data(row.dataset)
    if data is not None:
        recipe = find_recipe(plugin.recipes, row.defense, data, row.recipe)
        with torch.device("meta"):
            plugin.build({**recipe.options, **row.options}, data)


def _data(name: str) -> DataInfo | None:
    """What is known of a dataset without opening it; None of the user's own. Raises BadInput for an unknown name."""
    from robench.data.dataset import DataInfo

    parsed = parse(name)
    if parsed.kind:
        return None
    if parsed.base not in DATASETS:
        raise unknown("dataset", parsed.base, DATASETS)
    entry = DATASETS[parsed.base]
    middle = (0.5,) * entry.channels
    return DataInfo(name, entry.channels, entry.side, entry.side, entry.classes, middle, middle, name)


def _check_together(attacks: Sequence[NamedAttack]) -> None:
    """Raise BadInput for attacks of which a column can take no worst case."""
    entered = [named.name for named in entering(attacks)]
    outside = [named.name for named in attacks if not enters(named.access)]
    if outside:
        raise BadInput(
            f"It takes {', '.join(outside)} together with other attacks, but such figures never enter a worst case; "
            "give it a column of its own."
        )
    if not entered:
        raise BadInput(
            f"Its attacks {', '.join(named.name for named in attacks)} count the classes they reach, so they have no "
            "worst case; give each a column."
        )


def _check_column(column: Column, data: DataInfo | None) -> None:
    from robench.detector.request import DetectorRequest
    from robench.evaluation.attacks import attacks_of
    from robench.evaluation.guides import check_guided
    from robench.results.accuracy import Measure
    from robench.threat import ThreatModel

    threat = ThreatModel.of(column.norm, column.eps)
    if data is not None:
        threat.check_shape(data.shape)
    attacks = attacks_of(column.attacks, column.options, threat)
    metrics = {named.attack.metric for named in attacks}
    if column.combine == "minimum" and len(metrics) > 1:
        raise BadInput("Its attacks have robust accuracy and attack success rate, of which there is no smallest one.")
    if column.combine == "minimum" and metrics == {Measure.SUCCESS}:
        raise BadInput("Its attacks have attack success rates, of which the least says nothing; give each a column.")
    if column.combine == "worst case" and len(attacks) > 1:
        _check_together(attacks)
    if column.guide:
        check_guided(attacks)
    for named in attacks if column.surrogate else ():
        if not named.attack.transfers:
            raise BadInput(f"The attack {named.name!r} says nothing about transfer; choose another, such as pgd.")
    if column.detector is None:
        return
    if column.figure and len(attacks) > 1:
        raise BadInput(
            f"Its figure {column.figure} is of one attack's images, but there are {len(attacks)} attacks; name one."
        )
    registry.load("detector", column.detector).build(column.detector_options, 10)
    guard = DetectorRequest(
        column.detector, {}, column.trained_on, column.trained_options, column.fpr, column.detector_images
    )
    name, ball = guard.attack_and_threat(threat)
    attacks_of([name], column.trained_options, ball)
