"""What README and docs say of the command line is so: commands, options, names. They are parsed, not run.

In docs a word in capitals stands for anything, `...` and brackets mark what may be repeated or left out, and `a|b` are
alternatives. docs/log.md is a diary, and what it says of a day stays.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from robench import registry
from robench.cli import listing
from robench.cli.app import app
from robench.cli.panels import EXAMPLES, HEADING
from robench.data.catalogue import DATASETS
from robench.errors import BadInput
from robench.suites.suite import load
from robench.suites.suite import names as suites

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs").glob("*.yml"))]
PAGES = [page for page in PAGES if page.name != "log.md"]
DOCS = ROOT / "docs"
# the pages whose tables must have every name of a kind, with the table's first heading
TABLES = {"attack": "attacks.md", "detector": "detectors.md", "data": "data.md"}
ANYTHING = re.compile(r"[A-Z][A-Z_0-9]*")
OPTION = re.compile(r"--?[a-z][a-z0-9-]*")
PROGRAM = typer.main.get_command(app)


@dataclass
class Call:
    """A command in the docs: where it stands, its words, and whether it is whole, or named in passing."""

    where: str
    words: list[str]
    whole: bool
    path: tuple[str, ...] = ()
    given: list[tuple[Any, str]] = field(default_factory=list)
    """Parameters of the program with the text they are given."""

    def texts(self, name: str) -> list[str]:
        """What a parameter is given, by its name in the program."""
        return [text for parameter, text in self.given if parameter.name == name]


# --- reading ---------------------------------------------------------------------------------------------------------


def code(text: str) -> tuple[list[str], list[str]]:
    """The lines of a page's code blocks, continued ones as one, and its inline code."""
    lines: list[str] = []

    def block(found: re.Match[str]) -> str:
        if (found["language"] or "") not in ("python", "toml"):
            lines.extend(re.sub(r"\\\n\s*", "", found["body"]).splitlines())
        return ""

    text = re.sub(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", block, text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(?<=\n\n)(?P<language>)(?P<body>(?: {4}.*\n|\n(?= {4}))+)", block, text)
    return lines, [" ".join(each.split()) for each in re.findall(r"`([^`]+)`", text)]


def calls(page: Path) -> Iterator[Call]:
    """Every command of robench on a page, or in a workflow, where remarks have some too."""
    lines, inline = code(page.read_text())
    if page.suffix == ".yml":
        lines, inline = [re.sub(r"^\s*(#|run:)?", "", line) for line in page.read_text().splitlines()], []
    for whole, texts in ((True, lines), (False, inline)):
        for text in texts:
            for part in re.split(r"&&|\|\||;", text):
                words = _words(part)
                at = next((i for i, word in enumerate(words) if Path(word).name == "robench"), None)
                if at is None or any("=" not in word for word in words[:at]):  # prose, or `import robench`
                    continue
                if words[at + 1 :]:
                    yield parsed(Call(f"{page.name}: {part.strip()}", words[at + 1 :], whole))


def _words(text: str) -> list[str]:
    plain = re.sub(r"\.\.\.|\[|\]|\s\|(?=\s)", "", text)
    try:
        return shlex.split(plain, comments=True)
    except ValueError:  # a quotation mark that is an apostrophe
        return []


def parsed(call: Call) -> Call:
    """The call with its words assigned to the program's parameters; an AssertionError says what the program lacks."""
    command, words = PROGRAM, iter(call.words)
    positional: list[str] = []
    for word in words:
        name, _, text = word.partition("=") if word.startswith("--") else (word, "", "")
        if OPTION.fullmatch(name):
            option = next((each for each in command.params if name in (*each.opts, *each.secondary_opts)), None)
            assert option or name in ("-h", "--help"), f"{call.where}: there is no option {name}"
            if option and not option.is_flag:
                call.given.append((option, text or next(words, "")))
        elif hasattr(command, "commands"):
            assert word in command.commands, f"{call.where}: there is no command {word}"
            command, call.path = command.commands[word], (*call.path, word)
        else:
            positional.append(word)
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    for text in positional:
        assert arguments, f"{call.where}: {text} is one argument too many"
        call.given.append((arguments[0], text))
        if arguments[0].nargs == 1:
            del arguments[0]
    missing = [each.name for each in command.params if each.required and not call.texts(each.name)]
    assert not (call.whole and missing), f"{call.where}: {missing} is missing"
    return call


