"""A model in a process of its own: what it is told, what it knows, and what becomes of one that does not answer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robench.models import load_model
from robench.store.runs import Store
from robench.trust import seal
from robench.trust.seal import Ended, Sealed, Unsealed, batches, envelope, sealed

MODEL = """
import os, sys, time
import torch

class Net(torch.nn.Module):
    def __init__(self, does):
        super().__init__()
        self.does = does
        self.eval()

    def forward(self, x):
        return self.does(x)

def fixed(value):
    return lambda: Net(lambda x: torch.tensor([value, 0.0]).expand(len(x), -1) + 0 * x.flatten(1)[:, :2])

knows_robench = fixed(float(any(name.partition(".")[0] == "robench" for name in sys.modules)))
arguments = fixed(float(len(" ".join(sys.argv))))
variable = fixed(float(os.environ.get("ROBENCH_TEST_VALUE", "-1")))
means = lambda: Net(lambda x: torch.stack([x.flatten(1).mean(1), x.flatten(1).amax(1)], 1))
graded = lambda: Net(
    lambda x: torch.tensor([float(torch.is_grad_enabled()), float(x.requires_grad)]).expand(len(x), 2)
)
printing = lambda: Net(lambda x: print("noise") or x.flatten(1)[:, :2])
writing = lambda: Net(lambda x: _write() or x[:, 0, 0, :2])
leaving = lambda: Net(lambda x: sys.exit(0))
vanishing = lambda: Net(lambda x: os._exit(0))
hanging = lambda: Net(lambda x: time.sleep(600))
text = lambda: Net(lambda x: "an answer")
flat = lambda: Net(lambda x: x.flatten())
failing = lambda: 1 / 0

def _write():
    for fd in filter(_is_socket, range(3, 30)):
        os.write(fd, b"garbage" * 9)

def _is_socket(fd):
    import stat
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False
"""


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[object]:
    """Opens the factory of that name in a process of its own."""
    (tmp_path / "mine.py").write_text(MODEL)
    kept = []

    def opened(name: str) -> Sealed:
        context = sealed(envelope(load_model(f"{tmp_path / 'mine.py'}:{name}", Store(tmp_path))), "cpu")
        process = context.__enter__()
        kept.append(context)
        return process

    yield opened
    for context in kept:
        context.__exit__(None, None, None)


def images(n: int = 3) -> Tensor:
    """Some images."""
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_it_answers_as_the_model_does(ask) -> None:
    x = images()
    answers = ask("means").answer(x)
    assert torch.equal(answers, torch.stack([x.flatten(1).mean(1), x.flatten(1).amax(1)], 1))


def test_it_knows_nothing_of_robench_or_of_the_command(ask) -> None:
    assert ask("knows_robench").answer(images())[0, 0] == 0
    assert ask("arguments").answer(images())[0, 0] == 0


def test_it_has_the_environment_of_the_moment(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("2", "7"):
        monkeypatch.setenv("ROBENCH_TEST_VALUE", value)
        assert ask("variable").answer(images())[0, 0] == float(value)


def test_gradients_are_recorded_where_that_is_asked(ask) -> None:
    process = ask("graded")
    assert process.answer(images(), grad=True)[0].tolist() == [1, 1]
    assert process.answer(images(), grad=False)[0].tolist() == [0, 0]


def test_what_a_model_prints_is_no_answer(ask) -> None:
    assert torch.equal(ask("printing").answer(images()), images().flatten(1)[:, :2])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("writing", "something else|ended without|more than"),
        ("leaving", "SystemExit"),
        ("vanishing", "ended without an answer"),
        ("text", "the answer is a str"),
        ("flat", "3 images with shape"),
    ],
)
def test_a_model_that_does_not_answer_is_told(ask, name: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "ANSWERING", 5.0)
    with pytest.raises(Unsealed, match=reason):
        ask(name).answer(images())


def test_a_model_that_hangs_is_ended(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "ANSWERING", 0.5)
    process = ask("hanging")
    with pytest.raises(Unsealed, match=r"more than 0\.5 s to answer 3 images"):
        process.answer(images())
    process.close()
    end = time.monotonic() + 10
    while Path(f"/proc/{process.pid}").exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_killed_process_is_told_and_the_next_one_answers(ask) -> None:
    process = ask("means")
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(Ended, match="ended without an answer"):
        process.answer(images())
    assert ask("means").answer(images()).shape == (3, 2)


def test_where_the_server_was_killed_another_one_is_started(ask) -> None:
    ask("means")
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    servers = [int(pid) for pid in children if b"runner.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert servers
    for server in servers:  # another one may have been needed for trained models
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    assert ask("means").answer(images()).shape == (3, 2)


class Handed(nn.Module):
    """A module of this file."""

    def __init__(self, held: object = None) -> None:
        super().__init__()
        self.layer, self.held = nn.Linear(16, 3), held
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        self.held = (self.held or 0) + 1 if not isinstance(self.held, Iterator) else self.held
        answer: Tensor = self.layer(x.flatten(1)) + (self.held if isinstance(self.held, int) else 0)
        return answer


def test_a_module_goes_as_it_was_handed_over(tmp_path: Path) -> None:
    module = Handed(0)
    model = load_model(module, Store(tmp_path))
    first = module(images()).detach()
    module(images())  # counts on
    with sealed(envelope(model), "cpu") as process:
        assert torch.equal(process.answer(images()), first)


def test_a_class_made_in_a_function_goes_too(tmp_path: Path) -> None:
    class Local(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2]

    with sealed(envelope(load_model(Local().eval(), Store(tmp_path))), "cpu") as process:
        assert torch.equal(process.answer(images()), images().flatten(1)[:, :2])


def test_what_cannot_be_pickled_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unsealed, match="a Handed cannot be pickled"):
        envelope(load_model(Handed(iter(i for i in (1, 2))), Store(tmp_path)))


def test_a_factory_that_fails_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODEL.replace("failing = lambda: 1 / 0", FAILS_THERE))
    packed = envelope(load_model(f"{tmp_path / 'mine.py'}:failing", Store(tmp_path)))
    with pytest.raises(Unsealed, match="failed there with RuntimeError: not here"), sealed(packed, "cpu"):
        pass


FAILS_THERE = """
def failing():
    if "robench" not in sys.modules:
        raise RuntimeError("not here")
    return means()
"""


@pytest.mark.parametrize(("count", "size"), [(1, 1), (7, 3), (1000, 250), (60, 1000)])
def test_every_image_is_drawn_once(count: int, size: int) -> None:
    drawn = list(batches("12ab" * 4, count, size))
    assert sorted(torch.cat([at for at, _ in drawn]).tolist()) == list(range(count))
    assert max(len(at) for at, _ in drawn) <= size


def test_another_key_is_another_order() -> None:
    first, again, other = ([at.tolist() for at, _ in batches(key * 16, 500, 100)] for key in "aab")
    assert first == again != other
    drawn = list(batches("a" * 16, 5000, 100))
    assert {grad for _, grad in drawn} == {True, False}
    assert len({len(at) for at, _ in drawn}) > 10
