"""Small distributions that tests install: what a page of the documents says, or a few lines."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def blocks(page, language):
    """Return the code blocks of one language in a page."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)


def project(group, name, module):
    """Return the `pyproject.toml` of a distribution with one module and one entry point."""
    return (
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "{module.replace("_", "-")}"\nversion = "1"\n'
        f'[project.entry-points."{group}"]\n{name} = "{module}"\n[tool.setuptools]\npy-modules = ["{module}"]\n'
    )


def install(target, folder, pyproject, **modules):
    """Write a project into `folder` and install it into the folder `target`, without a network."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(pyproject, "utf-8")
    for module, code in modules.items():
        (folder / f"{module}.py").write_text(code, "utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", target, folder], check=True, timeout=120)
