"""Flags that the judge sets about a model itself, as gates: what each is called there, and what to do."""

from __future__ import annotations

# a flag's beginning, the gate on it, and what to do
FLAGGED: tuple[tuple[str, str, str], ...] = (
    (
        "randomised", "randomised output",
        "the figure is of single draws: attack with --eot 20 or more, or fix the noise, and report over several seeds",
    ),
    (
        "gradient-at-inference", "optimisation during inference",
        "the model optimises while it answers: attack through its loop, or with a query attack and transfer",
    ),
    (
        "changes-its-", "answers that depend on earlier calls",
        "the model changes between calls; make it a function of the image alone",
    ),
    (
        "batch-dependent", "answers that depend on the batch",
        "some layer mixes the images of a batch (batch norm in train mode?); make every answer one image's own",
    ),
    (
        "wrong-gradients", "gradients that do not fit the answers",
        "the model's answers do not change as its gradients say: attack with BPDA for the layer that hides them, with "
        "queries, and with a substitute",
    ),
    (
        "changes-torch", "replaced functions",
        "the model replaces functions that the judge computes with: remove that, and evaluate it anew",
    ),
    (
        "changes-global-state", "changed global state",
        "the model changes settings or seeds of the whole process: let it keep to its own tensors and generators",
    ),
    (
        "reaches-outside", "answers from outside of the process",
        "the model opens files, starts programs or connects to others while it answers, so that it can remember what "
        "it was asked: load what it needs when it is made",
    ),
    (
        "unchecked-gradients", "answers too coarse to hold gradients against them",
        "small changes cannot be seen in the answers: compute in float32, add no large number to all logits, and "
        "return what is before a sigmoid or softmax",
    ),
    (
        "squashed-outputs", "squashed outputs",
        "a sigmoid or its like flattens the answers, and gradients vanish there: return what is before it, or leave "
        "out the option that exposes it",
    ),
    (
        "extreme-logits", "logits beyond comparison",
        "the logits are so large or so far apart that float32 cannot tell what decides: subtract what is added to all, "
        "and keep the classes on one scale",
    ),
    (
        "flat-logits", "logits too small for a cross-entropy",
        "a softmax of such logits calls all classes equally likely, and its cross-entropy does not tell which is near: "
        "attack with a margin loss",
    ),
    (
        "sudden-answers", "answers that change without warning",
        "hardly anything of a class's lead is gone when another takes its place, so that attacks which follow it see "
        "no boundary: attack with square and with the images of a substitute, and run 'robench diagnose'",
    ),
    (
        "moved-nothing", "an attack that moves nothing",
        "the attack left every image as it was: look whether it gets gradients at all and proposes finite pixels, or "
        "use another",
    ),
)  # fmt: skip
