"""The summary of one evaluation: its figures, and the flags that go with them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from robench.results.accuracy import attack_figure, clean_figure

# flags of single images, each shown where more than this share of the attacked images has it
SHOWN_SHARE = {"zero-gradient": 0.05, "borderline": 0.01, "non-finite": 0.0, "invalid-proposal": 0.0}
# a model with one of these flags gives other rows in the next run, or in other batches
UNSTABLE = ("randomised", "batch-dependent", "changes-its-state", "changes-its-answers")


def label(attack: str, options: dict[str, Any], against: str = "") -> str:
    """An attack's name with the options that were given and what it was up against: "pgd (steps=40) + er-kde"."""
    given = ", ".join(f"{k}={v}" for k, v in sorted(options.items()))
    return (f"{attack} ({given})" if given else attack) + against


def evaluation_flags(rows: pd.DataFrame, shard_flags: list[list[str]]) -> list[str]:
    """The model's flags in any shard, and those of single images where enough of them have it."""
    flags = {flag for flags in shard_flags for flag in flags}
    attacked = int((rows["trial"] >= 0).sum())
    texts = rows["flags"].fillna("").astype(str)
    for name, least in SHOWN_SHARE.items():
        share = int(texts.str.contains(name, regex=False).sum()) / max(attacked, 1)
        if share > least:
            flags.add(f"{name} {share:.0%}" if share >= 0.005 else f"{name} <1%")
    return sorted(flags)


def _mixed(notes: list[dict[str, Any]]) -> list[str]:
    """A flag where shards were made with different versions or on different kinds of devices."""
    known = [note["made_with"] for note in notes if "made_with" in note]
    return ["mixed-environments"] if any(each != known[0] for each in known) else []


def summarise(rows: pd.DataFrame, metric: str, notes: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a finished evaluation as JSON types, accuracies as fractions."""
    clean, figure = clean_figure(rows), attack_figure(rows, metric)
    return {
        "n": figure.n,
        "clean_accuracy": clean.value,
        "clean_interval": list(clean.interval),
        "robust_accuracy" if metric == "robust accuracy" else "attack_success_rate": figure.value,
        "interval": list(figure.interval),
        "forwards": int(rows["forwards"].sum()),
        "backwards": int(rows["backwards"].sum()),
        "seconds": round(sum(float(note.get("seconds", 0)) for note in notes), 2),
        "flags": evaluation_flags(rows, [*(list(note.get("flags", [])) for note in notes), _mixed(notes)]),
        "status": "complete",
    }
