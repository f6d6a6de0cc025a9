"""A quantization that is cut short goes on where it was and ends in the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tilepress.checkpoint import FloatCheckpoint
from tilepress.errors import CheckpointError, QuantizationError, UsageError
from tilepress.quantize import Progress, QuantizationReport, Recipe, quantize_checkpoint, rounding_pass
from tilepress.quantize.resume import WorkDirectory, work_directory
from tiny_models import make_tiny_qwen3

RECIPE = Recipe(samples=6, sequence_length=64, head=True, embeddings=True, distill_steps=0)
# Visits until the first of two layers is rounded: both forward, the head, both backward come before.
FIRST_LAYER = 6
DISTILLED = replace(RECIPE, distill_steps=2)


def quantize(source: Path, out: Path, calibration: Path, recipe: Recipe = RECIPE, **options: Any) -> QuantizationReport:
    return quantize_checkpoint(FloatCheckpoint(source), out, recipe, calibration=calibration, **options)


def files(out: Path) -> dict[str, bytes]:
    """All files of a directory; of the report all but how long it took."""
    content = {file.name: file.read_bytes() for file in out.iterdir()}
    report = json.loads(content["quantization_report.json"])
    del report["seconds"]
    return content | {"quantization_report.json": json.dumps(report).encode()}


def stop_after(visits: int) -> Callable[[Progress], None]:
    def interrupt(progress: Progress) -> None:
        if progress.done == visits:
            raise KeyboardInterrupt

    return interrupt


@pytest.mark.parametrize("recipe", [RECIPE, DISTILLED], ids=["rounded", "distilled"])
def test_interrupted_after_each_stage_it_ends_in_the_same_bytes(
    recipe: Recipe, tiny_qwen3: Path, calibration: Path, tmp_path: Path
) -> None:
    quantize(tiny_qwen3, tmp_path / "undisturbed", calibration, recipe)
    told: list[int] = []
    for visits in range(1, 10):
        with pytest.raises(KeyboardInterrupt):
            quantize(tiny_qwen3, tmp_path / "out", calibration, recipe, progress=stop_after(visits))
        assert not (tmp_path / "out").exists()
        assert work_directory(tmp_path / "out").exists()

    quantize(tiny_qwen3, tmp_path / "out", calibration, recipe, progress=lambda p: told.append(p.done))

    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")
    assert not work_directory(tmp_path / "out").exists()
    assert told == list(range(1, 10 + recipe.distill_steps))


def test_what_is_done_is_not_done_again(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        quantize(tiny_qwen3, tmp_path / "out", calibration, progress=stop_after(FIRST_LAYER))
    rounded: list[int] = []
    whole = rounding_pass.quantize_fused
    monkeypatch.setattr(rounding_pass, "quantize_fused", lambda *a, **k: rounded.append(1) or whole(*a, **k))

    report = quantize(tiny_qwen3, tmp_path / "out", calibration)

    assert len(rounded) == 4, "the groups of one layer of two"
    assert len(report.linears) == 2 * 7 + 2


def test_hidden_states_in_files_or_in_memory_make_no_difference(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(tiny_qwen3, tmp_path / "held", calibration, DISTILLED)
    monkeypatch.setattr("tilepress.quantize.estimate.settle.bounded", lambda size, *_: replace(size, memory=0))
    quantize(tiny_qwen3, tmp_path / "in files", calibration, DISTILLED, max_memory=10**9)

    assert files(tmp_path / "held") == files(tmp_path / "in files")


def test_less_memory_than_a_layer_takes_is_refused(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--max-memory 0\.10GB: .* takes 0\.\d+ GB"):
        quantize(tiny_qwen3, tmp_path / "out", calibration, max_memory=10**8)
    assert not work_directory(tmp_path / "out").exists()


@pytest.fixture
def begun(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> Path:
    """An output whose second pass was interrupted."""
    with pytest.raises(KeyboardInterrupt):
        quantize(tiny_qwen3, tmp_path / "out", calibration, progress=stop_after(FIRST_LAYER))
    return tmp_path / "out"


def test_another_recipe_is_refused_and_restart_begins_anew(
    begun: Path, tiny_qwen3: Path, calibration: Path, tmp_path: Path
) -> None:
    other = replace(RECIPE, bits=3.0)
    with pytest.raises(UsageError, match=r"recipe bits was None, is 3\.0.*--restart"):
        quantize(tiny_qwen3, begun, calibration, other)
    assert work_directory(begun).exists()

    quantize(tiny_qwen3, begun, calibration, other, restart=True)

    quantize(tiny_qwen3, tmp_path / "undisturbed", calibration, other)
    assert files(begun) == files(tmp_path / "undisturbed")


def test_another_calibration_text_is_refused(begun: Path, tiny_qwen3: Path, calibration: Path) -> None:
    calibration.write_text(calibration.read_text(encoding="utf-8").replace("model", "modem"), encoding="utf-8")
    with pytest.raises(UsageError, match="calibration text differs"):
        quantize(tiny_qwen3, begun, calibration)


def test_other_weights_are_refused_by_their_file(
    begun: Path, tiny_qwen3: Path, calibration: Path, tmp_path: Path
) -> None:
    other = make_tiny_qwen3(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match=r"source model\.safetensors content differs"):
        quantize(other, begun, calibration)


def test_two_processes_do_not_share_the_work(begun: Path, tiny_qwen3: Path, calibration: Path) -> None:
    path = work_directory(begun)
    fingerprint = json.loads((path / "fingerprint.json").read_text(encoding="utf-8"))
    with (
        pytest.raises(CheckpointError, match="another process writes there now"),
        WorkDirectory(path, fingerprint),
    ):
        quantize(tiny_qwen3, begun, calibration)


def test_work_that_only_lacks_its_removal_is_removed(begun: Path, tiny_qwen3: Path, calibration: Path) -> None:
    """Killed after the output was put in place."""
    path = work_directory(begun)
    (path / "finished.json").write_text("{}", encoding="utf-8")
    begun.mkdir()
    with pytest.raises(CheckpointError, match="exists already"):
        quantize(tiny_qwen3, begun, calibration)
    assert not path.exists()


def test_an_error_keeps_the_stages_that_were_done_and_nothing_where_there_are_none(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path
) -> None:
    with pytest.raises(QuantizationError, match="cannot be met"):  # known once the first pass is done
        quantize(tiny_qwen3, tmp_path / "out", calibration, replace(RECIPE, bits=7.5))
    assert work_directory(tmp_path / "out").exists()

    broken = make_tiny_qwen3(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 7] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(QuantizationError, match=r"model\.safetensors: .*up_proj.weight: 1 of the values .* are NaN"):
        quantize(broken, tmp_path / "other", calibration)
    assert not work_directory(tmp_path / "other").exists()


def killed(work: Callable[[], object], seconds: float) -> bool:
    """Whether a process that does `work` lived so long that it was killed, as SIGKILL does it, after `seconds`."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_instants_it_ends_in_the_same_bytes(
    kills: int, tiny_qwen3: Path, calibration: Path, tmp_path: Path
) -> None:
    started = time.monotonic()
    quantize(tiny_qwen3, tmp_path / "undisturbed", calibration, DISTILLED)
    whole = time.monotonic() - started
    out, instants = tmp_path / "out", random.Random(0)
    done = 0
    while done < kills:
        if killed(lambda: quantize(tiny_qwen3, out, calibration, DISTILLED), whole * instants.uniform(0.0, 0.8)):
            done += 1
        if out.exists():
            assert files(out) == files(tmp_path / "undisturbed")
            for file in out.iterdir():
                file.unlink()
            out.rmdir()

    quantize(tiny_qwen3, out, calibration, DISTILLED)
    assert files(out) == files(tmp_path / "undisturbed")


