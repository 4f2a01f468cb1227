from __future__ import annotations

import builtins

import nibabel
import numpy as np
import pytest

from cellseg1_rt.errors import InputError, MissingExtraError
from cellseg1_rt.formats import read_image, read_labels


@pytest.mark.parametrize("dtype", ["?", "u1", "<u2", ">u2", "i8", "u8", "<f2", ">f4", "f8"])
@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (4,)], ids=str)
def test_npy_comes_back_in_native_order(tmp_path, samples, dtype, channels):
    pixels = samples.of(np.dtype(dtype).newbyteorder("="), *channels)
    np.save(tmp_path / "image.npy", pixels.astype(dtype))
    np.testing.assert_array_equal(read_image(tmp_path / "image.npy").pixels, pixels, strict=True)


BAD_ARRAYS = [
    ("complex", np.zeros((5, 7), complex), "not real numbers; got dtype complex128"),
    ("objects", np.array([[None]]), "Python objects.*got dtype object"),
    ("text", np.array([["a"]]), "not real numbers; got dtype <U1"),
    ("dates", np.zeros((5, 7), "M8[s]"), "not real numbers; got dtype datetime64"),
    ("structured", np.zeros((5, 7), [("a", "u1")]), "not real numbers; got dtype"),
    ("no_rows", np.zeros((0, 7)), r"an image without pixels; got an array of shape \(0, 7\)"),
    ("no_channels", np.zeros((5, 7, 0)), "an image without pixels"),
    ("line", np.zeros(7), r"not one plane; got an array of shape \(7,\); expected H x W or"),
    ("volume", np.zeros((2, 3, 5, 7)), r"not one plane.*\(2, 3, 5, 7\)"),
    ("channels_first", np.zeros((3, 5, 7)), r"too many channels; got 7 .*Fix: move the channels"),
    ("six_channels", np.zeros((11, 13, 6)), "too many channels; got 6 .*Fix: choose channels"),
]


@pytest.mark.parametrize(
    ("array", "message"), [case[1:] for case in BAD_ARRAYS], ids=[case[0] for case in BAD_ARRAYS]
)
def test_arrays_that_are_no_image(tmp_path, array, message):
    np.save(tmp_path / "image.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message) as caught:
        read_image(tmp_path / "image.npy")
    assert str(tmp_path / "image.npy") in str(caught.value)


def write_nifti(path, array, unit="unknown", zooms=None):
    image = nibabel.Nifti1Image(array, np.eye(4))
    if zooms is not None:
        image.header.set_zooms(zooms)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4", "f8"])
@pytest.mark.parametrize("trailing", [(), (1,), (1, 1)], ids=str)
def test_nifti_keeps_its_own_axes(tmp_path, samples, suffix, dtype, trailing):
    pixels = samples.of(dtype)
    write_nifti(tmp_path / f"image{suffix}", pixels.reshape(pixels.shape + trailing))
    found = read_image(tmp_path / f"image{suffix}").pixels
    np.testing.assert_array_equal(found, pixels, strict=True)


def test_nifti_scaling_is_applied(tmp_path, samples):
    pixels = samples.of("i2")
    image = nibabel.Nifti1Image(pixels, np.eye(4))
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, tmp_path / "image.nii")
    found = read_image(tmp_path / "image.nii").pixels
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, pixels * 0.5 + 3)


def test_nifti_rgb(tmp_path, samples):
    pixels = samples.of("u1", 3)
    packed = pixels.view([("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(packed, np.eye(4)), tmp_path / "image.nii")
    found = read_image(tmp_path / "image.nii").pixels
    np.testing.assert_array_equal(found, pixels, strict=True)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("micron", (0.25, 0.5)), ("mm", (250.0, 500.0)), ("unknown", None)],
)
def test_nifti_pixel_size(tmp_path, unit, expected):
    write_nifti(tmp_path / "image.nii", np.zeros((5, 7), np.uint8), unit, (0.25, 0.5))
    assert read_image(tmp_path / "image.nii").pixel_size_um == expected


def test_nifti_volume_is_refused(tmp_path):
    write_nifti(tmp_path / "image.nii", np.zeros((5, 7, 3), np.uint8))
    with pytest.raises(InputError, match=r"a volume; got an array of shape \(5, 7, 3\).*Fix: save"):
        read_image(tmp_path / "image.nii")


def test_nifti_labels(tmp_path, label_map):
    write_nifti(tmp_path / "labels.nii.gz", label_map.astype(np.int16))
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.nii.gz"), label_map)


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_cut_off(tmp_path, samples, suffix, kept):
    path = tmp_path / f"image{suffix}"
    write_nifti(path, samples.of("u2"))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(InputError, match="this NIfTI file is cut off or damaged"):
        read_image(path)


def test_nifti_without_nibabel_names_the_extra(tmp_path, samples, monkeypatch):
    write_nifti(tmp_path / "image.nii", samples.of("u1"))
    real = builtins.__import__

    def without_nibabel(name, *args, **kwargs):
        if name == "nibabel":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_nibabel)
    with pytest.raises(MissingExtraError, match=r"pip install 'cellseg1-rt\[nifti\]'"):
        read_image(tmp_path / "image.nii")
