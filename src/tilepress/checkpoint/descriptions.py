"""quant_model_description.json: the type of each tensor, beside global keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilepress.checkpoint.json_files import read_object, write_object
from tilepress.errors import CheckpointError

DESCRIPTION = "quant_model_description.json"
FLOAT, W8A8S, W8A8SC = "FLOAT", "W8A8S", "W8A8SC"
W8A8S_DYNAMIC = "W8A8S_DYNAMIC"  # ours: the same tensors, but practically every token is quantized by its own scale

# What a type found in a description means here. W8A8 stores the same five tensors as W8A8S; W16A16S is a float weight
# with zeros; some releases of the vendor's manual put W8A8SC into a W8A8S directory.
_READ_AS = {
    FLOAT: FLOAT,
    "W16A16S": FLOAT,
    W8A8S: W8A8S,
    "W8A8": W8A8S,
    W8A8SC: W8A8SC,
    W8A8S_DYNAMIC: W8A8S_DYNAMIC,
}


@dataclass(frozen=True)
class Description:
    """path: its file; types: tensor name -> FLOAT, W8A8S, W8A8S_DYNAMIC or W8A8SC.

    extra: the global keys but model_quant_type.
    """

    path: Path
    model_type: str
    types: dict[str, str]
    extra: dict[str, Any]

    def require(self, name: str, allowed: tuple[str, ...]) -> str:
        """The type of a stored tensor. Raises CheckpointError where it is missing or not among `allowed`."""
        if name not in self.types:
            raise CheckpointError(f"{self.path}: does not describe tensor {name}; get the description again")
        found = self.types[name]
        if found not in allowed:
            raise CheckpointError(f"{self.path}: {name} is {found}; it has to be {' or '.join(allowed)}")
        return found


def description_file(directory: Path) -> Path | None:
    """The description in `directory`, under its usual name or the older ones; None where it has none."""
    for name in (DESCRIPTION, "quant_model_description_w8a8s.json", "quant_model_description_w8a8sc.json"):
        if (directory / name).is_file():
            return directory / name
    return None


def read_description(path: Path) -> Description:
    """Raises CheckpointError for a file that is no description and for a tensor type that tilepress does not read."""
    types: dict[str, str] = {}
    extra: dict[str, Any] = {}
    content = read_object(path)
    model_type = content.pop("model_quant_type", None)
    if not isinstance(model_type, str):
        raise CheckpointError(f"{path}: model_quant_type is {model_type!r}; it has to be W8A8S or W8A8SC")
    for key, value in content.items():
        if "." not in key:  # tensor names have dots, global keys such as group_size have none
            extra[key] = value
        elif isinstance(value, str) and value in _READ_AS:
            types[key] = _READ_AS[value]
        else:
            raise CheckpointError(
                f"{path}: type of {key} is {value!r}, which tilepress does not read (it reads {', '.join(_READ_AS)}); "
                "quantize the float model with `tilepress quant`"
            )
    return Description(path, model_type, types, extra)


def write_description(directory: Path, model_type: str, types: dict[str, str], extra: dict[str, Any]) -> None:
    write_object(directory / DESCRIPTION, {"model_quant_type": model_type, "version": "1.0.0"} | extra | types)
