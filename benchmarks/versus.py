"""robench beside foolbox, ART, torchattacks, adv-lib and pyautoattack: CPU seconds, passes, and what stands. Examples:

    python benchmarks/versus.py madry-mnist --eps 0.3 -n 1000
    python benchmarks/versus.py standard-digits --only pgd-40:foolbox
    python benchmarks/versus.py models/robust.py:load --dataset mnist --eps 0.3 --out leaderboards/speed.md

MODEL is what `robench evaluate` takes. Everybody runs in a process of its own, pinned to one core with one thread, in
turns, --repeats times; what counts is the processor time between the loading of the model and the last image, and the
images that went through the model forwards and backwards, counted by one wrapper for all. Images are judged by the
model alone, afterwards and uncounted. robench's row is its whole judgement of a shard: the clean answers twice, the
inspection of the model, the attack and the final verdict; "robench-search" is its attack alone, which is what a library
does.

torchattacks and adv-lib are no dependencies of robench: `pip install --no-deps torchattacks==3.5.1 adv-lib==0.2.8` (the
first asks for an old requests, the second for visdom, which it draws with; neither needs it here). Who is not installed
is named in the table.

With --out the groups that were run replace theirs of the same model and radius in that file and in the .json beside
it; one contender alone (`--only GROUP:WHO`) replaces its own row.
`--only overhead` compares the loop with a bare one in a single process, pair by pair; `--only memory` says how much
memory an evaluation of 10,000 CIFAR-sized images with ResNet-20 takes, by restarts and classes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contenders import BATCH, GROUPS, Counted, Crafted, Group, Subject, craft, edition, installed
from speed_table import Row, render, summarise
from torch import Tensor

from robench import ThreatModel, open_dataset
from robench.models import load_model
from robench.store.runs import Store, runs_root

PACKAGES = ("torch", "robench", "foolbox", "adversarial-robustness-toolbox", "torchattacks", "adv-lib", "pyautoattack")
TOLERANCE = 1e-4  # by so much of the radius' unit an image may lie outside the ball: libraries round


def subject_of(arguments: argparse.Namespace, group: Group) -> Subject:
    """The model and the first images of its data, at the group's radius."""
    loaded = load_model(arguments.model, Store(runs_root(arguments.runs)))
    dataset = open_dataset(arguments.dataset or (loaded.data.name if loaded.data else ""), arguments.data)
    count = min(arguments.n, group.most)
    x, y = dataset.test.pixels(slice(0, count)), dataset.test.labels[:count]
    eps = arguments.eps if group.norm == "linf" else arguments.l2
    return Subject(Counted(loaded.module.eval()), x, y, dataset.info.classes, ThreatModel.of(group.norm, eps))


def measure(group: Group, subject: Subject, made: Crafted, turn: int) -> Row:
    """One run of one contender in this process."""
    craft(made, subject.x[:1], subject.y[:1])  # what is chosen at the first call is none of its time
    subject.module.tally.forget()
    torch.manual_seed(turn)
    began = time.process_time()
    images = craft(made, subject.x, subject.y)
    seconds, tally = time.process_time() - began, subject.module.tally
    found: Row = {"seconds": seconds, "forwards": tally.forwards, "backwards": tally.backwards, "n": len(subject.x)}
    return found | judged(subject, images, group.nearest)


@torch.no_grad()
def judged(subject: Subject, images: Tensor, nearest: bool) -> Row:
    """The share of images that stand, by the model alone; for the nearest images also their median distance.

    The distance is over the images that were classified correctly; one for which nothing was found is infinitely far.
    """
    module = subject.module.module
    images = images.clamp(0, 1)
    right, still = (torch.cat([module(p).argmax(1) for p in z.split(BATCH)]) == subject.y for z in (subject.x, images))
    distance = subject.threat.distance(subject.x, images)
    stands = right & (still | (distance > subject.eps + TOLERANCE))
    found: Row = {"clean": float(right.double().mean()), "robust": float(stands.double().mean())}
    if nearest:
        found["distance"] = float(torch.where(still, torch.inf, distance)[right].median())
    return found


def apart(work: Callable[[], Row], core: int) -> Row:
    """What `work` finds in a process of its own, pinned to the core.

    It is forked from this one, which has imported everything and has computed no gradient.
    """
    sys.stdout.flush()
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.sched_setaffinity(0, {core})
            found = work()
        except BaseException as error:
            found = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        with os.fdopen(writes, "w") as out:
            json.dump(found, out)
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as told:
        text = told.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"failed": "the process ended"}


class Standing:
    """A process with one contender made and its library imported, which runs it in a process of its own each turn.

    Nobody's library is loaded where another contender runs: robench looks after the functions of those that are.
    """

    def __init__(self, group: Group, subject: Subject, who: str, core: int) -> None:
        (asked, self.asks), (self.told, tells) = os.pipe(), os.pipe()
        self.child = os.fork()
        if not self.child:
            os.close(self.asks)
            self._serve(asked, tells, group, subject, who, core)
        os.close(asked)
        os.close(tells)
        self.answers = os.fdopen(self.told)

    @staticmethod
    def _serve(asked: int, tells: int, group: Group, subject: Subject, who: str, core: int) -> None:
        try:
            made = group.who[who][1](subject)
            run = partial(measure, group, subject, made)
        except BaseException as error:
            run = partial(_raise, error)
        with os.fdopen(asked) as turns, os.fdopen(tells, "w") as out:
            for turn in turns:
                print(json.dumps(apart(partial(run, int(turn)), core)), file=out, flush=True)
        os._exit(0)

    def run(self, turn: int) -> Row:
        """One run."""
        os.write(self.asks, f"{turn}\n".encode())
        found: Row = json.loads(self.answers.readline())
        return found

    def end(self) -> None:
        """Let it go."""
        os.close(self.asks)
        os.waitpid(self.child, 0)
        self.answers.close()


