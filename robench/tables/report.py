"""The outcome of an evaluation as tables for people and as JSON for machines."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Unpack

from rich.console import Console, Group, RenderableType
from rich.text import Text

from robench.detector.measuring import Detection
from robench.evaluation.summaries import Evaluated, Result
from robench.results.summary import label
from robench.store.runs import Store
from robench.tables.figures import figures_table, threats
from robench.tables.frames import AdversarialImages, Rows, Which, frame_of, images_of, one_of
from robench.tables.model_names import told_apart
from robench.tables.notebook import html_of
from robench.tables.own_eps import own_eps, own_eps_table
from robench.tables.rendering import Grid, grid, lines, percent
from robench.tables.worst import WorstCase as WorstCase
from robench.tables.worst import transfers, worst_cases
from robench.trust.gates import Finding, together
from robench.trust.verification import Verified

if TYPE_CHECKING:
    import pandas as pd

JSON_KEYS = (
    "model", "dataset", "attack", "options", "norm", "eps", "n", "clean_accuracy", "robust_accuracy",
    "attack_success_rate", "against", "interval", "note", "forwards", "backwards", "seconds", "flags", "status",
    "absent", "seed", "evaluation",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Report:
    """Results, one per model and attack, the per-example worst case over each model's white-box attacks, refusals, and
    the figures of detectors.

    It prints as tables, in a notebook too. `frame` and `rows(model, attack)` are pandas, `images(model, attack)`
    tensors; `to_json` is what the command line prints with --json.
    """

    results: list[Result]
    worst_cases: list[WorstCase]
    refused: list[str]
    detected: list[Detection] = field(default_factory=list)
    transfers: list[WorstCase] = field(default_factory=list)
    diagnosed: list[Finding] = field(default_factory=list)
    store: Store | None = None

    @classmethod
    def of(cls, done: Evaluated, store: Store) -> Report:
        """The report on what the scheduler evaluated; the worst case is read from the store's rows."""
        titles = told_apart((result.model_digest, result.about) for result in done.results)
        results = [replace(r, about=replace(r.about, model=titles[r.model, r.model_digest])) for r in done.results]
        found = [replace(each, model=titles.get((each.model, each.model_digest), each.model)) for each in done.findings]
        found = list(dict.fromkeys(found))  # the same whatever the eps and the seed
        names = {result.evaluation: result.model for result in results}
        detected = [replace(each, model=names.get(each.evaluation, each.model)) for each in done.detections]
        worst = worst_cases(results, store)
        for i, row in enumerate(worst):
            gates = [finding.gate for finding in found if finding.fired and finding.model == row.model]
            worst[i] = replace(row, flags=tuple(dict.fromkeys([*row.flags, *gates])))
        return cls(results, worst, done.refused, detected, transfers(results, store), found, store)

    @property
    def rows(self) -> Rows:
        """A dictionary per model and attack; called, `rows(model, attack)`, a pandas row per image, see `Rows`."""
        return Rows(self.results, self.store)

    @property
    def frame(self) -> pd.DataFrame:
        """A pandas row per model, attack, norm, eps and seed, with its figures."""
        return frame_of(self.results)

    def images(self, model: str | None = None, attack: str | None = None, **which: Unpack[Which]) -> AdversarialImages:
        """The clean and the adversarial images of one evaluation, float32 [n, C, H, W] each, and their example ids.

        model, attack: as in the table, not needed where there is one alone; eps, norm and seed likewise. Raises
        BadInput for a name that is not there, with the nearest one, and where several evaluations are meant.
        """
        return images_of(one_of(self.results, model, attack, which), self.store)

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
        own = own_eps(self.results, self.worst_cases)
        found |= {"own_eps": [each.to_json() for each in own]} if own else {}
        found |= {"detections": self.detections} if self.detections else {}
        found |= {"transfer": self.transfer} if self.transfers else {}
        found |= {"diagnostics": self.findings} if self.findings else {}
        return found | {"refused": self.refused} if self.refused else found

    def tables(self) -> RenderableType:
        """The tables of the attacks, and below them those of transfer, detectors and warnings where there are any."""
        below: list[RenderableType] = [
            transfer_table([each for each in self.transfers if (each.norm, each.eps, each.seed) == place])
            for place in dict.fromkeys((each.norm, each.eps, each.seed) for each in self.transfers)
        ]
        own = own_eps(self.results, self.worst_cases)
        below += [own_eps_table(own)] if own else []
        below += [detection_table(self.detected)] if self.detected else []
        fired = [finding for finding in self.diagnosed if finding.fired]
        below += [findings_text(fired, "Warnings: do not trust these figures yet")] if fired else []
        return Group(self.table(), *below) if below else self.table()

    def table(self) -> Grid | Group:
        """A rich table for each norm and eps: one line per model and attack, percent with 95% Wilson intervals, most
        robust model first; over several seeds the mean and the spread."""
        found = [
            figures_table(
                [each for each in self.results if (each.norm, each.about.eps) == threat],
                [each for each in self.worst_cases if (each.norm, each.eps) == threat],
            )
            for threat in threats(self.results)
        ]
        return found[0] if len(found) == 1 else Group(*found)

    def __str__(self) -> str:
        out = io.StringIO()
        Console(width=140, file=out, force_jupyter=False).print(self.tables())
        return out.getvalue().rstrip()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The tables for a notebook."""
        return html_of(self.tables())


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


def findings_text(findings: Sequence[Finding], title: str) -> Text:
    """The gates that fired, each once with its evidence, threshold and what to do; then those that did not, by name."""
    told: list[str | tuple[str, str]] = [(title, "bold")]
    for finding, evidence in together(findings).items():
        told += ["", (f"! {finding.model}: {finding.gate}", "bold"), *(f"  {line}" for line in evidence)]
        told += [f"  fires above: {finding.threshold}", f"  do: {finding.advice}"]
    quiet = Counter(finding.gate for finding in findings if not finding.fired)
    if quiet:
        told += ["", "Did not fire, with the comparisons behind each:"]
        told += [f"  {gate} ({count})" for gate, count in quiet.items()]
    return lines(*told, "")


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
    seeds = len({each.seed for each in found}) > 1
    for each in found:
        figures = each.figures
        nadv, com, caught, rejected, robust = (
            percent(figures.value(name))
            for name in ("acc_nadv", "acc_com", "detection_rate", "false_positive_rate", "robust_accuracy")
        )
        shown.add_row(
            f"{each.detector} ({each.trained_on}), {each.model}, {label(each.attack, each.options)}, "
            f"{each.norm} {each.eps}{f', seed {each.seed}' if seeds else ''}"
            f"{''.join(f' [{flag}]' for flag in each.flags)}",
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
