"""Make a cohort of hospitals as they are, from real images: DICOM files, a table, 16-bit TIFF, arrays.

Four hospitals of one task, each with images of its own of PneumoniaMNIST or of the NIH's chest X-rays:
DICOM files of 12 bits, white as 0, with a rescale slope and a window; PNG files with a CSV of labels,
splits and patients; 16-bit TIFF files of a narrow range, in a folder a class; and an .npz. The cohort file
says how each is read, and what its classes are called. Run
`python -m benchmarks.mixed_cohort FOLDER --images 120`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

NAMES = ("normal", "pneumonia")


def make(folder: Path, data: Path, images: int = 120) -> Path:
    """Write the hospitals' files and the cohort below a new folder; return the cohort's file.

    data: the folder with ``pneumoniamnist.npz`` and ``cxr_nih_28.npz``. images: of each hospital, as many of
    both classes. The same arguments give the same pixels.
    """
    folder.mkdir(parents=True)
    children, adults = np.load(data / "pneumoniamnist.npz"), np.load(data / "cxr_nih_28.npz")
    parts = [*_drawn(children, images, 2), *_drawn(adults, images, 2)]
    dicom(folder / "dicom", *parts[0])
    table(folder, *parts[1])
    tiff(folder / "tiff", *parts[2])
    arrays(folder / "arrays.npz", *parts[3])
    other = {"NORMAL": "normal", "PNEUMONIA": "pneumonia"}
    sites: list[dict[str, Any]] = [
        {"name": "guangzhou", "source": "dicom:dicom", "labels": other},
        {
            "name": "harbour",
            "source": "csv:table.csv",
            "table": {"path": "file", "label": "finding"},
            "labels": {"no_finding": "normal", "opacity": "pneumonia"},
        },
        {"name": "bethesda", "source": "folder:tiff", "read": {"window": [21000, 2001]}},
        {"name": "hillcrest", "source": "npz:arrays.npz", "unseen": True},
    ]
    cohort = {
        "title": "Hospitals as they are",
        "size": 28,
        "channels": 1,
        "classes": list(NAMES),
        "sites": sites,
    }
    path = folder / "mixed.yaml"
    path.write_text(yaml.safe_dump(cohort, sort_keys=False))
    return path


def dicom(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """DICOM of 12 bits, MONOCHROME1; with slope 2 and intercept -1000, the window shows pixel v as v."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        patient = folder / NAMES[label].upper() / f"patient-{i // 2:04}"
        patient.mkdir(parents=True, exist_ok=True)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[f"{folder.name}-{i}"])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = patient / f"{i:05}.dcm"
        file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        file.PatientName, file.PatientID, file.Modality = f"Made^Up{i // 2}", f"MADE-UP-{i // 2:04}", "DX"
        file.Rows, file.Columns = image.shape
        file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME1"
        file.RescaleSlope, file.RescaleIntercept = 2, -1000
        stored = 600 + 10 * (255 - image.astype(np.uint16))  # 2 x 600 - 1000 = 200 to 2 x 3150 - 1000 = 5300
        file.WindowCenter, file.WindowWidth = 2750.5, 5101
        file.PixelSpacing = [0.7, 0.7]
        file.PixelData = stored.tobytes()
        file.save_as(path, enforce_file_format=True)


def table(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """PNG files, and a row for each: two images a patient, splits by patient."""
    (folder / "png").mkdir()
    rows = ["file,finding,split,patient"]
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / "png" / f"{i:05}.png")
        split = ("train", "train", "train", "val", "test")[i // 2 % 5]
        rows.append(f"png/{i:05}.png,{('no_finding', 'opacity')[label]},{split},{i // 2}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")


def tiff(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """16-bit TIFF: pixel v as 20000 + 2000 v / 255, which the window [21000, 2001] shows as about v."""
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / NAMES[label]
        place.mkdir(parents=True, exist_ok=True)
        deep = np.rint(20000 + image * (2000 / 255)).astype(np.uint16)
        Image.fromarray(deep).save(place / f"{i:05}.tif")


def arrays(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The six keys of MedMNIST's files: 60/20/20."""
    ends = [len(images) * 6 // 10, len(images) * 8 // 10]
    held: dict[str, np.ndarray] = {}
    for name, x, y in zip(
        ("train", "val", "test"), np.split(images, ends), np.split(labels, ends), strict=True
    ):
        held |= {f"{name}_images": x, f"{name}_labels": y}
    np.savez(path, **held)  # type: ignore[arg-type]


def _drawn(file: Any, images: int, parts: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return disjoint draws of a file's training images, both classes in pairs of two."""
    labels = file["train_labels"].reshape(-1)
    rng = np.random.default_rng(0)
    by_class = [rng.permutation(np.flatnonzero(labels == label)) for label in range(2)]
    half = images // 2
    found = []
    for part in range(parts):
        pairs = [order[part * half : (part + 1) * half].reshape(-1, 2) for order in by_class]
        index = np.stack(pairs, axis=1).reshape(-1)
        found.append((file["train_images"][index], labels[index].astype(np.int64)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to, new")
    parser.add_argument("--images", type=int, default=120, help="of each hospital, a multiple of 20")
    args = parser.parse_args()
    print(make(args.folder, Path(os.environ.get("FEDMERGE_DATA", ".")), args.images))


if __name__ == "__main__":
    main()
