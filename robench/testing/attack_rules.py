"""Rules for attacks: what they propose, what it costs, and that nothing else is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from robench.attack.base import Attack, Batch, Proposal, Trials
from robench.attack.classifier import Classifier
from robench.attack.judge import Examples, Settings, attack_shard
from robench.data.dataset import DataInfo
from robench.testing.option_rules import OPTION_RULES
from robench.testing.rules import REPEATED, Rule, Subject, described, expect, expect_close
from robench.testing.samples import COLOUR, GREY, FirmModel, SmallModel, random_images
from robench.threat import ThreatModel

COUNT = 5
# an eps at which a few images break, and one that reaches the whole box of 8x8 pixels; other norms as L2 and L1
USUAL = {"linf": "0.1"}
WHOLE = {"linf": "1", "l2": "8"}


@dataclass(frozen=True)
class Asked:
    """An attack asked once for all of its trials: what it was given, a copy from before, and what it answered."""

    given: Batch
    before: Batch
    plan: Trials
    answer: object
    module: SmallModel

    @property
    def where(self) -> str:
        """The case in words."""
        return f"for images {list(self.before.x.shape)} under {self.before.threat}"

    @property
    def images(self) -> Tensor:
        """The proposed images; raises Broken where there are none."""
        images = self.answer.x if isinstance(self.answer, Proposal) else self.answer
        expect(isinstance(images, Tensor), f"it proposed {described(images)} {self.where}")
        assert isinstance(images, Tensor)
        return images.detach()


def planned(attack: Attack, data: DataInfo, count: int = COUNT, seed: int = 0) -> Trials:
    """Ask for the trials of random images, as the judge does."""
    x, y = random_images(data, count)
    classifier = Classifier(SmallModel.of(data), data.classes, count)
    return attack.trials(y, classifier.logits(x), torch.arange(100, 100 + count), seed)


def ask(attack: Attack, threat: ThreatModel, data: DataInfo, count: int = COUNT, seed: int = 0) -> Asked:
    """Ask for proposals for random images, as the judge does."""
    x, y = random_images(data, count)
    ids, module = torch.arange(100, 100 + count), SmallModel.of(data)
    classifier, plan = Classifier(module, data.classes, count), planned(attack, data, count, seed)
    rows = torch.arange(count).repeat_interleave(len(plan))
    given = Batch(x[rows], y[rows], plan.goal.flatten(), ids[rows], plan.key.flatten(), rows, threat, seed)
    before = replace(given, **{name: getattr(given, name).clone() for name in TENSORS})
    return Asked(given, before, plan, attack.perturb(classifier.rows(rows), given), module)


TENSORS = ("x", "y", "goal", "example_id", "trial", "group")


def _cases(attack: Attack) -> Iterator[tuple[ThreatModel, DataInfo]]:
    """Every norm the attack supports, on grey and on coloured images."""
    for norm in attack.norms:
        for data in (GREY, COLOUR):
            yield ThreatModel.of(norm, USUAL.get(norm, "1")), data


def _asked(subject: Subject) -> Iterator[Asked]:
    attack = subject.build()
    for threat, data in _cases(attack):
        yield ask(attack, threat, data)


def built(subject: Subject) -> None:
    """The constructor makes a robench.Attack from its options."""
    attack = subject.build()
    expect(isinstance(attack, Attack), f"it made {described(attack)}")


def norms(subject: Subject) -> None:
    """It supports one norm or several, each by a name that a threat model knows."""
    names = subject.build().norms
    expect(not isinstance(names, str) and len(names) > 0, f"norms is {names!r}")
    for name in names:
        expect(ThreatModel.of(name, USUAL.get(name, "1")).norm == name, f"norms is {names!r}, with {name!r} misspelt")


def trials(subject: Subject) -> None:
    """Its plan has a key and a goal for every trial: keys differ, a goal is another class than the label or -1."""
    attack = subject.build()
    for data in (GREY, COLOUR):
        plan, count, classes = planned(attack, data), COUNT, data.classes
        y = random_images(data, count)[1]
        shapes = f"key {described(plan.key)} and goal {described(plan.goal)} for {count} images"
        expect(plan.key.shape == plan.goal.shape == (count, len(plan)) and len(plan) > 0, shapes)
        repeated = any(len(set(keys)) < len(plan) for keys in plan.key.tolist())
        expect(not repeated, "two trials of an image have one key, so they share their noise")
        fit = (plan.goal >= -1) & (plan.goal < classes) & (plan.goal != y[:, None])
        expect(fit.all(), f"goals {plan.goal[~fit].tolist()} with {classes} classes")


def shape(subject: Subject) -> None:
    """Proposals are float32 [B, C, H, W], one image for each it was given; a Proposal's step and stages are [B]."""
    for asked in _asked(subject):
        images, rows = asked.images, asked.before.x
        expect(
            images.shape == rows.shape and images.dtype == torch.float32,
            f"it proposed {described(images)} {asked.where}",
        )
        if isinstance(asked.answer, Proposal):
            step = asked.answer.step
            expect(step.shape == (len(rows),), f"the proposal's step is {described(step)} {asked.where}")
            stages = asked.answer.stages
            fit = stages is None or (stages.shape == (len(rows),) and stages.dtype == torch.int64)
            expect(fit, f"the proposal's stages are {described(stages)} {asked.where}")


