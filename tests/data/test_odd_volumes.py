"""Volumes of NIfTI, odd in one way each: the right plane of pixels, by hand, or a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.odd_files import OddFiles, look, of

nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed: pip install 'fedmerge[nifti]'")

odd = OddFiles()
VOLUME = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def volume(path: Path, values: np.ndarray, slope: float = 1.0, inter: float = 0.0, **how: Any) -> None:
    image = nibabel.Nifti1Image(values, np.diag([2.0, 3.0, 4.0, 1.0]), **how)
    image.header.set_slope_inter(slope, inter)
    if slope != 1.0 or inter:  # saved as the numbers stand there
        image.header.set_slope_inter(slope, inter)
        with path.open("wb") as file:
            header = image.header
            header["magic"] = b"n+1"
            header["vox_offset"] = 352
            header.write_to(file)
            file.write(bytes(352 - file.tell()))
            file.write(values.astype(header.get_data_dtype()).tobytes(order="F"))
        return
    nibabel.save(image, path)


def plane(values: np.ndarray) -> np.ndarray:
    """The third plane across the third axis, columns to the right, rows from front to back."""
    return values[:, ::-1, 2].T


UP = plane(VOLUME)
odd("NIfTI, a plane", UP, slice=2, window="full")(of(volume, VOLUME))
odd("NIfTI, the middle", UP, slice="middle", window="full")(of(volume, VOLUME))
odd("NIfTI, packed", UP, slice=2, window="full")(of(volume, VOLUME))
odd("NIfTI without a plane", ("volume", "slice"), window="full")(of(volume, VOLUME))
odd("NIfTI, a plane that is not there", (4, "planes", 9), slice=9, window="full")(of(volume, VOLUME))
odd("NIfTI of four axes", ("shape", "three"), slice=0, window="full")(
    of(volume, np.zeros((2, 2, 2, 2), np.uint8))
)
odd("NIfTI that is none", ("volume",), slice=0, window="full")(lambda path: path.write_bytes(b"hello"))


@pytest.mark.parametrize("case", odd.cases)
def test_an_odd_file_gives_the_right_pixels_or_a_sentence(tmp_path: Path, case: str) -> None:
    odd.check(case, tmp_path / ("a.nii.gz" if "packed" in case else "a.nii"))


VALUES = np.arange(-12, 12, dtype=np.int16).reshape(2, 3, 4)
WINDOW_12: dict[str, Any] = {"slice": 2, "window": (0.5, 25)}
AS_12 = np.rint(((plane(VALUES).astype(float) - 0) / 24 + 0.5).clip(0, 1) * 255)
AS_FULL = np.rint((plane(VALUES).astype(float) + 32768) * 255 / 65535)
"""Slope and intercept change the ends with the values."""
RGB = [("R", "u1"), ("G", "u1"), ("B", "u1")]
NIFTIS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "one of four axes, the last of length 1": (lambda p: volume(p, VALUES[..., None]), WINDOW_12, AS_12),
    "five axes, two of length 1": (lambda p: volume(p, VALUES[..., None, None]), WINDOW_12, AS_12),
    "a film": (lambda p: volume(p, np.stack([VALUES] * 3, -1)), WINDOW_12, ("2, 3, 4, 3", "three")),
    "a picture of two axes": (lambda p: volume(p, VALUES[0]), WINDOW_12, ("3, 4", "three")),
    "a negative slope": (lambda p: volume(p, VALUES, -1.0), WINDOW_12, 255 - AS_12),
    "a slope and all values": (
        lambda p: volume(p, VALUES, 2.0, 5.0),
        {"slice": 2, "window": "full"},
        AS_FULL,
    ),
    "big endian": (lambda p: volume(p, VALUES.astype(">i2")), WINDOW_12, AS_12),
    "colours": (lambda p: volume(p, np.zeros((2, 3, 4), RGB)), WINDOW_12, ("a.nii",)),
    "complex numbers": (lambda p: volume(p, VALUES.astype(np.complex64)), WINDOW_12, ("a.nii",)),
    "no number in it": (lambda p: volume(p, np.full((2, 3, 4), np.nan, np.float32)), WINDOW_12, ("finite",)),
    "an axis of no length": (lambda p: volume(p, np.zeros((2, 3, 0), np.int16)), WINDOW_12, ("a.nii",)),
}


@pytest.mark.parametrize("case", NIFTIS)
def test_odd_nifti(tmp_path: Path, case: str) -> None:
    write, read, expected = NIFTIS[case]
    write(tmp_path / "a.nii")
    look(tmp_path / "a.nii", read, expected if isinstance(expected, tuple) else expected.astype(int))


def test_a_packed_volume_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    volume(tmp_path / "whole.nii.gz", np.random.default_rng(0).integers(0, 999, (16, 16, 16), dtype=np.int16))
    (tmp_path / "a.nii.gz").write_bytes((tmp_path / "whole.nii.gz").read_bytes()[:2000])
    look(tmp_path / "a.nii.gz", WINDOW_12 | {"slice": 15}, ("a.nii.gz",))
