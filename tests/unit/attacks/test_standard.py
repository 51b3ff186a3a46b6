"""The recommended worst case: linear models by hand, who takes part in a stage, batches, passes, classes."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robench import ThreatModel, registry
from robench.attack.base import Proposal
from robench.attack.judge import Examples, Settings, attack_shard
from robench.attack.step_rules import RULES
from robench.errors import BadInput
from robench_attacks import standard
from robench_attacks.stages import ANY, Ascend, AscendTo, Ask, AskOn, Stage, Walk
from robench_attacks.standing import Standing
from tests.unit.attacks.standings import Linear, distances, grey, labels, standing_of
from tests.unit.attacks.test_apgd import THREATS, digits, each_norm, robust

each_effort = pytest.mark.parametrize("effort", ["quick", "standard"])


def built(**options: Any) -> Any:
    return registry.load("attack", "standard").build(options)


def rows_of(norm: str, part: slice = slice(None), batch: int = 250, **options: Any) -> pd.DataFrame:
    model, examples = digits()
    some = Examples(examples.x[part], examples.y[part], examples.ids[part])
    return attack_shard(model, 10, built(**options), THREATS[norm], some, Settings(0, batch)).rows


class Stepped(nn.Module):
    """The same on pixels rounded to twentieths: gradients are zero everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Linear()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        answer: Tensor = self.inner((x * 20).round() / 20)
        return answer


@each_effort
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.01), ("l2", 0.04)])
def test_a_linear_model_is_broken_where_mathematics_says(norm: str, eps: float, effort: str) -> None:
    model, x = Linear(), grey()
    nearest = distances(model, x, norm).amin(1)
    expected, sure = nearest < eps, (nearest / eps - 1).abs() > 1e-3
    assert 5 < int(expected.sum()) < 35
    attack, examples = built(effort=effort), Examples(x, labels(model, x), torch.arange(40))
    rows = attack_shard(model, 5, attack, ThreatModel.of(norm, str(eps)), examples).rows
    assert (torch.tensor(rows["success"].to_numpy()) == expected)[sure].all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_classes_are_sorted_by_their_boundaries(norm: str) -> None:
    model, x = Linear(8), grey(20)
    order = distances(model, x, norm).argsort(1)[:, :7]
    standing = standing_of(model, x, norm)
    assert not torch.equal(standing.order, order)  # the likeliest are not the nearest
    standing.sort()
    assert torch.equal(standing.order, order)


def test_momentum_by_hand() -> None:
    rule = RULES["momentum"](torch.zeros(1, 1, 1, 1), ThreatModel.of("linf", "0.5"), 3)
    one = torch.ones(1, 1, 1, 1)
    first = rule.move(0 * one, one, 0.4)
    second = rule.move(first, -one, 0.2)
    assert float(first) == pytest.approx(0.4)
    assert float(second) == pytest.approx(0.4 - 0.75 * 0.2 + 0.25 * 0.4)


def test_nearness_is_what_is_left_of_the_clean_margin_or_how_far_outside_a_find_was() -> None:
    standing = standing_of(Linear(), grey(4))
    standing.margin = -standing.clean * torch.tensor([1.0, 0.3, 0.1, 0.6])
    standing.beyond = torch.tensor([torch.inf, torch.inf, torch.inf, 0.2])
    assert standing.within(0.3, -torch.inf).tolist() == [1, 2]
    assert standing.within(0.1, 0.25).tolist() == [2, 3]
    standing.rows = torch.tensor([0, 2])
    assert standing.within(0.3, 0.25).tolist() == [2]


def test_gradients_mislead_where_a_walk_ends_long_before_ascents_would() -> None:
    standing = standing_of(Linear(), grey(5))
    standing.climbed = -standing.clean * torch.tensor([0.95, 0.95, 0.4, 0.7, 1.0])
    standing.beyond = torch.tensor([0.2, 9.0, 0.2, torch.inf, torch.inf])
    assert standing.misled.tolist() == [True, False, False, False, False]
    assert standing.stuck.tolist() == [True, True, False, False, True]
    standing.margin = standing.climbed
    assert Walk("w", 0.5, also="misled").who(standing).tolist() == [0, 2]
    assert Walk("w", 0.5, also="stuck").who(standing).tolist() == [0, 1, 2, 4]
    assert AscendTo("t", trusting=True).who(standing).tolist() == [1, 2, 3, 4]


