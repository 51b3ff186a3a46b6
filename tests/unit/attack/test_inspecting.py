"""How answers are compared, whatever is added to them or however they are scaled; and what is asked of found images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robench import BadInput
from robench.attack.inspection import extreme, firm_from, firm_margin, lead, median_spread, same, squashed
from robench.attack.objectives import FIRM
from tests import liars
from tests.unit.attack.test_liars import SMALL, attacked, robust


def answers(rows: int = 50, classes: int = 10, scale: float = 5.0) -> Tensor:
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("classes", [3, 4, 10, 100])
def test_the_spread_is_the_median_gap_whatever_is_added(classes: int) -> None:
    logits = answers(classes=classes).round(decimals=2)
    gaps = (logits.amax(1, keepdim=True) - logits).sort(1).values
    own = gaps[:, min((classes + 1) // 2, classes - 1)]
    torch.testing.assert_close(median_spread(logits), torch.maximum(own, own.median() / 10))
    torch.testing.assert_close(median_spread(logits + 3e4), median_spread(logits), rtol=0, atol=0.01)
    torch.testing.assert_close(median_spread(logits * 1e4), median_spread(logits) * 1e4)


def test_the_spread_of_two_classes_does_not_vanish_at_a_tie() -> None:
    logits = torch.tensor([[3.0, 0.0], [0.0, 4.0], [1.0, 1.0]])
    assert median_spread(logits).tolist() == pytest.approx([3.0, 4.0, 0.3])
    assert median_spread(torch.tensor([[torch.inf, 0.0, 1.0]])).tolist() == [0.0]


@pytest.mark.parametrize("offset", [0.0, 3e4, -3e4])
@pytest.mark.parametrize("factor", [1.0, 1e4, 1e-4])
def test_another_answer_is_seen_at_any_offset_and_scale(offset: float, factor: float) -> None:
    logits = answers() * factor
    other = logits.clone()
    place = torch.arange(len(logits))
    other[place, logits.argmax(1)] -= 1.01 * (logits.amax(1) - logits.topk(2, dim=1).values[:, 1])  # another class wins
    shift = offset * max(factor, 1.0)
    assert same(logits + shift, logits + shift)
    if shift == 0 or factor > 1e-4:  # beside an offset of 3e4, a millionth of it is rounded away
        assert not same(logits + shift, other + shift)


def test_rounding_is_no_other_answer() -> None:
    """An honest model behind an offset loses digits, differently in every batch size."""
    logits = answers()
    noise = 2.0**-10 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)  # ulp: 2^-9
    assert same(logits + 3e4, logits + noise + 3e4)
    assert same(logits, logits * (1 + 1e-5))
    assert not same(logits, torch.full_like(logits, torch.nan))


def test_an_offset_is_no_scale_of_margins() -> None:
    logits = answers()
    logits[:, :2] = 20.0
    logits[:, 0] += 0.1
    margin = torch.full((len(logits),), 0.1)
    assert firm_margin(margin, logits).all()
    assert firm_margin(margin, logits + 3e4).all()  # as 0.3 is a hundred-thousandth of the offset, it once was not
    tiny = margin * 0.001
    assert torch.equal(firm_margin(tiny, logits), tiny > FIRM * logits.abs().amax(1))
    assert not firm_margin(tiny, logits + 3e4).any()  # less than float32 can tell there
    assert firm_margin(torch.tensor([0.5, 0.1]), torch.tensor([[3e4, 3e4 + 0.5], [3e4 + 0.1, 3e4]])).all()


def test_margins_are_firm_from_a_share_of_the_largest_logit() -> None:
    logits = torch.tensor([[3.0, -8.0, 1.0], [0.0, 0.5, 2.0], [torch.nan, 1.0, 0.0], [torch.inf, 1.0, 0.0]])
    assert firm_from(logits)[:2].tolist() == pytest.approx([8 * FIRM, 2 * FIRM])
    assert firm_from(logits)[2:].isfinite().all()
    margin = torch.tensor([8.1 * FIRM, 1.9 * FIRM])
    assert firm_margin(margin, logits[:2]).tolist() == [True, False]
    assert firm_from(torch.zeros(0, 10)).shape == (0,)
    assert firm_from(torch.tensor([[torch.inf, torch.inf, torch.inf, 1.0]])).tolist() == [0.0]


def test_what_no_comparison_sees_is_flagged() -> None:
    logits = answers()
    usual = lead(logits)
    for fine in (logits, logits + 3e4, logits - 100):
        assert not extreme(fine, usual)
    far = logits.clone()
    far[:, 4:] -= 1e9
    for bad in (logits + 1e7, far):
        assert extreme(bad, usual)
    assert not extreme(logits * 1e4, lead(logits * 1e4))


def test_squashed_answers_are_known_by_their_ends() -> None:
    logits = answers(scale=4.0)
    logits[torch.arange(50), torch.arange(50) % 10] += 15
    for answer in (logits.sigmoid(), logits.sigmoid() * 1e4, logits.tanh(), logits.softmax(1) * 10 + 3e4):
        assert squashed(answer)
    for answer in (logits, answers(), answers() * 1e-4, logits.relu(), logits.log_softmax(1), logits * 1e4 + 3e4):
        assert not squashed(answer)


@pytest.mark.parametrize("attack", ["pgd", "fgsm", "square", "apgd-ce"])
def test_a_sigmoid_at_the_end_hides_nothing(attack: str) -> None:
    """The search sees through it, and the figure says that it was there."""
    steep = liars.Wrapped(lambda x, logits: 6 * logits)
    shard = attacked(liars.Wrapped(lambda x, logits: (6 * logits).sigmoid()), attack, eps=SMALL)
    assert "squashed-outputs" in shard.flags
    assert int(robust(shard).sum()) <= int(robust(attacked(steep, attack, eps=SMALL)).sum()) < 18


@pytest.mark.parametrize(("factor", "offset"), [(1e4, 0.0), (1e-4, 0.0), (100.0, 7.0)])
def test_scaled_probabilities_are_found_too(factor: float, offset: float) -> None:
    def liar(x: Tensor, logits: Tensor) -> Tensor:
        return factor * (40 * logits).softmax(1) + offset

    assert "squashed-outputs" in attacked(liars.Wrapped(liar), eps=SMALL).flags


@pytest.mark.parametrize("offset", [3e4, -3e4])
@pytest.mark.parametrize("attack", ["pgd", "untargeted", "min-fgsm", "apgd-t", "library:apgd-t"])
def test_an_offset_changes_no_figure_of_an_honest_model(attack: str, offset: float) -> None:
    def clearly(x: Tensor, logits: Tensor) -> Tensor:
        return 20 * logits

    honest = attacked(liars.Wrapped(clearly), attack, eps=SMALL)
    shifted = attacked(liars.Wrapped(lambda x, logits: 20 * logits + offset), attack, eps=SMALL)
    assert honest.flags == ()
    assert set(shifted.flags) <= {"unchecked-gradients"}  # the offset hides small changes
    assert abs(int(robust(shifted).sum()) - int(robust(honest).sum())) <= 1  # whose margin is below the rounding


class Company(nn.Module):
    """Honest on grey levels of a file; any other image takes the class of its neighbour, if it has one."""

    def __init__(self) -> None:
        super().__init__()
        self.honest = liars.Linear()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.honest(x)
        between = ((x * 255 - (x * 255).round()).abs() > 1e-2).flatten(1).any(1)
        return torch.where(between[:, None], logits.roll(1, 0), logits)


def test_found_images_are_asked_about_without_company() -> None:
    assert "batch-dependent" in attacked(Company(), eps=SMALL).flags


class Votes(nn.Module):
    """The majority of votes over noise, the same twice for an image that is far from a boundary."""

    def __init__(self) -> None:
        super().__init__()
        self.honest = liars.Linear()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.honest(x)
        noisy = logits[:, None] + 0.02 * torch.randn(len(x), 101, logits.shape[1])
        votes: Tensor = nn.functional.one_hot(noisy.argmax(2), logits.shape[1]).float().mean(1)
        return 10 * votes + 0 * logits


@pytest.mark.parametrize("attack", ["square", "pgd"])
def test_votes_over_noise_are_randomised(attack: str) -> None:
    shard = attacked(Votes(), attack, eps=SMALL)
    assert "randomised" in shard.flags
    assert "changes-its-answers" not in shard.flags
    assert not any(flag.startswith("changes-global-state") for flag in shard.flags)


def test_a_model_found_out_late_is_attacked_as_a_random_one() -> None:
    """Its draws are averaged, as those of a model that shows on clean images that it is random."""
    seen: list[bool] = []

    class Late(liars.Linear):
        """Adds noise to images that are between the grey levels of a file."""

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.requires_grad)
            between = ((x * 255 - (x * 255).round()).abs() > 1e-2).flatten(1).any(1)
            return super().forward(x) + 0.3 * between[:, None] * torch.randn(len(x), liars.CLASSES)

    assert "randomised" in attacked(Late(), eps=SMALL).flags
    assert seen.count(True) > 2 * 40, "two batches of forty steps are one attack; it was not run again"


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_an_attack_that_moves_nothing_says_so(attack: str) -> None:
    flagged = "moved-nothing" in attacked(liars.detached(), attack).flags
    assert flagged == (attack == "fgsm")  # pgd starts at a random point
    assert "moved-nothing" not in attacked(liars.detached(), attack, eps=0.0).flags


def test_an_attribute_makes_no_detector() -> None:
    class Claims(liars.Linear):
        rejects = True

    shard, honest = attacked(Claims(), eps=SMALL), attacked(liars.Linear(), eps=SMALL)
    assert shard.rows.equals(honest.rows)

    class Wider(Claims):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return torch.cat([logits, logits.amax(1, keepdim=True) + 1], dim=1)

    with pytest.raises(BadInput, match="returned shape"):
        attacked(Wider(), eps=SMALL)
