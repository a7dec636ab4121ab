"""The viewer's pure modules, tested where they run without a browser."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")


def test_pure_modules_pass_their_own_tests():
    if NODE is None and not os.environ.get("CI"):
        pytest.skip("no node on this machine")
    done = subprocess.run(
        [NODE or "node", "--test", Path(__file__).parent / "modules"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
