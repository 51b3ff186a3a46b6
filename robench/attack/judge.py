"""The judge: runs an attack on a shard of examples, decides every verdict itself, and writes one row per example."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from robench.attack.base import Attack, Batch, Trials, check_norm
from robench.attack.before import Before
from robench.attack.budget import Budget
from robench.attack.classifier import Classifier
from robench.attack.following import following
from robench.attack.guard import staying
from robench.attack.inspection import (
    clean_logits,
    firm_margin,
    first_answers,
    inspect,
    inspect_found,
    lead,
    predictions,
    same,
)
from robench.attack.modes import check_gradients
from robench.attack.objectives import misclassified_margin
from robench.attack.proposing import names_of, propose
from robench.attack.repeating import repeated
from robench.attack.rough import rough_of
from robench.attack.rungs import fallen, to_check
from robench.attack.shard import Examples as Examples
from robench.attack.shard import Progress as Progress
from robench.attack.shard import Settings as Settings
from robench.attack.shard import ShardOutcome as ShardOutcome
from robench.attack.slopes import misleading
from robench.attack.waves import Work, pulse, waves
from robench.attack.witness import WRONG, Witness
from robench.device import full_precision, keep_freed
from robench.errors import Misbehaved
from robench.norms import NORMS
from robench.results.accuracy import Measure
from robench.results.rows import FELL, FLAT_GUIDE, STOOD, passes, success_of
from robench.threat import ThreatModel

# in place of a trial's number: the image is an earlier attack's
TAKEN_OVER = -2


def attack_shard(
    module: nn.Module,
    classes: int,
    attack: Attack,
    threat: ThreatModel,
    examples: Examples,
    settings: Settings | None = None,
    progress: Progress | None = None,
    guide: nn.Module | None = None,
) -> ShardOutcome:
    """Attack `examples` within `threat` and judge the result.

    Success is decided on the projected images, in float32 and eager mode, on `module` itself, in a forward pass of its
    own. guide: another model, whose gradients the attack follows instead of those of `module`. Raises BadInput for a
    model in train mode, one that returns probabilities, NaN or the wrong number of classes, and for a threat model the
    attack does not know.
    """
    check_norm(attack, type(attack).__name__, threat.norm)
    threat.check_shape(tuple(examples.x.shape[1:]))
    settings = settings or Settings()
    check_gradients(module)
    if settings.device == "cpu":
        keep_freed()
    with full_precision():
        model = Classifier(module, classes, len(examples), settings.device, examples.y)
        try:
            model.check_mode()
            model.draws = settings.draws
            model.guard.keep(threat, examples, settings)
            model.pass_through(settings.bpda)
            with model.guard.shard(settings.seed), staying():  # the seed is for models that draw noise
                before = Before.of(module)
                judge = _Judge(model, attack, threat, examples, settings, progress or (lambda share: None))
                with following(model, guide, examples, settings) as of_guide:
                    shard = judge.run(before)
            told = [*model.guard.flags(randomised="randomised" in shard.flags), *of_guide]
            return replace(shard, flags=(*shard.flags, *told))
        finally:
            model.release()


class _Judge:
    """One shard under attack: who still stands, and the strongest proposal for each example so far."""

    def __init__(
        self,
        model: Classifier,
        attack: Attack,
        threat: ThreatModel,
        examples: Examples,
        settings: Settings,
        progress: Progress,
    ) -> None:
        self.model, self.attack, self.threat, self.examples = model, attack, threat, examples
        self.settings, self.progress = settings, progress
        self.targeted = Measure(attack.metric) is Measure.SUCCESS
        self.layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.invalid = torch.zeros(len(examples), dtype=torch.bool)

    def run(self, before: Before) -> ShardOutcome:
        """The clean verdict, the attack, the final verdict, the rows."""
        x, y = self.examples.x, self.examples.y
        clean = first_answers(self.model, x, self.settings.batch_size)
        flags = repeated(lambda: inspect(self.model, x, clean, self.settings.batch_size))
        self.model.randomised, self.model.crafting = "randomised" in flags, self.settings.crafting
        search = self._search(clean)
        clean_pred = predictions(clean)
        plan = self._plan(clean)
        everyone = self.targeted or self.settings.crafting
        attacked = torch.ones_like(y, dtype=torch.bool) if everyone else clean_pred == y
        final = self._attack(plan, attacked)
        self.model.check_mode()
        searched = self.model.rough.module if self.model.rough else self.model.module
        if before.moved(self.model.module) or self.copied.moved(searched):
            flags.append("changes-its-state")
        if not self.model.randomised:
            misled = self._misled(predictions(final))
            again = clean_logits(self.model, x, self.settings.batch_size)
            found = inspect_found(self.model, self.images, final, lead(clean[:, : self.model.classes]))
            if "randomised" in found:  # once more, as every model is attacked that answers at random
                self.model.randomised = True
                final = self._attack(plan, attacked)
            elif not same(clean, again) or not self._repeats(before.module, final):
                found.append("changes-its-answers")
            if not self.model.randomised and misled:
                found.append(misled)
            flags += [flag for flag in found if flag not in flags]
        if before.module is None:
            flags.append("not-copied")
        rows = self._rows(clean_pred, predictions(final), attacked)
        if self._unmoved(rows, attacked):
            flags.append("moved-nothing")
        return ShardOutcome(rows, self.images, tuple(flags), {"clean": clean, "adversarial": final}, search)

    def _search(self, clean: Tensor) -> str:
        """Prepare gradients in bfloat16 where that is asked for; what came of it, in words."""
        self.copied = Before()
        if self.settings.precision != "bf16" or not self.attack.rough or self.model.rejects:
            return ""
        taken = rough_of(self.model, self.examples.x, clean, whole=bool(self.settings.bpda))
        self.model.rough = taken.rough
        if taken.rough is not None and taken.rough.own:
            self.copied = Before.of(taken.rough.module, copied=False)
        return taken.told

    def _plan(self, clean: Tensor) -> Trials:
        """The trials for the clean answers [n, classes], and the goals of a targeted attack."""
        y, ids = self.examples.y, self.examples.ids
        seen = self.model.fold(clean, torch.arange(len(y)))
        plan = repeated(lambda: self.attack.trials(y, seen, ids, self.settings.seed))
        self.goal = plan.goal[:, 0] if self.targeted else torch.full_like(y, -1)
        self.reached = predictions(clean) == self.goal
        return plan

    def _attack(self, plan: Trials, attacked: Tensor) -> Tensor:
        """Run the attack from the beginning on the examples marked in `attacked`, bool [n]; the final answers."""
        n = len(self.examples)
        self.model.witness = Witness(self.settings.seed)
        self._allow()
        self.images, self.margin = self.examples.x.clone(), torch.full((n,), -torch.inf)
        self.trial, self.step = torch.full((n,), -1), torch.full((n,), -1)
        self.stages = torch.zeros(n, dtype=torch.int64)
        self.standing = attacked.clone()
        if self.examples.prior is not None:
            self._take_over(self.examples.prior)
        self.held, checked = self._hold()
        self._run(plan, self.standing & ~self.held)
        if bool(fallen(checked, self.standing).any()):  # stood within the larger eps, fell here: so may the others
            others, self.held = self.held, torch.zeros_like(self.held)
            self._run(plan, others)
        return repeated(lambda: clean_logits(self.model, self.images, self.settings.batch_size))

    def _hold(self) -> tuple[Tensor, Tensor]:
        """Which images are not attacked, as they stood within a larger eps, and which of those that stood there are,
        bool [n] each. Where one of them fell by the larger eps' own image, all are attacked."""
        stood, nobody = self.examples.stood, torch.zeros_like(self.standing)
        if stood is None or self.model.randomised or self.model.crafting or bool(fallen(stood, self.standing).any()):
            return nobody, nobody
        checked = to_check(stood, self.examples.ids, self.settings.seed)
        return stood & ~checked, checked

    def _run(self, plan: Trials, members: Tensor) -> None:
        """Run all trials for the examples marked in `members`, bool [n]; who is firmly broken stands no more."""
        others = self.standing & ~members
        self.standing = members.clone()
        self.work = int(members.sum())  # what is wrong from the start takes no time
        for wave in waves(len(plan)):
            self._run_wave(plan, wave)
        self.standing |= others

    def _allow(self) -> None:
        """Give every example its budget, if there is one; a search that is begun again has all of it again."""
        if self.settings.max_passes is None:
            return
        spent = self.examples.spent
        before = torch.zeros(len(self.examples), dtype=torch.int64) if spent is None else spent
        self.model.budget = Budget(self.settings.max_passes, before)
        self.model.ends = not self.attack.stages  # else it is to tell which of them were run
        self.model.forwards.zero_()
        self.model.backwards.zero_()

    @property
    def cut(self) -> Tensor:
        """The examples that ran out of their budget, bool [n]."""
        budget = self.model.budget
        return torch.zeros(len(self.examples), dtype=torch.bool) if budget is None else budget.out

    def _unmoved(self, rows: pd.DataFrame, attacked: Tensor) -> bool:
        """Whether an attack that gives back what it last tried has left every image as it was."""
        tried = (attacked & ~self.cut).numpy() & (rows["trial"] >= 0).to_numpy()
        moved = bool((rows[self.threat.norm].to_numpy()[tried] > 0).any())
        return self.attack.transfers and self.threat.eps > 0 and bool(tried.any()) and not moved

    def _misled(self, adv_pred: Tensor) -> str:
        """What is to be said of the gradients that the attack followed, by images that it left standing, or nothing."""
        followed = bool((self.model.backwards > 0).any()) and not self.settings.bpda
        left = ((adv_pred == self.examples.y) & (self.trial != -1)).nonzero()[:, 0]
        apart = self.model.rejects or self.model.crafting or self.model.guide is not None
        if not followed or apart or not len(left):
            return ""
        x, y, ids = self.examples.x[left], self.examples.y[left], self.examples.ids[left]
        if misleading(self.model, x, self.images[left], y, ids, self.threat):
            return WRONG
        reach = self.threat.radius / float(self.threat.distance(torch.zeros_like(x[:1]), torch.ones_like(x[:1])))
        return self.model.witness.verdict(self.model.searched, reach)

    def _take_over(self, prior: Tensor) -> None:
        """Begin with the images an earlier attack made; the examples they break are not attacked again."""
        everyone = torch.arange(len(prior))
        self.images = self._valid(self.examples.x, prior, everyone)
        logits = self.model.fold(clean_logits(self.model, self.images, self.settings.batch_size), everyone)
        self.margin, self.trial[self.standing] = self._margin(logits, everyone), TAKEN_OVER
        if not self.model.randomised:
            self.standing &= ~firm_margin(self.margin, logits)

    def _repeats(self, fresh: nn.Module | None, final: Tensor) -> bool:
        """Whether a copy that saw nothing of the attack gives the `final` answers [n, classes] to the images too."""
        if fresh is None:
            return True
        model = Classifier(fresh, self.model.classes, device=self.model.device)
        answers, finite = clean_logits(model, self.images, self.settings.batch_size), final.isfinite().all(1)
        alike = torch.equal(finite, answers.isfinite().all(1))
        return alike and (not bool(finite.any()) or same(final[finite], answers[finite]))

    def _run_wave(self, plan: Trials, wave: range) -> None:
        """The trials of a wave side by side; for images that cannot pay for all of them one after the other, as none
        would come to its end otherwise."""
        members = (self.standing & ~self.cut).nonzero()[:, 0]
        able = self._affords(members, len(wave))
        self._side_by_side(plan, wave, members[able])
        for trial in wave:
            poor = members[~able]
            self._side_by_side(plan, range(trial, trial + 1), poor[(self.standing & ~self.cut)[poor]])

    def _affords(self, members: Tensor, trials: int) -> Tensor:
        """Which images, int64 [K], can pay for so many trials; all where nobody knows what they cost, bool [K]."""
        cost, budget = self.attack.passes(self.threat, self.model.classes), self.model.budget
        if budget is None or trials == 1 or cost.forwards is None:
            return torch.ones(len(members), dtype=torch.bool)
        draws = self.model.draws if self.model.randomised else 1
        again = (cost.backwards or 0) if self.model.rough else 0  # what may be a find is asked about in float32
        return budget.affords(members, trials * (cost.spent + again) * draws, self.model.spent)

    def _side_by_side(self, plan: Trials, wave: range, members: Tensor) -> None:
        if not len(members):
            return
        size = max(1, self.settings.batch_size // len(wave))
        total, left = self.work * len(plan), len(plan) - wave.stop
        waiting = len(members)
        for part in torch.split(members, size):
            waiting -= len(part)
            todo = (waiting + len(part)) * len(wave) + int(self.standing.sum()) * left
            work = Work(len(wave), part, todo, total)
            self.model.heartbeat = pulse(self.model, self.attack, self.threat, work, self.progress)
            repeated(partial(self._attack_part, plan, wave, part))
            self.progress(1 - (waiting * len(wave) + int(self.standing.sum()) * left) / total)

    def _attack_part(self, plan: Trials, wave: range, part: Tensor) -> None:
        """Run the trials of `wave` for the examples at positions `part` and keep the strongest proposals."""
        examples, device = self.examples, self.model.device
        rows = part.repeat_interleave(len(wave))
        group = torch.arange(len(part)).repeat_interleave(len(wave))
        trial = torch.tensor(list(wave)).repeat(len(part))
        x0 = examples.x[rows]
        batch = Batch(
            x=x0.to(device).contiguous(memory_format=self.layout),
            y=examples.y[rows].to(device),
            goal=plan.goal[rows, trial].to(device),
            example_id=examples.ids[rows],
            trial=plan.key[rows, trial],
            group=group,
            threat=self.threat,
            seed=self.settings.seed,
        )
        last = self.model.randomised or self.settings.crafting
        proposal = propose(self.attack, self.model, batch, rows, targeted=self.targeted, last=last)
        for run in [] if proposal.stages is None else proposal.stages.reshape(len(part), -1).unbind(1):
            self.stages[part] |= run
        images = self._valid(x0, proposal.x.detach().float().cpu(), rows)
        logits = self.model.fold(clean_logits(self.model, images, self.settings.batch_size), rows)
        margin = self._margin(logits, rows)
        best = margin.reshape(len(part), len(wave)).argmax(1) + torch.arange(len(part)) * len(wave)
        better = margin[best] > self.margin[part]
        at, source = part[better], best[better]
        self.images[at], self.margin[at] = images[source], margin[source]
        self.trial[at], self.step[at] = batch.trial[source], proposal.step[source]
        # one wrong answer of a random model does not end the attack, nor does a surrogate's
        if not (self.model.randomised or self.model.crafting):
            self.standing[part[firm_margin(margin[best], logits[best])]] = False

    def _valid(self, x0: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """The proposals inside the threat model; one with NaN pixels is replaced by the original image and flagged."""
        if x.shape != x0.shape:
            raise Misbehaved(f"{type(self.attack).__name__} proposed shape {tuple(x.shape)} for {tuple(x0.shape)}")
        broken = ~x.flatten(1).isfinite().all(1)
        self.invalid[rows[broken]] = True
        projected = self.threat.project(x0, torch.where(broken.reshape(-1, 1, 1, 1), x0, x))
        if not bool(self.threat.contains(x0, projected).all()):
            raise AssertionError("a projected image lies outside the threat model")
        return projected

    def _margin(self, logits: Tensor, rows: Tensor) -> Tensor:
        """How far past success each proposal is. An answer that is not finite counts as wrong; of a targeted attack it
        comes before any that misses the goal, unless the clean image reached that."""
        goal = self.goal[rows]
        targeted = self.targeted
        margin = misclassified_margin(logits, self.examples.y[rows], goal if targeted else None)
        finite = logits.isfinite().all(1)
        self.model.nonfinite[rows[~finite]] = True
        if not targeted:
            return torch.where(finite, margin, torch.inf)
        return torch.where(finite, margin, torch.where(self.reached[rows], -torch.inf, -torch.finfo(margin.dtype).tiny))

    def _rows(self, clean_pred: Tensor, adv_pred: Tensor, attacked: Tensor) -> pd.DataFrame:
        y, x = self.examples.y, self.examples.x
        verdict = pd.DataFrame(
            {
                "example_id": self.examples.ids.numpy(),
                "label": y.numpy(),
                "goal": self.goal.numpy(),
                "clean_pred": clean_pred.numpy(),
                "adv_pred": adv_pred.numpy(),
                "clean_correct": (clean_pred == y).numpy(),
            }
        )
        # the class after the last one is "rejected by the detector"
        success = torch.from_numpy(success_of(verdict, rejected=self.model.classes))
        # the batch of a trial and the batch of the final verdict may disagree on a margin near zero
        borderline = ~self.standing & attacked & ~success
        marks = {
            FLAT_GUIDE if self.model.guide else "zero-gradient": self.model.zero_gradient & attacked,
            **{mark: seen & attacked for mark, seen in self.model.masked.items()},
            "non-finite": self.model.nonfinite,
            "borderline": borderline,
            STOOD: self.held,
            FELL: (self.examples.stood if self.examples.stood is not None else torch.zeros_like(success)) & success,
            "invalid-proposal": self.invalid,
            "out-of-budget": self.cut & attacked & (~success | self.settings.crafting),
        }
        flags = [";".join(name for name, mark in marks.items() if mark[i]) for i in range(len(y))]
        found: dict[str, Any] = {
            "success": success.numpy(),
            "trial": self.trial.numpy(),
            "step": self.step.numpy(),
            "zero_pixels": self.model.zero_pixels.numpy(),
            **{name: norm.distance(x, self.images).numpy() for name, norm in NORMS.items()},
            "forwards": self.model.forwards.numpy(),
            "backwards": self.model.backwards.numpy(),
            "passes": passes(self.model.forwards, self.model.backwards).numpy(),
            "stages": [names_of(self.attack, run) for run in self.stages.tolist()],
            "flags": flags,
        }
        return verdict.assign(**found)
