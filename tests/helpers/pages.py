"""Run commands and code of the documents as they stand there, with small photos, and tiny models for large ones."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

from vitscope.cli.main import main

ROOT = Path(__file__).parent.parent.parent
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PATIENTS = {0: "healthy", 1: "pneumonia"}


def blocks_of(page):
    """The blocks of a page in their order: language and text."""
    return BLOCK.findall((ROOT / page).read_text("utf-8"))


def commands_of(block):
    """The commands of a console block, without prompts, comments and answers."""
    return [shlex.split(line[2:], comments=True) for line in block.splitlines() if line.startswith("$ ")]


class Workplace:
    """A folder with what the pages name: photos, a video, a slice, models by the names that stand on the pages."""

    def __init__(self, folder, tiny_folder, clip_folder):
        self.folder = folder
        self.models = {
            **dict.fromkeys(("google/vit-base-patch16-224", "google/vit-large-patch32-384"), str(tiny_folder)),
            "openai/clip-vit-base-patch32": str(clip_folder),
        }
        cat, cup = Image.fromarray(data.chelsea()).resize((150, 100)), Image.fromarray(data.coffee()).resize((120, 80))
        (folder / "photos").mkdir()
        (folder / "masks").mkdir()
        (folder / "scans").mkdir()
        for name, image in {"photo": cat, "other": cup, "a": cat, "b": cup, "c": cat.rotate(90, expand=True)}.items():
            image.save(folder / f"{name}.jpg")
            if len(name) == 1:
                image.save(folder / "photos" / f"{name}.jpg")
                mask = np.zeros((image.height, image.width), np.uint8)
                mask[20:60, 30:60] = 1
                Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
        shutil.copy(folder / "a.jpg", folder / "scans" / "a.jpg")
        video(folder / "clip.mp4", [cat.crop((n, n, n + 64, n + 64)) for n in range(9)])
        dicom(folder / "slice.dcm")
        self._models(tiny_folder)

    def _models(self, tiny_folder):
        import timm
        from transformers import ViTForImageClassification, ViTImageProcessorPil

        torch.manual_seed(0)
        tuned = ViTForImageClassification.from_pretrained(
            tiny_folder, num_labels=2, id2label=PATIENTS, label2id={v: k for k, v in PATIENTS.items()},
            ignore_mismatched_sizes=True,
        )  # fmt: skip
        tuned.save_pretrained(self.folder / "runs" / "checkpoint-500")
        ViTImageProcessorPil.from_pretrained(tiny_folder).save_pretrained(self.folder / "runs" / "checkpoint-500")
        self.own = timm.create_model(
            "vit_tiny_patch16_224", img_size=64, depth=2, embed_dim=32, num_heads=2, num_classes=3
        )  # fmt: skip
        timm_weights = timm.create_model("vit_tiny_patch16_224", num_classes=3).state_dict()
        torch.save(timm_weights, self.folder / "best.pth")
        (self.folder / "classes.txt").write_text("one\ntwo\nthree\n", "utf-8")

    def fresh(self, folder):
        """A copy of it, for one page or task."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return folder

    def run(self, command, monkeypatch):
        """Run one command of a page in this process; returns its exit code."""
        assert command[0] == "vitscope", command
        monkeypatch.setattr(sys, "argv", [self.models.get(word, word) for word in command])
        try:
            main()
        except SystemExit as ended:
            return ended.code
        return 0

    def execute(self, code, page, names):
        """Run Python of a page; `names` are what it finds, and what it leaves."""
        for there, here in self.models.items():
            code = code.replace(f'"{there}"', f'"{here}"')
        exec(compile(code, page, "exec"), names)


def video(path, frames):
    """A film of frames in H.264, or what PyAV has in its place."""
    import av

    with av.open(path, "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_image(frame)))
        file.mux(stream.encode(None))


def dicom(path):
    """A slice of 64 x 64 in Hounsfield units, with a window of its own."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    made = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.Modality, made.PhotometricInterpretation, made.SamplesPerPixel = "CT", "MONOCHROME2", 1
    made.Rows = made.Columns = 64
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 1
    made.RescaleIntercept, made.RescaleSlope = -1024, 1
    made.WindowCenter, made.WindowWidth = 40, 400
    rows, columns = np.mgrid[:64, :64]
    made.PixelData = (1024 + 30 * rows - 20 * columns).astype("<i2").tobytes()
    made.save_as(path, enforce_file_format=True)
