"""`robench reproduce` refuses what it cannot do in one sentence, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import Run, assert_refused
from tests.integration.test_reproduce import COMMAND, SUITE


@pytest.fixture(autouse=True)
def _suite(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(SUITE)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("nothing",), ("'nothing'", "mnist")),
        (("no.toml",), ("no.toml",)),
        (("two.toml", "--scale", "huge"), ("'huge'", "smoke")),
        (("two.toml", "--scale", "smoke", "--workers", "3"), ("--workers", "3", "ray")),
        (("two.toml", "--scale", "smoke", "--executor", "slurm"), ("'slurm'", "inline")),
        (("two.toml", "--scale", "smoke", "--shard-size", "0"), ("--shard-size", "0")),
        (("two.toml", "--scale", "smoke", "--device", "tpu"), ("'tpu'",)),
        (("wrong.toml", "--scale", "smoke"), ("stepz", "'Worst'")),
        (("many.toml", "--scale", "smoke"), ("5000",)),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: tuple[str, ...], names: tuple[str, ...], tmp_path: Path, robench: Run
) -> None:
    (tmp_path / "wrong.toml").write_text(SUITE.replace("steps = 10", "stepz = 10"))
    (tmp_path / "many.toml").write_text(SUITE.replace("count = 60", "count = 5000"))
    assert_refused(robench("reproduce", *arguments), names)
    assert not (tmp_path / "runs" / "models").exists()


def test_one_suite_or_all_of_them(robench: Run) -> None:
    assert_refused(robench("reproduce"), ("no suite", "--all"))
    assert_refused(robench("reproduce", "two.toml", "--all"), ("two.toml", "--all"))
    assert_refused(robench("reproduce", "--all", "--scale", "smokey"), ("smokey", "smoke"))
    assert_refused(robench(*COMMAND, "--stored", "--fresh"), ("--stored", "--fresh"))
