"""What was evaluated as pandas tables and tensors: a row per figure, a row per image, the images themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, TypedDict

import pandas as pd
import torch
from torch import Tensor

from robench.errors import BadInput, unknown
from robench.evaluation.summaries import Result
from robench.results.accuracy import Measure
from robench.store.runs import Store
from robench.threat import parse_epsilon

# the columns of a frame and their types; figures are shares of n, None where there is none
FIGURES = {
    "model": "str", "dataset": "str", "attack": "str", "against": "str", "norm": "str", "eps": "float64",
    "eps_exact": "str", "seed": "int64", "n": "int64", "clean_accuracy": "float64", "robust_accuracy": "float64",
    "attack_success_rate": "float64", "low": "float64", "high": "float64", "forwards": "Int64", "backwards": "Int64",
    "seconds": "float64", "flags": "str", "status": "str", "evaluation": "str",
}  # fmt: skip


class Which(TypedDict, total=False):
    """Which of several evaluations under one attack: its norm, eps and seed."""

    norm: str
    eps: str | float | Fraction
    seed: int


class AdversarialImages(NamedTuple):
    """Images of one evaluation: float32 [n, C, H, W] in [0, 1] twice, and their example ids, int64 [n]."""

    clean: Tensor
    adversarial: Tensor
    example_id: Tensor


class Rows(list[dict[str, Any]]):
    """The figures, a dictionary per model and attack; called, their images, a pandas row per image."""

    def __init__(self, results: Sequence[Result], store: Store | None) -> None:
        super().__init__(result.to_json() for result in results)
        self._results, self._store = results, store

    def __call__(
        self,
        model: str | None = None,
        attack: str | None = None,
        *,
        norm: str | None = None,
        eps: str | float | Fraction | None = None,
        seed: int | None = None,
    ) -> pd.DataFrame:
        """A row per image and evaluation that is meant, all of them where nothing is said: which evaluation it is of,
        and the columns of the guide (label, adv_pred, clean_correct, success, linf, l2, forwards, ...).

        model, attack: as in the table; an attack by its name alone too, where none in the table is called just that.
        Raises BadInput for a name that is not there, with the nearest one.
        """
        which: Which = {}
        which |= {"norm": norm} if norm is not None else {}
        which |= {"eps": eps} if eps is not None else {}
        which |= {"seed": seed} if seed is not None else {}
        found = chosen(self._results, model, attack, which)
        return pd.concat([_rows_of(each, _store(self._store)) for each in found], ignore_index=True)


def frame_of(results: Iterable[Result]) -> pd.DataFrame:
    """A row per model, attack, norm, eps and seed, with the columns of `FIGURES`."""
    frame = pd.DataFrame([_figures(each) for each in results], columns=list(FIGURES))
    return frame.astype(FIGURES)


def _figures(result: Result) -> dict[str, Any]:
    about, found = result.about, result.summary
    low, high = found.interval or (None, None)
    return {
        "model": result.model, "dataset": about.dataset, "attack": result.label, "against": about.against.strip(),
        "norm": result.norm, "eps": float(Fraction(about.eps)), "eps_exact": about.eps, "seed": result.seed,
        "n": found.n, "clean_accuracy": found.clean_accuracy,
        "robust_accuracy": found.value if found.measure is Measure.ROBUST else None,
        "attack_success_rate": found.value if found.measure is Measure.SUCCESS else None, "low": low, "high": high,
        "forwards": found.forwards, "backwards": found.backwards, "seconds": found.seconds,
        "flags": ", ".join(found.flags), "status": found.status, "evaluation": result.evaluation,
    }  # fmt: skip


def _rows_of(result: Result, store: Store) -> pd.DataFrame:
    """The rows of one evaluation behind what they are of."""
    rows: pd.DataFrame = store.evaluation(result.evaluation).rows()
    of = {"model": result.model, "attack": result.label, "norm": result.norm, "eps": float(Fraction(result.about.eps)),
          "seed": result.seed}  # fmt: skip
    told = {
        "against": result.about.against.strip(),
        "evaluation": result.evaluation,
    }  # last: a notebook cuts the middle
    return pd.concat([pd.DataFrame(of, index=rows.index), rows, pd.DataFrame(told, index=rows.index)], axis=1)


def images_of(result: Result, store: Store | None) -> AdversarialImages:
    """The images of one evaluation, as far as it is done. Raises BadInput where its images were not kept."""
    folder = _store(store).evaluation(result.evaluation)
    if result.split is None:
        raise BadInput(f"The evaluation {result.evaluation} is read from a store, without the data that it is about.")
    ids = torch.cat([torch.arange(start, stop) for start, stop in folder.ranges()] or [torch.arange(0)])
    found = [folder.images(start, stop) for start, stop in folder.ranges()]
    clean = result.split.pixels(ids)
    return AdversarialImages(clean, torch.cat(found) if found else clean, ids)


def _store(store: Store | None) -> Store:
    if store is None:
        raise BadInput("The report was made without its runs folder; take it from robench.evaluate.")
    return store


def one_of(results: Sequence[Result], model: str | None, attack: str | None, which: Which) -> Result:
    """The only evaluation that is meant. Raises BadInput as `chosen`, and where it is one of several."""
    found = chosen(results, model, attack, which)
    if len(found) > 1:
        told = [f"{r.model}, {r.label}{r.about.against}, {r.norm} eps {r.about.eps}, seed {r.seed}" for r in found]
        raise BadInput(f"{len(found)} evaluations are meant; say which: {'; '.join(told)}.")
    return found[0]


def chosen(results: Sequence[Result], model: str | None, attack: str | None, which: Which) -> list[Result]:
    """The evaluations that are meant. Raises BadInput for a name, norm, eps or seed that none of them has."""
    for name in which:
        if name not in Which.__annotations__:
            raise unknown("setting that tells evaluations apart", name, Which.__annotations__)
    found = list(results)
    if model is not None:
        found = _named("model in this report", model, {each.model for each in found}, found, _model)
    if attack is not None:
        labels = {name for each in found for name in _attack(each)}
        found = _named("attack in this report", attack, labels, found, _attack)
    if "norm" in which:
        found = _named("norm in this report", which["norm"], {each.norm for each in found}, found, _norm)
    if "eps" in which:
        eps = parse_epsilon(which["eps"])
        known = list(dict.fromkeys(each.about.eps for each in found))
        found = [each for each in found if Fraction(each.about.eps) == eps]
        _check(found, f"eps is {which['eps']}", f"was evaluated at {', '.join(known)}")
    if "seed" in which:
        seeds = list(dict.fromkeys(str(each.seed) for each in found))
        found = [each for each in found if each.seed == which["seed"]]
        _check(found, f"seed is {which['seed']}", f"was evaluated with {', '.join(seeds)}")
    _check(found, "Nothing is meant", "is empty")
    return found


def _check(found: Sequence[Result], given: str, instead: str) -> None:
    if not found:
        raise BadInput(f"{given}, but this report {instead}; choose of that.")


def _named(what: str, name: object, known: Iterable[str], among: Iterable[Result], names: Any) -> list[Result]:
    """Those of a name: of each model, norm, eps and seed, by the first of the ways to be called by which any goes."""
    groups: dict[tuple[object, ...], list[Result]] = {}
    for each in among:
        groups.setdefault((each.model, each.norm, each.about.eps, each.seed), []).append(each)
    found = [each for group in groups.values() for each in _first_called(group, name, names)]
    if not found:
        raise unknown(what, str(name), known)
    return found


def _first_called(group: Sequence[Result], name: object, names: Any) -> list[Result]:
    for way in range(len(names(group[0]))):
        found = [each for each in group if names(each)[way] == name]
        if found:
            return found
    return []


def _model(result: Result) -> tuple[str, ...]:
    return (result.model,)


def _attack(result: Result) -> tuple[str, ...]:
    """What an attack goes by: its label as in the table, the label without what it was up against, and its name."""
    return (result.label + result.about.against, result.label, result.attack)


def _norm(result: Result) -> tuple[str, ...]:
    return (result.norm,)
