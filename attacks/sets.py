"""Attacks that go by one name: the papers' suites, and what the diagnostics need."""

from __future__ import annotations

from robench import AttackSet

paradise = AttackSet(
    "The PARADISE paper's white-box attacks: untargeted with 20 restarts, random-targeted, multi-targeted.",
    (("untargeted", {}), ("random-targeted", {}), ("multi-targeted", {})),
)
guess_first = AttackSet(
    "The guess-first paper's FGSM and PGD (40 steps of 0.01) in linf, and its C&W in L2.",
    (("fgsm", {}), ("pgd", {"steps": 40, "step": "0.01"})),
    {"l2": (("cw", {}),)},
)
er = AttackSet(
    "The ER-Classifier paper's FGSM and PGD, 40 steps of 0.01 as on MNIST; in L2, where it has none, of eps/4.",
    (("fgsm", {}), ("pgd", {"steps": 40, "step": "0.01"})),
    {"l2": (("fgsm", {}), ("pgd", {"steps": 40}))},
)
transfer = AttackSet(
    "The PARADISE paper's black-box attacks, for --surrogate: FGSM, R+FGSM, Step-Rand, Iter-Rand, PGD-Rand.",
    (("fgsm", {}), ("r-fgsm", {}), ("step-rand", {}), ("iter-rand", {}), ("pgd-rand", {})),
)
diagnosis = AttackSet(
    "What robench diagnose runs at the given eps: one step, many, more with restarts, margins, the boundary, noise and "
    "queries.",
    (
        ("fgsm", {}),
        ("pgd", {"steps": 40}),
        ("pgd", {"steps": 80, "restarts": 2}),
        ("multi-targeted", {"steps": 40}),
        ("fab-t", {"targets": 3, "steps": 50}),
        ("random-noise", {}),
        ("square", {"queries": 500}),
    ),
)
diagnosis_wide = AttackSet(
    "What robench diagnose runs at twice the given eps, and at one that allows anything.",
    (("pgd", {"steps": 40}),),
)
