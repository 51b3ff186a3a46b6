"""The outcome of an evaluation as tables for people and as JSON for machines."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from robench.detector.measuring import Detection
from robench.evaluation.summaries import Evaluated, Result
from robench.results.accuracy import Figure, Measure, entering, worst_case
from robench.results.rows import COUNTED
from robench.results.summary import COMPLETE, INCOMPLETE, label
from robench.store.runs import Store
from robench.tables.model_names import told_apart
from robench.tables.rendering import Grid, grid, lines, percent
from robench.trust.bounds import upper_bound
from robench.trust.gates import Finding
from robench.trust.verification import Verified

JSON_KEYS = (
    "model", "dataset", "attack", "options", "norm", "eps", "n", "clean_accuracy", "robust_accuracy",
    "attack_success_rate", "against", "interval", "note", "forwards", "backwards", "seconds", "flags", "status",
    "absent", "evaluation",
)  # fmt: skip


@dataclass(frozen=True)
class WorstCase:
    """What several attacks on one model leave standing together, image by image; None while one is incomplete.

    surrogate: where all images were crafted on another model, its name. note: that it is an upper bound alone.
    """

    model: str
    dataset: str
    norm: str
    eps: str
    n: int
    attacks: tuple[str, ...]
    figure: Figure | None
    flags: tuple[str, ...]
    surrogate: str = ""
    note: str = ""

    @classmethod
    def of(cls, group: Sequence[Result], store: Store) -> WorstCase:
        """The worst case of evaluations on the same images, from the store's rows."""
        first, complete = group[0], all(result.summary.complete for result in group)
        rows = [store.evaluation(result.evaluation).rows(COUNTED) for result in group] if complete else []
        return cls(
            first.model, first.about.dataset, first.norm, first.about.eps, first.summary.n,
            tuple(result.label for result in group), worst_case(rows) if rows else None,
            tuple(sorted({flag for result in group for flag in result.summary.flags})),
            note=upper_bound(first.norm, Measure.ROBUST, any(result.boundary for result in group)),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types, the accuracy as a fraction."""
        value, interval = (self.figure.value, self.figure.interval) if self.figure else (None, (0.0, 1.0))
        found = {
            "model": self.model,
            "dataset": self.dataset,
            "norm": self.norm,
            "eps": self.eps,
            "n": self.n,
            "attacks": list(self.attacks),
            "robust_accuracy": value,
            "interval": list(interval),
            "flags": list(self.flags),
            "status": COMPLETE if self.figure else INCOMPLETE,
        }
        more = {"surrogate": self.surrogate, "note": self.note}
        return found | {name: text for name, text in more.items() if text}


@dataclass(frozen=True)
class Report:
    """Results, one per model and attack, the per-example worst case over each model's white-box attacks, refusals, and
    the figures of detectors."""

    results: list[Result]
    worst_cases: list[WorstCase]
    refused: list[str]
    detected: list[Detection] = field(default_factory=list)
    transfers: list[WorstCase] = field(default_factory=list)
    diagnosed: list[Finding] = field(default_factory=list)

    @classmethod
    def of(cls, done: Evaluated, store: Store) -> Report:
        """The report on what the scheduler evaluated; the worst case is read from the store's rows."""
        titles = told_apart((result.model_digest, result.about) for result in done.results)
        results = [replace(r, about=replace(r.about, model=titles[r.model, r.model_digest])) for r in done.results]
        groups: dict[tuple[str, str], list[Result]] = {}
        for result in results:
            groups.setdefault((result.model, result.about.dataset), []).append(result)
        found = [replace(each, model=titles.get((each.model, each.model_digest), each.model)) for each in done.findings]
        worst = [WorstCase.of(group, store) for group in map(entering, groups.values()) if group]
        for i, row in enumerate(worst):
            gates = [finding.gate for finding in found if finding.fired and finding.model == row.model]
            worst[i] = replace(row, flags=tuple(dict.fromkeys([*row.flags, *gates])))
        return cls(results, worst, done.refused, done.detections, _transfer(results, store), found)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dictionary per model and attack."""
        return [result.to_json() for result in self.results]

    @property
    def worst(self) -> list[dict[str, Any]]:
        """A dictionary per model: what its white-box attacks leave standing together."""
        return [row.to_json() for row in self.worst_cases]

    @property
    def transfer(self) -> list[dict[str, Any]]:
        """The same per target and surrogate."""
        return [row.to_json() for row in self.transfers]

    @property
    def detections(self) -> list[dict[str, Any]]:
        """A dictionary per detector and attack."""
        return [detection.to_json() for detection in self.detected]

    @property
    def findings(self) -> list[dict[str, Any]]:
        """A dictionary per gate for gradient masking and comparison behind it."""
        return [finding.to_json() for finding in self.diagnosed]

    @property
    def complete(self) -> bool:
        """Whether every evaluation is complete."""
        return all(result.summary.complete for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """{"rows": [...], "worst_case": [...]} with accuracies as fractions, and "refused" where a model was."""
        found: dict[str, Any] = {
            "rows": [{key: row[key] for key in JSON_KEYS if key in row} for row in self.rows],
            "worst_case": self.worst,
        }
        found |= {"detections": self.detections} if self.detections else {}
        found |= {"transfer": self.transfer} if self.transfers else {}
        found |= {"diagnostics": self.findings} if self.findings else {}
        return found | {"refused": self.refused} if self.refused else found

    def tables(self) -> RenderableType:
        """The table of the attacks, and below it those of transfer, detectors and warnings where there are any."""
        below: list[RenderableType] = [transfer_table(self.transfers)] if self.transfers else []
        below += [detection_table(self.detected)] if self.detected else []
        fired = [finding for finding in self.diagnosed if finding.fired]
        below += [findings_text(fired, "Warnings: do not trust these figures yet")] if fired else []
        return Group(self.table(), *below) if below else self.table()

    def table(self) -> Grid:
        """A rich table: one line per model and attack, percent with 95% Wilson intervals, most robust model first."""
        table = grid(self._title(), self._caption())
        for name in ("model", "attack"):
            table.add_column(name, overflow="fold")  # names give way before figures do
        for name in ("clean %", "robust %", "95% interval"):
            table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
        if self._flagged:
            table.add_column("flags")
        worst = {(w.model, w.dataset): w for w in self.worst_cases}
        data = list(dict.fromkeys(result.about.dataset for result in self.results))  # figures on others are others
        keys = sorted(worst, key=lambda key: (data.index(key[1]), -(f.value if (f := worst[key].figure) else -1)))
        keys += [key for key in dict.fromkeys((r.model, r.about.dataset) for r in self.results) if key not in worst]
        for key in keys:
            self._add(table, key, worst.get(key))
        return table

    def __str__(self) -> str:
        out = io.StringIO()
        Console(width=140, file=out).print(self.tables())
        return out.getvalue().rstrip()

    def _title(self) -> str:
        settings = dict.fromkeys(
            f"{r.about.dataset}, {r.norm} eps {r.about.eps}, n = {r.summary.n:,}{r.drawn}"
            f"{f', {r.absent}' if r.absent else ''}"
            for r in self.results
        )
        return "; ".join(settings)

    @property
    def _flagged(self) -> bool:
        return any(result.summary.flags or result.note for result in self.results)

    def _flags(self, flags: Sequence[str], note: str) -> list[str]:
        return [", ".join([*([note] if note else []), *flags])] if self._flagged else []

    def _caption(self) -> str | None:
        rates = any(result.summary.measure.lower_is_better for result in self.results)
        return "† attack success rate, lower is better" if rates else None

    def _add(self, table: Grid, key: tuple[str, str], worst: WorstCase | None) -> None:
        mine = [result for result in self.results if (result.model, result.about.dataset) == key]
        for i, result in enumerate(mine):
            found = result.summary
            clean = f"{100 * found.clean_accuracy:.1f}" if found.clean_accuracy is not None else ""
            table.add_row(
                result.model if i == 0 else "", result.label + result.about.against,
                clean if i == 0 or result.access == "detector" else "",
                *_cells(found.value, found.interval, found.measure.mark), *self._flags(found.flags, result.note),
            )  # fmt: skip
        if worst and len(worst.attacks) > 1:
            value, interval = (worst.figure.value, worst.figure.interval) if worst.figure else (None, None)
            table.add_row(
                "", "worst case", "", *_cells(value, interval), *self._flags(worst.flags, worst.note), style="bold"
            )
        table.add_section()


def transfer_table(found: Sequence[WorstCase]) -> Grid:
    """Targets down, surrogates across: percent still right under every attack crafted on that surrogate."""
    sources = list(dict.fromkeys(row.surrogate for row in found))
    attacks = ", ".join(dict.fromkeys(attack for row in found for attack in row.attacks))
    letters = dict(zip(sources, "ABCDEFGHIJKLMNOPQRSTUVWXYZ", strict=False)) if len(sources) > 2 else {}
    legend = "".join(f" {letter}: {source}." for source, letter in letters.items())
    said = f" {found[0].note[0].upper()}{found[0].note[1:]}." if found[0].note else ""
    shown = grid("Transfer", f"Robust accuracy in percent, image by image the worst of: {attacks}.{legend}{said}")
    shown.add_column("target", overflow="fold")
    for source in sources:
        shown.add_column(f"from {letters.get(source, source)}", justify="right", overflow="fold")
    for target in dict.fromkeys(row.model for row in found):
        figures = {row.surrogate: row.figure for row in found if row.model == target}
        values = [figure.value if (figure := figures.get(source)) else None for source in sources]
        shown.add_row(target, *map(percent, values))
    return shown


def _transfer(results: Sequence[Result], store: Store) -> list[WorstCase]:
    """The worst case over the attacks from each surrogate, for each target."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.model, result.about.dataset, result.about.surrogate_digest), []).append(result)
    kept = {key: group for key, each in groups.items() if (group := entering(each, "transfer"))}
    sources: dict[str, set[str]] = {}
    for (_, _, digest), group in kept.items():
        sources.setdefault(group[0].about.surrogate, set()).add(digest)

    def title(name: str, digest: str) -> str:
        return f"{name}#{digest[:6]}" if len(sources[name]) > 1 and "#" not in name else name

    return [
        replace(WorstCase.of(group, store), surrogate=title(group[0].about.surrogate, digest))
        for (_, _, digest), group in kept.items()
    ]


def findings_text(findings: Sequence[Finding], title: str) -> Text:
    """The gates that fired, each once with its evidence, threshold and what to do; then those that did not, by name."""
    told: list[str | tuple[str, str]] = [(title, "bold")]
    fired: dict[tuple[str, str, str, str], list[Finding]] = {}
    for finding in findings:
        if finding.fired:
            fired.setdefault((finding.model, finding.gate, finding.threshold, finding.advice), []).append(finding)
    for (model, gate, threshold, advice), group in fired.items():
        told += ["", (f"! {model}: {gate}", "bold"), *(f"  {line}" for line in _evidence(group))]
        told += [f"  fires above: {threshold}", f"  do: {advice}"]
    quiet = Counter(finding.gate for finding in findings if not finding.fired)
    if quiet:
        told += ["", "Did not fire, with the comparisons behind each:"]
        told += [f"  {gate} ({count})" for gate, count in quiet.items()]
    return lines(*told, "")


def _evidence(group: Sequence[Finding]) -> list[str]:
    """What a gate saw, a line each; what it saw alike in several runs, "RUN: ...", in one line with all of them."""
    runs: dict[str, list[str]] = {}
    for finding in group:
        run, colon, seen = finding.evidence.partition(": ")
        runs.setdefault(seen if colon else finding.evidence, []).extend([run] if colon else [])
    return [f"{'; '.join(dict.fromkeys(names))}: {seen}" if names else seen for seen, names in runs.items()]


DETECTION_NOTE = (
    "Percent. nadv: clean and noisy images taken for what they are; com: attacked images detected or still classified "
    "correctly (both at even odds). found: broken images detected, and false: clean test images rejected, at the "
    "threshold set on clean validation images. robust: of all images, classified correctly, accepted, and not broken "
    "unnoticed by an attack that did not know of the detector."
)


def detection_table(found: Sequence[Detection]) -> Grid:
    """A line per detector and attack: shares in percent, and the numbers of images behind them."""
    shown = grid("Detectors", DETECTION_NOTE)
    shown.add_column("detector (learnt from), model, attack", overflow="fold", min_width=20)
    for name in ("broken", "nadv", "com", "auc", "found", "false", "robust"):
        shown.add_column(name, justify="right", no_wrap=True, min_width=5)
    for each in found:
        figures = each.figures
        nadv, com, caught, rejected, robust = (
            percent(figures.value(name))
            for name in ("acc_nadv", "acc_com", "detection_rate", "false_positive_rate", "robust_accuracy")
        )
        shown.add_row(
            f"{each.detector} ({each.trained_on}), {each.model}, {label(each.attack, each.options)}, "
            f"{each.norm} {each.eps}",
            f"{figures.broken:,}/{figures.attacked:,}",
            nadv,
            com,
            "-" if figures.auc is None else f"{figures.auc:.3f}",
            caught,
            rejected,
            robust,
        )
    return shown


NOT_AGAIN = "What is broken is proved by its image. That the others withstand the attack shows --again N alone."
RUN_AGAIN = "The attack was run again on {} of the images that are said to withstand it."


def verified_table(checks: Sequence[Verified]) -> Grid:
    """One line per evaluation; ties are verdicts too close to call, which a batch size may change."""
    again = sum(check.again for check in checks)
    shown = grid("Stored adversarial examples, checked again", RUN_AGAIN.format(again) if again else NOT_AGAIN)
    for name in ("evaluation", "model", "attack", "images", "ties", "holds", "faults"):
        shown.add_column(name, overflow="fold", no_wrap=name in ("evaluation", "images", "ties"))
    for check in checks:
        faults = [f"{count} {kind}" for kind, count in check.faults.items() if count]
        faults += [f"recorded wrongly: {', '.join(check.records)}"] if check.records else []
        faults += [f"{check.expected - check.examples} missing"] if check.examples < check.expected else []
        outcomes = {0: "yes", 1: "NO", 2: "not checked", 3: "unfinished"}
        outcome = outcomes[check.exit_code]
        told = "; ".join(filter(None, [", ".join(faults), check.reason])) or "none"
        shown.add_row(
            check.evaluation, check.model, check.attack, f"{check.examples:,}", str(check.close), outcome, told
        )
    return shown


def _cells(value: float | None, interval: tuple[float, float] | None, mark: str = "") -> tuple[str, str]:
    """Percent and interval, or that there is none yet."""
    if value is None or interval is None:
        return INCOMPLETE, ""
    low, high = interval
    return f"{100 * value:.1f}{mark}", f"{100 * low:.1f} - {100 * high:.1f}"
