"""Rows to tables: one leaderboard per data, threat model and set of examples, in csv, markdown, LaTeX and html."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from robench.data_names import parse
from robench.errors import BadInput
from robench.evaluation.attacks import label_of
from robench.evaluation.recorded_command import command_of
from robench.progress import say
from robench.results.accuracy import (
    WHITE_BOX,
    Measure,
    attack_figure,
    clean_figure,
    entering,
    enters,
    worst_case,
)
from robench.results.rows import COUNTED, absent_classes
from robench.results.summary import COMPLETE, INCOMPLETE, Summary
from robench.store.files import Damaged
from robench.store.labels import behind, endings
from robench.store.runs import EvaluationFolder, Store
from robench.store.specs import draw_told
from robench.tables.board import Board
from robench.tables.cells import (
    ABSENT,
    CLEAN,
    WORST,
    Cell,
    Column,
    Line,
    Scored,
    Setting,
    attack_cell,
    beside,
    ordered,
)
from robench.tables.chosen import EVERYTHING, Chosen
from robench.tables.doubts import doubted
from robench.tables.left_out import LEFT_OUT, digests, left_out, may_be_of, readable
from robench.tables.model_names import told_apart
from robench.text.escaping import file_name
from robench.threat import ThreatModel
from robench.trust.bounds import UNSEARCHED, upper_bound_of_all
from robench.trust.origins import aged


def build(store: Store, chosen: Chosen = EVERYTHING) -> list[Board]:
    """Every table that the store's evaluations fill, or those that are chosen.

    Raises BadInput where there is none.
    """
    groups: dict[tuple[Any, ...], list[EvaluationFolder]] = defaultdict(list)
    trained = digests(store)
    folders, damaged = store.intact()
    chosen.check(folders)
    overtaken = {folder.spec.get("after") for folder in folders}
    shared = ("data_digest", "split", "start", "count", "norm", "eps", "seed")
    for folder in folders:
        spec, name = folder.spec, folder.about.model
        if not chosen(folder):
            continue
        if folder.job_id in overtaken and spec.get("after"):
            continue  # the last one of a cascade has the finds of all before it
        if trained.get(name, spec["model_digest"]) != spec["model_digest"]:
            continue  # of an earlier model by the same name
        groups[tuple(spec[each] for each in shared)].append(folder)
    if not groups:
        none = f"There is no evaluation in {store.evaluations}; run 'robench evaluate' first."
        if folders and chosen != EVERYTHING:
            there = f"None of the {len(folders):,} evaluations in {store.evaluations}"
            none = f"{there} is of what was asked for; leave out an option, see 'robench list evaluations'."
        raise BadInput(next(iter(damaged.values()), none))
    ordered = sorted(groups, key=str)
    lost = left_out(store, damaged)
    boards = [(key, board) for key in ordered for board in _boards(groups[key], lost)]
    names = Counter(board.name for _, board in boards)
    return doubted(store, [
        replace(board, name=f"{board.name}-{digest[:6]}") if names[board.name] > 1 else board
        for (digest, *_), board in boards
    ])  # fmt: skip


def _boards(folders: list[EvaluationFolder], lost: Sequence[tuple[str, str]]) -> list[Board]:
    """The table of evaluations on the same images within one threat model; several where models cannot be ranked by
    the same attacks, since those that lack some of the table's share none: each is of models that share at least one.

    lost: the names and digests of the models of evaluations that are damaged.
    """
    labels, mine = _labels(folders), defaultdict[tuple[str, str], set[str]](set)
    for folder in folders:
        scored = Scored.of(folder, labels[folder.job_id])
        if scored.ranks:
            mine[_model(folder)].add(scored.column)
    every = set().union(*mine.values())
    lacking = [names for names in mine.values() if names != every]
    if len({*map(frozenset, lacking)}) < 2 or set.intersection(*lacking):
        return [_board(folders, lost)]
    boards = []
    for i, group in enumerate(_comparable(mine)):
        here = [f for f in folders if _model(f) in group or (not mine[_model(f)] and i == 0)]
        part = _board(here, lost)
        names = sorted(set.intersection(*(mine[model] for model in group)))
        boards.append(replace(part, name=f"{part.name}-{i + 1}", attacks=", ".join(names)))
    return boards


def _comparable(attacked: Mapping[tuple[str, str], set[str]]) -> list[set[tuple[str, str]]]:
    """Models by what can rank them: all that have the attack that most have, then those of the others that have what
    most of these have, and so on."""
    left = {model: names for model, names in attacked.items() if names}
    groups = []
    while left:
        having = Counter(name for names in left.values() for name in names)
        shared = min(having, key=lambda name: (-having[name], name))
        groups.append({model for model, names in left.items() if shared in names})
        left = {model: names for model, names in left.items() if shared not in names}
    return groups


def _model(folder: EvaluationFolder) -> tuple[str, str]:
    return folder.about.model, folder.spec["model_digest"]


def _board(folders: list[EvaluationFolder], lost: Sequence[tuple[str, str]] = ()) -> Board:
    """One table of evaluations on the same images within one threat model; lost: as in `_boards`."""
    labels = _labels(folders)
    newest = sorted(folders, key=lambda f: (f.spec["harness"], f.spec["attack_version"], not aged(f), f.job_id))
    models: dict[tuple[str, str], dict[str, Scored]] = defaultdict(dict)
    columns: dict[str, Column] = {}
    for folder in newest:  # the last one of a column is that of the newest version of its attack, and of today's code
        scored = Scored.of(folder, labels[folder.job_id])
        name = scored.column
        columns[name] = Column(name, partial(attack_cell, name), scored.access, scored.metric)
        models[folder.about.model, folder.spec["model_digest"]][name] = scored
    titles = told_apart((folder.spec["model_digest"], folder.about) for folder in newest)
    named = {titles[key]: cells for key, cells in models.items()}
    missing = {titles[key]: may_be_of(*key, lost) for key in models}
    order = sorted(columns.values(), key=lambda c: (c.access != WHITE_BOX, c.metric != Measure.ROBUST, c.name))
    ranks = {each.column for cells in named.values() for each in cells.values() if each.ranks}
    ranking = [column.name for column in order if column.name in ranks]
    behind = {model: cells.keys() for model, cells in named.items() if ranks - cells.keys() or missing[model]}
    lacking = [names for names in behind.values() if ranks & names]
    common = [name for name in ranking if all(name in each for each in lacking)]
    lines = (_line(model, cells, ranking, common, missing[model]) for model, cells in named.items())
    rows = ordered(lines)
    settings = [_setting(model, each) for model, cells in named.items() for each in cells.values()]
    spec, dataset = newest[-1].spec, newest[-1].about.dataset
    eps = ThreatModel.of(spec["norm"], spec["eps"]).eps_text
    return Board(
        _name(dataset, spec, eps), dataset, spec["norm"], eps, spec["start"], spec["count"], (CLEAN, WORST, *order),
        tuple(rows), tuple(sorted(settings, key=lambda s: (s.model, s.column))),
        absent=_absent(newest), drawn=draw_told(spec, newest[-1].about.images),
        draw=spec.get("draw"),
        shared=tuple(common) if lacking else (),
    )  # fmt: skip


def _absent(folders: Sequence[EvaluationFolder]) -> str:
    """The classes that no image of these evaluations, which are of the same images, is of, in words."""
    whole = next((folder for folder in folders if readable(folder) and folder.about.classes), None)
    return absent_classes(whole.rows(("label",)), whole.about.classes, whole.about.names) if whole else ""


def _name(dataset: str, spec: dict[str, Any], eps: str) -> str:
    """The files' name."""
    data = parse(dataset)
    told = [key if key == "ids" else f"{key}{value}" for key, value in data.settings.items()]
    parts = [
        "-".join([Path(data.place).stem if data.kind else data.base, *told]),
        spec["norm"],
        eps,
        f"n{spec['count']}",
    ]
    parts += [f"from{spec['start']}"] if spec["start"] else []
    parts += [f"s{spec['seed']}"] if spec["seed"] else []
    return file_name("-".join(parts).replace("_", "-"))


