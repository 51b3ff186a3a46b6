"""What tells evaluations apart that would read the same in a list, a table or a figure, and how whole they are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import Damaged

# what an attack may have beside the model, by fields of a spec
BESIDE = ("detector", "surrogate", "guide")
# of digests and ids, as many letters are told
SHORT = 6
# something that two evaluations may differ in, in words
Aspect = Callable[[EvaluationFolder], str]


def behind(folder: EvaluationFolder) -> str:
    """The detector, surrogate or guide that it is of, by its digest; "" where there is none."""
    found = str(next(filter(None, map(folder.spec.get, BESIDE)), ""))
    return f"#{found[:SHORT]}" if found else ""


def _dataset(folder: EvaluationFolder) -> str:
    return f"on {folder.about.dataset}"


def _seed(folder: EvaluationFolder) -> str:
    return f"seed {folder.spec['seed']}"


def _count(folder: EvaluationFolder) -> str:
    return f"n {folder.spec['count']:,}"


def _start(folder: EvaluationFolder) -> str:
    return f"from image {folder.spec['start']:,} on"


def _draw(folder: EvaluationFolder) -> str:
    return str(folder.spec.get("draw") or "in the data's order")


def _passes(folder: EvaluationFolder) -> str:
    """The settings of gradients, which labels have and titles of other lines have not."""
    spec = folder.spec
    told = [f"eot {spec['eot']}"] if spec.get("eot") else []
    return ", ".join([*told, *(f"bpda {layer}" for layer in spec.get("bpda") or [])]) or "plain gradients"


def _version(folder: EvaluationFolder) -> str:
    return f"v{folder.spec['harness']}.{folder.spec['attack_version']}"


def _data(folder: EvaluationFolder) -> str:
    return f"data #{folder.spec['data_digest'][:SHORT]}"


ASPECTS: tuple[Aspect, ...] = (behind, _dataset, _seed, _count, _start, _draw, _passes, _version)
# what is told where nothing else tells two apart: the digest of data of one name and order, and the id
LAST: tuple[Aspect, ...] = (_data, lambda folder: f"evaluation {folder.job_id[:SHORT]}")
# the same for lines that are of several attacks each
SHARED: tuple[Aspect, ...] = (_seed, _start, _draw, _passes)


def endings(
    folders: Sequence[EvaluationFolder],
    lines: Mapping[str, Hashable],
    aspects: Sequence[Aspect] = ASPECTS,
    last: Sequence[Aspect] = LAST,
) -> dict[str, str]:
    """By their ids what stands behind the names of evaluations, " [seed 1, n 60]": all that those differ in whose
    `lines` are the same, and of `last` what it takes beside that. The data are told of all where they are several."""
    several = _dataset in aspects and len({each.about.dataset for each in folders}) > 1
    alike: dict[Hashable, list[EvaluationFolder]] = defaultdict(list)
    for folder in {each.job_id: each for each in folders}.values():
        alike[lines[folder.job_id]].append(folder)
    found: dict[str, str] = {}
    for group in alike.values():
        told = _differing(group, [each for each in aspects if each is not _dataset], last, several=several)
        found |= {folder.job_id: _ending(parts) for folder, parts in zip(group, told, strict=True)}
    return found


def _differing(
    group: Sequence[EvaluationFolder], aspects: Sequence[Aspect], last: Sequence[Aspect], *, several: bool
) -> list[list[str]]:
    told = [[_dataset(folder)] if several else [] for folder in group]
    for aspect in aspects:
        found = [aspect(folder) for folder in group]
        if len(set(found)) > 1:
            told = [[*parts, each] for parts, each in zip(told, found, strict=True)]
    for aspect in last:
        same = Counter(map(tuple, told))
        more = [aspect(folder) for folder in group]
        if len(same) < len({(*parts, each) for parts, each in zip(told, more, strict=True)}):
            told = [[*parts, each] for parts, each in zip(told, more, strict=True)]
    return told


def _ending(parts: Sequence[str]) -> str:
    marks = [part for part in parts if part.startswith("#")]
    words = [part for part in parts if part and not part.startswith("#")]
    return "".join(f" {mark}" for mark in marks) + (f" [{', '.join(words)}]" if words else "")


def status_of(folder: EvaluationFolder, summarised: bool) -> str:
    """ "complete", or what is missing."""
    if summarised:
        return "complete"
    done, count = sum(stop - start for start, stop in folder.ranges()), folder.spec["count"]
    lost = len(folder.damaged())
    damaged = f", {lost} damaged shard{'s' * (lost > 1)}" if lost else ""
    if done < count:
        return f"incomplete ({done:,} of {count:,}{damaged})"
    return "not summarised"


def why_not_whole(folder: EvaluationFolder) -> str:
    """Why an evaluation cannot be read whole, as a sentence; "" where it can."""
    try:
        if folder.result is not None and len(folder.rows()) == folder.spec["count"]:
            return ""
        what, status = f"{folder.about.model} under {folder.label}", status_of(folder, False)
        return f"The evaluation {folder.job_id}, {what}, is {status}; run its command again."
    except Damaged as error:
        return str(error)
