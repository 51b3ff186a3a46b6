"""The ER-Classifier's losses written out in float64, its priors, and training with three optimizers."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from robench import BadInput, registry
from robench.data.dataset import DataInfo, open_dataset
from robench.defense.base import Defense
from robench.defense.recipe import Recipe
from robench.training.fit import Fit, _Watch, fit
from robench_defenses import er_classifier, er_networks
from tests.same import assert_same_weights

CLOSE = {"rtol": 1e-6, "atol": 1e-6}
INFO = DataInfo("x", 1, 8, 8, 10, (0.5,), (0.25,), "digits")
GAMES = ["wgan_logsig", "bce"]


def built(name="er-classifier", data=INFO, **options):
    torch.manual_seed(0)
    return registry.load("defense", name).build({"encoder": "mlp-16", "critic_width": 8, **options}, data)


def images(count=12, data=INFO):
    noise = torch.Generator().manual_seed(3)
    return torch.rand(count, *data.shape, generator=noise), torch.randint(data.classes, (count,), generator=noise)


# --- the losses, with plain loops ------------------------------------------------------------------------------------


def by_hand(critic, codes):
    """sig of the critic's score of every code, layer by layer."""
    answers = []
    for row in codes.double().numpy():
        h = row
        layers = [m for m in critic if isinstance(m, nn.Linear)]
        for i, layer in enumerate(layers):
            h = layer.weight.detach().double().numpy() @ h + layer.bias.detach().double().numpy()
            h = np.maximum(h, 0) if i + 1 < len(layers) else h
        answers.append(1 / (1 + math.exp(-h[0])))
    return answers


def mean(values):
    values = list(values)
    return sum(values) / len(values)


@pytest.mark.parametrize("game", GAMES)
def test_losses_against_loops(game):
    critic = built().critic.double()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(3)  # scores away from zero
    noise = torch.Generator().manual_seed(1)
    prior, code = (3 * torch.randn(20, 4, generator=noise, dtype=torch.float64) + shift for shift in (0, 5))
    real, fake = by_hand(critic, prior), by_hand(critic, code)
    if game == "wgan_logsig":
        for_critic = mean(math.log(p) for p in real) - mean(math.log(q) for q in fake)
        for_encoder = mean(math.log(q) for q in fake)
    else:
        for_critic = mean(-math.log(p) for p in real) + mean(-math.log(1 - q) for q in fake)
        for_encoder = mean(-math.log(q) for q in fake)
    assert er_classifier.critic_loss(game, critic(prior), critic(code)).item() == pytest.approx(for_critic, **approx())
    assert er_classifier.encoder_loss(game, critic(code)).item() == pytest.approx(for_encoder, **approx())


def approx():
    return {"rel": 1e-6, "abs": 1e-6}


@pytest.mark.parametrize("game", GAMES)
def test_the_two_sides_pull_against_each_other(game):
    """What lowers the critic's loss raises the encoder's."""
    score = torch.zeros(5, 1, dtype=torch.float64, requires_grad=True)
    for_critic = torch.autograd.grad(er_classifier.critic_loss(game, torch.zeros_like(score), score), score)[0]
    for_encoder = torch.autograd.grad(er_classifier.encoder_loss(game, score), score)[0]
    assert (for_critic * for_encoder < 0).all()


def test_terms_are_cross_entropy_and_the_weighted_score():
    defense, (x, y) = built(weight=0.7).double().eval(), images()
    x = x.double()
    terms = defense.loss(x, y)
    logits = defense(x).detach().numpy()
    cross_entropy = mean(math.log(sum(math.exp(v) for v in row)) - row[k] for row, k in zip(logits, y, strict=True))
    pull = 0.7 * mean(math.log(q) for q in by_hand(defense.critic, defense.embed(x).detach()))
    assert terms["cross_entropy"].item() == pytest.approx(cross_entropy, **approx())
    assert terms["regularisation"].item() == pytest.approx(pull, **approx())
    assert terms["total"].item() == pytest.approx(cross_entropy + pull, **approx())


def test_adversarial_terms_take_both_views():
    defense, (x, y) = built("er-classifier-adv", steps=3, eps=0.1, weight=0.5).eval(), images()
    torch.manual_seed(4)
    views = defense._views(x)
    assert len(views) == 2
    assert 0.05 < float((views[1] - x).abs().max()) <= 0.1 + 1e-6
    torch.manual_seed(4)
    terms = defense.loss(x, y)
    codes = [defense.embed(view) for view in views]
    cross_entropy = mean(nn.functional.cross_entropy(defense.classifier(code), y).item() for code in codes)
    pull = 0.5 * sum(mean(math.log(q) for q in by_hand(defense.critic, code.detach())) for code in codes)
    assert terms["cross_entropy"].item() == pytest.approx(cross_entropy, rel=1e-5)
    assert terms["regularisation"].item() == pytest.approx(pull, rel=1e-5)