def finite_pixels(subject: Subject) -> None:
    """No proposed pixel is NaN or infinite."""
    for asked in _asked(subject):
        bad = int((~asked.images.isfinite()).flatten(1).any(1).sum())
        expect(not bad, f"{bad} of {len(asked.images)} proposals are not finite {asked.where}")


def input_unchanged(subject: Subject) -> None:
    """The batch it is given stays as it was."""
    for asked in _asked(subject):
        for name in TENSORS:
            same = torch.equal(getattr(asked.before, name), getattr(asked.given, name))
            expect(same, f"batch.{name} was changed {asked.where}")


def model_unchanged(subject: Subject) -> None:
    """The model keeps its parameters, its modes and its hooks."""
    for asked in _asked(subject):
        module, (_, channels, side, _) = asked.module, asked.before.x.shape
        fresh = SmallModel(channels, module.classes, side).state_dict()
        moved = [name for name, value in module.state_dict().items() if not torch.equal(value, fresh[name])]
        expect(not moved, f"{', '.join(moved)} moved {asked.where}")
        training = any(each.training for each in module.modules())
        expect(not training, f"a part of the model is in train mode {asked.where}")
        thawed = any(p.requires_grad or p.grad is not None for p in module.parameters())
        expect(not thawed, f"a parameter was given a gradient {asked.where}")
        hooked = any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())
        expect(not hooked, f"a hook was left on the model {asked.where}")


def same_seed_same_proposals(subject: Subject) -> None:
    """The same seed brings the same proposals, whatever global random generators have done meanwhile."""
    attack = subject.build()
    for threat, data in _cases(attack):
        first = ask(attack, threat, data, seed=3).images
        torch.rand(7), np.random.random(7)  # noqa: NPY002 - the global one is what an author may have used
        again = ask(attack, threat, data, seed=3).images
        expect_close(first, again, REPEATED, f"two calls with one seed differ under {threat}")
        other = ask(attack, threat, data, seed=4).images
        expect(other.shape == first.shape, f"another seed brings {described(other)} for {described(first)}")


def rebuilt_from_its_record(subject: Subject) -> None:
    """An attack built from the options that were recorded proposes the same."""
    attack = subject.build()
    again = subject.plugin.build(json.loads(json.dumps(subject.options)))
    for threat, data in _cases(attack):
        one, two = (ask(each, threat, data).images for each in (attack, again))
        expect_close(one, two, REPEATED, f"the two propose different images under {threat}")


def no_perturbation_at_eps_0(subject: Subject) -> None:
    """At eps 0 it works as ever, and nothing but the images is left after the projection."""
    attack = subject.build()
    for norm in attack.norms:
        threat = ThreatModel.of(norm, "0")
        asked = ask(attack, threat, GREY)
        finite = bool(asked.images.isfinite().all())
        expect(finite, f"proposals are not finite {asked.where}")
        left = threat.project(asked.before.x, asked.images)
        expect(torch.equal(left, asked.before.x), f"the projection leaves another image {asked.where}")


