"""Fail unless the sdist and the wheel in the folder given hold every file of the package."""

import sys
import tarfile
import zipfile
from pathlib import Path


def main(folder: Path) -> str | None:
    files = {
        path.as_posix()
        for path in Path("mcr_lens").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != ".DS_Store"
    }
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    for name, names in ((wheel.name, in_wheel), (sdist.name, in_sdist)):
        if missing := sorted(files - names):
            return f"{name} lacks {len(missing)} files of the package: {', '.join(missing[:5])}"
        print(f"{name}: {len(files)} files of the package")
    if "mcr_lens/py.typed" not in in_wheel:
        return f"{wheel.name} lacks mcr_lens/py.typed"
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
