"""Build wheel and sdist, check what is in them, install the wheel into an environment of its own, and use it there.

    python tools/release.py              builds into out/dist; the new environment sees the packages of this one
    python tools/release.py --whole      installs the dependencies anew as well: what a user downloads, minutes
    python tools/release.py --tag v0.1.0 checks alone that a tag may be released

Each extra is left out where its packages are not there; tests/test_extras.py has the sentence that each one answers.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tools.citation import current, package_version  # noqa: E402  # the path is set above

DIST, PLACE = ROOT / "out" / "dist", ROOT / "out" / "installed"
MOST_MB = 6  # of a wheel: the weights of digit-scenes are 3.3 of them
IN_WHEEL = ("vitscope/py.typed", "vitscope/locales/zh/cli.po", "vitscope/viewer/assets/", "vitscope/web/assets/")
IN_SDIST = (
    "README.md",
    "LICENSE",
    "NOTICE",
    "CHANGELOG.md",
    "mkdocs.yml",
    "docs/index.md",
    "tests/",
    "tools/release.py",
)
SMOKE = """
import sys, vitscope
from pathlib import Path
assert "torch" not in sys.modules
assert Path(vitscope.__file__).is_relative_to(sys.prefix), vitscope.__file__
e = vitscope.load("embedded:digit-scenes").explain("photo.png", method="rollout")
assert e.map.shape == (10, 10), e.map.shape
e.save("python")
"""


def main() -> None:
    """Do what the arguments ask; exit with 1 and a line on what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--tag")
    given = parser.parse_args()
    if given.tag:
        sys.exit(refusal(given.tag))
    wheel, sdist = build()
    for problem in (problems := [*wheel_problems(wheel), *sdist_problems(sdist)]):
        print(f"release: {problem}")
    if problems:
        sys.exit(1)
    python = install(wheel, whole=given.whole)
    use(python)
    print(
        f"release: {wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB) and {sdist.name} are whole, and the wheel works"
    )


def refusal(tag: str) -> str | None:
    """Return why a tag may not be released, or None."""
    version = package_version(ROOT)
    if tag != f"v{version}":
        return f"release: the tag is {tag}, and the version {version}"
    if "dev" in version:
        return f"release: {version} is no version to publish"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    if not settings["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]:
        return "release: pyproject.toml does not say where the repository is"
    if (ROOT / "CITATION.cff").read_text("utf-8") != current(ROOT):
        return "release: CITATION.cff is old: run python tools/citation.py"
    return None


def build() -> tuple[Path, Path]:
    """Build both from the working tree, the wheel from the sdist as installers do, and return their paths."""
    shutil.rmtree(DIST, ignore_errors=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, ROOT], check=True, stdout=subprocess.DEVNULL
    )
    [wheel], [sdist] = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    return wheel, sdist


def wheel_problems(wheel: Path) -> list[str]:
    """Return what is wrong with the contents of a wheel."""
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        [about] = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(file.read(about).decode())
    source = ROOT / "src"
    ours = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    ours = {name for name in ours if "__pycache__" not in name and ".egg-info" not in name}
    found = [f"{name} is not in the wheel" for name in sorted(ours - {*names})]
    found += [
        f"{name} does not belong into the wheel" for name in names if name not in ours and ".dist-info/" not in name
    ]
    found += [f"nothing of {part} is in the wheel" for part in IN_WHEEL if not any(n.startswith(part) for n in names)]
    if wheel.stat().st_size > MOST_MB * 1e6:
        found.append(f"the wheel has {wheel.stat().st_size / 1e6:.1f} MB, more than {MOST_MB}")
    text = str(metadata.get_payload())
    found += [f"the long description leads to {to}" for to in re.findall(r"\]\((?!https?:|#|mailto:)([^)]+)\)", text)]
    if not metadata["Summary"] or "# vitscope" not in text:
        found.append("the package does not say what it is")
    return found


def sdist_problems(sdist: Path) -> list[str]:
    """Return what is wrong with the contents of an sdist."""
    with tarfile.open(sdist) as file:
        names = [name.partition("/")[2] for name in file.getnames()]
    found = [f"nothing of {part} is in the sdist" for part in IN_SDIST if not any(n.startswith(part) for n in names)]
    strangers = re.compile(r"(^|/)(\.venv|\.git|\.cache|node_modules|out|__pycache__)/")
    return found + [f"{name} does not belong into the sdist" for name in names if strangers.search(name)]


def install(wheel: Path, *, whole: bool) -> Path:
    """Install a wheel into a new environment, with its dependencies or with those of this environment in sight."""
    shutil.rmtree(PLACE, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", PLACE], check=True)
    python = next(path for path in PLACE.glob("*/python*") if path.parent.name in ("bin", "Scripts"))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *([] if whole else ["--no-deps", "--no-index"]), wheel], check=True)
    if not whole:  # after the wheel's own folder on the path, so that no other vitscope is found before it
        [site] = [*PLACE.glob("lib/python*/site-packages"), *PLACE.glob("Lib/site-packages")][:1]
        (site / "seen.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return python


def use(python: Path) -> None:
    """Do with the installed package what a new user does, in a folder without the source."""
    place = PLACE / "work"
    place.mkdir()
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VITSCOPE_MODEL")}
    draw = "from PIL import Image; Image.linear_gradient('L').convert('RGB').resize((90, 60)).save('photo.png')"
    command = python.with_name("vitscope")
    for arguments in (
        [python, "-c", draw],
        [python, "-c", SMOKE],
        [command, "--version"],
        [command, "explain", "photo.png", "-m", "embedded:digit-scenes"],
        [command, "view", "photo.png", "-m", "embedded:digit-scenes", "--no-measure", "-o", "view.html"],
        [command, "reproduce", "out"],
    ):
        ran = subprocess.run(arguments, cwd=place, env=clean, capture_output=True, text=True, check=False)
        if ran.returncode:
            sys.exit(f"release: {' '.join(map(str, arguments[1:]))} failed\n{ran.stderr}")
    for name in ("python/manifest.json", "out/photo/why-this-class/overlay.png", "view.html"):
        if not (place / name).exists():
            sys.exit(f"release: {name} was not written")


if __name__ == "__main__":
    main()
