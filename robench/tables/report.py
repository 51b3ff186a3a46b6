"""The outcome of an evaluation as tables for people and as JSON for machines."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from robench.results.accuracy import Figure, worst_case
from robench.results.summary import label
from robench.store.runs import Store

JSON_KEYS = (
    "model", "dataset", "attack", "options", "norm", "eps", "n", "clean_accuracy", "robust_accuracy",
    "attack_success_rate", "against", "interval", "forwards", "backwards", "seconds", "flags", "status", "evaluation",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """Rows, one per model and attack, the per-example worst case over each model's white-box attacks, refusals, and
    the figures of detectors."""

    rows: list[dict[str, Any]]
    worst: list[dict[str, Any]]
    refused: list[str]
    detections: list[dict[str, Any]] = field(default_factory=list)
    transfer: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        rows: list[dict[str, Any]],
        store: Store,
        refused: Sequence[str] = (),
        detections: Sequence[dict[str, Any]] = (),
        findings: Sequence[dict[str, Any]] = (),
    ) -> Report:
        """The report on summaries from the scheduler; the worst case is read from the store's rows.

        `refused` has a sentence for each model that could not be used.
        """
        rows = _told_apart(rows)
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows:
            if row["access"] == "white-box":
                groups.setdefault((row["model"], row["dataset"]), []).append(row)
        # the best a targeted attack did towards its own goal is not robust accuracy by itself
        kept = {k: g for k, g in groups.items() if any(row["metric"] == "robust accuracy" for row in g)}
        worst = [_worst(model, group, store) for (model, _), group in kept.items()]
        fired = [finding for finding in findings if finding["fired"]]
        for row in worst:
            gates = [f["gate"] for f in fired if f["model"] == row["model"].partition("#")[0]]
            row["flags"] = list(dict.fromkeys([*row["flags"], *gates]))
        return cls(rows, worst, list(refused), list(detections), _transfer(rows, store), list(findings))

    @property
    def complete(self) -> bool:
        """Whether every evaluation is complete."""
        return all(row["status"] == "complete" for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """{"rows": [...], "worst_case": [...]} with accuracies as fractions, and "refused" where a model was."""
        found: dict[str, Any] = {
            "rows": [{key: row[key] for key in JSON_KEYS if key in row} for row in self.rows],
            "worst_case": self.worst,
        }
        found |= {"detections": self.detections} if self.detections else {}
        found |= {"transfer": self.transfer} if self.transfer else {}
        found |= {"diagnostics": self.findings} if self.findings else {}
        return found | {"refused": self.refused} if self.refused else found

    def tables(self) -> RenderableType:
        """The table of the attacks, and below it those of transfer, detectors and warnings where there are any."""
        below: list[RenderableType] = [transfer_table(self.transfer)] if self.transfer else []
        below += [detection_table(self.detections)] if self.detections else []
        fired = [finding for finding in self.findings if finding["fired"]]
        below += [findings_text(fired, "Warnings: do not trust these figures yet")] if fired else []
        return Group(self.table(), *below) if below else self.table()

    def table(self) -> Table:
        """A rich table: one line per model and attack, percent with 95% Wilson intervals, most robust model first."""
        table = Table(
            title=self._title(), title_justify="left", title_style="bold", caption=self._caption(),
            caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        )  # fmt: skip
        for name in ("model", "attack"):
            table.add_column(name, overflow="fold")  # names give way before figures do
        for name in ("clean %", "robust %", "95% interval"):
            table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
        if any(row["flags"] for row in self.rows):
            table.add_column("flags")
        worst = {(w["model"], w["dataset"]): w for w in self.worst}
        order = sorted(
            worst.values(), key=lambda w: -(w["robust_accuracy"] if w["robust_accuracy"] is not None else -1)
        )
        keys = [(w["model"], w["dataset"]) for w in order]
        keys += [key for key in dict.fromkeys((r["model"], r["dataset"]) for r in self.rows) if key not in worst]
        for key in keys:
            self._add(table, key, worst.get(key))
        return table

    def __str__(self) -> str:
        out = io.StringIO()
        Console(width=140, file=out).print(self.tables())
        return out.getvalue().rstrip()

    def _title(self) -> str:
        settings = dict.fromkeys(f"{r['dataset']}, {r['norm']} eps {r['eps']}, n = {r['n']:,}" for r in self.rows)
        return "; ".join(settings)

    def _flags(self, row: dict[str, Any]) -> list[str]:
        return [", ".join(row["flags"])] if any(r["flags"] for r in self.rows) else []

    def _caption(self) -> str | None:
        rates = any(row["metric"] != "robust accuracy" for row in self.rows)
        return "† attack success rate, lower is better" if rates else None

    def _add(self, table: Table, key: tuple[str, str], worst: dict[str, Any] | None) -> None:
        rows = [row for row in self.rows if (row["model"], row["dataset"]) == key]
        for i, row in enumerate(rows):
            clean = f"{100 * row['clean_accuracy']:.1f}" if row.get("clean_accuracy") is not None else ""
            mark = "" if row["metric"] == "robust accuracy" else " †"
            attack = label(row["attack"], row["options"], row.get("against", ""))
            table.add_row(
                row["model"] if i == 0 else "", attack, clean if i == 0 or row["access"] == "detector" else "",
                *_cells(row, mark), *self._flags(row),
            )  # fmt: skip
        if worst and len(worst["attacks"]) > 1:
            table.add_row("", "worst case", "", *_cells(worst), *self._flags(worst), style="bold")
        table.add_section()


def transfer_table(found: Sequence[dict[str, Any]]) -> Table:
    """Targets down, surrogates across: percent still right under every attack crafted on that surrogate."""
    sources = list(dict.fromkeys(row["surrogate"] for row in found))
    attacks = ", ".join(dict.fromkeys(attack for row in found for attack in row["attacks"]))
    letters = dict(zip(sources, "ABCDEFGHIJKLMNOPQRSTUVWXYZ", strict=False)) if len(sources) > 2 else {}
    legend = "".join(f" {letter}: {source}." for source, letter in letters.items())
    shown = Table(
        title="Transfer", title_justify="left", title_style="bold", caption_justify="left", box=box.SIMPLE_HEAD,
        pad_edge=False, caption=f"Robust accuracy in percent, image by image the worst of: {attacks}.{legend}",
    )  # fmt: skip
    shown.add_column("target", overflow="fold")
    for source in sources:
        shown.add_column(f"from {letters.get(source, source)}", justify="right", overflow="fold")
    for target in dict.fromkeys(row["model"] for row in found):
        cells = {row["surrogate"]: row["robust_accuracy"] for row in found if row["model"] == target}
        shown.add_row(target, *(_percent(cells.get(source)) for source in sources))
    return shown


def _transfer(rows: list[dict[str, Any]], store: Store) -> list[dict[str, Any]]:
    """The worst case over the attacks from each surrogate, for each target."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    sources: dict[str, set[str]] = {}
    for row in rows:
        if row["access"] == "transfer" and row["metric"] == "robust accuracy":
            name, digest = row["surrogate"], row["surrogate_digest"]
            groups.setdefault((row["model"], row["dataset"], digest), []).append(row)
            sources.setdefault(name, set()).add(digest)

    def title(name: str, digest: str) -> str:
        return f"{name}#{digest[:6]}" if len(sources[name]) > 1 and "#" not in name else name

    return [
        {**_worst(key[0], group, store), "surrogate": title(group[0]["surrogate"], key[2])}
        for key, group in groups.items()
    ]


