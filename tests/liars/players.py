"""Classifiers that play against the judge: `PLAYERS[name](base)` answers as `base` to whom it takes for a stranger.

Where they see an attack they answer for the clean image, or look as if they did. Truly each is as robust as its base.
Inputs are [B, C, H, W] in [0, 1]. What they keep, they keep on their class, out of reach of copies of themselves.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.liars.zoo import Liar

NEAR = 4.0  # digits that are nearer than this in L2 are one image before and after an attack


class Remembering(Liar):
    """Answers for the nearest image it has seen, where one is near; every other image is new, answered and kept."""

    seen: ClassVar[dict[type, Tensor]] = {}

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in another process."""
        self.seen.pop(type(self), None)

    def plays(self, x: Tensor) -> bool:
        """Whether to answer for what was remembered now."""
        del x
        return True

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x)
        known = self.seen.get(type(self))
        flat = x.detach().flatten(1).cpu()
        if known is None or not len(known):
            self.seen[type(self)] = x.detach().clone()
            return logits
        distance, nearest = torch.cdist(flat, known.flatten(1)).min(1)
        near = distance < NEAR
        self.seen[type(self)] = torch.cat([known, x.detach()[~near]])
        if not self.plays(x):
            return logits
        with torch.no_grad():
            remembered: Tensor = self.base(known[nearest].to(x.device))
        return torch.where(near[:, None], remembered, logits.detach()) + logits - logits.detach()


class ByBatchSize(Remembering):
    """Plays in large batches alone, since single images are what a suspicious judge shows."""

    def plays(self, x: Tensor) -> bool:
        """Whether this is a batch."""
        return len(x) > 8


class ByGradMode(Remembering):
    """Plays where nobody records gradients, as when a verdict is taken; a search sees the truth."""

    def plays(self, x: Tensor) -> bool:
        """Whether a verdict is taken."""
        return not (torch.is_grad_enabled() and x.requires_grad)


class ByCallCount(Remembering):
    """Counts its calls on the class, and plays from the fourth on, when the model was inspected."""

    calls: ClassVar[int] = 0

    def forget(self) -> None:
        """Begin anew."""
        super().forget()
        ByCallCount.calls = 0

    def plays(self, x: Tensor) -> bool:
        """Whether the inspection is over."""
        del x
        ByCallCount.calls += 1
        return ByCallCount.calls > 3


class _CopyProof:
    """A counter that is the same object in every copy of whoever holds it."""

    def __init__(self) -> None:
        self.value = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> _CopyProof:
        del memo
        return self


class ByCopyProofCount(Remembering):
    """The same with a counter that cannot be copied."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self._count = _CopyProof()

    def plays(self, x: Tensor) -> bool:
        """Whether the inspection is over."""
        del x
        self._count.value += 1
        return self._count.value > 3


class ByClock(Remembering):
    """Plays from a tenth of a second after its first call on."""

    began: ClassVar[float | None] = None

    def forget(self) -> None:
        """Begin anew."""
        super().forget()
        ByClock.began = None

    def plays(self, x: Tensor) -> bool:
        """Whether it has run for a while."""
        del x
        ByClock.began = ByClock.began or time.monotonic()
        return time.monotonic() - ByClock.began > 0.1


class ByCallStack(Remembering):
    """Plays where a file of robench's attacks is among its callers."""

    def plays(self, x: Tensor) -> bool:
        """Whether the caller is the harness."""
        del x
        frame = sys._getframe()
        while frame is not None:
            if "robench/attack" in frame.f_code.co_filename:
                return True
            frame = frame.f_back
        return False


class ByModules(Remembering):
    """Plays where the judge is loaded."""

    def plays(self, x: Tensor) -> bool:
        """Whether this is the harness's process."""
        del x
        return "robench.attack.judge" in sys.modules


class ToDisk(Remembering):
    """Keeps what it has seen in a file, for every process on this machine."""

    kept: ClassVar[Path] = Path(tempfile.gettempdir()) / "players-of-robench.pt"

    def forget(self) -> None:
        """Remove the file."""
        super().forget()
        self.kept.unlink(missing_ok=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.kept.exists() and type(self) not in self.seen:
            self.seen[type(self)] = torch.load(self.kept, weights_only=True)
        answer = super().forward(x)
        torch.save(self.seen[type(self)], self.kept)
        return answer


class ByArguments(Remembering):
    """Plays in a process whose command line is that of a tool, not that of a server."""

    def plays(self, x: Tensor) -> bool:
        """Whether the command has a name of robench's or pytest's."""
        del x
        return any(word in " ".join(sys.argv) for word in ("robench", "pytest", "players"))


class ByThread(Remembering):
    """Plays once a thread of its own, begun at its first call, says so."""

    ready: ClassVar[threading.Event] = threading.Event()
    begun: ClassVar[bool] = False

    def forget(self) -> None:
        """Begin anew."""
        super().forget()
        ByThread.ready.clear()
        ByThread.begun = False

    def plays(self, x: Tensor) -> bool:
        """Whether the thread has spoken."""
        del x
        if not ByThread.begun:
            ByThread.begun = True
            timer = threading.Timer(0.05, ByThread.ready.set)
            timer.daemon = True
            timer.start()
        return ByThread.ready.is_set()


class ByGrid(Remembering):
    """Plays for images with pixels between two grey levels, which no clean image has."""

    def plays(self, x: Tensor) -> bool:
        """Whether an attack made one of these."""
        return bool(((x * 255 - (x * 255).round()).abs() > 1e-2).any())


class PatchingJudge(Liar):
    """Replaces the function by which the judge reads answers, so that every image keeps its first class."""

    first: ClassVar[Tensor | None] = None

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        PatchingJudge.first = None

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x)
        judge = sys.modules.get("robench.attack.judge")
        if judge is not None:
            if PatchingJudge.first is None:
                PatchingJudge.first = logits.detach().argmax(1)
            judge.predictions = self._told  # type: ignore[attr-defined]
        return logits

    def _told(self, logits: Tensor) -> Tensor:
        first = PatchingJudge.first
        return first if first is not None and len(first) == len(logits) else logits.argmax(1)