def inside_the_threat_model(subject: Subject) -> None:
    """Once projected by the harness, every proposal is within eps and in [0, 1]."""
    for asked in _asked(subject):
        threat, x = asked.before.threat, asked.before.x
        outside = int((~threat.contains(x, threat.project(x, asked.images))).sum())
        expect(not outside, f"{outside} of {len(x)} projected proposals lie outside {asked.where}")


def batch_of_one(subject: Subject) -> None:
    """It works on a single image, and with two classes."""
    attack = subject.build()
    for threat, _ in _cases(attack):
        asked = ask(attack, threat, replace(COLOUR, classes=2), count=1)
        expect(asked.images.shape == asked.before.x.shape, f"it proposed {described(asked.images)} {asked.where}")


def judged(subject: Subject) -> None:
    """Under the judge it gets through: at a usual eps, at one as large as the box, and with no image left to attack."""
    attack, data = subject.build(), replace(GREY, classes=3)
    x, _ = random_images(data, COUNT)
    right = SmallModel.of(data)(x).argmax(1)
    for norm in attack.norms:
        for eps in (USUAL.get(norm, "1"), WHOLE.get(norm, "64")):
            threat = ThreatModel.of(norm, eps)
            for y in (right, torch.where(torch.arange(COUNT) == 0, (right + 1) % 3, right), (right + 1) % 3):
                examples = Examples(x, y, torch.arange(COUNT))
                shard = attack_shard(SmallModel.of(data), 3, attack, threat, examples, Settings(seed=1, batch_size=4))
                expect(threat.contains(x, shard.images).all(), f"an image lies outside under {threat}")
                invalid = int(shard.rows["flags"].str.contains("invalid-proposal").sum())
                expect(not invalid, f"{invalid} of {COUNT} images were invalid proposals under {threat}")


def cost(subject: Subject) -> None:
    """It takes no more backward and forward passes than `passes` states, where it states them."""
    for stated, made, case in _counted(subject.build()):
        for kind, most, found in zip(("backward", "forward"), stated, made, strict=True):
            enough = most is None or found <= COUNT * most
            expect(enough, f"{kind} passes: it states at most {most} per image and made {found} for {COUNT} {case}")


def access(subject: Subject) -> None:
    """Of kind "query" it makes no backward pass, and of access "noise" no pass at all."""
    attack = subject.build()
    for _, (backwards, forwards), case in _counted(attack):
        expect(
            attack.kind != "query" or not backwards, f"its kind is query and it made {backwards} backward passes {case}"
        )
        silent = attack.access != "noise" or not backwards + forwards
        expect(silent, f"its access is noise and it made {backwards} backward and {forwards} forward passes {case}")


def _counted(attack: Attack) -> Iterator[tuple[tuple[int | None, int | None], tuple[int, int], str]]:
    """Passes stated per image and made for all, backward and forward, on models that are hard and easy to break.

    Sums, since an image of a library's attack that strays may be charged to its neighbour.
    """
    for model in (FirmModel, SmallModel):
        for norm in attack.norms:
            for classes in (2, GREY.classes):
                module, threat = model(1, classes), ThreatModel.of(norm, USUAL.get(norm, "1"))
                x, _ = random_images(GREY, COUNT)
                stated, examples = attack.cost(threat, classes), Examples(x, module(x).argmax(1), torch.arange(COUNT))
                rows = attack_shard(module, classes, attack, threat, examples).rows
                made = int(rows["backwards"].sum()), int(rows["forwards"].sum())
                yield (stated.backwards, stated.forwards), made, f"under {threat} with {classes} classes"


ATTACK_RULES = (
    Rule(built, founding=True),
    *OPTION_RULES,
    Rule(norms, founding=True),
    Rule(trials, founding=True),
    Rule(shape, founding=True),
    Rule(finite_pixels, founding=True),
    *map(Rule, (
        input_unchanged, model_unchanged, same_seed_same_proposals, rebuilt_from_its_record,
        no_perturbation_at_eps_0, inside_the_threat_model, batch_of_one, judged, cost, access,
    )),
)  # fmt: skip
