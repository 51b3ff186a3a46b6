"""robench list and robench show: what kinds there are, and what is told of an attack, a defense, a set or a suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from robench import registry
from robench.cli import listing
from tests.integration.conftest import Run, assert_refused


def test_list_alone_names_the_kinds(robench: Run) -> None:
    assert [line.split()[0] for line in robench("list").out.splitlines()] == list(listing.KINDS)
    assert {item["name"] for item in robench("list", "--json").json["kinds"]} == set(listing.KINDS)
    assert_refused(robench("list", "attcks"), ("'attcks'", "did you mean 'attacks'?"))
    assert_refused(robench("list", "attacks", "--model", "plain"), ("--model is given with attacks",))


@pytest.mark.parametrize("name", registry.names("attack"))
def test_every_attack_tells_its_options_its_source_and_its_cost(name: str, robench: Run) -> None:
    members = {"foolbox": "LinfPGD", "art": "DeepFool", "library": "square", "imported": "mine"}
    if name in members:
        member = members[name]
        assert_refused(robench("show", name), (f"{name}:",))
        name = f"{name}:{member}"
    told = robench("show", name, "--json", "--kind", "attack").json
    assert told["attack"] == name
    assert told["source"].startswith("robench_attacks.")
    assert told["passes"].keys() == set(told["norms"])
    assert all(text.startswith("at most ") or text == "not known beforehand" for text in told["passes"].values())
    assert told["options"].keys() == registry.load("attack", name).parameters().keys()


def test_what_pgd_costs_is_what_its_steps_say(robench: Run) -> None:
    told = robench("show", "pgd", "--json").json
    assert told["passes"]["linf"] == "at most 41 forward and 40 backward per image of 10 classes"
    assert told["norms"] == ["linf", "l2"]


@pytest.mark.parametrize("name", registry.names("set"))
def test_every_set_tells_its_members(name: str, robench: Run) -> None:
    told = robench("show", name, "--kind", "set", "--json").json
    for norm, members in told["members"].items():
        assert [each["attack"] for each in members] == [attack for attack, _ in registry.expand([name], norm)]
    assert told["members"]["linf"][0]["attack"] in robench("show", name, "--kind", "set").out


def test_a_suite_tells_its_table_and_its_scales(robench: Run) -> None:
    told = robench("show", "er-detectors-mnist", "--json").json
    assert set(told["scales"]) == {"smoke", "cpu", "paper"}
    assert "er-kde, beside ER1" in told["rows"]
    assert told["scales"]["smoke"]["images"] == "100 of digits"
    assert told["cost"] == "robench reproduce er-detectors-mnist --dry-run"


def test_a_name_of_several_kinds_tells_of_the_others(robench: Run) -> None:
    told = robench("show", "standard", "--json").json
    assert told["attack"] == "standard"
    assert told["also"] == ["robench show standard --kind defense"]
    assert "digits" in robench("show", "standard", "--kind", "defense", "--json").json["recipes"]
    assert "also" not in robench("show", "standard", "--kind", "defense", "--json").json


def test_what_cannot_be_shown_is_refused(robench: Run) -> None:
    assert_refused(robench("show", "pgdd"), ("'pgdd'", "did you mean 'pgd'?"))
    assert_refused(robench("show", "pgd", "--kind", "sets"), ("'sets'", "did you mean 'set'?"))
    assert_refused(robench("show", "pgd", "--kind", "set"), ("There is no set named 'pgd'",))


def test_paragraphs_are_wrapped(robench: Run) -> None:
    lines = robench("show", "standard").out.splitlines()
    about = lines[lines.index("about:") + 1 : lines.index("source: robench_attacks.standard:Standard")]
    assert len(about) > 3
    assert max(map(len, about)) <= 98


def test_leaderboards_are_of_what_is_chosen_and_an_index_leads_to_them(store: Path, robench: Run) -> None:
    told = robench(
        "leaderboard", "--out", "tables", "--json", "--model", "plain", "--least", "20", "--norm", "linf"
    ).json
    (board,) = told["boards"]
    assert [row["model"] for row in board["rows"]] == ["plain"]
    index = Path("tables/index.md").read_text()
    assert f"({board['name']}.md)" in index
    assert "| 1 | single steps alone |" in index
    assert f'href="{board["name"]}.html"' in Path("tables/index.html").read_text()
    assert robench("leaderboard", "--attack", board["columns"][3], "--out", "tables").code == 0
    assert_refused(robench("leaderboard", "--least", "5000"), ("None of the 1 evaluations",))
    assert_refused(robench("leaderboard", "--norm", "l2"), ("None of the 1 evaluations",))
    assert_refused(robench("leaderboard", "--norm", "l3"), ("'l3'",))
    assert_refused(robench("leaderboard", "--model", "plan"), ("'plan'", "did you mean 'plain'?"))
    assert_refused(robench("leaderboard", "--attack", "pgdd"), ("'pgdd'",))
