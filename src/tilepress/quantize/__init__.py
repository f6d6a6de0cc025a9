"""Quantize a float checkpoint to sparse int8 weights and static int8 activations (docs/explanation/algorithm.md).

`python -m tilepress.quantize` does it from the command line; under torchrun, in several processes.
"""

from __future__ import annotations

from tilepress.quantize.estimate.plan import plan_quantization
from tilepress.quantize.estimate.stored_size import w8a8sc_size
from tilepress.quantize.estimate.throughput import measure_throughput
from tilepress.quantize.pipeline import quantize_checkpoint, quantize_under_torchrun
from tilepress.quantize.progress import Progress
from tilepress.quantize.recipe.choose import RecipeChoice, choose_recipe, for_engine
from tilepress.quantize.recipe.recipe import Recipe
from tilepress.quantize.recipe.vendor_config import VendorConfig, engine_of_tags, read_vendor_config
from tilepress.quantize.rehearsal import rehearse
from tilepress.quantize.report import DistillationReport, LinearReport, QuantizationReport
from tilepress.quantize.resume import kept_progress
from tilepress.registration import make_callable

__all__ = [
    "DistillationReport",
    "LinearReport",
    "Progress",
    "QuantizationReport",
    "Recipe",
    "RecipeChoice",
    "VendorConfig",
    "choose_recipe",
    "engine_of_tags",
    "for_engine",
    "kept_progress",
    "measure_throughput",
    "plan_quantization",
    "quantize_checkpoint",
    "quantize_under_torchrun",
    "read_vendor_config",
    "rehearse",
    "w8a8sc_size",
]

make_callable(__name__)
