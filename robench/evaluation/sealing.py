"""Second verdicts on finished evaluations of a model: which are lacking, and what the answers of a process that knows
nothing of the attacks make of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from robench.attack.inspection import firm, predictions
from robench.device import spare_memory
from robench.evaluation.jobs import Job, Target
from robench.evaluation.wanted import PlannedEvaluation, Wanted
from robench.progress import bar, say
from robench.results.rows import success_of
from robench.results.summary import DIFFERS, NOT_SEALED
from robench.store.files import digest
from robench.trust.seal import Ended, Envelope, Sealed, Unsealed, ask, batches, envelope, sealed

# bytes of pixels that are held and mixed at a time
HELD = 2**27


def seal(wanted: Wanted) -> None:
    """Take a second verdict on every complete evaluation of a model that has none; what comes of it is in the store.

    Where none can be taken, that is noted, flagged and said.
    """
    for target in (wanted.target, wanted.behind):
        if target is not None:
            behind = target.watch is not None
            lacking = [p for p in wanted.evaluations if p.address.behind == behind and _lacks(p)]
            if lacking:
                _seal(target, lacking)


def lacks(wanted: Wanted) -> bool:
    """Whether an evaluation of a model has no second verdict yet, or is not complete."""
    return any(planned.missing or _lacks(planned) for planned in wanted.evaluations)


def _lacks(planned: PlannedEvaluation) -> bool:
    if planned.missing:
        return False
    second = planned.job.folder.second
    return second is None or NOT_SEALED in second.flags


def _seal(target: Target, evaluations: Sequence[PlannedEvaluation]) -> None:
    parts, settings = [_Part.of(planned.job) for planned in evaluations], evaluations[0].address.settings
    began = time.monotonic()
    try:
        packed = envelope(target.model, target.watch.guard if target.watch else None)
        _ask_twice(target, packed, parts, settings.device, settings.batch_size)
    except Unsealed as error:
        say(f"The verdict on {target.name} could not be taken a second time in a process of its own: {error}.")
        nothing = {"flags": [NOT_SEALED], "counts": False, "passes": 0, "seconds": 0.0, "reason": str(error)}
        for part in parts:
            part.job.folder.save_second(None, nothing)
        return
    seconds, passes = time.monotonic() - began, sum(part.passes for part in parts)
    for part in parts:
        part.save(seconds * part.passes / max(passes, 1))
    differing = sum(part.differing for part in parts)
    say(
        f"Second verdict on {target.name}, in a process of its own that never saw the attack: {passes:,} answers in "
        f"{seconds:.1f} s, {f'{differing:,} of them another' if differing else 'all the same'}."
    )


def _ask_twice(target: Target, packed: Envelope, parts: Sequence[_Part], device: str, size: int) -> None:
    """Ask, and once more from the beginning where the process was ended by somebody. Raises Unsealed."""
    for last in (False, True):
        try:
            spare_memory(device)
            with sealed(packed, device) as process, bar(f"{target.name}  sealed verdict") as shown:
                for i, (start, stop) in enumerate(chunks := _chunks(parts)):
                    _ask(process, parts, start, stop, size)
                    shown.update((i + 1) / len(chunks))
            return
        except Ended:
            if last:
                raise


@dataclass
class _Part:
    """One evaluation's share: its rows, and the answers so far."""

    job: Job
    rows: pd.DataFrame
    clean: NDArray[np.int64]
    adversarial: NDArray[np.int64]
    sure: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    passes: int = 0

    @classmethod
    def of(cls, job: Job) -> _Part:
        """Nothing answered yet."""
        rows, n = job.folder.rows(), job.spec.count
        sure = {kind: np.zeros(n, dtype=bool) for kind in ("clean", "adversarial")}
        return cls(job, rows, np.full(n, -1), np.full(n, -1), sure)

    @property
    def at(self) -> tuple[int, int]:
        """Its examples [start, stop)."""
        return self.job.spec.start, self.job.spec.start + self.job.spec.count

    def take(self, kind: str, places: Tensor, logits: Tensor) -> None:
        """Keep answers [m, K] for the examples at `places`."""
        at = (places - self.at[0]).numpy()
        (self.clean if kind == "clean" else self.adversarial)[at] = predictions(logits).numpy()
        self.sure[kind][at] = firm(logits).numpy()

    @property
    def differing(self) -> int:
        """How many answers are others than the first ones, and not by rounding."""
        clean = (self.rows["clean_pred"].to_numpy() != self.clean) & self.sure["clean"]
        adversarial = (self.rows["adv_pred"].to_numpy() != self.adversarial) & self.sure["adversarial"]
        return int(clean.sum() + adversarial.sum())

    def save(self, seconds: float) -> None:
        """Write the answers to the store."""
        classes = self.job.classes  # as an answer, what a detector rejects
        wrong = (self.clean != self.rows["label"].to_numpy()) & (self.clean != classes)
        reached = success_of(self.rows.assign(adv_pred=self.adversarial), classes)
        aimless = self.rows["goal"].to_numpy() < 0
        answers = pd.DataFrame({
            "example_id": self.rows["example_id"].to_numpy(),
            "sealed_clean": self.clean,
            "sealed_adv": self.adversarial,
            "sealed_success": reached | (aimless & wrong & self.rows["clean_correct"].to_numpy(dtype=bool)),
        })  # fmt: skip
        randomised = any("randomised" in note.get("flags", []) for note in self.job.folder.notes())
        notes = {
            "flags": [DIFFERS] if self.differing and not randomised else [],
            "counts": not randomised,
            "passes": self.passes,
            "seconds": round(seconds, 3),
            "differing": self.differing,
        }
        self.job.folder.save_second(answers, notes)


def _chunks(parts: Sequence[_Part]) -> list[tuple[int, int]]:
    """Ranges of examples that are held at a time, in an order of their own."""
    start, stop = min(part.at[0] for part in parts), max(part.at[1] for part in parts)
    pixels = parts[0].job.split.pixels(slice(start, start + 1)).numel()
    size = max(1, HELD // (4 * pixels * (len(parts) + 1)))
    ranges = [(a, min(a + size, stop)) for a in range(start, stop, size)]
    return [ranges[i] for at, _ in batches(_key(parts), len(ranges), len(ranges)) for i in at.tolist()]


def _key(parts: Sequence[_Part]) -> str:
    """16 hex digits of all images that are shown, which nobody knows before the attacks have ended."""
    return digest([part.job.folder.contents for part in parts])[:16]


def _ask(process: Sealed, parts: Sequence[_Part], start: int, stop: int, size: int) -> None:
    """Show the images of the examples [start, stop), clean ones once for all evaluations, mixed with what the attacks
    made of them."""
    places = torch.arange(start, stop)
    shown = [("clean", places, parts[0].job.split.pixels(places), list(parts))]
    for part in parts:
        a, b = max(start, part.at[0]), min(stop, part.at[1])
        if a < b:
            shown.append(("adversarial", torch.arange(a, b), part.job.folder.span(a, b), [part]))
    images = torch.cat([x for _, _, x, _ in shown])
    logits = ask(process, images, digest([_key(parts), start])[:16], size)
    for (kind, at, x, whose), answers in zip(shown, torch.split(logits, [len(x) for _, _, x, _ in shown]), strict=True):
        for part in whose:
            mine = (at >= part.at[0]) & (at < part.at[1])
            part.take(kind, at[mine], answers[mine])
            part.passes += len(x) if kind == "adversarial" else 0
    parts[0].passes += stop - start
