"""What repeats: verdicts, starts and counts exactly; distances, images and weights as far as kernels repeat their sums.

The order in which a kernel sums may depend on the processor, the library, and where a tensor lies in memory, so two
processes agree on a sum up to rounding. See docs/again.md, "What repeats exactly".
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from robench.norms import NORMS
from robench.store.runs import EvaluationFolder

# in pixels for distances and images; weights are of the same order
ROUNDING = 1e-5
# columns of rows that are sums over pixels
DISTANCES = list(NORMS)


def assert_same_rows(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """The same rows: distances up to rounding, everything else exactly."""
    exact = [name for name in expected.columns if name not in DISTANCES]
    assert list(found.columns) == list(expected.columns)
    pd.testing.assert_frame_equal(found[exact], expected[exact], check_exact=True)
    pd.testing.assert_frame_equal(found[DISTANCES], expected[DISTANCES], check_exact=False, rtol=0, atol=ROUNDING)


def assert_same_images(found: Tensor, expected: Tensor) -> None:
    """The same images up to rounding."""
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)


def assert_same_shards(found: EvaluationFolder, expected: EvaluationFolder) -> None:
    """The same rows and images in the same shards."""
    assert found.ranges() == expected.ranges()
    assert_same_rows(found.rows(), expected.rows())
    for start, stop in expected.ranges():
        assert_same_images(found.images(start, stop), expected.images(start, stop))


def assert_same_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """The same parameters and buffers by name, up to rounding."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=ROUNDING, msg=lambda text, n=name: f"{n}: {text}")