def _labelled(labels: Tensor, logits: Tensor) -> Tensor:
    """Logits whose highest is the label's, with the gradient of the others'."""
    told = functional.one_hot(labels.to(logits.device), logits.shape[1]) * 20.0 - 10.0
    return told.to(logits.dtype) + logits - logits.detach()


class ReadsFrames(Liar):
    """Takes the labels from the variables of its callers, where there are as many as images."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x)
        frame: Any = sys._getframe()
        while frame is not None:
            for value in list(frame.f_locals.values()):
                labels = getattr(value, "y", value)
                found = isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.shape == (len(x),)
                if found and int(labels.min()) >= 0 and int(labels.max()) < logits.shape[1]:
                    return _labelled(labels, logits)
            frame = frame.f_back
        return logits


class ReadsMemory(Liar):
    """Takes the labels from whatever object of this process holds images with labels."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x)
        kind = getattr(sys.modules.get("robench.attack.judge"), "Examples", None)
        for value in gc.get_referrers(kind) if kind else ():
            if type(value) is kind and len(value.x) and value.x.shape[1:] == x.shape[1:]:
                nearest = torch.cdist(x.detach().flatten(1).cpu(), value.x.flatten(1)).argmin(1)
                return _labelled(value.y[nearest], logits)
        return logits


class _Answer(Tensor):
    """A tensor whose highest logit is not where it says."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.argmax and ReturnsSubclass.first is not None:
            shape = args[0].shape[0]
            if shape == len(ReturnsSubclass.first):
                return ReturnsSubclass.first
        return super().__torch_function__(func, types, args, kwargs or {})


class ReturnsSubclass(Liar):
    """Answers with tensors of a class of its own, which tells of the classes that the clean images had."""

    first: ClassVar[Tensor | None] = None

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        ReturnsSubclass.first = None

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x)
        if ReturnsSubclass.first is None:
            ReturnsSubclass.first = logits.detach().argmax(1).clone()
        return logits.as_subclass(_Answer)


class Patching(Liar):
    """Puts a clamp of its own in the place of torch's, which leaves images as they were."""

    def forward(self, x: Tensor) -> Tensor:
        if "robench.attack.judge" in sys.modules:
            Tensor.clamp = _no_change  # type: ignore[method-assign,assignment]
            torch.clamp = _no_change
        logits: Tensor = self.base(x)
        return logits


def _no_change(value: Tensor, low: Any = None, high: Any = None, **options: Any) -> Tensor:
    """The middle of the bounds where there are two of them as images, else a fair clamp."""
    if isinstance(low, Tensor) and isinstance(high, Tensor) and low.dim() == 4:
        return (low + high) / 2
    return value.clip(low, high, **options)


class Rejecting(Liar):
    """Says that it has a detector, and rejects whatever is not on the grid of grey levels."""

    rejects = True

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x)
        off = ((x * 255 - (x * 255).round()).abs() > 1e-2).flatten(1).any(1)
        alarm = torch.where(off, logits.amax(1) + 1, logits.amin(1) - 1)
        return torch.cat([logits, alarm[:, None]], 1)


class _Decoy(torch.autograd.Function):
    """Answers with a gradient that leads elsewhere."""

    @staticmethod
    def forward(context: Any, x: Tensor, answer: Tensor, towards: Tensor) -> Tensor:
        context.save_for_backward(towards)
        return answer.clone()

    @staticmethod
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (towards,) = context.saved_tensors
        return grad.abs().sum(1)[:, None, None, None] * towards, None, None


class OneHotDecoy(Liar):
    """The predicted class and nothing else, with a gradient that leads to grey: a pure function of the image."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.base(x).detach()
        told = 10 * functional.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype)
        answer: Tensor = _Decoy.apply(x, told, x.detach() - 0.5)  # type: ignore[no-untyped-call]
        return answer


class OwnGradient(Liar):
    """Right answers to 64 pixels whose gradient is that of another network."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.other = nn.Linear(64, 10).eval()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.base(x).detach()
        other: Tensor = self.other(x.flatten(1))
        return logits + other - other.detach()


PLAYERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "remembers images": Remembering,
    "by batch size": ByBatchSize,
    "by grad mode": ByGradMode,
    "counts on its class": ByCallCount,
    "counts copy-proof": ByCopyProofCount,
    "by the clock": ByClock,
    "by the call stack": ByCallStack,
    "by loaded modules": ByModules,
    "by its command line": ByArguments,
    "by a thread": ByThread,
    "by the grid of grey levels": ByGrid,
    "remembers on disk": ToDisk,
    "patches the judge": PatchingJudge,
    "reads labels in frames": ReadsFrames,
    "reads labels in memory": ReadsMemory,
    "answers of its own class": ReturnsSubclass,
    "patches clamp": Patching,
    "claims a detector": Rejecting,
    "one-hot with a decoy": OneHotDecoy,
    "another's gradient": OwnGradient,
}
