"""Gradients through three kinds of layers, on a CPU, in less time than torch's own take.

A gradient passes a convolution backwards by a transposed one, for which oneDNN has a slow way where the layer has few
input channels, as the first of a network has: up to twenty times as long as the layer itself takes forwards, and most
of a small network's time. Where its weights are few, each answer's gradient times all of them, by a product of
matrices, and the sum of what falls on a pixel take a half to a quarter of that. The sums of a strided layer are also
those of a convolution with a stride of 1 that answers with stride x stride channels for each input channel, one for
every place of a pixel between two strides (the periodic shuffling of Shi et al., 2016, "Real-time single image and
video super-resolution", read backwards). A linear layer's is a product of matrices, for which oneDNN takes half as long
as the library that torch asks. This, and the way through layers with more than a few channels, pay on processors with
AVX-512 alone: on one with AVX2 torch's own product is as fast, and its own way through such a layer faster by a third.
What comes out differs by rounding.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

# whether the processor has AVX-512
WIDE = "AVX512" in torch.backends.cpu.get_cpu_capability()
# weights of an answer, which are input channels times the kernel's, up to which a product with all of them is fastest,
# and how many products are kept at once
FLAT, AT_ONCE = 32, 2**22
# input channels up to which a convolution is: where the kernel is no whole number of strides, so that zeros are
# multiplied, and where it is one
FEW = 4
MORE = 16 if WIDE else FEW
# numbers of a matrix from which on a product of oneDNN's is faster
LARGE = 2**14
# the largest stride at which pixels are brought together place by place
SMALL = 4


class Strided(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes the gradients of the backward passes made inside through such layers in this way.

    Only in float32; through convolutions with few input channels, without groups or dilation, where no gradient of the
    weights is asked for. Everything else stays as it is.
    """

    def begin(self, grads: object) -> None:
        """Look at operations from here on."""
        del grads
        self.__enter__()  # type: ignore[no-untyped-call]

    def end(self, *grads: object) -> None:
        """No longer."""
        del grads
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: a layer of wrappers around every operation would keep a compiler from code that it never sees."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation's result."""
        del types
        if func is torch.ops.aten.mm.default and not kwargs and _large(*args):
            return product(*args)
        if func is torch.ops.aten.convolution_backward.default and not kwargs:
            grad, x, weight, _, stride, padding, dilation, transposed, _, groups, wanted = args
            plain = not transposed and groups == 1 and max(dilation) == 1 and list(wanted) == [True, False, False]
            flat = x.dim() == 4 and len(stride) == len(padding) == 2  # one number may stand for both
            way = _way(x.shape[1], weight.shape[2:], stride) if plain and flat else None
            if way and x.dtype is torch.float32:
                return way(grad, weight, x.shape, stride, padding), None, None
        return func(*args, **(kwargs or {}))


@contextmanager
def faster(total: Tensor) -> Iterator[None]:
    """The gradient of `total` [], a model's, if it is taken inside is taken in this way where that is faster.

    Only while the engine is at such layers is every operation looked at, as that takes longer than a small one does.
    """
    looks = Strided()  # type: ignore[no-untyped-call]
    for node in _layers(total):
        node.register_prehook(looks.begin)
        node.register_hook(looks.end)
    modes = torch._C._len_torch_dispatch_stack()
    try:
        yield
    finally:
        while torch._C._len_torch_dispatch_stack() > modes:  # where a layer failed
            torch._C._pop_torch_dispatch_stack()


def _layers(total: Tensor) -> list[Node]:
    """What a gradient of `total` passes that may be such layers: convolutions, linear ones where they pay, and what
    Python computes, in which a graph does not show what there is, such as a compiled model."""
    kinds = ("ConvolutionBackward0", "AddmmBackward0", "MmBackward0") if _PRODUCT else ("ConvolutionBackward0",)
    seen: dict[int, Any] = {}
    ahead: list[Any] = [total.grad_fn]
    found = []
    while ahead:
        node = ahead.pop()
        if node is None or id(node) in seen:
            continue
        seen[id(node)] = node  # held, as its number is another's once it is gone
        ahead += [behind for behind, _ in node.next_functions]
        if isinstance(node, BackwardCFunction) or node.name() in kinds:
            found.append(node)
    return found


def strided(module: nn.Module) -> bool:
    """Whether a model has a layer for which this is faster."""
    parts = list(nn.Module.modules(module))
    layers = [part for part in parts if type(part) is nn.Conv2d]
    if _PRODUCT and any(type(part) is nn.Linear and part.weight.numel() >= LARGE for part in parts):
        return True
    return any(part.groups == 1 and _way(part.in_channels, part.kernel_size, part.stride) for part in layers)


