"""Compiles every kernel for a GPU that need not be there: `python compiled.py CAPABILITY`, as 80 or 90.

Prints a line of JSON for each: what ptxas says of its registers, its spilled bytes and its shared memory.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tilepress.bench import dense_int8_gpu
from tilepress.kernels.triton import activations, decode, large_batch, rows, small_batch
from tilepress.kernels.triton.machine import TILE_REGISTERS, TILE_WARPS

POINTERS = {
    "weight": "u8", "index": "i64", "info": "i64", "scratch": "u8", "out": "u8", "damaged": "i32", "values": "i8",
    "panel": "i8", "y": "bf16", "ratio": "fp32", "ratios": "fp32", "offset": "i32", "offsets": "i32", "x": "bf16",
    "input_offset": "i32", "input_scale": "fp32", "deq_scale": "fp32", "quant_bias": "i32", "weight_sums": "i32",
    "sums": "i32", "arrived": "i32", "ids": "i64", "weight_scale": "fp32", "zeroed": "i32", "matrix": "i8",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    kernel: Any
    warps: int = TILE_WARPS
    stages: int = 3
    constants: dict[str, int | bool] = field(default_factory=dict)
    pointers: dict[str, str] = field(default_factory=dict)
    registers: int | None = None

    def compile(self, capability: int) -> Any:
        names = self.kernel.arg_names
        pointers = POINTERS | self.pointers
        signature = {
            name: "constexpr" if name in self.constants else f"*{pointers[name]}" if name in pointers else "i32"
            for name in names
        }
        signature |= {name: "i64" for name in ("weight_bytes",) if name in names}
        aligned = [name for name in names if name in pointers or name == "width"]
        source = ASTSource(
            self.kernel,
            signature=signature,
            constexprs=self.constants,
            attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
        )
        options = {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": False}
        if self.registers is not None:
            options["maxnreg"] = self.registers
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def cases(shared_bytes: int) -> list[Case]:
    blocks = large_batch.choose_blocks(2048, shared_bytes)
    panel = {"TOKENS": blocks.tokens, "ROWS": large_batch.BLOCK_ROWS, "COLUMNS": blocks.columns}
    few = {"TOKENS": small_batch.MOST_TOKENS}
    dense = {"TOKENS": dense_int8_gpu.TOKENS, "ROWS": dense_int8_gpu.ROWS, "COLUMNS": dense_int8_gpu.COLUMNS}
    return [
        Case(decode._decode_tiles, registers=TILE_REGISTERS),
        Case(rows._look_up, pointers={"out": "fp32"}, registers=TILE_REGISTERS),
        Case(activations._quantize, activations.NUM_WARPS, constants={"OWN": True, "BLOCK": activations.BLOCK}),
        Case(small_batch._multiply_tiles, constants={"OWN": True, **few}, registers=TILE_REGISTERS),
        Case(large_batch._multiply_panel, blocks.warps, blocks.stages, {"OWN": True, **panel}),
        Case(dense_int8_gpu._multiply, 4, 4, dense, {"x": "i8"}),
    ]


def resources(compiled: Any) -> dict[str, int]:
    """Of one thread: registers and bytes spilled; of a program: bytes of shared memory."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        command = [str(tool), "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|LOCAL|STACK):(\d+)", usage)}
    return {
        "registers": found["REG"],
        "spilled": found["LOCAL"] + found["STACK"],
        "shared": int(compiled.metadata.shared),
    }


def main(capability: int) -> None:
    shared_bytes = (227 if capability == 90 else 163) << 10
    for case in cases(shared_bytes):
        compiled = case.compile(capability)
        usage = resources(compiled)
        print(json.dumps({"kernel": case.kernel.__name__, "tensor_cores": "mma" in compiled.asm["ptx"], **usage}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