@pytest.mark.parametrize("removed", ["*.safetensors", "finished.json"])
def test_killed_while_it_removes_its_work_it_leaves_nothing_to_go_on_from(
    removed: str, tiny_qwen3: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, work = tmp_path / "out", work_directory(tmp_path / "out")

    def kill(path: Path) -> None:
        for file in path.glob(removed):
            file.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tilepress.quantize.resume.discard", kill)
        with pytest.raises(KeyboardInterrupt):
            quantize(tiny_qwen3, out, calibration)
    made = files(out)
    assert work.exists()

    shutil.rmtree(out)
    quantize(tiny_qwen3, out, calibration)

    assert files(out) == made
    assert not work.exists()


def test_what_a_kill_left_of_finished_work_is_removed(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    work = work_directory(tmp_path / "out")
    work.mkdir()
    (work / "logits.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="exists already"):
        quantize(tiny_qwen3, tmp_path / "out", calibration)
    assert not work.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_full_disk_says_what_is_needed_and_the_same_call_goes_on(
    small_disk: Path, tiny_qwen3: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkDirectory, "require", lambda *_: None)
    out, ballast = small_disk / "out", small_disk / "ballast"
    quantize(tiny_qwen3, tmp_path / "undisturbed", calibration)
    room = 300_000
    failures = 0
    while not out.exists():
        ballast.unlink(missing_ok=True)
        ballast.write_bytes(bytes(max(0, shutil.disk_usage(small_disk).free - room)))
        try:
            quantize(tiny_qwen3, out, calibration)
        except CheckpointError as error:
            assert "disk full" in str(error), error  # noqa: PT017
            assert "needed" in str(error), error  # noqa: PT017
            failures += 1
            room += 200_000

    assert failures > 1
    assert files(out) == files(tmp_path / "undisturbed")


def test_a_disk_without_room_is_refused_before_work_begins(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilepress.quantize.pipeline.work_size", lambda *_: 10**18)
    with pytest.raises(CheckpointError, match=r"1000000000\.0 GB needed .* fewer --samples"):
        quantize(tiny_qwen3, tmp_path / "out", calibration)
    assert not work_directory(tmp_path / "out").exists()
