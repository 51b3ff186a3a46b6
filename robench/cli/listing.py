"""robench list: plugins, suites, datasets, models and evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robench.cli import options as shared
from robench.errors import BadInput, unknown
from robench.text.escaping import visible
from robench.text.terminal import note, tell, tell_json

if TYPE_CHECKING:
    from robench.extras import Need
    from robench.store.runs import EvaluationFolder, Store

KINDS = {
    "defenses": "what robench train trains",
    "attacks": "what --attack names",
    "sets": "attacks that go by one name",
    "detectors": "what --detector names",
    "trackers": "what --log-to names",
    "suites": "tables of papers that robench reproduce makes",
    "datasets": "what --dataset names",
    "sources": "where a model and data may come from",
    "models": "those that were trained into the runs folder",
    "evaluations": "those that were run into it",
}

# stands in the list of suites for those of the user's own
OWN_SUITE = "PATH/FILE.toml"


def list_(
    kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join(KINDS)}; without it, what these are.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Only evaluations of this model.")] = None,
    attack: Annotated[str | None, typer.Option("--attack", help="Only evaluations under this attack.")] = None,
    runs: shared.Runs = None,
    as_json: shared.Json = False,
) -> int:
    """List what there is of a kind, a line each."""
    kinds: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "defenses": lambda: _plugins("defense"),
        "attacks": lambda: _plugins("attack"),
        "sets": lambda: _plugins("set"),
        "detectors": lambda: _plugins("detector"),
        "trackers": lambda: _plugins("tracker"),
        "suites": _suites,
        "datasets": _datasets,
        "sources": _sources,
        "models": lambda: _models(runs),
        "evaluations": lambda: _evaluations(runs, model, attack),
    }
    if kind is None and (model or attack):
        kind = "evaluations"
    kinds["kinds"] = lambda: [{"name": name, "summary": text} for name, text in KINDS.items()]
    kind = kind or "kinds"
    if kind not in kinds:
        raise unknown("list", kind, KINDS)
    if kind != "evaluations" and (model or attack):
        raise BadInput(
            f"{'--model' if model else '--attack'} is given with {kind}; it is for 'robench list evaluations'."
        )
    items = kinds[kind]()
    if as_json:
        tell_json({kind: [item for item in items if item["name"] != OWN_SUITE]})
    elif items:
        width = max(len(visible(item["name"])) for item in items)
        for item in items:
            tell(f"{visible(item['name']):<{width}}  {item['summary']}")
    else:
        chosen = "".join([f" of {model!r}" if model else "", f" under {attack!r}" if attack else ""])
        note(f"There are no {kind}{chosen} yet.")
    return 0


def _plugins(kind: str) -> list[dict[str, Any]]:
    from robench.registry import needs, summaries

    wanted = needs(kind)
    return [_plugin(name, text, wanted[name]) for name, text in summaries(kind).items()]


def _plugin(name: str, summary: str, needs: Sequence[Need]) -> dict[str, Any]:
    """A plugin, with what it needs and, where that is missing, the command that installs it."""
    if not needs:
        return {"name": name, "summary": summary}
    packages, missing = [need.package for need in needs], [need for need in needs if need.fault]
    install = f"missing, {missing[0].command}" if missing else "installed"
    item = {"name": name, "summary": f"{summary} (needs {', '.join(packages)}; {install})", "needs": packages}
    return item | ({"install": missing[0].command} if missing else {})


def _datasets() -> list[dict[str, Any]]:
    from robench.data.catalogue import DATASETS

    return [{"name": name, "summary": entry.description} for name, entry in DATASETS.items()]


def _suites() -> list[dict[str, Any]]:
    from robench.suites.suite import titles

    own = {OWN_SUITE: "your own table: its rows, columns and scales in a file, see docs/suites.md"}
    return [{"name": name, "summary": title} for name, title in (titles() | own).items()]


def _sources() -> list[dict[str, Any]]:
    """Where a model and data may come from."""
    from robench.models.sources import SOURCES

    return [
        {"name": each.form, "summary": each.summary + (f" (pip install 'robench[{each.extra}]')" if each.extra else "")}
        for each in SOURCES
    ] + [{"name": f"data {item['name']}", "summary": item["summary"]} for item in _datasets()]


def _models(runs: Any) -> list[dict[str, Any]]:
    from robench.store.runs import Store, runs_root

    store = Store(runs_root(runs))
    items = []
    for name in store.model_names():
        try:
            card = store.card(name)
        except BadInput as error:
            items.append({"name": name, "summary": f"damaged: {error}", "damaged": str(error)})
            continue
        clean = 100 * card["accuracy"]["test"]
        items.append({"name": name, "summary": f"{card['defense']} on {card['data']['name']}, {clean:.2f}% clean"})
    return items


def _evaluations(runs: Any, model: str | None, attack: str | None) -> list[dict[str, Any]]:
    """Every evaluation, or those of a model or attack; a damaged one always, since it may be one of them."""
    from robench.store.runs import Store, runs_root

    store = Store(runs_root(runs))
    items, folders = [], []
    for job_id in store.evaluation_ids():
        folder = store.evaluation(job_id)
        try:
            item = _evaluation(folder)
        except BadInput as error:
            items.append({"name": job_id, "damaged": str(error)})
            continue
        if model in (None, item["model"]) and attack in (None, folder.spec["attack"]):
            items.append(item)
            folders.append(folder)
    whole = [item for item in items if "damaged" not in item]
    shown = {each["name"]: each for each in _told_apart(store, whole, folders)}
    widths = {key: max(len(visible(item[key])) for item in shown.values()) for key in COLUMNS} if whole else {}
    for item in items:
        cells = (
            (f"{visible(shown[item['name']][key]):<{widths[key]}}" for key in COLUMNS)
            if "damaged" not in item
            else [f"damaged: {item['damaged']}"]
        )
        item["summary"] = "  ".join(cells).rstrip()
    return items


def _told_apart(
    store: Store, items: Sequence[dict[str, Any]], folders: Sequence[EvaluationFolder]
) -> list[dict[str, Any]]:
    """What a reader sees of the items: models that share a name, also with one that was trained since, and
    evaluations whose lines would read the same, with what they differ in."""
    from robench.store.labels import endings
    from robench.tables.left_out import digests
    from robench.tables.model_names import told_apart

    today = digests(store) if folders else {}
    models = [(folder.spec["model_digest"], folder.about) for folder in folders]
    models += [(today[about.model], about) for _, about in models if about.reference == about.model in today]
    titles = told_apart(models)
    named = [
        {**item, "model": titles[item["model"], folder.spec["model_digest"]]}
        for item, folder in zip(items, folders, strict=True)
    ]
    ends = endings(folders, {item["name"]: tuple(item[key] for key in TOLD) for item in named})
    return [{**item, "attack": item["attack"] + ends[item["name"]]} for item in named]


# what a line of the list tells of an evaluation beside its figure
TOLD = ("model", "attack", "threat", "n")
COLUMNS = (*TOLD, "figure", "status")


def _evaluation(folder: EvaluationFolder) -> dict[str, Any]:
    """What a line says of an evaluation; raises BadInput where it is damaged."""
    from robench.store.labels import status_of

    spec, about, result = folder.spec, folder.about, folder.result
    item: dict[str, Any] = {
        "name": folder.job_id,
        "model": about.model,
        "attack": folder.label,
        "threat": f"{spec['norm']} {about.eps}",
        "n": f"n {spec['count']}{', balanced' if spec.get('draw') else ''}",
        "figure": "",
        "status": status_of(folder, result is not None),
        "seed": spec["seed"],
        "dataset": about.dataset,
        "model_digest": spec["model_digest"],
    }
    if result is not None and result.value is not None and result.interval is not None:
        low, high = result.interval
        mark = " broken" if result.measure.lower_is_better else ""
        note = _bound(folder)
        item["figure"] = f"{100 * result.value:.1f}% [{100 * low:.1f}, {100 * high:.1f}]{mark}{note}"
        item |= {"value": result.value, "metric": about.metric, "interval": list(result.interval)}
        item |= {"flags": list(result.flags)}
    return item


def _bound(folder: EvaluationFolder) -> str:
    """What stands behind a figure that is an upper bound alone; attacks are only loaded in norms where that can be."""
    from robench.norms import NORMS

    if not NORMS[folder.spec["norm"]].bounded_above:
        return ""
    from robench.trust.bounds import bound_of

    found = bound_of(folder)
    return f" ({found})" if found else ""
