"""The handle through which attacks see a model: logits and input gradients, guarded and counted per example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from robench.attack.answer import logits_of
from robench.attack.budget import Asked, Budget, Exhausted, inert
from robench.attack.guard import Guard, plain_tensor
from robench.attack.guided import guided_gradient
from robench.attack.modes import check_eval_mode
from robench.attack.strided import faster, strided
from robench.attack.substitutes import identity_gradient, through_sigmoid
from robench.attack.witness import Witness
from robench.errors import unknown
from robench.results.rows import passes

# maps logits [B, C] to the values [B] an attack maximises
Objective = Callable[[Tensor], Tensor]


# marks of images that speak for masked gradients: a few queries came nearer than all gradients before them, and a walk
# along the boundary broke what ascents were far from breaking
MASKED = ("queries-beat-gradients", "walks-beat-ascents")

# the class of models behind a detector, which answer with one logit more, the largest where the image is rejected; the
# harness alone makes such models, and that some module has an attribute or a logit of that kind says nothing
REJECTING: list[type[nn.Module]] = []


@dataclass(frozen=True)
class Rough:
    """What gradients are taken from in bfloat16, and how it wants its images laid out; own: it is a copy."""

    module: nn.Module
    own: bool
    layout: torch.memory_format = torch.contiguous_format


class Classifier:
    """A module in eval mode on [0, 1] pixels that answers with logits, [B, classes] float32.

    `rows(examples)` gives the handle for one batch: its calls are charged to those examples in `forwards` and
    `backwards` (int64 [n], one count per example of the shard). Parameters need no gradient while it is in use;
    `release` gives them back as they were.
    """

    def __init__(
        self,
        module: nn.Module,
        classes: int,
        examples: int = 0,
        device: torch.device | str = "cpu",
        labels: Tensor | None = None,
    ) -> None:
        self.module, self.classes, self.device = module, classes, torch.device(device)
        self.rejects = type(module) in REJECTING
        self.labels = labels
        self.forwards = torch.zeros(examples, dtype=torch.int64)
        self.backwards = torch.zeros(examples, dtype=torch.int64)
        self.nonfinite = torch.zeros(examples, dtype=torch.bool)
        self.zero_gradient = torch.zeros(examples, dtype=torch.bool)
        self.zero_pixels = torch.full((examples,), torch.nan)
        self.masked = {mark: torch.zeros(examples, dtype=torch.bool) for mark in MASKED}
        self.randomised = self.crafting = False
        self.unsquash = False  # whether attacks see through the sigmoid that the model ends in
        self.guard = Guard(module)
        self.strided = self.device.type == "cpu" and strided(module)  # see there
        self.guide: Classifier | None = None  # whose gradients attacks follow instead of this model's
        self.heartbeat: Callable[[], None] = lambda: None  # called after every pass that is charged
        self.rough: Rough | None = None  # what an attack's gradients are taken from, if not the module in float32
        self.draws = 1  # passes whose mean is the gradient of a randomised model (expectation over transformation)
        self.witness = Witness(0)
        self.budget: Budget | None = None  # what every example may cost; None where that is up to the attack
        self.asked: Asked | None = None  # what the rows of the attack's batch asked about, under a budget
        self.ends = True  # whether an attack ends where none of its examples can pay
        self._passed: list[nn.Module] = []
        self._frozen = [p for p in nn.Module.parameters(module) if p.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    @property
    def spent(self) -> Tensor:
        """The work on every example in forward passes, int64 [n]; a backward pass takes about two."""
        found: Tensor = passes(self.forwards, self.backwards)
        return found

    def pass_through(self, names: Sequence[str]) -> None:
        """Let gradients pass the named submodules as if they did nothing (Athalye et al., 2018: BPDA).

        Answers stay as they are. Raises BadInput for an unknown name.
        """
        whole = self.module.get_submodule("model") if self.rejects else self.module  # the model before its detector
        known = dict(whole.named_modules())
        for name in names:
            if not name or name not in known:
                raise unknown("layer of the model", name, [each for each in known if each])
        self._passed = [known[name] for name in names]

    @contextmanager
    def substitutes(self) -> Iterator[None]:
        """The gradients of `pass_through`, for the forward passes made inside."""
        hooks = [layer.register_forward_hook(identity_gradient) for layer in self._passed]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def release(self) -> None:
        """Make the parameters trainable again that were so before."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)

    def check_mode(self) -> None:
        """Raise BadInput if any part of the module is in train mode."""
        check_eval_mode(self.module)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Logits in a fresh forward pass, not charged to anyone: [B, C, H, W] -> float32 [B, classes] on the CPU.

        With a detector, [B, classes + 1]. Raises BadInput for an answer of the wrong shape or type.
        """
        return self.ask(x.to(self.device)).float().cpu()

    def searched(self, x: Tensor) -> Tensor:
        """The answer to x as an attack asks for it, though nobody takes its gradient: float64 on the CPU."""
        with torch.enable_grad(), self.substitutes():
            return self.ask(x.detach().requires_grad_(True)).detach().double().cpu()

    def ask(self, x: Tensor) -> Tensor:
        """The model's answer to x [B, C, H, W], guarded: [B, classes (+ 1)], with the gradient of x if it has one.

        The model is given a copy and its answer is one, so that neither is changed under anybody's hands. Raises
        BadInput for an answer of the wrong shape or type, and Quit where the model tries to end the process.
        """
        with self.guard:
            answer = self.check_answer(self.module(x.clone()), len(x))
        return plain_tensor(answer)

    def ask_roughly(self, x: Tensor, rough: Rough) -> Tensor:
        """The same of a model in bfloat16, for its gradient alone. Raises as `ask`."""
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False), self.guard:
            # a copy of the pixels, whatever their layout
            given = x.clone(memory_format=rough.layout)
            answer = self.check_answer(rough.module(given), len(x))
        return plain_tensor(answer)

    def check_answer(self, answer: object, batch: int) -> Tensor:
        """The answer, if it is a float tensor [batch, classes]; raises BadInput if not."""
        return logits_of(answer, batch, self.classes, self.classes + self.rejects)

    def fold(self, logits: Tensor, examples: Tensor) -> Tensor:
        """What an attack sees of the answers [B, classes (+ 1)] for `examples`, int64 [B]: logits [B, classes].

        Once an example is misclassified, the logit of rejection is folded into the label's by taking the larger, so
        that it is past the decision boundary when it is misclassified and accepted. Before that the attack sees the
        model alone: the detector's view of an image that is still right is of no use to it.
        """
        if not self.rejects:
            return logits
        assert self.labels is not None
        y = self.labels[examples].to(logits.device)[:, None]
        classes, label = logits[:, :-1], logits.gather(1, y)
        crossed = classes.argmax(1, keepdim=True) != y
        return classes.scatter(1, y, torch.where(crossed, torch.maximum(label, logits[:, -1:]), label))

    def inert(self, examples: Tensor) -> Tensor:
        """What is answered for `examples`, int64 [K], that cannot pay: see `budget.inert`."""
        assert self.labels is not None
        return inert(self.labels[examples], self.classes).to(self.device)

    def rows(self, examples: Tensor) -> BatchModel:
        """The model as an attack sees it for one batch; `examples` int64 [B] are positions in the shard."""
        return BatchModel(self, examples)


class BatchModel:
    """The model for the rows of one batch, charging every pass to the examples behind the rows.

    Under a budget (`--max-passes`) a row that cannot pay is not computed: its answer is a wrong class and its gradient
    zero, so that attacks let it go, and the best image that it has asked about is proposed for it.
    """

    def __init__(self, classifier: Classifier, examples: Tensor, places: Tensor | None = None) -> None:
        self._classifier, self.examples = classifier, examples
        self._places = torch.arange(len(examples)) if places is None else places  # in the batch of the attack

    @property
    def randomised(self) -> bool:
        """Whether the model answered differently to two identical calls."""
        return self._classifier.randomised

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self._classifier.classes

    @property
    def rejects(self) -> bool:
        """Whether a detector stands before the model, so that an answer depends on whose image is asked about."""
        return self._classifier.rejects

    @property
    def crafting(self) -> bool:
        """Whether the images are meant for another model: then an attack goes on after it has broken this one."""
        return self._classifier.crafting

    @property
    def guided(self) -> bool:
        """Whether gradients are another model's than answers are."""
        return self._classifier.guide is not None

    @property
    def rough(self) -> bool:
        """Whether `gradient` can be had in bfloat16."""
        return self._classifier.rough is not None

    def select(self, keep: Tensor) -> BatchModel:
        """The same for the rows at positions `keep` (int64); a position may come more than once."""
        return BatchModel(self._classifier, self.examples[keep], self._places[keep])

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [B, classes]; x has one image per row, or a whole number of copies of the batch one after another.

        Where x requires a gradient, every backward pass through the logits is charged as it happens.
        """
        if not (x.requires_grad and torch.is_grad_enabled()):
            return self._forward(x, self._paid(len(x), 1)).float()
        if self.guided:
            raise ValueError("under a guide, gradients are had from gradient() alone")
        draws = self._draws
        paid = self._paid(len(x), draws * passes(1, 1))  # a backward pass may follow
        with self._classifier.substitutes():
            return torch.stack([self._watched(x, paid) for _ in range(draws)]).mean(0)

    def _watched(self, x: Tensor, paid: Tensor | None) -> Tensor:
        """Logits of one pass, charged for every backward pass through them."""
        logits = self._forward(x, paid).float()
        if not logits.requires_grad:  # the model cuts the graph: its gradient is zero, which libraries need to be told
            logits = logits + 0 * x.flatten(1)[:, :1].nan_to_num()
        examples = self._examples(len(x))
        rows = torch.arange(len(x)) if paid is None else paid
        register: Callable[..., object] = logits.register_hook
        register(partial(self._backward, rows, examples[rows]))
        return logits

    def _backward(self, rows: Tensor, examples: Tensor, grad: Tensor) -> Tensor | None:
        """Charge a backward pass to the `examples` of `rows`, both int64 [K]; its gradient without those that cannot
        pay, None where all can."""
        model = self._classifier
        refused = None if model.budget is None else model.budget.refused(examples, passes(0, 1), model.spent)
        if refused is None:
            _charge(model.backwards, examples)
            return None
        _charge(model.backwards, examples[~refused])
        return grad.index_fill(0, rows[refused].to(grad.device), 0.0)

    def gradient(
        self, x: Tensor, objective: Objective, *, rough: bool = False, hinged: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Logits [B, classes] and the gradient of the summed objective with respect to x, both detached.

        Of a randomised model, their means over as many passes as the user asked for (Athalye et al., 2018: EOT). rough:
        both in bfloat16 where the user asked for it (`--search-precision`). Such logits are off by about a hundredth;
        whether an image is broken, an answer of `model(x)` must say. Under a guide (`--guide`) the logits are the
        model's and the gradient is the guide's, of the objective of its own answers. hinged: the slope in the logits is
        taken at the model's answers and passed back through the guide, for an objective that asks for nothing more once
        the model is broken; without a guide it is the same.
        """
        if self._classifier.guide is not None:
            return self._guided(x, objective, self._classifier.guide, hinged=hinged)
        draws = self._draws
        paid = self._paid(len(x), draws * passes(1, 1))
        logits, grad = self._gradient(x, objective, rough, paid)
        for _ in range(draws - 1):
            more = self._gradient(x, objective, rough, paid)
            logits, grad = logits + more[0], grad + more[1]
        return (logits / draws, grad / draws) if draws > 1 else (logits, grad)

    def _guided(self, x: Tensor, objective: Objective, guide: Classifier, *, hinged: bool) -> tuple[Tensor, Tensor]:
        """The model's logits and the guide's gradient, charged as a forward pass of each and a backward pass."""
        paid = self._paid(len(x), passes(2, 1))
        with torch.no_grad():
            logits = self._forward(x, paid).float()
        rows = torch.arange(len(x)) if paid is None else paid
        grad = guided_gradient(guide, x, logits, rows.to(x.device), objective, hinged=hinged)
        for counts in (self._classifier.forwards, self._classifier.backwards):
            _charge(counts, self._examples(len(x))[rows])
        return logits, grad

    @property
    def _draws(self) -> int:
        return self._classifier.draws if self.randomised else 1

    def _gradient(self, x: Tensor, objective: Objective, rough: bool, paid: Tensor | None) -> tuple[Tensor, Tensor]:
        model = self._classifier
        model.witness.forget()
        with torch.enable_grad(), model.substitutes():
            # a leaf of its own: a model could write to the one that its copy came of
            leaf = x.detach().clone().requires_grad_(True)
            logits = self._forward(leaf, paid, rough=rough).float()
            total = objective(logits).sum()
            logits = logits.detach()
            layers = faster(total) if model.strided else nullcontext()
            with model.guard, layers:  # backwards too runs what the model brings along, as does the end of the graph
                given = torch.autograd.grad(total, leaf, allow_unused=True)[0] if total.requires_grad else None
                grad = torch.zeros_like(x) if given is None else given.clone()
                del total, leaf
        model.witness.told(grad if paid is None else grad[paid.to(grad.device)])
        examples = self._examples(len(x))
        _charge(model.backwards, examples if paid is None else examples[paid])
        return logits, grad

    def note_zero_gradient(self, grad: Tensor) -> None:
        """Record the share of pixels whose gradient is exactly zero, and the examples where all are, or not finite."""
        flat, examples, budget = grad.flatten(1), self.examples, self._classifier.budget
        if budget is not None and bool(budget.out[examples].any()):  # their gradient is the harness's
            kept = (~budget.out[examples]).nonzero()[:, 0]
            flat, examples = flat[kept.to(flat.device)], examples[kept]
        useless = (flat == 0).all(1) | ~flat.isfinite().all(1)
        self._classifier.zero_gradient[examples[useless.cpu()]] = True
        self._classifier.zero_pixels[examples] = (flat == 0).float().mean(1).cpu()

    def note_masked(self, mark: str, rows: Tensor) -> None:
        """Record under a mark of `MASKED` the examples of the rows marked in `rows`, bool [B]."""
        examples, budget = self.examples[rows.cpu()], self._classifier.budget
        self._classifier.masked[mark][examples if budget is None else examples[~budget.out[examples]]] = True

    def note_nonfinite(self, rows: Tensor) -> None:
        """Record the examples of the rows marked in `rows` (bool [B]), where some logit was NaN or infinite."""
        self._classifier.nonfinite[self.examples[rows.cpu()]] = True

    def _forward(self, x: Tensor, paid: Tensor | None, *, rough: bool = False) -> Tensor:
        """Answers to x [K, C, H, W], charged; paid: int64, the rows that can pay, None for all of them."""
        model, examples = self._classifier, self._examples(len(x))
        given = x if paid is None else x[paid.to(x.device)]
        examples, everyone = examples if paid is None else examples[paid], examples
        if not len(given):
            return model.inert(everyone)
        asked, copied = x.requires_grad and torch.is_grad_enabled(), model.rough if rough else None
        ask = partial(model.ask_roughly, rough=copied) if copied else model.ask
        answer = model.witness.see(given, ask) if asked else ask(given)
        _charge(model.forwards, examples)
        model.heartbeat()
        unsquashed = model.unsquash and not self.rejects
        logits = through_sigmoid(answer.float()) if unsquashed else model.fold(answer, examples)
        if model.asked is not None:
            places = self._places.repeat(len(x) // len(self.examples))
            model.asked.see(places if paid is None else places[paid], given, None if copied else logits.float())
        return logits if paid is None else model.inert(everyone).to(logits).index_copy(0, paid.to(x.device), logits)

    def _paid(self, count: int, price: int) -> Tensor | None:
        """The rows of `count` images that can pay `price` each, int64, or None where all can; raises Exhausted where
        nobody of the attack's batch can any more."""
        model = self._classifier
        if model.budget is None:
            return None
        refused = model.budget.refused(self._examples(count), price, model.spent)
        if refused is not None and model.ends and model.asked is not None:
            whole = model.asked.examples
            if bool(model.budget.out[whole].all()):
                raise Exhausted
        return None if refused is None else (~refused).nonzero()[:, 0]

    def _examples(self, batch: int) -> Tensor:
        """The examples behind `batch` images, int64 [batch]."""
        copies, rest = divmod(batch, max(len(self.examples), 1))
        if rest or not copies:
            raise ValueError(f"a batch of {batch} images for {len(self.examples)} rows cannot be charged; use select()")
        return self.examples.repeat(copies) if copies > 1 else self.examples


def _charge(counts: Tensor, examples: Tensor) -> None:
    counts.index_add_(0, examples, torch.ones_like(examples))
