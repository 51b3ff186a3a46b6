"""PARADISE without labels: an encoder and a decoder of pixels, and a classifier that only watches the code."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional

from robench import DataInfo, Recipe, Recipes, perceptron, require
from robench_defenses import information
from robench_defenses.recipes import STANDARD, with_options
from robench_defenses.stochastic import Code, Draws, GaussianEncoder, Matching, Posterior, Width, hidden_widths

# Hoang et al. (2020), supplement 2: 50,000 batches, here of 55,000 training images; alpha is not stated
PAPER = Recipe(
    epochs=117,
    lr=1e-4,
    batch_size=128,
    options={"backbone": "mlp-1000-1000", "decoder": "1000-1000"},
    source="Hoang et al. (2020)",
)
# without a warm-up: the probe leaves chance within two epochs of 35 steps, or the training would count as collapsed
DIGITS = Recipe(
    epochs=40, lr=3e-3, batch_size=48, schedule="exponential", factor=0.95, options={"backbone": "mlp"}, source="ours"
)
QUICK = {family: {"quick": named["quick"]} for family, named in STANDARD.items()}
# squared errors of larger images are larger, and alpha weighs nats against them
LARGE = {"alpha": 1.0, "source": "alpha ours"}


class ParadiseAE(GaussianEncoder):
    """Unsupervised PARADISE: reconstruction error + alpha rate, and a probe of the code (Hoang et al., 2020).

    alpha: weight of the rate. z_dim, draws: of the code, drawn `draws` times per training image. decoder: hidden widths
    of the network from z to pixels. probe: hidden widths of the classifier of z, "" for a linear one. gamma, noise,
    ramp, pm_inputs, pm_clip and pm_weight_gradient set posterior matching, off at gamma 0.

    The distortion is the squared error summed over an image's pixels, mean over images and draws: ||x - xhat||^2 as the
    paper writes it, which keeps alpha in units of error per nat whatever the image's size. Algorithm 2 (supplement)
    prints it with a minus sign, but the loss is minimised. With posterior matching the target is the clean image: what
    the code should keep is x, not the noise (our reading).

    The probe is trained with cross-entropy on the detached code, so that labels never shape the code; its accuracy and
    its robustness are those of a code learnt without labels. The decoder is the paper's only in the recipe "paper"; its
    last layer's sigmoid, for pixels in [0, 1], is ours, as is the probe.
    """

    version: ClassVar[int] = 2
    recipes: ClassVar[Recipes] = with_options(
        {**QUICK, "digits": {"quick": DIGITS}, "mnist": {**QUICK["mnist"], "paper": PAPER}},
        {"mnist": LARGE, "fashion-mnist": LARGE},
    )

    def __init__(
        self,
        data: DataInfo,
        *,
        backbone: str = "auto",
        alpha: float = 0.1,
        z_dim: Width = 2,
        draws: Draws = 1,
        decoder: str = "256-512",
        probe: str = "64",
        gamma: float = 0.0,
        noise: float = 12 / 255,
        ramp: float = 0.0,
        pm_inputs: Literal["noisy", "clean"] = "noisy",
        pm_clip: bool = False,
        pm_weight_gradient: bool = False,
    ) -> None:
        require(alpha >= 0, "alpha", alpha, "zero or more")
        hidden_widths("probe", probe)  # the code's own sentence would name another option
        matching = Matching(gamma, noise, ramp, pm_inputs, pm_clip, pm_weight_gradient)
        super().__init__(data, backbone, Code(z_dim, draws, decoder=probe), matching)
        self.alpha = alpha
        widths = [z_dim, *hidden_widths("decoder", decoder)]
        pixels = data.channels * data.height * data.width
        self.decoder = nn.Sequential(*perceptron(widths), nn.Linear(widths[-1], pixels), nn.Sigmoid())

    def decode(self, z: Tensor) -> Tensor:
        """Pixels [..., C, H, W] in (0, 1) of codes [..., D]."""
        pixels: Tensor = self.decoder(z)
        return pixels.reshape(*z.shape[:-1], *self.data.shape)

    def reconstruct(self, x: Tensor) -> Tensor:
        """What the posterior's mean says of images [B, C, H, W]: the same shape, in (0, 1), without noise."""
        return self.decode(self.embed(x))

    def terms(self, z: Tensor, posterior: Posterior, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Distortion and rate, and the probe's cross-entropy, whose gradient ends at the probe."""
        return {
            "distortion": squared_error(self.decode(z), x),
            "rate": self.alpha * information.paradise_rate(z, *posterior),
            "probe": functional.cross_entropy(self.head(z.detach().flatten(0, 1)), y.repeat(len(z))),
        }

    def monitors(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The error of the reconstruction from the mean."""
        del y
        return {"reconstruction_error": squared_error(self.reconstruct(x), x)}


def squared_error(reconstruction: Tensor, x: Tensor) -> Tensor:
    """||x - xhat||^2 of [..., B, C, H, W] and [B, C, H, W], the sum over pixels, mean over the rest: a scalar."""
    return (reconstruction - x).square().flatten(-3).sum(-1).mean()
