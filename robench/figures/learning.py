"""Training curves: what every epoch recorded of each term of the loss, and of what the defense monitors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robench.errors import BadInput
from robench.figures.drawing import MARKERS, Drawing, as_is, legend, numbers, style, whole_ticks
from robench.store.files import Damaged
from robench.store.runs import Store
from robench.training.watching import IMAGES, STANDS, STEPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

EPOCH, ACCURACY, TOTAL = "epoch", "val_accuracy", "total"
# panels in a row; terms of one sign whose sizes differ by more than this factor have a logarithmic axis
ACROSS, WIDE = 3, 30
UNITS = {ACCURACY: "validation accuracy (%)", TOTAL: "total loss"}


def training(store: Store, names: Sequence[str]) -> Drawing:
    """A panel for every term of the loss of some trained models, for their sum, for validation accuracy and for what
    their defenses monitor, against epochs.

    Raises BadInput where no model is named, one is not there or not finished, or its card has no curves.
    """
    if not names:
        raise BadInput(f"No model is named; known: {', '.join(store.model_names()) or 'none'}.")
    cards = {name: store.card(name) for name in dict.fromkeys(names)}
    records = [record for name, card in cards.items() for record in _records(name, card)]
    terms = [term for term in dict.fromkeys(record["term"] for record in records) if term not in UNITS]
    terms = [*terms, *(term for term in (TOTAL, ACCURACY) if any(record["term"] == term for record in records))]
    caption = (
        *(_told(name, card) for name, card in cards.items()),
        "Terms as they enter the loss, weights included, as means over the batches of an epoch; what a defense "
        "monitors, and accuracy, as means over the validation images after it. Markers: epochs.",
        *_watched(terms, cards),
    )
    rows = -(-len(terms) // ACROSS)
    return Drawing("Training curves", caption, records, (8.4, 2.5 * rows + 0.35),
                   lambda picture: _panels(picture, list(cards), terms, records))  # fmt: skip


def _watched(terms: Sequence[str], cards: Mapping[str, dict[str, Any]]) -> list[str]:
    """What is said where robustness was watched; of how many images, older cards do not tell."""
    if not any(term.startswith(STANDS) for term in terms):
        return []
    seen = {name: card.get("watched_images") or f"up to {IMAGES}" for name, card in cards.items()
            if any(term.startswith(STANDS) for line in card["history"] for term in line)}  # fmt: skip
    several = len(set(seen.values())) > 1
    first = ", ".join(f"{n} ({name})" if several else f"{n}" for name, n in [*seen.items()][: None if several else 1])
    return [f"Robust accuracy: of the first {first} validation images under {STEPS} steps of PGD, an upper bound."]


def _told(name: str, card: dict[str, Any]) -> str:
    recipe = card.get("recipe_name", "")
    return f"{name}: {card['defense']} on {card['data']['name']}, recipe {recipe}, seed {card.get('seed', 0)}"


def _records(name: str, card: dict[str, Any]) -> list[dict[str, Any]]:
    history = card.get("history")
    if not isinstance(history, list) or not history:
        raise BadInput(
            f"The model {name!r} was trained before curves were kept, so there are none of it; train it again with "
            "--fresh to have them."
        )
    found: list[dict[str, Any]] = []
    for line in history:
        if not isinstance(line, dict) or not all(isinstance(value, int | float) for value in line.values()):
            raise Damaged(f"The curves of model {name!r} are damaged; train it again with --fresh.")
        epoch = int(line.get(EPOCH, len(found))) + 1
        found += [
            numbers({"model": name, EPOCH: epoch, "term": term, "value": float(value)})
            for term, value in line.items() if term != EPOCH
        ]  # fmt: skip
    return found


def _panels(picture: Picture, names: Sequence[str], terms: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
    rows = -(-len(terms) // ACROSS)
    grid = picture.subplots(rows, min(len(terms), ACROSS), squeeze=False)
    handles: dict[str, Any] = {}
    for axes in grid.flat[len(terms) :]:
        axes.set_axis_off()
    for axes, term in zip(grid.flat, terms, strict=False):
        _panel(axes, term, names, records, handles)
    if len(names) > 1 or rows * ACROSS > len(terms):
        place = grid.flat[-1]
        where = {"loc": "center"} if len(terms) < grid.size else {"loc": "best"}
        legend(place, [handles[name] for name in names if name in handles], [n for n in names if n in handles], **where)


def _panel(
    axes: Axes, term: str, names: Sequence[str], records: Sequence[dict[str, Any]], handles: dict[str, Any]
) -> None:
    seen: list[float] = []
    share = term == ACCURACY or term.startswith(STANDS)
    for place, name in enumerate(names):
        mine = [record for record in records if (record["model"], record["term"]) == (name, term)]
        if not mine:
            continue
        factor = 100 if share else 1
        values = [factor * float(record["value"]) for record in mine]
        (line,) = axes.plot([record[EPOCH] for record in mine], values, marker=MARKERS[place % len(MARKERS)],
                            markersize=3, linewidth=1.1, **style(place))  # fmt: skip
        handles.setdefault(name, line)
        seen += values
    if not share and min(seen) > 0 and max(seen) > WIDE * min(seen):
        axes.set_yscale("log")
    axes.set_xlabel("epoch", fontsize=8)
    as_is(axes.set_ylabel("", fontsize=8), UNITS.get(term, f"{term} (%)" if share else term))
    axes.tick_params(labelsize=7)
    whole_ticks(axes.xaxis)
    axes.grid(alpha=0.3)
    axes.margins(x=0.03)
