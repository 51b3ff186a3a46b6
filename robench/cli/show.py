"""robench show: everything recorded about a model or an evaluation."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robench.cli import options as shared
from robench.cli.show_plugins import KINDS, found_of, kinds_of, names_of, told_of
from robench.errors import BadInput, unknown
from robench.norms import NORMS
from robench.text.terminal import tell, tell_json

if TYPE_CHECKING:
    from robench.store.runs import EvaluationFolder, Store

# shares of the broken images whose values are shown
QUANTILES = (0.0, 0.5, 0.9, 1.0)
# how keys end that have lines of their own
DETAILS = ("_at", "_by_trial")
EMPTY: tuple[Any, ...] = (None, "", {}, [], ())
# of paragraphs, whatever the terminal's
WIDTH = 96


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A model's name, an evaluation's id or its beginning, or an attack's, defense's, "
            "detector's, set's or suite's name."
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="Which one, where several have the name: attack, defense, detector, set or suite."),
    ] = None,
    runs: shared.Runs = None,
    as_json: shared.Json = False,
) -> int:
    """Show a model's card; an evaluation's spec, record, rows in short, shards, and the command that made it; a
    plugin's options, source and cost; or what a set or a suite is made of."""
    from robench.store.runs import Store, runs_root

    store = Store(runs_root(runs))
    kinds = kinds_of(name)
    if kind is not None and kind not in kinds:
        raise (
            unknown("kind of thing to show", kind, KINDS) if kind not in KINDS else unknown(kind, name, names_of(kind))
        )
    if kind is None and name in store.model_names():
        found = store.card(name)
        told = _model(found)
    elif kinds:
        chosen, *others = [kind] if kind else kinds
        also = {"also": [f"robench show {name} --kind {other}" for other in others]} if others else {}
        found, told = found_of(chosen, name) | also, told_of(chosen, name) | also
    else:
        found = _evaluation(_find(store, name))
        told = _told(found)
    if as_json:
        tell_json(found, sort=True)
    else:
        for line in _lines(told):
            tell(line)
    return 0


def _find(store: Store, name: str) -> EvaluationFolder:
    try:
        return store.find_evaluation(name)
    except BadInput:
        if any(i.startswith(name) for i in store.evaluation_ids()):
            raise
        others = [name for each in KINDS for name in names_of(each)]
        raise unknown(
            "model, evaluation or plugin", name, [*store.model_names(), *store.evaluation_ids(), *others]
        ) from None


def _model(card: dict[str, Any]) -> dict[str, Any]:
    from robench.evaluation.recorded_command import train_command_of

    return {**card, "made by": train_command_of(card)}


def _evaluation(folder: EvaluationFolder) -> dict[str, Any]:
    """What there is to tell about an evaluation, as JSON types."""
    from robench.evaluation.recorded_command import command_of
    from robench.results.rows import absent_classes
    from robench.trust.bounds import bound_of
    from robench.trust.origins import aged

    spec, about, rows, bound = folder.spec, folder.about, folder.rows(), bound_of(folder)
    figures = folder.result.to_json() if folder.result else {"status": "incomplete"}
    found = {
        "evaluation": folder.job_id,
        "status": "complete" if folder.result else "not summarised" if folder.complete else "incomplete",
        "result": figures | ({"note": bound} if bound else {}),
        "rows": _rows(rows, about.classes if spec.get("detector") else None) if len(rows) else {},
        "examples_done": len(rows),
        "spec": spec,
        "about": about.to_json(),
        "shards": _shards(folder),
        "second_verdict": folder.second.to_json() if folder.second else {},
        "command": command_of(folder),
    }
    if anew := _trained_anew(folder):
        found["renewed"] = anew
    if old := aged(folder):
        found["code"] = f"made by {old}; for today's figure run its command again"
    if found["status"] == "complete" and (absent := absent_classes(rows, about.classes, about.names)):
        found["absent"] = absent
    if about.mended:
        found["record"] = "the first record was lost; the environment is that of a later run"
    return found


def _trained_anew(folder: EvaluationFolder) -> str:
    """That a model which it is of is another by now, since it was trained anew under its name; "" where none is."""
    from robench.store.runs import Store

    store, spec, about = Store(folder.root), folder.spec, folder.about
    asked = (("model", about.reference), ("surrogate", about.surrogate), ("guide", about.guide_reference))
    told = []
    for role, name in asked:
        then = spec["model_digest"] if role == "model" else spec.get(role)
        if not then or name not in store.model_names():
            continue
        try:
            now = store.model_digest(name)
        except BadInput:  # a damaged card tells nothing
            continue
        told += [f"the {role} {name!r} was #{then[:6]} and is #{now[:6]} now"] if now != then else []
    if not told:
        return ""
    return f"trained anew since: {', '.join(told)}; the command below makes another evaluation"