def test_inner_attack_leaves_the_model_as_it_was_and_follows_its_predictions():
    defense, (x, _) = built("er-classifier-adv", steps=5, eps=0.2).train(), images(40)
    before = {k: v.clone() for k, v in defense.state_dict().items()}
    moved = defense._views(x)[1]
    assert all(part.training for part in defense.modules())
    assert all(torch.equal(v, before[k]) for k, v in defense.state_dict().items())
    defense.eval()
    own = defense(x).argmax(1)
    loss = [nn.functional.cross_entropy(defense(view), own).item() for view in (x, moved)]
    assert loss[1] > loss[0]


def test_ramp_scales_the_radius():
    defense, (x, _) = built("er-classifier-adv", steps=4, eps="0.2", ramp=0.5), images()
    reach = {}
    for progress in (0.0, 0.25, 0.5, 1.0):
        defense.progress = progress
        reach[progress] = float((defense._views(x)[1] - x).abs().max())
    assert reach == pytest.approx({0.0: 0.0, 0.25: 0.1, 0.5: 0.2, 1.0: 0.2}, abs=1e-5)


# --- priors and networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "law"), [("gaussian", stats.norm()), ("uniform", stats.uniform(-3, 6)), ("cauchy", stats.cauchy())]
)
def test_priors_have_their_distribution(prior, law):
    torch.manual_seed(0)
    draws = er_classifier.draw_prior(prior, 5000, 4, torch.device("cpu"))
    assert draws.shape == (5000, 4)
    assert draws.isfinite().all()
    assert stats.kstest(draws.flatten().double().numpy(), law.cdf).pvalue > 0.01
    assert abs(np.corrcoef(draws.T.clamp(-3, 3).numpy()) - np.eye(4)).max() < 0.06


def test_without_regulariser_there_is_no_critic():
    defense, (x, y) = built("e-cla"), images()
    assert defense.critic is None
    assert not [name for name in defense.state_dict() if "critic" in name]
    assert list(defense.learners()) == ["encoder", "classifier"]
    assert set(defense.loss(x, y)) == {"cross_entropy", "total"}
    assert set(defense.monitors(x, y)) == {"mmd2"}


def test_embedding_is_the_code_the_classifier_sees():
    defense, (x, _) = built(z_dim=6).eval(), images()
    code = defense.embed(x)
    assert code.shape == (12, 6)
    assert torch.equal(code, defense.embed(x))
    assert torch.equal(defense.classifier(code), defense(x))


@pytest.mark.parametrize(
    ("channels", "side", "convolutions", "norms", "features", "z_dim"),
    [(1, 28, 4, 3, 8 * 4, 4), (3, 32, 16, 0, 512, 16), (3, 96, 6, 5, 16 * 4, 16), (3, 64, 13, 13, 4 * 512, 20)],
)
def test_paper_encoders(channels, side, convolutions, norms, features, z_dim):
    """The supplement's Table 8, at width 4 where the width can be chosen."""
    data = DataInfo("x", channels, side, side, 10, (0.5,) * channels, (0.25,) * channels, "other")
    assert er_networks.design("auto", data).z_dim == z_dim
    with torch.device("meta"):
        encoder = er_networks.build_encoder("auto", data, 4, z_dim).eval()
        assert encoder(torch.empty(2, *data.shape)).shape == (2, z_dim)
    parts = list(encoder.modules())
    assert sum(isinstance(m, nn.Conv2d) for m in parts) == convolutions
    assert sum(isinstance(m, nn.BatchNorm2d) for m in parts) == norms
    assert encoder[-1].in_features == features


def test_critic_has_five_linear_layers():
    widths = [m.out_features for m in er_networks.build_critic(4, 512) if isinstance(m, nn.Linear)]
    assert widths == [512, 512, 512, 512, 1]


@pytest.mark.parametrize("part", [er_networks.Norm1d(3), er_networks.Norm2d(3)])
def test_batch_norm_of_one_image_uses_running_statistics(part):
    shape = (3,) if isinstance(part, nn.BatchNorm1d) else (3, 1, 1)
    x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(2))
    plain = nn.BatchNorm1d(3) if len(shape) == 1 else nn.BatchNorm2d(3)
    assert torch.equal(part.train()(x), plain(x))
    statistics = part.running_mean.clone()
    lone = part(x[:1])
    assert torch.equal(lone, part.eval()(x[:1]))
    assert torch.equal(part.running_mean, statistics)


