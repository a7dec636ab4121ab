"""Make the screen and the curves of docs/measuring.md: `vitscope measure` on scikit-image's cat at 224 pixels.

    python examples/measured.py [--docs docs]

Some 220 forwards: 20 seconds of a processor. The block after "On the command line" and one image are replaced.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from skimage import data

COMMAND = ("measure", "chelsea.png", "--size", "224", "--out", "out")
BLOCK = re.compile(r"```\n\$ vitscope measure .*?```", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    page = arguments.docs / "measuring.md"
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(data.chelsea()).save(Path(folder, COMMAND[1]))
        called = [sys.executable, "-m", "vitscope", *COMMAND]
        environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
        ran = subprocess.run(called, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        with Image.open(Path(folder, "out", "chelsea", "curves.png")) as curves:
            small = curves.convert("RGB").quantize(64, dither=Image.Dither.NONE)
            small.save(arguments.docs / "images" / "measure-curves.png", optimize=True)
    screen = "\n".join(line.rstrip() for line in ran.stdout.splitlines()).rstrip()
    shown = f"```\n$ vitscope {' '.join(COMMAND)}\n{screen}\n```"
    text, found = BLOCK.subn(lambda _: shown, page.read_text("utf-8"))
    if found != 1:
        raise SystemExit(f"{page} has {found} screens of `vitscope measure`, not one")
    page.write_text(text, "utf-8")
    print(ran.stdout)


if __name__ == "__main__":
    main()
