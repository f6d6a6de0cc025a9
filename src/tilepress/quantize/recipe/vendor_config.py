"""Quantization configs of msModelSlim, the vendor's tool (its --config_path): what of them has a meaning here.

Read from its public sources: `apiversion` modelslim_v0, with a `calib_cfg`, and modelslim_v1, with a list of
processes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from reprlib import Repr
from typing import Any

import yaml

from tilepress.checkpoint.targets import VENDOR, VENDOR_A2
from tilepress.checkpoint.tensors.activation_mode import DYNAMIC
from tilepress.errors import UsageError
from tilepress.models.architecture import HEAD, ModelShape, linear_shapes

MAX_BYTES = 1 << 20
MAX_DEPTH = 8
V0, V1 = "modelslim_v0", "modelslim_v1"
_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxstring, _SHORT.maxother = 2, 6, 6, 60, 60
_TOGETHER = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class VendorConfig:
    """settings: of `Recipe`. calibration: the text that it names, where that lies beside it or at that path.

    unused: the fields that have no meaning here, and their values.
    """

    settings: dict[str, Any]
    calibration: Path | None
    unused: tuple[str, ...]


def read_vendor_config(path: Path, shape: ModelShape) -> VendorConfig:
    """Read a config for a model of this shape.

    Linears that it leaves out of the quantization stay float, and no others. Raises UsageError naming the file and the
    field for another file, and for a config that asks for other integers than int8.
    """
    content = _mapping(path, "the file", _read(path))
    version = content.get("apiversion")
    spec = _mapping(path, "spec", content.get("spec", {}))
    if version == V0:
        reader: _V0 | _V1 = _V0(path, spec, shape)
    elif version == V1:
        reader = _V1(path, spec, shape)
    else:
        raise UsageError(f"{path}: apiversion is {version!r}; tilepress reads {V0} and {V1}")
    floats = reader.float_linears()
    named = reader.calibration()
    calibration = next((p for p in (path.parent / named, Path(named)) if _is_file(p)), None) if named else None
    unused = [*reader.unused, *([f"{named} (not beside the config)"] if named and calibration is None else [])]
    settings = {"float_linears": floats, "float_above": 0.0} | reader.settings
    return VendorConfig(settings, calibration, tuple(unused))


def engine_of_tags(tags: Iterable[str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the target that the vendor's tags (--tag) name, such as Atlas_A2_Inference, and the tags without one."""
    engine, unused = None, []
    for tag in tags:
        words = set(_TOGETHER.split(tag.lower()))
        if words & {"a2", "a3"}:
            engine = VENDOR_A2.name
        elif words & {"300i", "310p"}:
            engine = VENDOR.name
        elif not words & {"mindie", "vllm"}:  # both load either form
            unused.append(tag)
    return engine, tuple(unused)


class _Reader:
    """settings: of `Recipe`, beside those of floats. unused: as of VendorConfig."""

    def __init__(self, path: Path, spec: Mapping[str, Any], shape: ModelShape) -> None:
        self._path, self._spec = path, spec
        self._names = list(linear_shapes(shape))
        self.settings: dict[str, Any] = {}
        self.unused: list[str] = []

    def _part(self, key: str) -> dict[str, Any]:
        return _mapping(self._path, f"spec.{key}", self._spec.get(key) or {})

    def _texts(self, where: str, value: object) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise UsageError(f"{self._path}: {where} is {value!r}; it has to be a list of names")
        return value

    def _leave(self, where: str, fields: Mapping[str, Any], taken: Iterable[str]) -> None:
        known = set(taken)
        self.unused += [f"{where}{key} {_SHORT.repr(value)}" for key, value in fields.items() if key not in known]

    def _refuse(self, field: str, value: object) -> None:
        raise UsageError(f"{self._path}: {field} is {value!r}; tilepress makes W8A8S: int8 weights and activations")


