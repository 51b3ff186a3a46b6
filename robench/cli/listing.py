"""robench list: plugins, datasets, models and evaluations."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from robench.cli import options as shared
from robench.errors import unknown


def list_(
    kind: Annotated[str, typer.Argument(help="defenses, attacks, sets, detectors, datasets, models or evaluations.")],
    runs: shared.Runs = None,
    as_json: shared.Json = False,
) -> int:
    """List what there is of a kind, a line each."""
    kinds: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "defenses": lambda: _plugins("defense"),
        "attacks": lambda: _plugins("attack"),
        "sets": lambda: _plugins("set"),
        "detectors": lambda: _plugins("detector"),
        "datasets": _datasets,
        "models": lambda: _models(runs),
        "evaluations": lambda: _evaluations(runs),
    }
    if kind not in kinds:
        raise unknown("list", kind, kinds)
    items = kinds[kind]()
    if as_json:
        import json

        print(json.dumps({kind: items}))
    elif items:
        width = max(len(item["name"]) for item in items)
        for item in items:
            print(f"{item['name']:<{width}}  {item['summary']}")
    else:
        print(f"There are no {kind} yet.", file=sys.stderr)
    return 0


def _plugins(kind: str) -> list[dict[str, Any]]:
    from robench.registry import summaries

    return [{"name": name, "summary": text} for name, text in summaries(kind).items()]


def _datasets() -> list[dict[str, Any]]:
    from robench.datasets import DATASETS

    return [{"name": name, "summary": text} for name, text in DATASETS.items()]


def _models(runs: Any) -> list[dict[str, Any]]:
    from robench.store import Store, runs_root

    store = Store(runs_root(runs))
    items = []
    for name in store.model_names():
        card = store.card(name)
        clean = 100 * card["accuracy"]["test"]
        items.append({"name": name, "summary": f"{card['defense']} on {card['data']['name']}, {clean:.2f}% clean"})
    return items


def _evaluations(runs: Any) -> list[dict[str, Any]]:
    from robench.store import Store, runs_root

    store = Store(runs_root(runs))
    items = []
    for job_id in store.evaluation_ids():
        folder = store.evaluation(job_id)
        about, result = folder.about, folder.result
        value = (result or {}).get("robust_accuracy", (result or {}).get("attack_success_rate"))
        figure = f"{about['metric']} {100 * value:.1f}%" if value is not None else "incomplete"
        spec = folder.spec
        text = (
            f"{about['model']} under {spec['attack']}, {spec['norm']} eps {about['eps']}, n {spec['count']}: {figure}"
        )
        items.append({"name": job_id, "summary": text})
    return items
