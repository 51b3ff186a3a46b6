"""JUnit XML, as the test reports of CI systems read it: in the part that Ant's and Jenkins's schemas have in common."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from xml.etree import ElementTree as Tree

from robench.text.escaping import visible


@dataclass(frozen=True)
class Case:
    """A test: passed, unless `failure` (what it checks does not hold) or `error` (it could not be checked) says why.

    seconds: how long it took. detail: text that goes with the failure or error.
    """

    name: str
    classname: str
    seconds: float = 0.0
    failure: str = ""
    error: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Suite:
    """Tests under one name, with properties that hold for all of them; output: text that goes with no single test."""

    name: str
    cases: Sequence[Case]
    properties: Mapping[str, object] = field(default_factory=dict)
    output: str = ""


def document(suites: Sequence[Suite], package: str) -> str:
    """The suites as one XML document, as of now."""
    root = Tree.Element("testsuites")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    for number, suite in enumerate(suites):
        node = Tree.SubElement(root, "testsuite", {
            "name": visible(suite.name) or "-",
            "package": visible(package),
            "id": str(number),
            "timestamp": now,
            "hostname": visible(socket.gethostname()) or "localhost",
            "tests": str(len(suite.cases)),
            "failures": str(sum(bool(case.failure) for case in suite.cases)),
            "errors": str(sum(bool(case.error) and not case.failure for case in suite.cases)),
            "time": f"{sum(case.seconds for case in suite.cases):.3f}",
        })  # fmt: skip
        facts = Tree.SubElement(node, "properties")
        for name, value in suite.properties.items():
            Tree.SubElement(facts, "property", {"name": visible(name) or "-", "value": visible(str(value))})
        for case in suite.cases:
            _add(node, case)
        Tree.SubElement(node, "system-out").text = _lines(suite.output) or None
        Tree.SubElement(node, "system-err")  # Ant's schema wants both
    Tree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Tree.tostring(root, encoding="unicode") + "\n"


def _add(suite: Tree.Element, case: Case) -> None:
    attributes = {"name": visible(case.name), "classname": visible(case.classname), "time": f"{case.seconds:.3f}"}
    node = Tree.SubElement(suite, "testcase", attributes)
    told = case.failure or case.error
    if told:
        kind = "failure" if case.failure else "error"
        Tree.SubElement(node, kind, {"type": kind, "message": visible(told)}).text = _lines(case.detail or told)


def _lines(text: str) -> str:
    """Lines of text without what XML cannot hold, not even escaped."""
    return "\n".join(map(visible, text.split("\n")))