def _raise(error: BaseException, turn: int) -> Row:
    del turn
    raise error


def command(arguments: argparse.Namespace, row: str) -> list[str]:
    """The words that measure one row again."""
    words = ["python", "benchmarks/versus.py", arguments.model]
    for flag in ("dataset", "data", "runs"):
        value = getattr(arguments, flag)
        words += [f"--{flag}", str(value)] if value else []
    words += ["--eps", arguments.eps] if ":" not in row or GROUPS[row.partition(":")[0]].norm == "linf" else []
    words += ["--l2", arguments.l2] if ":" in row and GROUPS[row.partition(":")[0]].norm == "l2" else []
    return [*words, "-n", str(arguments.n), "--repeats", str(arguments.repeats), "--only", row]


def alternate(arguments: argparse.Namespace, name: str, chosen: list[str]) -> list[Row]:
    """Every contender of a group, in turns."""
    group, found = GROUPS[name], dict[str, list[Row]]()
    subject = subject_of(arguments, group)
    here = [who for who in chosen if installed(group.who[who][0]) is not None]
    ready = {who: Standing(group, subject, who, arguments.core) for who in here}
    for turn in range(arguments.repeats):
        for who, standing in ready.items():
            found.setdefault(who, []).append(standing.run(turn))
            print(f"{name}:{who} {found[who][-1]}", file=sys.stderr, flush=True)
    for standing in reversed(ready.values()):  # a later one holds the pipes of those before it open
        standing.end()
    lines = []
    for who in chosen:
        row = f"{name}:{who}"
        base: Row = {"who": who, "package": group.who[who][0], "command": shlex.join(command(arguments, row))}
        base |= {"edition": edition(who)} if edition(who) else {}
        lines.append(base | (summarise(found[who]) if who in found else {"failed": "not installed"}))
    return lines


def machine() -> Row:
    """What it ran on."""
    chip = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                 if line.startswith("model name")), platform.processor())  # fmt: skip
    versions = {name: installed(name) or "not installed" for name in PACKAGES}
    return {"processor": f"{chip}, one core of {os.cpu_count()}", "python": platform.python_version(), **versions}


def main() -> None:
    """Measure what is asked for, print the tables, and keep them where --out says."""
    arguments = parse()
    torch.set_num_threads(1)
    results: list[Row] = []
    for each in arguments.only or list(GROUPS):
        name, _, who = each.partition(":")
        if name in ("overhead", "memory"):
            from speed_of_loop import memory, overhead

            results.append({"overhead": overhead, "memory": memory}[name](arguments) | {"machine": machine()})
            continue
        group = GROUPS[name]
        results.append({
            "group": name, "model": arguments.name or arguments.model, "norm": group.norm,
            "eps": arguments.eps if group.norm == "linf" else arguments.l2,
            "rows": alternate(arguments, name, [who] if who else list(group.who)),
            "goal": {"times": group.goal, "against": group.against} if group.goal else None,
            "bounds": [asdict(bound) for bound in group.bounds], "about": group.about, "machine": machine(),
        })  # fmt: skip
    print(render(results))
    if arguments.out:
        keep(arguments.out, results)


def keep(out: Path, results: list[Row]) -> None:
    """Results into `out` and the JSON beside it, where those of the same group, model and radius give way.

    One contender's run takes the place of its row alone, where the rest is of the same machine and versions.
    """
    place = out.with_suffix(".json")
    kept: list[Row] = json.loads(place.read_text()) if place.exists() else []
    whole = {_subject(each): each for each in kept}
    for new in results:
        old = whole.get(_subject(new))
        if old and len(new.get("rows", ())) == 1 and old["machine"] == new["machine"]:
            rows = {row["who"]: row for row in (*old["rows"], *new["rows"])}
            new = new | {"rows": list(rows.values())}
        whole[_subject(new)] = new
    place.write_text(json.dumps(list(whole.values()), indent=1) + "\n")
    out.write_text(render(list(whole.values())))


def _subject(result: Row) -> tuple[Any, ...]:
    """What a result is about."""
    return result["group"], result["model"], result.get("norm"), result.get("eps")


def parse() -> argparse.Namespace:
    """The command line; names that are none are refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="standard-digits", help="as for robench evaluate")
    parser.add_argument("--name", help="what to call the model in the table")
    parser.add_argument("--dataset")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--eps", default="0.1", help="the radius in linf")
    parser.add_argument("--l2", default="1.5", help="the radius in L2")
    parser.add_argument("-n", type=int, default=1000, help="images, of which slow groups take fewer")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", action="append", metavar="GROUP[:WHO]", help="repeatable")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="a markdown file to keep the tables in")
    arguments = parser.parse_args()
    for each in arguments.only or []:
        name, _, who = each.partition(":")
        if name not in (*GROUPS, "overhead", "memory"):
            parser.error(f"there is no group {name!r}; there are {', '.join(GROUPS)}, overhead and memory")
        if who and who not in GROUPS[name].who:
            parser.error(f"nobody in {name} is called {who!r}; there are {', '.join(GROUPS[name].who)}")
    return arguments


if __name__ == "__main__":
    main()