def folded(grad: Tensor, weight: Tensor, shape: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """As `slope`, by a product with all weights.

    What falls on the pixels is summed for all images and channels as if these were the channels of one image, since
    torch looks at one image after the other.
    """
    size, kernel, laid = tuple(shape[2:]), tuple(weight.shape[2:]), {"padding": tuple(padding), "stride": tuple(stride)}
    flat, places = weight.flatten(1).t(), math.prod(grad.shape[2:])
    if not len(grad):
        return grad.new_zeros(tuple(shape))
    found = []
    for part in torch.split(grad, max(1, AT_ONCE // max(weight[0].numel() * places, 1))):
        products = torch.bmm(flat.expand(len(part), -1, -1), part.flatten(2))
        found.append(functional.fold(products.view(1, -1, places), size, kernel, **laid).view(-1, *shape[1:]))
    return found[0] if len(found) == 1 else torch.cat(found)


def slope(grad: Tensor, weight: Tensor, shape: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """The gradient [B, C, H, W] of the images of a convolution, `shape` being theirs.

    grad: with respect to its answers, [B, O, h, w]. weight: [O, C, a, b]. A pixel at u = stride q + r of the padded
    image takes part in the answers q - j by the weights r + stride j; for each r that is a convolution over q.
    """
    out, channels, *size = weight.shape
    taps = [-(-a // s) for a, s in zip(size, stride, strict=True)]
    lack = [t * s - a for t, a, s in zip(taps, size, stride, strict=True)]
    parts = functional.pad(weight, (0, lack[1], 0, lack[0])) if any(lack) else weight
    parts = parts.reshape(out, channels, taps[0], stride[0], taps[1], stride[1]).flip(2, 4)
    kernel = parts.permute(1, 3, 5, 0, 2, 4).reshape(-1, out, *taps)
    found = functional.conv2d(grad, kernel, padding=(taps[0] - 1, taps[1] - 1))
    return _shuffled(found.reshape(len(grad), channels, *stride, *found.shape[2:]), shape, padding)


def _shuffled(found: Tensor, shape: Sequence[int], padding: Sequence[int]) -> Tensor:
    """The image [B, C, H, W] of `shape` whose padded pixel at (s q + r, t p + u) is [:, :, r, u, q, p] of `found`
    [B, C, s, t, Q, P]; pixels that it lacks are zero.

    Where strides are small, a copy for each of the s t places takes half as long as one of all, whose runs are of t
    numbers.
    """
    stride, reached = found.shape[2:4], found.shape[4:]
    if max(stride) > SMALL:
        image = found.permute(0, 1, 4, 2, 5, 3).reshape(*found.shape[:2], *map(operator.mul, stride, reached))
        short = [max(0, n + p - m) for n, p, m in zip(shape[2:], padding, image.shape[2:], strict=True)]
        image = functional.pad(image, (0, short[1], 0, short[0])) if any(short) else image
        return image[:, :, padding[0] : padding[0] + shape[2], padding[1] : padding[1] + shape[3]].contiguous()
    whole = all(s * m - p >= n for s, m, p, n in zip(stride, reached, padding, shape[2:], strict=True))
    image = (found.new_empty if whole else found.new_zeros)(tuple(shape))
    for places in itertools.product(*map(range, stride)):
        first = [max(0, -((r - p) // s)) for r, p, s in zip(places, padding, stride, strict=True)]
        at = [s * q + r - p for s, q, r, p in zip(stride, first, places, padding, strict=True)]
        into = image[:, :, at[0] :: stride[0], at[1] :: stride[1]]
        high, wide = (min(n, m - q) for n, m, q in zip(into.shape[2:], reached, first, strict=True))
        part = found[:, :, places[0], places[1], first[0] : first[0] + high, first[1] : first[1] + wide]
        into[:, :, :high, :wide] = part
    return image


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for float32 [n, k] and [k, m]."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    return made


def _large(a: Tensor, b: Tensor) -> bool:
    """Whether `product` knows these, and the second is large enough for it to be faster."""
    known = _PRODUCT and a.dtype is b.dtype is torch.float32 and a.device.type == b.device.type == "cpu"
    return known and a.is_contiguous() and b.is_contiguous() and b.numel() >= LARGE


def _knows_product() -> bool:
    """Whether this torch has what `product` asks for, which is none of what it documents."""
    a, b = torch.arange(6.0).reshape(2, 3), torch.arange(12.0).reshape(3, 4)
    try:
        return torch.equal(product(a, b), a @ b)
    except (AttributeError, RuntimeError):
        return False


_PRODUCT = WIDE and _knows_product()


def _way(channels: int, kernel: Sequence[int], stride: Sequence[int]) -> Callable[..., Tensor] | None:
    """Which of the ways is the fastest of such a layer, None where torch's own is."""
    if channels * math.prod(kernel) <= FLAT and max(kernel) > 1 and (channels == 1 or min(stride) > 1):
        return folded  # with more channels and a stride of 1 it gains no more than looking at every operation costs
    whole = all(a % s == 0 for a, s in zip(kernel, stride, strict=True))
    return slope if channels <= (MORE if whole else FEW) and min(stride) > 1 else None
