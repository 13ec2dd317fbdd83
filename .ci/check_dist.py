"""Fail unless sdist and wheel hold every file of the package, and the sdist the training scripts as well."""

import sys
import tarfile
import zipfile
from pathlib import Path


def files_in(folder: str) -> set[str]:
    return {
        path.as_posix()
        for path in Path(folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != ".DS_Store"
    }


def main(folder: Path) -> str | None:
    files = files_in("mcr_lens")
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    for name, names, wanted in (
        (wheel.name, in_wheel, files),
        (sdist.name, in_sdist, files | files_in("scripts")),
    ):
        if missing := sorted(wanted - names):
            return f"{name} lacks {len(missing)} files: {', '.join(missing[:5])}"
        print(f"{name}: all {len(wanted)} files")
    if "mcr_lens/py.typed" not in in_wheel:
        return f"{wheel.name} lacks mcr_lens/py.typed"
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