def test_where_walks_have_not_come_to_their_ends_is_near_in_any_case() -> None:
    standing = standing_of(Linear(), grey(5))
    standing.beyond = torch.tensor([0.2, 1.9, 2.1, torch.inf, 1.9])
    standing.plane = torch.tensor([0.1, 0.1, 0.1, torch.inf, -0.1])
    assert Walk("w", -torch.inf, 0.3, also="unsettled").who(standing).tolist() == [0, 2, 3, 4]
    assert Walk("w", -torch.inf, 0.3, also="aslant").who(standing).tolist() == [0, 4]
    assert Walk("w", -torch.inf, 0.3).who(standing).tolist() == [0]


@pytest.mark.parametrize(("left", "told"), [(1.0, True), (0.6, True), (0.4, False)])
def test_a_walk_that_breaks_what_ascents_were_far_from_is_told(left: float, told: bool) -> None:
    standing = standing_of(Linear(), grey(20), eps="0.01")
    standing.climbed, standing.ascended = -left * standing.clean, torch.ones(20, dtype=torch.bool)
    Walk("w").run(standing)
    broken = torch.ones(20, dtype=torch.bool).index_fill_(0, standing.rows, False)
    assert 3 < broken.sum() < 20
    marks = standing.model._classifier.masked["walks-beat-ascents"]
    assert torch.equal(marks, broken & told)


def test_walks_beat_no_ascents_that_were_not_run() -> None:
    standing = standing_of(Linear(), grey(20), eps="0.01")
    Walk("w").run(standing)
    assert len(standing.rows) < 17
    assert not standing.model._classifier.masked["walks-beat-ascents"].any()


class Flat(nn.Module):
    """A linear model whose margins saturate but for a narrow band at the boundary: gradients elsewhere say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Linear()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.inner(x)
        first, second = logits.topk(2, dim=1).values.unbind(1)
        lead = torch.tanh(20 * (first - second))[:, None]
        return torch.where(logits == first[:, None], lead, -lead) + 1e-3 * logits


@pytest.mark.parametrize("effort", ["quick", "standard"])
def test_saturated_margins_hide_nothing(effort: str) -> None:
    flat, x, threat = Flat(), grey(), ThreatModel.of("linf", "0.01")
    y = labels(flat, x)
    found = attack_shard(flat, 5, built(effort=effort), threat, Examples(x, y, torch.arange(40))).rows
    plain = attack_shard(flat.inner, 5, built(), threat, Examples(x, y, torch.arange(40))).rows
    assert 5 < plain["success"].sum() < 40
    assert (found["success"] == plain["success"]).mean() >= 0.95


def test_what_is_better_is_kept_and_who_is_broken_leaves() -> None:
    model, x = Linear(), grey(6)
    standing = standing_of(model, x)
    y, rows = standing.batch.y, torch.tensor([1, 4])
    away = 1 - x[rows]  # the other side of grey: every order is turned round
    none = torch.full_like(rows, -1)
    standing.take(rows, Proposal(x[rows], none))  # no better than what is known
    assert torch.equal(standing.x, x)
    standing.take(rows, Proposal(away, none))
    assert (labels(model, standing.x) != y).nonzero()[:, 0].tolist() == [1, 4]
    assert standing.rows.tolist() == [0, 2, 3, 5]


def test_copies_share_a_row_and_the_best_is_kept() -> None:
    model, x = Linear(), grey(3)
    standing, rows = standing_of(model, x), torch.tensor([0, 2])
    worse, better = x[rows], 1 - x[rows]
    both = torch.stack([worse, better], 1).flatten(0, 1)
    standing.take(rows, Proposal(both, torch.tensor([-1, 3, -1, 5])), copies=2)
    assert torch.equal(standing.x[rows], better)
    assert standing.step.tolist() == [3, -1, 5]
    assert standing.rows.tolist() == [1]


@each_norm
@each_effort
def test_rows_do_not_hang_on_batches_or_shards(norm: str, effort: str) -> None:
    """Other work in a batch changes an image's last bits, not its verdict, its stages or its passes."""
    same, some = ["success", "stages", "passes", "trial"], slice(0, 40)
    whole = rows_of(norm, some, effort=effort)
    assert whole["stages"].nunique() > 2
    found = rows_of(norm, some, batch=15, effort=effort)
    assert int((found[same] != whole[same]).any(axis=1).sum()) <= 1
    assert found["success"].equals(whole["success"])
    parts = pd.concat([rows_of(norm, part, effort=effort) for part in (slice(0, 15), slice(15, 40))])
    assert parts["success"].tolist() == whole["success"].tolist()
    assert (parts["passes"].to_numpy() != whole["passes"].to_numpy()).sum() <= 1


