"""What a flag beside a figure means and what to do about it: the gates' own words where a gate asks it."""

from __future__ import annotations

from robench.results.rows import FELL
from robench.results.summary import DIFFERS, INCOMPLETE, NOT_SEALED
from robench.trust.flagged import FLAGGED

# the flag of a figure above what the same images keep within a smaller eps, before that eps
LESS_WITHIN = "less-within-"
# flags that no gate asks about, by their beginnings
OTHERS = (
    ("zero-gradient", "no gradient at all for this share of the attacked images: look for rounding, saturation or a "
     "detached step in the model, and attack with a margin loss, BPDA and queries"),
    ("not-copied", "no copy could be made of the model, so nobody asked one that saw nothing of the attack: let it be "
     "deep-copied, or evaluate it from a file"),
    ("non-finite", "the model answers NaN or infinity to perturbed images, which counts as broken: mend the model"),
    ("invalid-proposal", "the attack proposed pixels that are NaN, and were not used: mend the attack, or its options"),
    ("out-of-budget", "an attack spent more passes than it was given: mend the attack"),
    ("outside-eps", "images from elsewhere lay outside of eps or of [0, 1] and were projected: make them within it"),
    ("other-pixels", "the model gets far more of a hundred clean images right with other pixels, as in brackets: give "
     "that --pixels, --mean or --std, or leave it out where it says so, and evaluate it anew"),
    ("repeated-images", "so many of the images repeat others that the figure rests on fewer images than n, and its "
     "interval is too narrow: evaluate each image once"),
    ("seen-in-training", "the model was trained on this share of its test images, so the figure says little about new "
     "ones: take them out of one side, and train it anew"),
    ("seen-by-detector", "this share of the test images is among those that the detector is fitted on, so what it "
     "finds says little about new ones: take them out of one side, and fit it anew"),
    ("mixed-environments", "shards are of different versions or devices: evaluate anew with --fresh on one machine"),
    ("borderline", "images that the search broke stand in the final verdict, in another batch: read the figure as an "
     "upper bound, and run 'robench verify'"),
    (FELL, "images that stood within a larger eps fell within this one: the figure at the larger eps is too high, so "
     "give it more steps"),
    (LESS_WITHIN, "more of the same images fall within this smaller eps, which is a part of the larger one: the figure "
     "at the larger eps is too high, so give it more steps or a stronger attack"),
    (DIFFERS, "a process that loaded the model anew, and knows nothing of the attack, answers otherwise: the model "
     "remembers, is randomised, or is another whenever it is loaded; the worse answer counts"),
    (NOT_SEALED, "no second process judged the images: run 'robench verify', or the command again"),
    ("made by", "today's code of a plugin is another than made it: run its command again for today's figure"),
    (INCOMPLETE, "images are missing: run its command again, which goes on from where it stopped"),
)  # fmt: skip


def advice(flag: str) -> str:
    """What a flag says of a figure and what to do; of an unknown one that it is explained nowhere."""
    for beginning, gate, told in FLAGGED:
        if flag.startswith(beginning):
            return f"{gate}: {told}"
    for beginning, told in OTHERS:
        if flag.startswith(beginning):
            return told
    return "not explained here: see 'robench show' of the evaluation, and trust the figure only when it is"
