"""A compression that is ended at any instant, in whatever way, and continued by the same command."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from killed_runs import compress_and_kill
from quantized_models import make_w8a8s
from tilepress.checkpoint import W8A8SCheckpoint
from tilepress.checkpoint.safetensors import writer
from tilepress.checkpoint.sharding import shard_of_w8a8s
from tilepress.cli import main
from tilepress.compress import (
    compress_directory,
    compressible,
    job,
    journal,
    kept_progress,
    plan_compression,
    reshard_directory,
)
from tilepress.errors import CheckpointError
from tilepress.jobs.lock import locked
from tiny_models import make_tiny_qwen3

MODULES = 2 * (4 + 4) + 3  # linears and norms of two layers; embedding, head and last norm
WEIGHTS = "quant_model_weight_w8a8sc.safetensors"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A W8A8S directory with everything quantized; tests only read it."""
    folder = tmp_path_factory.mktemp("resume")
    return make_w8a8s(
        make_tiny_qwen3(folder / "float"), folder / "q", levels=9, head=True, embeddings=True, activations="overflow"
    )


@pytest.fixture(scope="module")
def undisturbed(source: Path) -> dict[str, bytes]:
    """What an undisturbed run makes of `source` for two ranks."""
    compress_directory(source, source.parent / "undisturbed", tp=2)
    return files(source.parent / "undisturbed")


