"""Files of Debian's and of Python's packages, downloaded without root and without installing anything."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path


def debian_package(cache: Path, package: str) -> Path:
    """The folder under `cache` with the unpacked files of a Debian package. SystemExit where apt has none."""
    folder = cache / package
    if not folder.exists():
        making = folder.with_name(f"{package}.part")
        making.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "-q", "download", package], cwd=making, check=True, stdout=sys.stderr)
            (archive,) = making.glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", archive.name, "."], cwd=making, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"{package} cannot be downloaded: {error}; run this on Debian or Ubuntu after `apt-get update`, or "
                "measure on a text of your own with --text FILE"
            ) from error
        making.rename(folder)
    return folder


def wheel(cache: Path, requirement: str) -> zipfile.ZipFile:
    """The wheel of a pinned requirement, "name==version". SystemExit where pip finds none."""
    folder = cache / requirement
    if not folder.exists():
        making = folder.with_name(f"{requirement}.part")
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", making]
        try:
            subprocess.run([*command, requirement], check=True, stdout=sys.stderr)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"{requirement} cannot be downloaded: {error}") from error
        making.rename(folder)
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)
