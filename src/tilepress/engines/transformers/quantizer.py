"""transformers' own loading of tilepress's directories: `AutoModelForCausalLM.from_pretrained(DIR)`.

Imported when transformers imports its quantizers (`tilepress.registration`).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from tilepress.checkpoint import FloatCheckpoint, open_checkpoint
from tilepress.engines.residency import takes_fast_form
from tilepress.engines.transformers.model import QuantizedCheckpoint, fill
from tilepress.errors import UsageError
from tilepress.machine.device import resolve_device
from tilepress.registration import ASKED, METHOD


@register_quantization_config(METHOD)
class TilepressConfig(QuantizationConfigMixin):
    """The quantization_config of config.json. resident, which may be given to from_pretrained: as of `load`."""

    def __init__(
        self, quant_method: str = METHOD, format: str = "w8a8s", resident: str | None = None, **others: Any
    ) -> None:
        self.quant_method: Any = quant_method
        self.format, self.resident = format, resident
        self.others = others


@register_quantizer(METHOD)
class TilepressQuantizer(HfQuantizer):
    """Fills the model with what `tilepress.load` puts there, in place of transformers' reading of weights.

    transformers sees a model without modules meanwhile, so that it reads no tensor and initialises none.
    """

    requires_calibration = True
    quantization_config: TilepressConfig

    def __init__(self, quantization_config: TilepressConfig, **options: Any) -> None:
        super().__init__(quantization_config, **options | {"pre_quantized": True})
        self._device = torch.device("cpu")
        self._modules: dict[str, torch.nn.Module | None] = {}
        self._dtype = torch.float32
        self._checkpoint: QuantizedCheckpoint

    def update_device_map(self, device_map: dict[str, Any] | str | None) -> dict[str, Any] | None:
        """Raises UsageError for several devices."""
        if isinstance(device_map, str):  # "auto", "balanced" and the like leave it to us
            device_map = {"": "cuda:0" if torch.cuda.is_available() else "cpu"}
        devices = {str(device) for device in (device_map or {}).values()}
        if len(devices) > 1 or "disk" in devices:
            raise UsageError(
                f"device_map is {device_map}: a quantized model is on one device; give device_map='cpu' or 'cuda:0', "
                "or serve it with several ranks (`tilepress serve --tp`)"
            )
        name = devices.pop() if devices else "cpu"
        self._device = resolve_device(f"cuda:{name}" if name.isdecimal() else name)
        return None

    def update_tp_plan(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """Open the directory; transformers asks for this before it looks for files."""
        path, revision = ASKED.get() or (str(config.name_or_path or ""), None)
        checkpoint = open_checkpoint(path, revision=revision)
        if isinstance(checkpoint, FloatCheckpoint):
            raise UsageError(f"{checkpoint.path}: is a float model, but its config.json names tilepress")
        self._checkpoint = checkpoint
        # Any file that is there: it is opened, and none of its tensors finds a place.
        config.transformers_weights = str(checkpoint.files()[0].relative_to(checkpoint.path))
        config.tie_word_embeddings = checkpoint.shape.tied
        if self._device.type == "cpu":  # where dtype="auto", the default, means the float32 of `tilepress.load`
            config.dtype = torch.float32
        return config

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        self._dtype = dtype
        return dtype

    def _process_model_before_weight_loading(self, model: Any, **options: Any) -> Any:
        if not type(model).__name__.endswith("ForCausalLM"):
            raise UsageError(
                f"{self._checkpoint.path}: is a causal language model; load it by AutoModelForCausalLM, not as "
                f"{type(model).__name__}"
            )
        self._modules = dict(model._modules)
        model._modules.clear()
        model.all_tied_weights_keys = {}
        model._keys_to_ignore_on_load_unexpected = {".*"}
        return model

    def _process_model_after_weight_loading(self, model: Any, **options: Any) -> PreTrainedModel:
        from tilepress.engines.transformers.loading import to_cuda

        model._modules.update(self._modules)
        self._modules = {}
        del model._keys_to_ignore_on_load_unexpected
        resident = takes_fast_form(self.quantization_config.resident, self._device.type)
        fill(model, self._checkpoint, self._dtype, fast=resident)
        del model.config.transformers_weights
        if self._device.type == "cuda":
            to_cuda(model, self._device)
        filled: PreTrainedModel = model.eval()
        return filled

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters on top can be trained."""
        return True

    @property
    def is_compileable(self) -> bool:
        return True
