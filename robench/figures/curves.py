"""Accuracy against eps, read from the rows of stored evaluations: as a table, JSON, a picture or a csv."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robench.errors import BadInput
from robench.evaluation.attacks import label_of
from robench.figures import drawing
from robench.figures.drawing import Drawing, legend, places, save, style
from robench.norms import parse_norm
from robench.progress import say
from robench.results.accuracy import Figure, Measure
from robench.results.rows import Marks, correct, misled_clean, succeeded
from robench.store.files import write_text
from robench.store.labels import endings, why_not_whole
from robench.store.runs import EvaluationFolder, Store
from robench.tables import rendering
from robench.tables.cells import whole_rows
from robench.tables.model_names import told_apart
from robench.tables.rendering import Grid, grid
from robench.threat import ThreatModel, parse_epsilon
from robench.trust.newest import newest
from robench.trust.origins import marked

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

# float32 pixels round: distances this close to an eps are at it
TOLERANCE = 1e-6
# columns of a table that was not told which
MOST_POINTS = 8

NOTE = (
    "Percent of all n images classified correctly and not broken by an image at most that far away. A dash: beyond the "
    "evaluation's eps. Below it, an attack that does not look for the nearest image gives an upper bound only."
)


def standing(rows: pd.DataFrame, norm: str, eps: float) -> Marks:
    """Per row, whether the image is classified correctly and no image within eps of it, in `norm`, was found to break
    it: bool [n]."""
    found: Marks = falls(rows, norm) <= eps + TOLERANCE
    return correct(rows) & ~found


def falls(rows: pd.DataFrame, norm: str) -> NDArray[np.float64]:
    """Per row, how far away in `norm` an image lies that breaks it, infinity where none was found: float64 [n]. 0 where
    the clean image itself was answered wrongly when the verdict was taken a second time."""
    distance = np.where(succeeded(rows), rows[norm].to_numpy(dtype=np.float64), np.inf)
    return np.where(misled_clean(rows), 0.0, distance)


@dataclass(frozen=True)
class Curve:
    """Accuracy against eps of one evaluation, up to its own eps."""

    evaluation: str
    model: str
    dataset: str
    attack: str
    threat: ThreatModel
    rows: pd.DataFrame

    @classmethod
    def of(cls, folder: EvaluationFolder) -> Curve:
        """Raises BadInput for an evaluation that is incomplete or measures a rate of success."""
        spec, about = folder.spec, folder.about
        rows = whole_rows(folder, "accuracy to draw", "draw it")
        attack = label_of(folder) + marked(folder)
        return cls(folder.job_id, about.model, about.dataset, attack, ThreatModel.of(spec["norm"], spec["eps"]), rows)

    @property
    def title(self) -> str:
        """Model, attack and the eps it had."""
        return f"{self.model}, {self.attack}, eps {self.threat.eps_text}"

    def at(self, eps: float) -> Figure | None:
        """Accuracy at eps, or None beyond the evaluation's."""
        if eps > self.threat.radius + TOLERANCE:
            return None
        return Figure(int(standing(self.rows, self.threat.norm, eps).sum()), len(self.rows))

    def steps(self) -> tuple[list[float], list[float]]:
        """Every eps at which accuracy falls, in order, from 0 to the evaluation's, and the accuracy from there on."""
        distances = falls(self.rows, self.threat.norm)[correct(self.rows)]
        ends, counts = np.unique(distances[np.isfinite(distances)], return_counts=True)
        left = int(correct(self.rows).sum()) - np.cumsum([0, *counts])
        n = max(len(self.rows), 1)
        return [0.0, *ends.tolist(), self.threat.radius], [*(left / n).tolist(), float(left[-1]) / n]

    def to_json(self, points: Sequence[Fraction]) -> dict[str, Any]:
        """The evaluation and its accuracy, a fraction with its interval, at every one of `points` it has."""
        found = [(float(eps), self.at(float(eps))) for eps in points]
        return {
            "evaluation": self.evaluation,
            "model": self.model,
            "dataset": self.dataset,
            "attack": self.attack,
            "norm": self.threat.norm,
            "eps": self.threat.eps_text,
            "n": len(self.rows),
            "points": [{"eps": e, "accuracy": f.value, "interval": list(f.interval)} for e, f in found if f],
        }


