"""Names and options of other libraries' attacks: read by their constructors' types and recorded, or refused."""

from __future__ import annotations

import subprocess
import sys

import foolbox
import pyautoattack
import pytest
import torch

from robench import BadInput, ThreatModel, registry
from robench.attack.judge import Examples, attack_shard
from tests import liars
from tests.complaints import complaint


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("foolbox:LinfPDG", "did you mean 'LinfPGD'?"),
        ("foolbox:linfpgd", "did you mean 'LinfPGD'?"),
        ("art:ProjectedGradient", "ProjectedGradientDescent"),
        ("art:DPatch", "no attack of art named 'DPatch'"),  # attacks detectors of objects
        ("foolbox", "such as foolbox:"),
        ("foolbx:LinfPGD", "no attack named 'foolbx:LinfPGD'"),
        ("pgd:LinfPGD", "no attack named 'pgd:LinfPGD'"),
    ],
)
def test_unknown_names_are_refused_with_what_is_near(name: str, says: str) -> None:
    said = complaint(lambda: registry.load("attack", name))
    assert says in said
    assert len(said) < 700


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("foolbox:LinfPGD", {"stps": "3"}, "did you mean 'steps'?"),
        ("foolbox:LinfPGD", {"steps": "many"}, "steps of attack 'foolbox:LinfPGD' is 'many'"),
        ("foolbox:LinfPGD", {"steps": "1.5"}, "must be a whole number from -1"),
        ("foolbox:LinfPGD", {"random_start": "perhaps"}, "must be of type bool"),
        ("foolbox:LinfPGD", {"restarts": "0"}, "Option restarts of"),
        ("foolbox:LinfPGD", {"library": "foolbox 1.0"}, "library is 'foolbox 1.0'"),
        ("foolbox:L2DeepFoolAttack", {"loss": "hinge"}, "loss"),
        ("foolbox:VirtualAdversarialAttack", {}, "-o steps=VALUE"),
        ("foolbox:DatasetAttack", {}, "must be given images"),
        ("foolbox:L1PGD", {}, "L1"),
        ("art:ProjectedGradientDescent", {"eps": "0.1"}, "no option"),
        ("art:ProjectedGradientDescent", {"max_iter": "x"}, "must be a whole number"),
        ("art:ProjectedGradientDescent", {"max_iter": "-3"}, "max_iter"),
        ("art:FrameSaliencyAttack", {}, "must be given attacker"),
        ("art:ShadowAttack", {}, "one image at a time"),
        ("autoattack", {"version": "fast"}, "'fast'"),
        ("autoattack", {"steps": "0"}, "steps of attack 'autoattack' is '0'"),
        ("library:apgd-ce", {"restarts": "0"}, "restarts of attack 'library:apgd-ce' is '0'"),
        ("library:apgd-ce", {"targets": "3"}, "no option of attack 'library:apgd-ce' named 'targets'"),
        ("library:apgd", {}, "did you mean 'apgd-t'"),
        ("library", {}, "name one of them after a colon, such as library:apgd-ce"),
        ("library:square", {"library": "pyautoattack 9"}, "library is 'pyautoattack 9'"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(name: str, options: dict[str, str], says: str) -> None:
    assert says in complaint(lambda: registry.load("attack", name).build(options))


def test_options_are_read_by_the_constructors_types_and_recorded() -> None:
    found = registry.load("attack", "foolbox:LinfPGD").options(
        {"steps": "7", "abs_stepsize": "0.01", "random_start": "no"}
    )
    assert found == {
        "rel_stepsize": 0.01 / 0.3, "abs_stepsize": 0.01, "steps": 7, "random_start": False, "restarts": 1,
        "library": f"foolbox {foolbox.__version__}",
    }  # fmt: skip
    plugin = registry.load("attack", "art:ProjectedGradientDescent")
    assert {"eps", "norm", "targeted", "verbose"}.isdisjoint(plugin.options({}))
    assert plugin.options({"eps_step": "1"})["eps_step"] == 1.0
    assert plugin.options({})["eps_step"] is None
    assert registry.load("attack", "autoattack").options({})["library"] == f"pyautoattack {pyautoattack.__version__}"


def test_norms_are_those_of_the_attack() -> None:
    def norms(name: str) -> tuple[str, ...]:
        found: tuple[str, ...] = registry.load("attack", name).build({}).norms
        return found

    assert norms("foolbox:LinfPGD") == ("linf",)
    assert norms("foolbox:L2CarliniWagnerAttack") == ("l2",)
    assert norms("foolbox:EADAttack") == ("linf", "l2")
    assert norms("art:DeepFool") == ("l2",)
    with pytest.raises(BadInput, match="does not support norm l2"):
        attack_shard(
            liars.Conv(), 4, registry.load("attack", "foolbox:LinfPGD").build({}), ThreatModel.of("l2", "0.1"),
            Examples(torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64), torch.arange(1)),
        )  # fmt: skip


def test_loading_the_plugins_imports_no_library() -> None:
    code = (
        "import sys; from robench import registry\n"
        "registry.check_names('attack', ['foolbox:LinfPGD', 'art:DeepFool'])\n"
        "import robench_attacks.from_foolbox, robench_attacks.from_art, robench_attacks.autoattack\n"
        "print(sorted({'foolbox', 'art', 'pyautoattack'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
