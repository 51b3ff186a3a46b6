"""What a store's readers say of it: tables, lists, shows, verifications; None for what is damaged or incomplete."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robench.cli.listing import list_
from robench.cli.show import show
from robench.errors import RobenchError
from robench.store.runs import Store
from robench.tables import leaderboard
from robench.trust.verification import verify_all

SKIPPED = {"seconds", "model_digest"}


def tables_of(root: Path, ids: dict[str, str]) -> Any:
    """Every cell of every table, without what varies between runs; None where it is incomplete."""
    del ids
    found = {}
    for board in leaderboard.build(Store(root)):
        for row in board.rows:
            for column in board.columns:
                shown = column.cell(row).to_json() or {}
                complete = shown.get("status") == "complete"
                found[board.name, row.model, column.name] = shown["value"] if complete else None
    return found


def listed(root: Path, ids: dict[str, str]) -> Any:
    """The lines of the list by id; None for what is damaged, incomplete or not there."""
    del ids
    items = output_of(list_, "evaluations", root)["evaluations"]
    return {item["name"]: item["summary"] if item.get("status") == "complete" else None for item in items}


def models_listed(root: Path, ids: dict[str, str]) -> Any:
    del ids
    items = output_of(list_, "models", root)["models"]
    return {item["name"]: None if "damaged" in item else item["summary"] for item in items}


def shown(root: Path, ids: dict[str, str]) -> Any:
    found = output_of(show, ids["plain"], root)
    if found["status"] != "complete":
        return None
    return {"result": figures_of(found["result"]), "rows": found["rows"], "command": found["command"]}


def model_shown(root: Path, ids: dict[str, str]) -> Any:
    del ids
    return output_of(show, "plain", root)


def verified(root: Path, ids: dict[str, str]) -> Any:
    (check,) = verify_all(Store(root), [ids["plain"]], device="cpu")
    return check.holds or None


READERS: dict[str, Callable[[Path, dict[str, str]], Any]] = {
    "tables": tables_of,
    "list": listed,
    "list models": models_listed,
    "show": shown,
    "show model": model_shown,
    "verify": verified,
}


def output_of(command: Callable[..., int], name: str, root: Path) -> Any:
    """What a command prints as JSON."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert command(name, runs=root, as_json=True) == 0
    return json.loads(out.getvalue())


def figures_of(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in SKIPPED}


def assert_sentence(error: RobenchError) -> None:
    text = str(error)
    assert len(text.splitlines()) == 1, text
    assert text.rstrip().endswith((".", ")")), text
    assert error.exit_code in (1, 2), text


def agrees(now: Any, before: Any) -> bool:
    """Whether an answer is the one before, or leaves out (None) some of its cells."""
    if isinstance(before, dict) and isinstance(now, dict) and set(now) <= set(before):
        return all(now[key] is None or now[key] == before[key] for key in now)
    return now is None or bool(now == before)