def collect(store: Store, names: Sequence[str], models: Sequence[str] = (), norm: str | None = None) -> list[Curve]:
    """The curves of the named evaluations, or of every complete one of `models` as they are now, in one norm.

    Raises BadInput where there is none of one of the models, where one cannot be drawn, and where they differ in norm.
    """
    wanted = parse_norm(norm) if norm else None
    if names and models:
        raise BadInput("Evaluations and --model are given together; give one of them.")
    if names:
        ids = dict.fromkeys(store.find_evaluation(name).job_id for name in names)
        groups = {"named": [Curve.of(store.evaluation(job_id)) for job_id in ids]}
    elif models:
        groups = {
            f"complete for model {model!r} in {store.evaluations}": _of_model(store, model)
            for model in dict.fromkeys(models)
        }
    else:
        raise BadInput("No evaluation is named; give ids, which 'robench list evaluations' has, or --model NAME.")
    curves = []
    for where, group in groups.items():
        found = [curve for curve in group if wanted in (None, curve.threat.norm)]
        if not found:
            of_norm = f" in {wanted}" if wanted else ""
            raise BadInput(f"No evaluation of robust accuracy{of_norm} is {where}; run 'robench evaluate' first.")
        curves += found
    norms = sorted({curve.threat.norm for curve in curves})
    if len(norms) > 1:
        raise BadInput(f"The evaluations are in {' and '.join(norms)}, which share no axis; choose with --norm.")
    return _told_apart(store, curves)


def _told_apart(store: Store, curves: Sequence[Curve]) -> list[Curve]:
    """The curves, with names that no two models and titles that no two evaluations share."""
    folders = [store.evaluation(curve.evaluation) for curve in curves]
    titles = told_apart((folder.spec["model_digest"], folder.about) for folder in folders)
    pairs = zip(curves, folders, strict=True)
    named = [replace(curve, model=titles[curve.model, folder.spec["model_digest"]]) for curve, folder in pairs]
    ends = endings(folders, {curve.evaluation: curve.title for curve in named})
    return [replace(curve, attack=curve.attack + ends[curve.evaluation]) for curve in named]


def _of_model(store: Store, model: str) -> list[Curve]:
    digest = store.model_digest(model) if model in store.model_names() else None
    found: list[tuple[EvaluationFolder, Curve]] = []
    intact, damaged = store.intact()
    reasons = list(damaged.values())
    for folder in intact:
        spec, about = folder.spec, folder.about
        mine = about.model == model and digest in (None, spec["model_digest"])
        if not mine or about.metric != Measure.ROBUST:
            continue
        if reason := why_not_whole(folder):
            reasons.append(reason)
        else:
            found.append((folder, Curve.of(folder)))
    for reason in reasons:
        say(f"Left out: {reason}")
    kept = {folder.job_id for folder in newest(folder for folder, _ in found)}
    curves = [curve for folder, curve in found if folder.job_id in kept]
    return sorted(curves, key=lambda curve: (curve.attack, curve.threat.eps))


def parse_points(text: str) -> list[Fraction]:
    """The eps of "0,0.05,0.1" or "0,8/255", in order. Raises BadInput for anything that is not such a list."""
    points = {parse_epsilon(part) for part in text.split(",") if part.strip()}
    if not points:
        raise BadInput(f"--points is {text!r}, but must be values of eps with commas between, such as 0,0.1,0.2.")
    return sorted(points)


def default_points(curves: Sequence[Curve]) -> list[Fraction]:
    """Even steps of 1, 2 or 5 from 0 to where no curve falls any more."""
    last = max(curve.steps()[0][-2] for curve in curves)
    most = max(curve.threat.eps for curve in curves)
    if last <= TOLERANCE:
        return [Fraction(0), most] if most else [Fraction(0)]
    rough = (last - TOLERANCE) / (MOST_POINTS - 1)
    unit = Fraction(10) ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    points = [step * i for i in range(MOST_POINTS) if step * (i - 1) < last - TOLERANCE]
    return sorted({min(point, most) for point in points})


