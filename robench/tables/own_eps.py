"""Images that have an eps each: their evaluations, one per eps, taken together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from robench.data_names import parse
from robench.evaluation.summaries import Result
from robench.results.accuracy import Figure
from robench.tables.rendering import Grid, grid
from robench.tables.worst import WorstCase

WORST = "worst case"


@dataclass(frozen=True)
class OwnEps:
    """What an attack, or all of them ("worst case"), leaves of images of one list, each within its own eps.

    figure: None while an evaluation is incomplete.
    """

    model: str
    dataset: str
    norm: str
    attack: str
    eps: tuple[str, ...]
    figure: Figure | None
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        figure = self.figure
        return {
            "model": self.model, "dataset": self.dataset, "norm": self.norm, "attack": self.attack,
            "eps": list(self.eps), "seed": self.seed, "n": figure.n if figure else None,
            "value": figure.value if figure else None, "interval": list(figure.interval) if figure else None,
        }  # fmt: skip


def own_eps(results: Sequence[Result], worst: Sequence[WorstCase]) -> list[OwnEps]:
    """The figures of lists with an eps per image; none where there is no such list."""
    places = [(each.model, each.about.dataset, each.norm, each.label, each.about.eps, each.summary.figure, each.seed)
              for each in results]  # fmt: skip
    places += [(each.model, each.dataset, each.norm, WORST, each.eps, each.figure, each.seed) for each in worst]
    found: dict[tuple[Any, ...], tuple[list[str], list[Figure | None]]] = {}
    for model, dataset, norm, attack, eps, figure, seed in places:
        name = parse(dataset)
        if "ids" not in name.settings or "eps" not in name.settings:
            continue
        whole = replace(name, settings={key: value for key, value in name.settings.items() if key != "eps"})
        spelled, figures = found.setdefault((model, str(whole), norm, attack, seed), ([], []))
        spelled.append(eps)
        figures.append(figure)
    return [
        OwnEps(model, dataset, norm, attack, tuple(spelled), _together(figures), seed)
        for (model, dataset, norm, attack, seed), (spelled, figures) in found.items()
    ]


def _together(figures: Sequence[Figure | None]) -> Figure | None:
    known = [figure for figure in figures if figure is not None]
    complete = len(known) == len(figures)
    return Figure(sum(figure.count for figure in known), sum(figure.n for figure in known)) if complete else None


def own_eps_table(found: Sequence[OwnEps]) -> Grid:
    """A line per model and attack."""
    shown = grid("Every image within its own eps", "Percent of all listed images, with 95% Wilson intervals.")
    for name in ("model", "attack", "eps", "n", "robust %", "95% interval"):
        shown.add_column(name, justify="right" if name in ("n", "robust %") else "left", overflow="fold")
    for each in found:
        figure, few = each.figure, each.eps if len(each.eps) <= 4 else (*each.eps[:3], "...")
        low, high = figure.interval if figure else (0.0, 0.0)
        shown.add_row(
            each.model, each.attack, f"{each.norm} {', '.join(few)}", f"{figure.n:,}" if figure else "",
            f"{100 * figure.value:.1f}" if figure else "incomplete",
            f"{100 * low:.1f} - {100 * high:.1f}" if figure else "",
        )  # fmt: skip
    return shown