def findings_text(findings: Sequence[dict[str, Any]], title: str) -> Text:
    """The gates that fired, each with its evidence, threshold and what to do; then those that did not, by name."""
    text = Text()
    text.append(f"{title}\n", style="bold")
    for finding in findings:
        if finding["fired"]:
            text.append(f"\n! {finding['model']}: {finding['gate']}\n", style="bold")
            text.append(f"  {finding['evidence']}\n  fires above: {finding['threshold']}\n")
            text.append(f"  do: {finding['advice']}\n")
    quiet = Counter(finding["gate"] for finding in findings if not finding["fired"])
    if quiet:
        text.append("\nDid not fire, with the comparisons behind each:\n")
        text.append("".join(f"  {gate} ({count})\n" for gate, count in quiet.items()))
    return text


DETECTION_NOTE = (
    "Percent. nadv: clean and noisy images taken for what they are; com: attacked images detected or still classified "
    "correctly (both at even odds). found: broken images detected, and false: clean test images rejected, at the "
    "threshold set on clean validation images. robust: of all images, classified correctly, accepted, and not broken "
    "unnoticed by an attack that did not know of the detector."
)


def detection_table(found: Sequence[dict[str, Any]]) -> Table:
    """A line per detector and attack: shares in percent, and the numbers of images behind them."""
    shown = Table(
        title="Detectors", title_justify="left", title_style="bold", caption=DETECTION_NOTE, caption_justify="left",
        box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    shown.add_column("detector (learnt from), model, attack", overflow="fold", min_width=20)
    for name in ("broken", "nadv", "com", "auc", "found", "false", "robust"):
        shown.add_column(name, justify="right", no_wrap=True, min_width=5)
    for row in found:
        attack = f"{label(row['attack'], row['options'])}, {row['norm']} {row['eps']}"
        shown.add_row(
            f"{row['detector']} ({row['trained_on']}), {row['model']}, {attack}",
            f"{row['broken']:,}/{row['attacked']:,}",
            *(_percent(row[name]) for name in ("acc_nadv", "acc_com")),
            "-" if row["auc"] is None else f"{row['auc']:.3f}",
            *(_percent(row[name]) for name in ("detection_rate", "false_positive_rate", "robust_accuracy")),
        )
    return shown


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _told_apart(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with the digest added to names that several models share."""
    digests: dict[str, set[str]] = {}
    for row in rows:
        digests.setdefault(row["model"], set()).add(row["model_digest"])
    return [
        {**row, "model": f"{row['model']}#{row['model_digest'][:6]}"} if len(digests[row["model"]]) > 1 else row
        for row in rows
    ]


def _cells(row: dict[str, Any], mark: str = "") -> tuple[str, str]:
    """Percent and interval."""
    value = row.get("robust_accuracy", row.get("attack_success_rate"))
    if row["status"] != "complete" or value is None:
        return str(row["status"]), ""
    low, high = row["interval"]
    return f"{100 * value:.1f}{mark}", f"{100 * low:.1f} - {100 * high:.1f}"


def _worst(model: str, group: Sequence[dict[str, Any]], store: Store) -> dict[str, Any]:
    first = group[0]
    found: dict[str, Any] = {
        "model": model,
        "dataset": first["dataset"],
        "norm": first["norm"],
        "eps": first["eps"],
        "n": first["n"],
        "attacks": [label(row["attack"], row["options"]) for row in group],
        "robust_accuracy": None,
        "interval": [0.0, 1.0],
        "flags": sorted({flag for row in group for flag in row["flags"]}),
        "status": "incomplete",
    }
    if all(row["status"] == "complete" for row in group):
        figure: Figure = worst_case([store.evaluation(row["evaluation"]).rows() for row in group])
        found |= {"robust_accuracy": figure.value, "interval": list(figure.interval), "status": "complete"}
    return found