@each_norm
def test_it_finds_what_apgd_and_fab_find_for_less(norm: str) -> None:
    model, examples = digits()
    peers = [
        attack_shard(model, 10, registry.load("attack", name).build({}), THREATS[norm], examples).rows
        for name in ("apgd-t", "fab-t")
    ]
    ours = rows_of(norm)
    left = (~(peers[0]["success"] | peers[1]["success"]) & peers[0]["clean_correct"]).mean()
    assert robust(ours) <= left
    assert ours["passes"].sum() < 0.6 * sum(rows["passes"].sum() for rows in peers)


def test_thorough_goes_on_with_whole_attacks_and_costs_what_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(
        replace(stage, plugin=registry.load("attack", stage.name).build(options))
        for stage, options in zip(
            built(effort="thorough").plan("linf")[-5:],
            ({"steps": 3}, {"steps": 3, "targets": 2}, {"steps": 2, "targets": 2}, {"queries": 7}, {"steps": 2}),
            strict=True,
        )
    )
    monkeypatch.setattr(standard.Standard, "plan", lambda self, norm: few)
    attack, model, x = built(effort="thorough"), Linear(), grey(6)
    threat = ThreatModel.of("linf", "0.00001")
    rows = attack_shard(model, 5, attack, threat, Examples(x, labels(model, x), torch.arange(6))).rows
    assert set(rows["stages"]) == {"apgd-ce;apgd-t;fab-t;square;multi-targeted"}
    assert not rows["success"].any()
    assert set(rows["backwards"]) == {3 + 2 * 3 + 2 * 2 + 4 * 2}
    assert set(rows["passes"]) == {attack.passes(threat, 5).spent}


def test_efforts_ascend() -> None:
    threat = ThreatModel.of("l2", "0.5")
    costs = [built(effort=effort).passes(threat, 10).spent for effort in ("quick", "standard", "thorough")]
    assert costs == sorted(costs)
    assert costs[0] < costs[2] / 10
    names = [stage.name for stage in built(effort="thorough").plan("l2")]
    assert names[-5:] == ["apgd-ce", "apgd-t", "fab-t", "square", "multi-targeted"]


@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000])
def test_passes_are_bounded_for_any_number_of_classes_by_targets_and_not_by_classes(classes: int) -> None:
    model, x = Linear(classes), grey(6)
    threat, attack = ThreatModel.of("linf", "0.0001"), built(targets=3)
    rows = attack_shard(model, classes, attack, threat, Examples(x, labels(model, x), torch.arange(6))).rows
    left = rows[~rows["success"]]
    assert len(left)
    cost = attack.passes(threat, classes)
    assert (left["backwards"] <= cost.backwards).all()
    targets = min(3, classes - 1)
    # far from everything: an ascent, what orders the classes, the targets, the queries, and two walks with three finds
    # halved back and the ascent from the walk's end
    assert left["backwards"].min() == 10 + targets + 4 * targets + 2 * (9 + 3 + 12)
    walk = 9 * 3 + 3 * (4 + 3) + 1 + 12 * 3 + 1
    assert left["passes"].min() == 1 + 31 + 3 * targets + targets * (3 * 4 + 1) + 101 + 2 * walk


def test_what_queries_alone_come_near_to_is_asked_on_and_told() -> None:
    model, x = Stepped(), grey()
    examples, threat = Examples(x, labels(model, x), torch.arange(len(x))), ThreatModel.of("linf", "0.1")
    rows = attack_shard(model, 5, built(), threat, examples).rows
    told = rows["flags"].str.contains("queries-beat-gradients")
    left = rows[~rows["success"]]
    assert rows["success"].mean() > 0.8
    assert told.sum() > 10
    assert (rows["stages"].str.contains("witness") & told).sum() == told.sum()
    assert left["stages"].str.contains("queries")[told[left.index]].all()


def test_gradients_that_are_right_are_not_told_of() -> None:
    rows = rows_of("linf")
    assert not rows["flags"].str.contains("queries-beat-gradients|walks-beat-ascents").any()