@cache
def everything() -> list[Call]:
    return [call for page in PAGES for call in calls(page)]


def check(page: Path) -> None:
    """An AssertionError quotes the first command that the program does not have as it stands."""
    for call in calls(page):
        try:
            known(call)
        except BadInput as error:
            raise AssertionError(f"{call.where}: {error}") from error


# --- names -----------------------------------------------------------------------------------------------------------


def literal(texts: Iterable[str], separator: str = ",") -> list[str]:
    """The names among texts that stand for themselves."""
    found = [name for text in texts for each in text.split("|") for name in each.split(separator)]
    return [name for name in found if name and not ANYTHING.fullmatch(name)]


def known(call: Call) -> None:
    """Raise BadInput or AssertionError where a name that stands for itself is not the program's."""
    command = " ".join(call.path)
    attacks = literal(call.texts("attack"))
    attacks = [name for name in attacks if name not in own_plugins(call)]
    registry.check_attacks(attacks)
    registry.check_attacks(name.partition("@")[0] for name in literal(call.texts("trained_on")))
    registry.check_names("detector", literal(call.texts("detector")))
    registry.check_names("defense", [name for name in literal(call.texts("defense")) if name not in own_plugins(call)])
    choices = {
        "norm": {"linf", "l2"},
        "executor": {"inline", "ray"},
        "kind": set(listing.KINDS),
        "suite": set(suites()),
        "dataset": set(DATASETS),
    }
    if command == "data fetch":
        choices["name"] = set(DATASETS)
    for parameter, allowed in choices.items():
        for name in literal(call.texts(parameter)):
            assert name in allowed or re.search(r":|\.toml$", name), f"{call.where}: {name!r} is none of {allowed}"
    for parameter, text in call.given:
        if parameter.metavar in ("N", "S"):
            assert text.isdecimal() or ANYTHING.fullmatch(text), f"{call.where}: {text!r} is no number"
    for suite in literal(call.texts("suite")):
        for scale in literal(call.texts("scale")):
            assert suite not in suites() or load(suite).at(scale)
    options = [pair.partition("=")[0] for pair in call.texts("option")]
    members = [name for name, _ in registry.expand(attacks, "linf")]
    owners = [("attack", name) for name in members] + [("detector", name) for name in literal(call.texts("detector"))]
    owners += [("defense", name) for name in literal(call.texts("defense"))]
    for name in options if not own_plugins(call) else ():
        assert name == "key" or not owners or _takes(owners, name), f"{call.where}: none of {owners} has {name}"


def own_plugins(call: Call) -> set[str]:
    """The plugins that the call's page declares entry points of, and that the call names."""
    text = "".join(page.read_text() for page in PAGES if call.where.startswith(f"{page.name}:"))
    declared = re.findall(r'entry-points\."robench\.\w+"\]\n((?:[\w-]+ = .*\n)+)', text)
    names = {line.partition(" = ")[0] for block in declared for line in block.splitlines()}
    return names & set(literal([text for _, text in call.given]))


def _takes(owners: Iterable[tuple[str, str]], option: str) -> bool:
    return any(option in registry.load(kind, name).parameters() for kind, name in owners)


