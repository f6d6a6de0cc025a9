"""From a float checkpoint to sparse int8 weights and static int8 activations. See docs/algorithm.md.

`python -m tilepress.quantize` does it from the command line, in several processes under torchrun.
"""

from __future__ import annotations

from tilepress.quantize.clock import Progress
from tilepress.quantize.pace import measure_pace
from tilepress.quantize.pipeline import quantize_checkpoint
from tilepress.quantize.plan import plan_quantization
from tilepress.quantize.recipe import Recipe
from tilepress.quantize.recipe_choice import RecipeChoice, choose_recipe
from tilepress.quantize.rehearsal import rehearse
from tilepress.quantize.report import DistillationReport, LinearReport, QuantizationReport
from tilepress.quantize.stored_size import w8a8sc_size
from tilepress.quantize.torchrun import quantize_under_torchrun
from tilepress.quantize.work_directory import kept_progress

__all__ = [
    "DistillationReport",
    "LinearReport",
    "Progress",
    "QuantizationReport",
    "Recipe",
    "RecipeChoice",
    "choose_recipe",
    "kept_progress",
    "measure_pace",
    "plan_quantization",
    "quantize_checkpoint",
    "quantize_under_torchrun",
    "rehearse",
    "w8a8sc_size",
]