class _V0(_Reader):
    def float_linears(self) -> tuple[str, ...]:
        config, params = self._part("calib_cfg"), self._part("calib_params")
        # A sparse W8A8S is w_bit 4 there: most of its integers fit 4 bits.
        for field, allowed in (("w_bit", (4, 8)), ("a_bit", (8,))):
            if config.get(field, 8) not in allowed:
                self._refuse(f"spec.calib_cfg.{field}", config[field])
        dynamic = config.get("is_dynamic", False)
        if not isinstance(dynamic, bool):
            raise UsageError(f"{self._path}: spec.calib_cfg.is_dynamic is {dynamic!r}; it has to be true or false")
        if dynamic:
            self.settings["activations"] = DYNAMIC
        disabled = set(self._texts("spec.calib_cfg.disable_names", config.get("disable_names") or []))
        self.unused += [f"disable_names {name}" for name in sorted(disabled - {*self._names, HEAD.name})]
        rules = _mapping(self._path, "spec.calib_params.mix_cfg", params.get("mix_cfg") or {})
        self._leave("mix_cfg ", {k: v for k, v in rules.items() if v not in ("float", "w8a8s", "w8a8")}, ())
        self._leave("calib_cfg.", config, ("w_bit", "a_bit", "is_dynamic", "disable_names"))
        self._leave("calib_params.", params, ("mix_cfg",))
        taken = ("calib_cfg", "calib_params", "calib_dataset", "calib_save_params")
        self._leave("", self._spec, taken)
        self._leave("calib_save_params.", self._part("calib_save_params"), ())
        return tuple(name for name in self._names if name in disabled or _treatment(name, rules) == "float")

    def calibration(self) -> str | None:
        return _text(self._path, "spec.calib_dataset", self._spec.get("calib_dataset"))


class _V1(_Reader):
    def __init__(self, path: Path, spec: Mapping[str, Any], shape: ModelShape) -> None:
        super().__init__(path, spec, shape)
        self._scopes: set[str] = set()

    def float_linears(self) -> tuple[str, ...]:
        covered: set[str] = set()
        for process in self._processes(self._spec.get("process") or [], 0):
            if process.get("type") != "linear_quant":
                self._leave("process ", {str(process.get("type")): _without_type(process)}, ())
                continue
            self._check(_mapping(self._path, "linear_quant.qconfig", process.get("qconfig") or {}))
            include = self._texts("linear_quant.include", process.get("include") or ["*"])
            exclude = self._texts("linear_quant.exclude", process.get("exclude") or [])
            covered |= {name for name in self._names if _fits(name, include) and not _fits(name, exclude)}
            self._leave("linear_quant.", process, ("type", "qconfig", "include", "exclude"))
        if "per_token" in self._scopes:
            self.settings["activations"] = DYNAMIC
            if len(self._scopes) > 1:
                self.unused.append("scope per_tensor (other linears are per_token: all have a scale for each token)")
        if not covered:
            raise UsageError(f"{self._path}: no linear_quant of spec.process includes a linear of this model")
        self._leave("", self._spec, ("process", "dataset"))
        return tuple(name for name in self._names if name not in covered)

    def calibration(self) -> str | None:
        return _text(self._path, "spec.dataset", self._spec.get("dataset"))

    def _processes(self, processes: object, depth: int) -> Iterator[dict[str, Any]]:
        """Yield all processes, those inside of groups too."""
        if not isinstance(processes, list) or depth > MAX_DEPTH:
            raise UsageError(f"{self._path}: spec.process is no list of processes, or its groups are nested too deeply")
        for process in processes:
            fields = _mapping(self._path, "a process", process)
            if fields.get("type") == "group":
                yield from self._processes(fields.get("configs") or [], depth + 1)
            else:
                yield fields

    def _check(self, qconfig: Mapping[str, Any]) -> None:
        for part in ("act", "weight"):
            fields = _mapping(self._path, f"linear_quant.qconfig.{part}", qconfig.get(part) or {})
            if fields.get("dtype", "int8") != "int8":
                self._refuse(f"linear_quant.qconfig.{part}.dtype", fields["dtype"])
            scopes = {"act": ("per_tensor", "per_token"), "weight": ("per_channel",)}[part]
            known = ["dtype", "scope", "symmetric"]
            if (scope := fields.get("scope", scopes[0])) not in scopes:
                known.remove("scope")
            if part == "weight" and not fields.get("symmetric", True):
                known.remove("symmetric")
            if part == "act":
                self._scopes.add(scope)
            self._leave(f"qconfig.{part}.", fields, known)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _treatment(name: str, rules: Mapping[str, Any]) -> object:
    """Return what a linear's own rule says, or the first one whose pattern fits."""
    return rules.get(name, next((value for pattern, value in rules.items() if fnmatchcase(name, str(pattern))), None))


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _without_type(process: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in process.items() if key != "type"}


def _mapping(path: Path, where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {where} is {str(value)[:80]!r}; it has to be a table of names and values")
    return {str(key): content for key, content in value.items()}


def _text(path: Path, where: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{path}: {where} is {str(value)[:80]!r}; it has to be a file name")
    return value


def _read(path: Path) -> object:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES >> 20} MiB, no quantization config")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