# --- the tests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_docs_are_the_program_s(page: Path) -> None:
    check(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_passing_are_the_program_s(page: Path) -> None:
    """Inline code that begins with an option is about robench, whatever the command."""
    there = {name for command in leaves(PROGRAM).values() for each in command.params
             for name in (*each.opts, *each.secondary_opts)}  # fmt: skip
    for text in code(page.read_text())[1]:
        if text.startswith("-"):
            for name in (word.partition("=")[0] for word in text.split()):
                assert not OPTION.fullmatch(name) or name in there, f"{page.name}: `{text}`: there is no {name}"


def test_every_command_s_help_ends_in_two_examples_that_it_understands() -> None:
    assert set(EXAMPLES) == {name for name, each in PROGRAM.commands.items() if not hasattr(each, "commands")}
    for name, examples in EXAMPLES.items():
        assert len(examples) == 2
        for _, line in examples:
            call = parsed(Call(f"help of {name}", shlex.split(line)[1:], True))
            assert call.path == (name,)
            known(call)


def test_every_option_stands_under_a_heading() -> None:
    """In the help of whatever has more than a few of them."""
    for path, command in leaves(PROGRAM).items():
        options = [each.name for each in command.params if each.param_type_name == "option" and each.name != "help"]
        if len(path) == 1 and len(options) > 6:
            lacking = {name for name in options if name not in HEADING}
            assert not lacking, f"{' '.join(path)}: {lacking}; name them in PANELS"


def leaves(command: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """The commands that do something, by their words."""
    inner = getattr(command, "commands", {})
    found = {} if inner else {path: command}
    for name, each in inner.items():
        found |= leaves(each, (*path, name))
    return found


def test_every_command_is_named_on_some_page() -> None:
    named = {call.path for call in everything() if not call.where.startswith("README")}
    assert set(leaves(PROGRAM)) <= named


def rows(heading: str) -> list[tuple[list[str], str]]:
    """The names and the text of each row of the table with that first heading."""
    page = (DOCS / TABLES[heading]).read_text()
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert table
    cells = [line.strip("|\n").split(" | ", 1) for line in table[1].splitlines()]
    return [(re.findall(r"`([^`]+)`", first), rest) for first, rest in cells]


def test_tables_of_names_are_the_program_s() -> None:
    for heading, there in (
        ("attack", registry.names("attack")),
        ("detector", registry.names("detector")),
        ("data", list(DATASETS)),
    ):
        named = [name for names, _ in rows(heading) for name in names]
        if heading == "attack":
            named = [name.removesuffix(":NAME") for name in named]
        if heading == "data":  # a size is an option of a folder, not another source, and some are of a program
            named = [name for name in named if not name.endswith("@SIZE") and not name.startswith("data=")]
        assert sorted(set(named)) == sorted(there)


def test_options_in_the_table_of_attacks_are_the_attacks() -> None:
    for names, text in rows("attack"):
        for option in re.findall(r"`-o (\w+)=", text):
            assert _takes([("attack", name) for name in names], option), f"{names} lacks {option}"


def steps_of(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a workflow's only job, which must end in time."""
    (job,) = workflow["jobs"].values()
    assert 0 < job["timeout-minutes"] <= 120
    found: list[dict[str, Any]] = job["steps"]
    return found


def test_the_workflow_does_not_trust_the_change_that_it_checks() -> None:
    text = (ROOT / "docs" / "github-actions.yml").read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow[True] == ["pull_request"]  # what YAML makes of the key `on`
    steps = steps_of(workflow)
    used = re.findall(r"^[ #]*- uses: (.*)$", text, re.MULTILINE)
    assert len(used) > len([step for step in steps if "uses" in step])  # those of remarks are meant to be copied too
    for each in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each), each
    checkouts = [step["with"] for step in steps if "checkout" in step.get("uses", "")]
    assert all(each["persist-credentials"] is False for each in checkouts)
    (base,) = [each for each in checkouts if "ref" in each]
    assert base["ref"] == "${{ github.event.pull_request.base.sha }}"
    at = next(i for i, step in enumerate(steps) if "robench check" in step.get("run", ""))
    words = shlex.split(steps[at]["run"])
    assert words[:3] == ["robench", "check", f"{base['path']}/$BASELINE"]
    assert (ROOT / workflow["jobs"]["robustness"]["env"]["BASELINE"]).is_file()
    assert "--reuse" not in words
    required = steps[at + 1]
    assert required["if"] == "always()"
    for option in ("--junit", "--markdown"):
        assert f"test -s {words[words.index(option) + 1]}" in required["run"]


@pytest.mark.parametrize(
    "wrong",
    [
        "robench attack standard-mnist",
        "robench evaluate --attak pgd",
        "robench evaluate -a pgdd",
        "robench evaluate -a pgd -o stepp=0.1",
        "robench evaluate M -a A --detector er-kd",
        "robench train standart",
        "robench train standard --dataset minst",
        "robench reproduce digit",
        "robench reproduce digits --scale papers",
        "robench list attack",
        "robench data get mnist",
        "robench baseline standard-digits",
        "robench leaderboard tables",
        "robench evaluate --cascade -n many",
    ],
)
def test_what_is_wrong_is_found(wrong: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Text:\n\n    {wrong}     # a remark\n\nMore.\n")
    with pytest.raises(AssertionError, match=r"page\.md: robench "):
        check(page)