@pytest.mark.parametrize(
    "options",
    [
        {"prior": "laplace"}, {"weight": -0.1}, {"z_dim": 0}, {"width": 0}, {"critic_width": 0}, {"regulariser": "kl"},
        {"eps": "-0.1"}, {"steps": 0}, {"step": -1.0}, {"ramp": 1.5}, {"classifier_lr": 0.0}, {"encoder": "mnist"},
    ],
)  # fmt: skip
def test_bad_options_are_refused(options):
    ((name, value),) = options.items()
    with pytest.raises(BadInput) as refusal:
        built(**options)
    assert str(refusal.value).endswith(".")
    assert (str(value) if name != "encoder" else "8x8") in str(refusal.value)


# --- training --------------------------------------------------------------------------------------------------------


def largest(module):
    return max(p.detach().abs().max().item() for p in module.parameters())


RECIPE = Recipe(epochs=2, lr=1e-2, batch_size=100, schedule="onecycle")


def trained(folder, name="er-classifier", recipe=RECIPE, **options):
    dataset = open_dataset("digits")
    torch.manual_seed(0)
    defense = built(name, dataset.info, **{"classifier_lr": 1.0, **options})
    return defense, fit(defense, Fit(dataset, recipe, 0, "cpu", folder, "test"))


def test_training_clamps_the_critic_and_records_what_the_regulariser_does(tmp_path):
    defense, outcome = trained(tmp_path)
    assert largest(defense.critic) == pytest.approx(er_classifier.CLAMP)
    for epoch in outcome.history:
        assert epoch["cross_entropy"] + epoch["regularisation"] == pytest.approx(epoch["total"], abs=1e-5)
        assert 0 < epoch["mmd2"] < 2
        assert math.isfinite(epoch["critic_gap"])
    assert set(outcome.terms) == {"cross_entropy", "regularisation", "total"}


def test_the_other_game_does_not_clamp(tmp_path):
    defense, _ = trained(tmp_path, recipe=Recipe(1, 1e-2, 100), regulariser="bce", weight=0.1)
    assert largest(defense.critic) > 10 * er_classifier.CLAMP


class Interrupted(Exception):
    """What stops a training after its first epoch."""


@pytest.mark.parametrize("schedule", ["onecycle", "exponential"])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, monkeypatch, schedule):
    recipe = Recipe(2, 1e-2, 100, schedule=schedule, clip=1.0)
    whole, _ = trained(tmp_path / "whole", "er-classifier-adv", recipe, steps=2, ramp=0.8)
    begin = _Watch.on_train_epoch_start

    def stop(self, trainer, module):
        if trainer.current_epoch == 1:
            raise Interrupted
        begin(self, trainer, module)

    monkeypatch.setattr(_Watch, "on_train_epoch_start", stop)
    with pytest.raises(Interrupted):
        trained(tmp_path / "parts", "er-classifier-adv", recipe, steps=2, ramp=0.8)
    monkeypatch.setattr(_Watch, "on_train_epoch_start", begin)
    resumed, outcome = trained(tmp_path / "parts", "er-classifier-adv", recipe, steps=2, ramp=0.8)
    assert outcome.resumed_from_epoch == 1
    assert [row["epoch"] for row in outcome.history] == [0, 1]
    assert_same_weights(resumed.state_dict(), whole.state_dict())


def test_schedules_keep_the_learners_shares_and_progress_counts_batches(tmp_path, monkeypatch):
    seen, play = [], er_classifier.ERClassifier.play

    def watched(self, x, y):
        rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers()]
        seen.append((self.progress, *rates))
        return play(self, x, y)

    monkeypatch.setattr(er_classifier.ERClassifier, "play", watched)
    trained(tmp_path, classifier_lr=0.05, critic_lr=0.5)
    progress, encoder, classifier, critic = (np.array(column) for column in zip(*seen, strict=True))
    assert progress == pytest.approx(np.arange(len(progress)) / len(progress))
    assert encoder.max() == pytest.approx(RECIPE.lr, rel=0.01)
    assert encoder[0] == pytest.approx(RECIPE.lr / 25)
    assert encoder[-1] < RECIPE.lr / 2
    assert classifier == pytest.approx(0.05 * encoder)
    assert critic == pytest.approx(0.5 * encoder)


@pytest.mark.parametrize("term", ["critic", "cross_entropy", "regularisation"])
def test_a_value_that_is_not_finite_names_its_term(tmp_path, monkeypatch, term):
    check = Defense._check_finite

    def poisoned(self, terms):
        bad = torch.tensor(torch.nan)
        check(self, {**terms, term: bad, "total": bad} if term in terms else terms)

    monkeypatch.setattr(Defense, "_check_finite", poisoned)
    with pytest.raises(Exception, match=f"not finite in the term '{term}' at step 0"):
        trained(tmp_path)