def _told(found: dict[str, Any]) -> dict[str, Any]:
    """The same for a reader: what it is, the figures, how they came about, then everything recorded."""
    from robench.data.draw import images_told
    from robench.results.accuracy import Measure
    from robench.results.summary import label
    from robench.store.specs import draw_told

    spec, about, result, rows = found["spec"], found["about"], found["result"], found["rows"]
    last = spec["start"] + spec["count"] - 1
    images = images_told(spec["start"], last, spec["count"], spec.get("draw"), draw_told(spec, about.get("images")))
    figure = Measure(about["metric"]).key
    figures = {
        "clean accuracy": _share(result.get("clean_accuracy"), result.get("clean_interval")),
        about["metric"]: _share(result.get(figure), result.get("interval")),
        "flags": result.get("flags"),
        "note": result.get("note"),
    }
    return {
        "evaluation": found["evaluation"],
        "attack": label(spec["attack"], about["given_options"], about.get("against", "")),
        "model": about["model"],
        "renewed": found.get("renewed"),
        "data": f"{about['dataset']}, {images}",
        "threat model": f"{spec['norm']} eps {about['eps']}",
        "status": found["status"] + ("" if result.get("n") else f" ({found['examples_done']:,} of {spec['count']:,})"),
        "code": found.get("code"),
        "absent": found.get("absent"),
        "figures": figures if result.get("n") else {},
        "images": {key.replace("_", " "): item for key, item in rows.items() if not key.endswith(DETAILS)},
        "broken images: least, median, nine in ten, most": rows.get("broken_at"),
        "broken by trial": rows.get("broken_by_trial"),
        "goals reached: least, median, nine in ten, most": rows.get("reached_at"),
        "goals reached by trial": rows.get("reached_by_trial"),
        "spec": spec,
        "record": {"lost": found.get("record"), **about},
        "shards": found["shards"],
        "second verdict": found["second_verdict"],
        "made by": found["command"],
    }


def _share(value: float | None, interval: list[float] | None) -> str | None:
    if value is None or interval is None:
        return None
    return f"{100 * value:.2f}% [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"


def _rows(rows: Any, rejected: int | None) -> dict[str, Any]:
    """What rows say in short: counts, and how the broken images came about, or, of an attack with goals, those whose
    goal was reached. rejected: the class of what a detector rejects, None without one."""
    from robench.results.rows import attacked, broken, correct, succeeded

    finds, aimed = rows[succeeded(rows)], bool((rows["goal"] >= 0).any())
    how = "reached" if aimed else "broken"
    found: dict[str, Any] = {
        "clean_correct": int(correct(rows).sum()),
        "attacked": attacked(rows),
        "broken": int(broken(rows, rejected).sum()),
        **({"goals_reached": len(finds)} if aimed else {}),
        "passes_per_image": {key: round(float(rows[key].mean()), 2) for key in ("forwards", "backwards")},
        "marked": {},
    }
    for marks in rows["flags"].fillna("").astype(str):
        for mark in filter(None, marks.split(";")):
            found["marked"][mark] = found["marked"].get(mark, 0) + 1
    if len(finds):
        found[f"{how}_at"] = {  # least, median, nine in ten, most
            key: [float(f"{value:.6g}") for value in finds[key].quantile(QUANTILES)]
            for key in ("trial", "step", *NORMS)
            if key in finds
        }
        found[f"{how}_by_trial"] = {str(k): int(v) for k, v in finds["trial"].value_counts().sort_index().items()}
    return found


def _shards(folder: EvaluationFolder) -> list[dict[str, Any]]:
    """A line per shard: whole, damaged or missing."""
    found = [{"examples": f"{s.start}-{s.stop}", "status": "whole", **s.notes} for s in folder.shards()]
    damaged = folder.damaged()
    found += [{"examples": f"{start}-{stop}", "status": "damaged"} for start, stop in damaged]
    start, stop = folder.spec["start"], folder.spec["start"] + folder.spec["count"]
    for first, last in folder.missing(start, stop, max(stop - start, 1)):
        if not any(a <= first and last <= b for a, b in damaged):
            found.append({"examples": f"{first}-{last}", "status": "missing"})
    return sorted(found, key=lambda shard: int(shard["examples"].partition("-")[0]))


def _lines(value: dict[str, Any], indent: str = "") -> list[str]:
    """Keys and values, a line each, a tuple's paragraphs wrapped; what is None or empty is left out."""
    lines = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            lines += [f"{indent}{key}:", *_lines(item, indent + "  ")]
        elif isinstance(item, list) and item and all(isinstance(row, dict) for row in item):
            lines += [f"{indent}{key}:", *(f"{indent}  {_line(row)}" for row in item)]
        elif isinstance(item, tuple):
            lines += [f"{indent}{key}:", *(f"{indent}  {line}" for text in item for line in wrap(text, WIDTH))]
        elif item not in EMPTY:
            lines.append(f"{indent}{key}: {_text(item)}")
    return lines


def _line(row: dict[str, Any]) -> str:
    return "  ".join(f"{key} {_text(item)}" for key, item in row.items() if item not in EMPTY)


def _text(item: Any) -> str:
    """A list without its brackets; figures as they are."""
    return ", ".join(map(str, item)) if isinstance(item, list) else str(item)