class Noisy(nn.Module):
    """A linear model whose answers change from call to call, right on the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Linear()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        answer: Tensor = self.inner(x)
        return answer + 0.3 * torch.randn_like(answer)


def test_one_lucky_draw_of_a_random_model_ends_nothing() -> None:
    model, x, threat = Noisy(), grey(), ThreatModel.of("linf", "0.05")
    y, attack = labels(model.inner, x), built(effort="quick")
    found = attack_shard(model, 5, attack, threat, Examples(x, y, torch.arange(40)))
    calm = attack_shard(model.inner, 5, attack, threat, Examples(x, y, torch.arange(40))).rows
    assert "randomised" in found.flags
    wrong = labels(model.inner, found.images) != y
    tried = torch.tensor((calm["success"] & found.rows["clean_correct"]).to_numpy())
    assert tried.sum() > 10
    assert wrong[tried].float().mean() > 0.9  # by its mean answer, not by a draw
    assert set(found.rows["stages"][found.rows["clean_correct"]].str.contains("targets")) == {True}


STAGES = [
    Ascend("a", corners=3),
    AscendTo("b", most=2),
    Walk("c", to=(ANY, 1), first=1),
    Walk("f", steps=5, sort=False, onward=3),
    Walk("h", steps=5, to=(0, 1), sort=False, onward=3, probe=2),
    Ask("d", queries=9),
    AskOn("e", queries=9),
    AskOn("g", queries=9, first=90),
]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_stage_costs_no_more_than_it_says_and_all_of_it_where_an_image_stands(stage: Any, norm: str) -> None:
    standing = standing_of(Linear(), grey(5), norm, "0.0001", targets=3)
    standing.sort()
    model = standing.model._classifier
    before = model.spent.clone()
    assert stage.run(standing).tolist() == [0, 1, 2, 3, 4]
    cost = stage.cost(ThreatModel.of(norm, "0.0001"), 5, 3)
    spent = (model.spent - before)[standing.rows]
    assert set(spent.tolist()) == {cost.spent}


def test_queries_go_on_for_what_they_bring_nearer_and_for_nothing_else() -> None:
    model, x, threat = Linear(), grey(6), ThreatModel.of("linf", "0.0001")
    standing = standing_of(model, x, "linf", "0.0001")
    top = model(x).topk(2, dim=1).indices
    way = model.weight.detach()[top[:, 1]] - model.weight.detach()[top[:, 0]]
    corner = threat.project(x, x + 0.0001 * way.sign().reshape(x.shape))  # nothing within eps is nearer
    standing.take(torch.arange(3), Proposal(corner[:3], torch.zeros(3, dtype=torch.int64)))
    asked = standing.model._classifier
    before, stage = asked.spent.clone(), AskOn("on", queries=9, first=40)
    stage.run(standing)
    spent, whole = asked.spent - before, stage.cost(threat, 5, 9).spent
    assert spent[:3].tolist() == [41] * 3  # nothing was kept, so nothing was asked ahead for nothing
    assert (spent[3:] > 41 + 9).all()
    assert (spent[3:] <= whole).all()


@pytest.mark.parametrize(
    ("stage", "gain", "further"),
    [
        (AskOn("on", queries=9, first=40), 1e-6, False),  # another batch answers so
        (AskOn("on", queries=9, first=40), 1e-3, True),
        (AskOn("on", queries=9, first=40, worth=0.01), 1e-3, False),
        (AskOn("on", queries=9, first=40, worth=0.01), 0.02, True),
    ],
)
def test_queries_go_on_where_the_first_took_enough_of_what_was_left(
    monkeypatch: pytest.MonkeyPatch, stage: AskOn, gain: float, further: bool
) -> None:
    standing, asked = standing_of(Linear(), grey(3)), []

    def ask(self: AskOn, standing: Standing, rows: Tensor, queries: int) -> None:
        del self
        asked.append((queries, rows.tolist()))
        standing.margin[1:] -= gain * standing.margin[1:]

    monkeypatch.setattr(AskOn, "_ask", ask)
    stage.run(standing)
    assert asked == [(40, [0, 1, 2]), *([(9, [1, 2])] if further else [])]


@pytest.mark.parametrize("options", [{"effort": "all"}, {"targets": 0}])
def test_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        built(**options)


def told(stage: Stage) -> str:
    """A stage and all of its values."""
    return f"{type(stage).__name__} {[(each.name, getattr(stage, each.name)) for each in fields(stage)]}"


# a plan that is changed raises the edition of its efforts, and what stands here
@pytest.mark.parametrize(("effort", "norm", "edition", "plan"), [
    ("quick", "linf", 10, "c02b506d"), ("quick", "l2", 10, "711b9c28"),
    ("standard", "linf", 10, "1919c35f"), ("standard", "l2", 10, "5790c65c"),
])  # fmt: skip
def test_editions_stand_for_plans(effort: str, norm: str, edition: int, plan: str) -> None:
    attack = built(effort=effort)
    stages = "; ".join(map(told, attack.plan(norm)))
    assert (attack.edition, hashlib.sha256(stages.encode()).hexdigest()[:8]) == (edition, plan)


def test_thorough_is_standard_and_more() -> None:
    usual, more = built(), built(effort="thorough")
    assert more.edition == usual.edition
    for norm in usual.norms:
        assert more.plan(norm)[:-5] == usual.plan(norm)
