"""Where a model may come from, a row each; imports nothing heavy, so that listing is instant."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSource:
    """A kind of source. form: how it is named; extra: what of robench's extras it needs, "" for none."""

    form: str
    summary: str
    extra: str = ""


SOURCES = (
    ModelSource("NAME", "a model that robench trained ('robench list models')"),
    ModelSource("file.py:factory", "what a function, class or variable of your file gives; ?depth=3 or -m depth=3"),
    ModelSource("package.module:factory", "the same of a module that can be imported, from the current folder too"),
    ModelSource("torchvision:NAME", "torchvision's, with its normalisation and, for folder: data, resize and crop"),
    ModelSource("timm:NAME", "timm's, with the size and normalisation it is configured for", "timm"),
    ModelSource("hf:OWNER/NAME, hf:FOLDER", "a Hugging Face image classifier, with what its processor does", "hf"),
    ModelSource("robustbench:NAME", "RobustBench's, by its own loading code; ?dataset=cifar100&threat_model=L2",
                "robustbench"),
    ModelSource("onnx:FILE", "a graph, through onnx2torch", "onnx"),
    ModelSource("pt2:FILE", "what torch.export.save wrote"),
    ModelSource("jit:FILE", "what torch.jit.save wrote"),
)  # fmt: skip
