"""Suites: what their files may say, what a scale makes of them, what is refused, and the bundled ones."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from robench import BadInput, registry
from robench.suites.precheck import check
from robench.suites.suite import load, names, titles

GOOD = """
title = "A table"
source = "Nobody, 2020, Table 1"

[scales.small]
dataset = "digits"
count = 50
epochs = 3
[scales.small.rows.Firm]
options = { steps = 2 }
epochs = 1
[scales.small.columns.PGD]
eps = 0.1
options = { steps = 5 }

[scales.large]
dataset = "mnist"
recipe = "paper"
seeds = [0, 1, 2]
[scales.large.columns.Transfer]
skip = true
reason = "no time"

[[rows]]
name = "Plain"
defense = "standard"
[[rows]]
name = "Firm"
defense = "madry"
options = { steps = 4, eps = "0.2" }
[[rows]]
name = "Source"
defense = "standard"
seeds = [1]
shown = false

[[columns]]
name = "Natural"
[[columns]]
name = "PGD"
attack = "pgd"
eps = "8/255"
options = { steps = 40, step = "eps/4" }
[[columns]]
name = "Transfer"
attack = ["fgsm", "r-fgsm"]
combine = "minimum"
surrogate = "Source"
eps = "0.1"

[printed.Plain]
Natural = 95.5
Transfer = 12
"""
DETECTOR = GOOD.replace('name = "Plain"\ndefense = "standard"', 'name = "Plain"\ndefense = "standard"\ndetector = "kd"')


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def replaced(old: str, new: str, text: str = GOOD) -> str:
    assert text.count(old) >= 1
    return text.replace(old, new, 1)


# --- what a scale makes of a file ------------------------------------------------------------------------------------


def test_a_scale_has_the_files_rows_and_columns_with_its_own_changes(tmp_path: Path) -> None:
    small = load(written(tmp_path, GOOD)).at("small")
    assert (small.name, small.scale, small.title, small.dataset, small.count) == (
        "mine", "small", "A table", "digits", 50,
    )  # fmt: skip
    plain, firm, source = small.rows
    assert (plain.defense, plain.dataset, plain.recipe, plain.epochs, plain.seeds) == (
        "standard", "digits", "quick", 3, (0,),
    )  # fmt: skip
    assert plain.batch_size is None
    assert (firm.options, firm.epochs) == ({"steps": 2, "eps": "0.2"}, 1), "options are laid over, key by key"
    assert (source.shown, source.seeds) == (False, (1,))
    natural, pgd, transfer = small.columns
    assert natural.attacks == ()
    assert (pgd.attacks, pgd.norm, pgd.eps) == (("pgd",), "linf", "0.1")
    assert pgd.options == {"steps": 5, "step": "eps/4"}
    assert (transfer.attacks, transfer.combine, transfer.surrogate) == (("fgsm", "r-fgsm"), "minimum", "Source")
    assert small.printed == {"Plain": {"Natural": 95.5, "Transfer": 12.0}}
    assert small.skipped == {}


def test_the_changes_of_one_scale_are_not_another_ones(tmp_path: Path) -> None:
    large = load(written(tmp_path, GOOD)).at("large")
    assert [row.options for row in large.rows] == [{}, {"steps": 4, "eps": "0.2"}, {}]
    assert {row.recipe for row in large.rows} == {"paper"}
    assert [row.seeds for row in large.rows] == [(0, 1, 2), (0, 1, 2), (1,)], "a row's own seeds come first"
    assert large.count is None
    assert [column.name for column in large.columns] == ["Natural", "PGD"]
    assert large.columns[1].eps == "8/255"
    assert large.skipped == {"Transfer": "no time"}
    assert large.printed == {"Plain": {"Natural": 95.5}}


def test_a_rows_detector_stands_before_its_cells_alone(tmp_path: Path) -> None:
    text = replaced('surrogate = "Source"\n', "", DETECTOR)
    small = load(written(tmp_path, text)).at("small")
    plain, firm, _ = small.rows
    natural, pgd, _ = small.columns
    assert small.cell(plain, pgd).detector == "kd"
    assert small.cell(plain, pgd).options == pgd.options
    assert small.cell(firm, pgd).detector is None
    assert small.cell(plain, natural) == natural
    check(small)


def test_a_skipped_row_is_in_neither_rows_nor_printed(tmp_path: Path) -> None:
    text = replaced("[[rows]]", '[scales.small.rows.Plain]\nskip = true\nreason = "too plain"\n\n[[rows]]')
    small = load(written(tmp_path, text)).at("small")
    assert [row.name for row in small.rows] == ["Firm", "Source"]
    assert small.printed == {}
    assert small.skipped == {"Plain": "too plain"}


def test_good_suites_check(tmp_path: Path) -> None:
    suite = load(written(tmp_path, GOOD))
    check(suite.at("small"))
    check(suite.at("large"))


# --- what is refused -------------------------------------------------------------------------------------------------

FAULTS = {
    "no TOML": ("title =", "title = =", "cannot be read"),
    "no title": ('title = "A table"', "", "the suite lacks 'title'"),
    "empty title": ('"A table"', '""', "title is '', but must be text that is not empty"),
    "unknown top field": ('title = "A table"', 'title = "A table"\nmetrik = "x"', "did you mean 'metric'"),
    "unknown row field": ('defense = "madry"', 'defence = "madry"', "row 'Firm'"),
    "misspelt row field": ('defense = "madry"', 'defense = "madry"\nepoch = 1', "did you mean 'epochs'"),
    "unknown column field": ('combine = "minimum"', 'combines = "minimum"', "did you mean 'combine'"),
    "unknown scale field": ("count = 50", "counts = 50", "did you mean 'count'"),
    "count zero": ("count = 50", "count = 0", "scales.small.count is 0, but must be at least 1"),
    "count true": ("count = 50", "count = true", "count is True, but must be a whole number"),
    "count text": ("count = 50", 'count = "50"', "count is '50', but must be a whole number"),
    "epochs half": ("epochs = 1", "epochs = 1.5", "epochs is 1.5, but must be a whole number"),
    "seeds no list": ("seeds = [1]", "seeds = 1", "row 'Source', seeds is 1, but must be a list"),
    "seeds empty": ("seeds = [1]", "seeds = []", "seeds is [], but must be not empty"),
    "seed negative": ("seeds = [1]", "seeds = [-1]", "seeds[0] is -1, but must be at least 0"),
    "shown text": ("shown = false", 'shown = "no"', "shown is 'no', but must be true or false"),
    "options no table": ('options = { steps = 4, eps = "0.2" }', "options = 4", "options is 4, but must be a table"),
    "row without defense": ('defense = "madry"\n', "", "row 'Firm' lacks 'defense'"),
    "nameless row": ('name = "Firm"\n', "", "row number 2 lacks 'name'"),
    "norm": ('attack = "pgd"', 'attack = "pgd"\nnorm = "l1"', "norm is 'l1', but must be one of 'linf' or 'l2'"),
    "no eps": ('eps = "8/255"\n', "", "column 'PGD' has an attack but no eps"),
    "eps true": ('eps = "8/255"', "eps = true", "eps is True, but must be text"),
    "no attack": ('attack = "pgd"\n', "", "column 'PGD' has eps but no attack"),
    "attack no list": ('attack = "pgd"', "attack = 1", "attack is 1, but must be a list"),
    "attack empty": ('attack = "pgd"', "attack = []", "attack is [], but must be not empty"),
    "combine": ('"minimum"', '"mean"', "combine is 'mean', but must be one of 'worst case' or 'minimum'"),
    "figure": ('eps = "8/255"', 'eps = "8/255"\nfigure = "auc"', "figure is 'auc', but must be one of 'acc_nadv'"),
    "figure of no detector": ('eps = "8/255"', 'eps = "8/255"\nfigure = "acc_com"', "shows acc_com of no detector"),
    "fpr": ('eps = "8/255"', 'eps = "8/255"\nfpr = 1.0', "fpr is 1.0, but must be below 1"),
    "surrogate and detector": (
        'surrogate = "Source"',
        'surrogate = "Source"\ndetector = "kd"',
        "leave one of them out",
    ),
    "two rows alike": ('name = "Firm"', 'name = "Plain"', "2 rows are named 'Plain'"),
    "two columns alike": ('name = "Transfer"', 'name = "PGD"', "2 columns are named 'PGD'"),
    "surrogate and guide": ('surrogate = "Source"', 'surrogate = "Source"\nguide = "Source"', "which go with no guide"),
    "unknown guide": ('surrogate = "Source"', 'guide = "Sourse"', "did you mean 'Source'"),
    "a guide of itself": ('surrogate = "Source"', 'guide = "Plain"', "is guided by itself"),
    "no images": ('surrogate = "Source"', "count = 0", "must be at least 1"),
    "a reading of nothing": ('surrogate = "Source"', 'reading_of = "Prints"', "column to be a reading of"),
    "a reading with values": ('surrogate = "Source"', 'reading_of = "PGD"', "has printed values of its own"),
    "unknown surrogate": ('surrogate = "Source"', 'surrogate = "Sourse"', "did you mean 'Source'"),
    "seeds of a surrogate": ("seeds = [1]", "seeds = [1, 2]", "trained from 2 seeds"),
    "scale of an unknown row": ("[scales.small.rows.Firm]", "[scales.small.rows.Frim]", "did you mean 'Firm'"),
    "scale of an unknown column": ("[scales.small.columns.PGD]", "[scales.small.columns.PDG]", "did you mean 'PGD'"),
    "scale's unknown field": ("epochs = 1", "epoch = 1", "scales.small: There is no field of 'Firm' named 'epoch'"),
    "scale's wrong value": ("epochs = 1", "epochs = 0", "scales.small: 'Firm', epochs is 0, but must be at least 1"),
    "scale's change is no table": (
        "options = { steps = 2 }",
        "options = 2",
        "'Firm', options is 2, but must be a table",
    ),
    "scale's change of a name": ("epochs = 1", 'name = "Weak"', "'Firm' cannot have another name"),
    "skip without a reason": ('reason = "no time"\n', "", "'Transfer' is skipped by skip = true and a reason"),
    "skip and more": ('reason = "no time"', 'reason = "no time"\neps = "0.1"', "and nothing else"),
    "not to skip": ("skip = true", "skip = false", "'Transfer' is skipped by skip = true"),
    "printed of an unknown row": ("[printed.Plain]", "[printed.Plane]", "did you mean 'Plain'"),
    "printed of a hidden row": ("[printed.Plain]", "[printed.Source]", "known: Firm, Plain"),
    "printed of an unknown column": ("Natural = 95.5", "Natura = 95.5", "did you mean 'Natural'"),
    "printed text": ("Natural = 95.5", 'Natural = "95.5"', "printed.Plain.Natural is '95.5', but must be a number"),
    "printed nan": ("Natural = 95.5", "Natural = nan", "but must be a finite number"),
}


@pytest.mark.parametrize(("old", "new", "says"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_sentence_with_the_file_and_the_place(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = written(tmp_path, replaced(old, new))
    with pytest.raises(BadInput) as fault:
        load(path)
    text = str(fault.value)
    assert says in text
    assert path in text
    assert "\n" not in text
    assert "pydantic" not in text
    assert text.endswith(".")


STRANGE = [None, True, 0, -1, 1.5, float("nan"), "", "x", [], [1], [{}], {}, {"name": "x"}, {"name": {}}]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a file, from the whole to the last number."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


@pytest.mark.parametrize("path", [path for path in places(tomllib.loads(GOOD)) if path], ids=str)
def test_whatever_stands_anywhere_is_read_or_refused(monkeypatch: pytest.MonkeyPatch, path: tuple[Any, ...]) -> None:
    for strange in STRANGE:
        raw = tomllib.loads(GOOD)
        *parents, last = path
        reduce(lambda inside, key: inside[key], parents, raw)[last] = strange
        monkeypatch.setattr("robench.suites.suite.parsed", lambda _, raw=raw: raw)
        try:
            load("any.toml").at("small")
        except BadInput as fault:
            text = str(fault)
            assert text.endswith(".")
            assert "\n" not in text
            assert "such that this holds" not in text, text


def test_a_surrogate_cannot_be_skipped_nor_every_row(tmp_path: Path) -> None:
    gone = '[scales.small.rows.{}]\nskip = true\nreason = "none"\n'
    with pytest.raises(BadInput, match="column 'Transfer': There is no row to craft on named 'Source'"):
        load(written(tmp_path, replaced("[[rows]]", gone.format("Source") + "\n[[rows]]")))
    text = GOOD.replace("[scales.small.rows.Firm]\noptions = { steps = 2 }\nepochs = 1\n", gone.format("Firm"))
    with pytest.raises(BadInput, match="No row or no column is left"):
        load(written(tmp_path, replaced("[[rows]]", gone.format("Plain") + "\n[[rows]]", text)))


def test_two_that_watch_one_cell_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="row 'Plain' under column 'Transfer' has 'kd' and 'Source'"):
        load(written(tmp_path, DETECTOR))
    two = replaced('eps = "8/255"', 'eps = "8/255"\ndetector = "lid"', DETECTOR)
    with pytest.raises(BadInput, match="row 'Plain' under column 'PGD' has 'kd' and 'lid'"):
        load(written(tmp_path, two))


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"There is no file .*none\.toml"):
        load(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match=r"bytes\.toml cannot be read"):
        load(str(tmp_path / "bytes.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(BadInput, match=r"folder\.toml cannot be read"):
        load(str(tmp_path / "folder.toml"))


def test_unknown_names_come_with_a_suggestion() -> None:
    with pytest.raises(BadInput, match="no suite named 'paradise-whitebox'; did you mean 'paradise-white-box'"):
        load("paradise-whitebox")
    with pytest.raises(BadInput, match="no scale of the suite 'digits' named 'smok'; did you mean 'smoke'"):
        load("digits").at("smok")
    with pytest.raises(BadInput, match="no row of the suite 'digits' at scale 'smoke' named 'ADVV'"):
        load("digits").at("smoke").row("ADVV")


PLUGINS = {
    "defense": ('defense = "madry"', 'defense = "madri"', "row 'Firm': There is no defense named 'madri'"),
    "defense's option": ("options = { steps = 2 }", "options = { stepz = 2 }", "row 'Firm': There is no option"),
    "defense's value": ("options = { steps = 2 }", "options = { steps = 0 }", "Option steps of defense 'madry' is 0"),
    "defense's type": ("options = { steps = 2 }", 'options = { steps = "x" }', "row 'Firm': Option steps of defense"),
    "recipe": ('dataset = "digits"', 'dataset = "digits"\nrecipe = "paper"', "has no recipe 'paper' for digits"),
    "dataset": ('dataset = "digits"', 'dataset = "digit"', "no dataset named 'digit'; did you mean 'digits'"),
    "attack": ('attack = "pgd"', 'attack = "pdg"', "column 'PGD': There is no attack named 'pdg'; did you mean 'pgd'"),
    "attack's option": ("{ steps = 5 }", "{ stepz = 5 }", "column 'PGD': There is no option of attack 'pgd'"),
    "attack's value": ("{ steps = 5 }", "{ steps = 0 }", "column 'PGD': Option steps of attack 'pgd' is 0"),
    "eps": ("eps = 0.1\n", "eps = 8\n", "column 'PGD': eps is 8, but pixels are in [0, 1]"),
    "norm": ('["fgsm", "r-fgsm"]', '["fgsm", "r-fgsm"]\nnorm = "l2"', "'r-fgsm' does not support norm l2"),
    "size": ("eps = 0.1\n", 'eps = 9\nnorm = "l2"\n', "no two images of shape (1, 8, 8)"),
    "guide": (
        'attack = ["fgsm", "r-fgsm"]\ncombine = "minimum"\nsurrogate = "Source"\n',
        'attack = "square"\nguide = "Source"\n', "column 'Transfer': The attack 'square' takes no gradients",
    ),
    "transfer": ('["fgsm", "r-fgsm"]', '"library:square"', "The attack 'library:square' says nothing"),
    "metrics": ('["fgsm", "r-fgsm"]', '["fgsm", "random-targeted"]', "of which there is no smallest one"),
    "detector": ("eps = 0.1\n", 'eps = 0.1\ndetector = "kid"\n', "column 'PGD': There is no detector named 'kid'"),
    "detector's option": (
        "eps = 0.1\n", 'eps = 0.1\ndetector = "kd"\ndetector_options = { bandwith = 1.0 }\n',
        "column 'PGD': There is no option of detector 'kd' named 'bandwith'; did you mean 'bandwidth'",
    ),
    "trained on": ("eps = 0.1\n", 'eps = 0.1\ndetector = "kd"\ntrained_on = "pdg"\n', "no attack named 'pdg'"),
    "trained option": (
        "eps = 0.1\n", 'eps = 0.1\ndetector = "kd"\ntrained_options = { stepz = 1 }\n', "There is no option of attack",
    ),
    "trained norm": ("eps = 0.1\n", 'eps = 0.1\ndetector = "kd"\ntrained_on = "cw"\n', "does not support norm linf"),
    "figure of several": (
        "eps = 0.1\noptions = { steps = 5 }\n",
        'eps = 0.1\ndetector = "kd"\nfigure = "acc_com"\nattack = "guess-first"\n',
        "column 'PGD': Its figure acc_com is of one attack's images, but there are 2 attacks",
    ),
    "noise among others": (
        "eps = 0.1\noptions = { steps = 5 }\n", 'eps = 0.1\nattack = ["random-noise", "pgd"]\n',
        "column 'PGD': It takes random-noise together with other attacks",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "says"), PLUGINS.values(), ids=PLUGINS)
def test_check_refuses_what_no_plugin_knows(tmp_path: Path, old: str, new: str, says: str) -> None:
    small = load(written(tmp_path, replaced(old, new))).at("small")
    with pytest.raises(BadInput) as fault:
        check(small)
    assert says in str(fault.value)
    assert "the suite 'mine' at scale small" in str(fault.value)


# --- the bundled ones ------------------------------------------------------------------------------------------------

CASES = [(name, scale) for name in names() for scale in load(name).scales]


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_every_bundled_suite_can_be_run(name: str, scale: str) -> None:
    suite = load(name).at(scale)
    check(suite)
    shown = {row.name for row in suite.rows if row.shown}
    assert suite.printed.keys() <= shown
    for values in suite.printed.values():
        assert values.keys() <= {column.name for column in suite.columns}
        assert all(0 <= value <= 100 for value in values.values())
    assert suite.title == titles()[name]
    assert not suite.title.endswith(".")
    assert suite.source.endswith(".")
    assert suite.metric
    assert all(len(reason) > 5 for reason in suite.skipped.values())
    hidden = {row.name for row in suite.rows if not row.shown}
    assert hidden == {column.surrogate for column in suite.columns if column.surrogate}, "trained for nobody"


@pytest.mark.parametrize("name", names())
def test_scales_are_what_they_are_called(name: str) -> None:
    suite = load(name)
    assert {"smoke", "cpu"} <= suite.scales.keys()
    smoke, cpu = suite.at("smoke"), suite.at("cpu")
    assert smoke.dataset == "digits"
    assert (smoke.count or 0) <= 100
    costly = [column for column in cpu.columns if {"cw", "standard"} & {*column.attacks}]
    assert all((cpu.images(column) or 0) <= 1000 for column in costly)
    assert (cpu.count or 0) <= 10_000
    assert all(row.recipe == "quick" for row in (*smoke.rows, *cpu.rows))
    assert ("paper" in suite.scales) == (name not in ("digits", "mnist", "mnist-linf", "cifar10-linf"))
    if "paper" in suite.scales:
        paper = suite.at("paper")
        assert all(row.recipe.startswith("paper") for row in paper.rows)
        assert not paper.skipped
        assert all(row.epochs is None for row in paper.rows)


def test_names_and_loading_need_no_torch() -> None:
    code = (
        "import sys; from robench.suites.suite import load, names; "
        "[load(name) for name in names()]; print('torch' in sys.modules, len(names()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out[0] == "False"
    assert int(out[1]) == len(names()) >= 17


def test_every_defense_of_the_papers_is_in_a_table() -> None:
    used = {row.defense for name, scale in CASES for row in load(name).at(scale).rows}
    assert set(registry.names("defense")) - used == {"c-eb", "guess-first", "paradise-ae"}, "ours, and one of pictures"
