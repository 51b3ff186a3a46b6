"""robench show: everything recorded about a model or an evaluation."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from robench.cli import options as shared


def show(
    name: Annotated[str, typer.Argument(help="A model's name, or an evaluation's id or its beginning.")],
    runs: shared.Runs = None,
    as_json: shared.Json = False,
) -> int:
    """Show a model's card, or an evaluation's spec, record and summary."""
    from robench.errors import BadInput, unknown
    from robench.store import Store, runs_root

    store = Store(runs_root(runs))
    found: dict[str, Any]
    if name in store.model_names():
        found = store.card(name)
    else:
        try:
            folder = store.find_evaluation(name)
        except BadInput:
            if any(i.startswith(name) for i in store.evaluation_ids()):
                raise
            raise unknown("model or evaluation", name, [*store.model_names(), *store.evaluation_ids()]) from None
        done = sum(stop - start for start, stop in folder.ranges())
        found = {"evaluation": folder.job_id, "spec": folder.spec, "about": folder.about, "examples_done": done,
                 "result": folder.result or {"status": "incomplete"}}  # fmt: skip
    if as_json:
        import json

        print(json.dumps(found, sort_keys=True))
    else:
        for line in _lines(found):
            print(line)
    return 0


def _lines(value: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            lines += [f"{indent}{key}:", *_lines(item, indent + "  ")]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            lines += [
                f"{indent}{key}:",
                *(f"{indent}  " + "  ".join(f"{k} {v}" for k, v in row.items()) for row in item),
            ]
        else:
            lines.append(f"{indent}{key}: {item}")
    return lines
