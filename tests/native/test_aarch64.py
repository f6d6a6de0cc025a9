"""Codec and kernels on 64-bit Arm, cross-compiled and run by an emulator, with and without dot products."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.cases import every_case
from native.case_file import write_cases
from tilepress.codec.coding import core_count

pytestmark = pytest.mark.slow

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
LIBRARIES = "/usr/aarch64-linux-gnu"
WITH_DOT_PRODUCTS, WITHOUT = "neoverse-n1", "cortex-a53"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in (COMPILER, EMULATOR):
        assert shutil.which(tool), f"{tool} is missing: apt-get install g++-aarch64-linux-gnu qemu-user"
    build = tmp_path_factory.mktemp("aarch64")
    cmake = [sys.executable, "-m", "cmake"]
    target = [f"-DCMAKE_CXX_COMPILER={COMPILER}", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON"]
    subprocess.run([*cmake, "-S", Path(__file__).parent, "-B", build, *target, *options], check=True)
    subprocess.run([*cmake, "--build", build, "--parallel", str(core_count())], check=True)
    return build / "check_cases"


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cases") / "cases.bin"
    write_cases(path, every_case())
    return path


def emulate(program: Path, *arguments: Path, cpu: str, isa: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EMULATOR, "-cpu", cpu, "-L", LIBRARIES, program, *arguments],
        env=os.environ | {"TILEPRESS_ISA": isa},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("cpu", "isa"), [(WITH_DOT_PRODUCTS, "neon"), (WITH_DOT_PRODUCTS, "portable"), ("max", ""), (WITHOUT, "")]
)
def test_equal_bits(program: Path, cases: Path, cpu: str, isa: str) -> None:
    finished = emulate(program, cases, cpu=cpu, isa=isa)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(("cpu", "choice"), [("max", "neon of neon portable"), (WITHOUT, "portable of portable")])
def test_the_best_is_chosen(program: Path, cpu: str, choice: str) -> None:
    assert emulate(program, cpu=cpu).stdout.strip() == choice


def test_what_the_processor_lacks_is_refused(program: Path) -> None:
    finished = emulate(program, cpu=WITHOUT, isa="neon")
    assert finished.returncode == 1
    assert (
        "TILEPRESS_ISA is neon, which this processor does not have: unset it, or set it to one of portable"
        in finished.stderr
    )
