"""Compiles every kernel for a GPU that need not be there: `python compiled.py CAPABILITY`, as 80 or 90.

Prints a line of JSON for each: what ptxas says of its registers, its spilled bytes and its shared memory, and how many
instructions the loop with tensor core products has.
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
from tilepress.kernels.triton.fast_form import few_tokens, whole_rows
from tilepress.kernels.triton.machine import TILE_REGISTERS, TILE_WARPS

POINTERS = {
    "weight": "u8", "index": "i64", "info": "i64", "scratch": "u8", "out": "u8", "damaged": "i32", "values": "i8",
    "panel": "i8", "y": "bf16", "ratio": "fp32", "ratios": "fp32", "offset": "i32", "offsets": "i32", "x": "bf16",
    "input_offset": "i32", "input_scale": "fp32", "deq_scale": "fp32", "quant_bias": "i32", "weight_sums": "i32",
    "sums": "i32", "arrived": "i32", "ids": "i64", "weight_scale": "fp32", "zeroed": "i32", "matrix": "i8",
    "partial": "i32", "decoded": "u8",
}  # fmt: skip

FAST = {"index": "i32"}
# Of a loop of the machine code: its last instruction, with its address, branches back to its first.
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);")
BRANCH = re.compile(r"BRA.* 0x([0-9a-f]+)")


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
    one, several = (
        {"TOKENS": 16, "ROWS": few_tokens.ROWS, "PATCHED": n, "EACH": e, "OWN": True} for n, e in ((1, 4), (16, 2))
    )
    strip = {"ROWS": whole_rows.STRIP_ROWS, "EACH": whole_rows.OF_STRIP}
    row = {"EACH": whole_rows.OF_ROW, "COLUMNS": whole_rows.COLUMNS}
    dense = {"TOKENS": dense_int8_gpu.TOKENS, "ROWS": dense_int8_gpu.ROWS, "COLUMNS": dense_int8_gpu.COLUMNS}
    return [
        Case(decode._decode_tiles, registers=TILE_REGISTERS),
        Case(rows._look_up, pointers={"out": "fp32"}, registers=TILE_REGISTERS),
        Case(activations._quantize, activations.NUM_WARPS, constants={"OWN": True, "BLOCK": activations.BLOCK}),
        Case(small_batch._multiply_tiles, constants={"OWN": True, **few}, registers=TILE_REGISTERS),
        Case(large_batch._multiply_panel, blocks.warps, blocks.stages, {"OWN": True, **panel}),
        Case(dense_int8_gpu._multiply, 4, 4, dense, {"x": "i8"}),
        Case(few_tokens._multiply_rows, few_tokens.WARPS, 3, one, FAST, few_tokens.REGISTERS),
        Case(few_tokens._multiply_rows, few_tokens.WARPS, 3, several, FAST, few_tokens.REGISTERS),
        Case(whole_rows._decode_strips, whole_rows.STRIP_WARPS, 3, strip, FAST),
        Case(whole_rows._look_up_rows, 1, 3, row, FAST | {"out": "fp32"}),
    ]


def resources(compiled: Any) -> dict[str, int]:
    """Of one thread: registers and bytes spilled; of a program: bytes of shared memory."""
    usage = _dump(compiled, "--dump-resource-usage")
    found = {name: int(value) for name, value in re.findall(r"(REG|LOCAL|STACK):(\d+)", usage)}
    return {
        "registers": found["REG"],
        "spilled": found["LOCAL"] + found["STACK"],
        "shared": int(compiled.metadata.shared),
    }


def instructions_of_products(compiled: Any) -> int:
    """Return the instructions of the shortest loop with products, all of its branches counted; 0 if there is none."""
    code = [(int(address, 16), text) for address, text in INSTRUCTION.findall(_dump(compiled, "--dump-sass"))]
    lengths = []
    for end, text in code:
        back = BRANCH.search(text)
        if back and int(back[1], 16) < end:
            loop = [one for address, one in code if int(back[1], 16) <= address <= end]
            if any("MMA" in one for one in loop):
                lengths.append(len(loop))
    return min(lengths, default=0)


def _dump(compiled: Any, what: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        return subprocess.run([str(tool), what, file.name], capture_output=True, text=True, check=True).stdout


def main(capability: int) -> None:
    shared_bytes = (227 if capability == 90 else 163) << 10
    for case in cases(shared_bytes):
        compiled = case.compile(capability)
        usage = resources(compiled)
        loop = instructions_of_products(compiled)
        print(json.dumps({"kernel": case.kernel.__name__, "tensor_cores": loop > 0, "loop": loop, **usage}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