@pytest.fixture
def each_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save progress after each module, not only after 256 MB."""
    monkeypatch.setattr(job, "BATCH", 0)


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    """Of `source`, for tests that change it."""
    return Path(shutil.copytree(source, tmp_path / "copy"))


def files(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def work(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial")


def fail_at(monkeypatch: pytest.MonkeyPatch, write: int, failure: BaseException) -> list[int]:
    """Let `failure` come out of the given write, by number, after half of it is done. Gives a counter of writes."""
    genuine, count = writer.write_whole, [0]

    def write_whole(file, data) -> None:
        count[0] += 1
        if count[0] == write:
            genuine(file, data[: len(data) // 2])
            raise failure
        genuine(file, data)

    monkeypatch.setattr(writer, "write_whole", write_whole)
    monkeypatch.setattr(journal, "write_whole", write_whole)
    return count


def interrupted(source: Path, out: Path, *, at: int = 60, tp: int = 2, failure: BaseException | None = None) -> None:
    """A run that Ctrl-C, or another failure, ends in write `at`."""
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, at, failure or KeyboardInterrupt())
        with pytest.raises((KeyboardInterrupt, CheckpointError)):
            compress_directory(source, out, tp=tp)


@pytest.mark.slow
@pytest.mark.usefixtures("each_module")
def test_killed_at_twenty_instants_it_ends_in_the_same_bytes(
    source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "c"
    started = time.monotonic()
    compress_directory(source, out, tp=2)
    whole = time.monotonic() - started
    shutil.rmtree(out)
    instants, kept = random.Random(0), 0
    for twentieth in instants.sample(range(20), 20):
        killed = compress_and_kill(source, out, tp=2, after=whole * (twentieth + instants.random()) / 20)
        kept += kept_progress(out) is not None
        if killed and instants.random() < 0.5:
            continue  # the next run goes on, and is killed too
        if out.exists():  # killed while it cleared up, or not at all
            with pytest.raises(CheckpointError, match="exists already"):
                compress_directory(source, out, tp=2)
        else:
            compress_directory(source, out, tp=2)
        assert files(out) == undisturbed
        assert list(tmp_path.iterdir()) == [out]
        shutil.rmtree(out)
    assert kept > 0, "some were killed in the middle"


@pytest.mark.usefixtures("each_module")
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_ended_in_any_write_it_ends_in_the_same_bytes(
    source: Path, undisturbed: dict[str, bytes], tmp_path: Path, failure: BaseException
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        writes = fail_at(patch, -1, failure)
        compress_directory(source, tmp_path / "c", tp=2)
    assert files(tmp_path / "c") == undisturbed
    for write in range(1, writes[0] + 1, 19):
        out = tmp_path / f"{write}"
        interrupted(source, out, at=write, failure=failure)
        assert not out.exists()
        compress_directory(source, out, tp=2)
        assert files(out) == undisturbed
        assert not work(out).exists()


def test_what_is_finished_is_not_done_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(source, tmp_path / "c")
    encoded: list[object] = []
    genuine = shard_of_w8a8s.codec.encode
    monkeypatch.setattr(
        shard_of_w8a8s.codec, "encode", lambda matrix, **options: encoded.append(0) or genuine(matrix, **options)
    )
    seen: list[int] = []
    compress_directory(source, tmp_path / "c", tp=2, progress=lambda done, total: seen.append(done))
    assert 0 < len(encoded) < 2 * 10
    assert seen == list(range(1, 2 * 9 + 1)), "those that were finished before count too"


def test_without_anything_finished_nothing_is_left(source: Path, tmp_path: Path) -> None:
    interrupted(source, tmp_path / "c", at=2)
    assert list(tmp_path.iterdir()) == []
    assert kept_progress(tmp_path / "c") is None


def test_an_error_says_that_progress_is_kept(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(monkeypatch, 60, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(CheckpointError, match=r"disk full, .* needed .*; what is finished is kept in .*\.c\.partial"):
        compress_directory(source, tmp_path / "c", tp=2)


def test_ctrl_c_says_that_progress_is_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"compress -m {source} -o {tmp_path / 'c'} --tp 2"
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, 60, KeyboardInterrupt())
        assert main(command.split()) == 130
    assert "what is finished is kept" in capsys.readouterr().err
    assert main(command.split()) == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda copy: os.utime(copy / "quant_model_weight_w8a8s.safetensors"), "w8a8s.safetensors time of change was"),
        (lambda copy: (copy / "tokenizer.json").write_text("{}"), "tokenizer.json size was"),
        (lambda copy: (copy / "chat_template.jinja").write_text(""), "chat_template.jinja"),
        (lambda copy: (copy / "LICENSE").write_text("MIT"), "LICENSE is new"),
    ],
)
def test_another_source_is_refused_until_restart(copy: Path, tmp_path: Path, change, named: str) -> None:
    out = tmp_path / "c"
    interrupted(copy, out)
    change(copy)
    with pytest.raises(CheckpointError, match=rf"{re.escape(named)}.*--restart to start over$"):
        compress_directory(copy, out, tp=2)
    compress_directory(copy, out, tp=2, restart=True)
    compress_directory(copy, tmp_path / "fresh", tp=2)
    assert files(out) == files(tmp_path / "fresh")


def test_a_run_that_has_finished_nothing_is_in_no_ones_way(
    source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "c"
    interrupted(source, out, tp=4)
    head = (work(out) / "part0.journal").read_bytes().splitlines(keepends=True)[0]
    for file in work(out).glob("part*.journal"):
        file.write_bytes(head)
    compress_directory(source, out, tp=2)
    assert files(out) == undisturbed


def test_content_tells_where_size_and_time_do_not(copy: Path, tmp_path: Path) -> None:
    interrupted(copy, tmp_path / "c")
    config = copy / "config.json"
    status, text = config.stat(), config.read_text()
    config.write_text(text.replace("256", "257", 1))
    os.utime(config, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CheckpointError, match=r"config.json content differs"):
        compress_directory(copy, tmp_path / "c", tp=2)


def test_another_number_of_parts_is_refused_until_restart(
    source: Path, undisturbed: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c"
    interrupted(source, out, tp=4)
    assert main(f"compress -m {source} -o {out} --tp 2".split()) == 2
    assert "tp was 4, is 2" in capsys.readouterr().err
    assert main(f"compress -m {source} -o {out} --tp 2 --restart".split()) == 0
    assert files(out) == undisturbed


def test_another_version_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(source, tmp_path / "c")
    monkeypatch.setattr("tilepress.__version__", "99")
    with pytest.raises(CheckpointError, match=r"tilepress was .*, is 99"):
        compress_directory(source, tmp_path / "c", tp=2)


@pytest.mark.usefixtures("each_module")
def test_what_is_written_already_is_not_needed_again(source: Path, tmp_path: Path) -> None:
    def needed() -> int:
        return plan_compression(compressible(W8A8SCheckpoint(source)), tmp_path / "c").disks[0].needed

    whole = needed()
    interrupted(source, tmp_path / "c")
    written = sum(file.stat().st_size for file in (work(tmp_path / "c") / "directory").rglob("*.safetensors"))
    assert written > 0
    assert needed() == whole - written


@pytest.mark.usefixtures("each_module")
def test_a_journal_that_the_power_cut_off_is_read_up_to_there(
    source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    interrupted(source, whole, at=100)
    length = (work(whole) / "part0.journal").stat().st_size
    for cut in range(0, length, length // 9):
        out = tmp_path / f"{cut}"
        shutil.copytree(work(whole), work(out))
        os.truncate(work(out) / "part0.journal", cut)
        with (work(out) / "part0.journal").open("ab") as file:
            file.write(bytes(100))
        compress_directory(source, out, tp=2)
        assert files(out) == undisturbed


@pytest.mark.usefixtures("each_module")
def test_what_the_disk_did_not_take_does_not_count(source: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """Linux reports a failed write once: the fsync after it succeeds, though the pages are lost."""
    out, genuine, calls = tmp_path / "c", os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 60:
            raise OSError(errno.EIO, "Input/output error")
        genuine(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="Input/output error"):
            compress_directory(source, out, tp=2)
    lines = (work(out) / "part0.journal").read_bytes().splitlines()
    # Of the fsyncs three each are for the names of the part and for a module, and one is for the journal's head.
    assert len(lines) - 1 == (60 - 1 - 4) // 3
    compress_directory(source, out, tp=2)
    assert files(out) == undisturbed


@pytest.mark.usefixtures("each_module")
def test_files_that_lost_their_end_are_refused_until_restart(
    source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "c"
    interrupted(source, out)
    os.truncate(work(out) / "directory" / "part0-of-2" / WEIGHTS, 10_000)
    with pytest.raises(CheckpointError, match=r"is shorter than .*--restart"):
        compress_directory(source, out, tp=2)
    compress_directory(source, out, tp=2, restart=True)
    assert files(out) == undisturbed


def test_two_at_once_are_refused(source: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "c"
    interrupted(source, out)
    for restart in (False, True):
        with locked(work(out) / "lock"), pytest.raises(CheckpointError, match=r"another process writes there now"):
            compress_directory(source, out, tp=2, restart=restart)
    with locked(work(out) / "part1.journal"), pytest.raises(CheckpointError, match=r"another process writes there"):
        compress_directory(source, out, tp=2)
    compress_directory(source, out, tp=2)
    assert files(out) == undisturbed


def test_a_work_directory_that_someone_planted_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    (tmp_path / "elsewhere").mkdir()
    work(out).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="is not of this user"):
        compress_directory(source, out)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_run_that_was_killed_just_after_its_end_is_no_obstacle(
    source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "c"
    interrupted(source, out)
    (work(out) / "directory").rename(out)
    with pytest.raises(CheckpointError, match="exists already"):
        compress_directory(source, out, tp=2)
    shutil.rmtree(out)
    compress_directory(source, out, tp=2)
    assert files(out) == undisturbed


@pytest.mark.usefixtures("each_module")
def test_resharding_goes_on_too_and_counts_all_its_tiles(
    source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    compress_directory(source, tmp_path / "one", tp=1)
    made = reshard_directory(tmp_path / "one", tmp_path / "two", tp=2)
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, 150, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            reshard_directory(tmp_path / "one", tmp_path / "again", tp=2)
    assert reshard_directory(tmp_path / "one", tmp_path / "again", tp=2) == made
    assert files(tmp_path / "again") == files(tmp_path / "two") == undisturbed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.usefixtures("each_module")
def test_a_full_disk_says_how_much_it_takes(small_disk: Path, tmp_path: Path) -> None:
    model = make_tiny_qwen3(tmp_path / "float", hidden=256, intermediate=1024, layers=3)
    source = make_w8a8s(model, tmp_path / "q", levels=40)
    compress_directory(source, tmp_path / "undisturbed", tp=2)
    with pytest.raises(CheckpointError, match="disk full") as raised:
        compress_directory(source, small_disk / "c", tp=2)
    assert "what is finished is kept" in str(raised.value)
    needed, free = (
        float(number) * 1000 ** " kM".index(unit) for number, unit in re.findall(r"([\d.]+) ([kM])B", str(raised.value))
    )
    more = int(1.25 * needed - free)
    subprocess.run(["mount", "-o", f"remount,size={(1 << 20) + more}", small_disk], check=True)
    compress_directory(source, small_disk / "c", tp=2)
    assert files(small_disk / "c") == files(tmp_path / "undisturbed")


def test_the_journal_names_every_tensor(source: Path, tmp_path: Path) -> None:
    interrupted(source, tmp_path / "c", at=150)
    head, *lines = [json.loads(line) for line in (work(tmp_path / "c") / "part0.journal").read_bytes().splitlines()]
    assert head["tp"] == 2
    assert len(lines) == MODULES