def table(curves: Sequence[Curve], points: Sequence[Fraction]) -> Grid:
    """A line per evaluation, a column per eps: percent."""
    shown = grid(_axis(curves), NOTE)
    shown.add_column("evaluation", overflow="fold", min_width=16)
    shown.add_column("n", justify="right", no_wrap=True)
    for eps in points:
        text = f"{float(eps):.4g}"
        shown.add_column(text, justify="right", no_wrap=True, min_width=max(5, len(text)))
    for curve in curves:
        figures = [curve.at(float(eps)) for eps in points]
        cells = [f"{100 * figure.value:.1f}" if figure else "-" for figure in figures]
        shown.add_row(curve.title, f"{len(curve.rows):,}", *cells)
    return shown


def write(curves: Sequence[Curve], points: Sequence[Fraction], out: Path) -> list[Path]:
    """Pictures of the curves with intervals at `points`, and a csv of `points`, at the `places` that a name stands for.

    Raises BadInput for a name of something else, and DiskError.
    """
    paths = places(out)
    picture = None
    for path in paths:
        if path.suffix.lower() == ".csv":
            write_text(path, csv_text(curves, points))
        else:
            picture = picture or draw(curves, points)
            save(picture, path)
    return paths


def csv_text(curves: Sequence[Curve], points: Sequence[Fraction]) -> str:
    """A line per evaluation and eps, accuracy as a fraction with its 95% Wilson interval."""
    fields = ("evaluation", "model", "dataset", "attack", "norm", "n")
    records = []
    for found in (curve.to_json(points) for curve in curves):
        for point in found["points"]:
            ends = dict(zip(("accuracy", "low", "high"), (point["accuracy"], *point["interval"]), strict=True))
            figures = {name: f"{value:.6g}" for name, value in {"eps": point["eps"], **ends}.items()}
            records.append({name: found[name] for name in fields} | {"evaluation_eps": found["eps"], **figures})
    return rendering.csv_text(records)


def draw(curves: Sequence[Curve], points: Sequence[Fraction]) -> Picture:
    """Every curve as steps, a dot at its evaluation's eps, with 95% Wilson intervals at `points`."""
    caption = (
        *(f"{c.title} ({c.threat.norm}); {c.dataset}, n = {len(c.rows):,}; evaluation {c.evaluation}" for c in curves),
        "An image is broken from the distance of its adversarial image on: below its own eps, of an attack that does "
        "not look for the nearest image, an upper bound. Dots: its own eps, unless the axis ends before it. Bars: 95% "
        "Wilson intervals.",
    )
    return drawing.draw(Drawing(_axis(curves), caption, [], (7, 4.2), lambda picture: _paint(picture, curves, points)))


def _paint(picture: Picture, curves: Sequence[Curve], points: Sequence[Fraction]) -> None:
    axes, last = picture.add_subplot(), float(points[-1]) or 1.0
    lines = []
    for place, curve in enumerate(curves):
        eps, accuracy = curve.steps()
        (line,) = axes.step(eps, [100 * a for a in accuracy], where="post", label=curve.title, **style(place))
        lines.append(line)
        if eps[-1] <= last + TOLERANCE:
            axes.plot(eps[-1], 100 * accuracy[-1], "o", color=line.get_color(), markersize=4, clip_on=False)
        found = [(float(point), curve.at(float(point))) for point in points]
        marks = [(e, 100 * f.value, [100 * end for end in f.interval]) for e, f in found if f]
        bars = [[max(y - ends[0], 0.0) for _, y, ends in marks], [max(ends[1] - y, 0.0) for _, y, ends in marks]]
        axes.errorbar(
            [m[0] for m in marks], [m[1] for m in marks], yerr=bars, fmt="none", color=line.get_color(), capsize=2
        )
    axes.set_xlim(0, last)
    axes.set_ylim(0, 100)
    axes.set_xlabel(f"eps ({curves[0].threat.norm}, pixels of [0, 1])")
    axes.set_ylabel("accuracy (%)")
    legend(axes, lines, [curve.title for curve in curves])
    axes.grid(alpha=0.3)


def _axis(curves: Sequence[Curve]) -> str:
    data = ", ".join(dict.fromkeys(curve.dataset for curve in curves))
    return f"Accuracy against eps ({curves[0].threat.norm}), {data}"
