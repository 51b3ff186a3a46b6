"""What benchmarks/gpu.py found, as Markdown."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def table(found: Row) -> str:
    """Everything as Markdown."""
    bf16, fp32 = found["matrix_tflops"]["bf16"], found["matrix_tflops"]["fp32"]
    lines = [
        f"{found['device']}, torch {found['torch']}, {found['model']}, {found['gflops']:.2f} GFLOP per input gradient; "
        f"matrix product {found['matrix']}: {bf16:,.1f} TFLOP/s in bfloat16, {fp32:,.1f} in float32",
        "",
        "| gradients | batch | images/s | TFLOP/s | of the bfloat16 rate | spread |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in found["gradients"]:
        compiled = f" ({row['compile_seconds']} s to compile)" if "compile_seconds" in row else ""
        lines.append(f"| {row['way']}{compiled} | {row['batch']} | {row['images_per_second']:,} | {row['tflops']:.3g} "
                     f"| {100 * row['share']:.1f}% | {100 * row['spread']:.0f}% |")  # fmt: skip
    lines += ["", f"| PGD-{found['steps']}, eps {found['eps']} | images | runs | s for 1,000 images | least to most "
                  "| robench, bfloat16 is faster by | robench, float32 is faster by |",
              "|---|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    by = {row["who"]: row["seconds_per_1000"] for row in found["pgd"]}
    for row in found["pgd"]:
        ratios = [row["seconds_per_1000"] / by[who] for who in ("robench, bfloat16 search", "robench, float32")]
        spread = f"{row['least']} to {row['most']}"
        lines.append(f"| {row['who']} | {row['images']} | {row['runs']} | {row['seconds_per_1000']} | {spread} "
                     f"| {ratios[0]:.2f} | {ratios[1]:.2f} |")  # fmt: skip
    if "verdicts" in found:
        row = found["verdicts"]
        lines += ["", f"Robust accuracy of {row['images']} images at 8/255: {row['fp32']}% searched in float32, "
                      f"{row['bf16']}% in bfloat16 ({row['search']}): {row['points']:+.2f} points, {row['differing']} "
                      "verdicts differ."]  # fmt: skip
    return "\n".join(lines)