def _labels(folders: Sequence[EvaluationFolder]) -> dict[str, str]:
    """Every evaluation's label: attack, options and what it was up against, with a digest where names are shared."""
    found = {folder.job_id: label_of(folder) for folder in folders}
    ends = endings(folders, found, (behind,), ())
    return {job_id: name + ends[job_id] for job_id, name in found.items()}


def _line(model: str, cells: dict[str, Scored], ranking: Sequence[str], common: Sequence[str], lost: int = 0) -> Line:
    """One model's line. Its worst case needs every evaluation that enters it to be complete; a line that lacks some of
    the table's `ranking` attacks says so, and is ranked by those that all of its like have in `common`; one that lacks
    what `lost` damaged evaluations would say is ranked last."""
    attacks: dict[str, Cell] = {}
    clean, tables = Cell(None, INCOMPLETE), {}
    for name, each in cells.items():
        try:
            result = each.folder.result if each.whole else None
            rows = None if result is None else each.folder.rows(COUNTED)
        except Damaged as error:
            say(f"Not complete: {error}")
            result = rows = None
        if result is None or rows is None:
            attacks[name] = Cell(None, INCOMPLETE)
            continue
        tables[name] = rows
        flags = tuple(_flags(each.folder, result))
        attacks[name] = Cell(attack_figure(tables[name], each.metric), flags=flags, note=each.note)
        if each.access != "detector" or clean.figure is None:  # behind one, clean images may be rejected
            clean = Cell(clean_figure(tables[name]))
    group = [each.column for each in entering(cells.values())]
    complete = all(each.column in tables for each in cells.values() if enters(each.access))
    here = [name for name in ranking if name in group]
    note = "" if len(here) == len(ranking) else f" ({len(here)}/{len(ranking)} attacks)"
    fired = tuple(sorted({flag for name in here for flag in attacks[name].flags}))
    note += f" ({lost} {LEFT_OUT})" if lost else ""
    partial = bool(note)
    figure = worst_case([tables[name] for name in group]) if group and complete else None
    usable = figure is not None and bool(common) and all(name in tables for name in common)
    shared = worst_case([tables[name] for name in common]) if usable else None
    bound = ""
    if figure is not None:
        boundary, kinds = any(cells[name].boundary for name in group), [cells[name].kind for name in group]
        bound = upper_bound_of_all(cells[group[0]].folder.spec["norm"], boundary, kinds)
        note += beside(bound)
    worst = Cell(figure, COMPLETE if figure else ABSENT if complete else INCOMPLETE, fired, note)
    values = {name: figure.value for name in here if (figure := attacks[name].figure)}
    strongest = min(values, key=lambda name: values[name]) if values else ""
    return Line(
        model, clean, worst, attacks, strongest, partial=partial, shared=shared, damaged=lost > 0,
        searched=bound not in UNSEARCHED,
    )  # fmt: skip


def _flags(folder: EvaluationFolder, result: Summary) -> list[str]:
    """The flags of an evaluation, and whether today's code is another than made it."""
    old = aged(folder)
    return [*result.flags, *([f"made by {old}"] if old else [])]


def _setting(model: str, scored: Scored) -> Setting:
    """What made one cell."""
    folder = scored.folder
    spec, about, result = folder.spec, folder.about, None
    with contextlib.suppress(Damaged):  # said already
        result = folder.result
    return Setting(
        model=model,
        column=scored.column,
        attack=f"{spec['attack']} v{spec['harness']}.{spec['attack_version']}",
        options=spec["attack_options"],
        seed=spec["seed"],
        n=result.n if result else 0,
        gradients=(result.backwards or 0) if result else 0,
        seconds=(result.seconds or 0.0) if result else 0.0,
        flags=_flags(folder, result) if result else [INCOMPLETE],
        evaluation=folder.job_id,
        model_digest=spec["model_digest"],
        data_digest=spec["data_digest"],
        command=command_of(folder),
        commit=about.commit,
        torch=about.torch,
    )
