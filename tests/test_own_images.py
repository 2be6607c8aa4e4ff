"""Image files and folders that a user gives: what is read, what is refused, what is left out with a word."""

import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageCms
from test_data import params, some_images

from agave.data import image_files, listing
from agave.data.arrays import load_images
from agave.errors import UserError
from agave.steps.prepare import prepare

# --- the depth of image files


def png_of_16_bits(path: Path, channels: int) -> None:
    """A PNG file of 32 x 32 pixels with 16 bits per channel; Pillow writes none in colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + np.full(32 * channels, 700, ">u2").tobytes() for _ in range(32))
    header = struct.pack(">IIBBBBB", 32, 32, 16, kind, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def tiff(path: Path, pixels: np.ndarray, bits: int, photometric: int, **tags: tuple[int, tuple[int, ...]]) -> None:
    """A TIFF file of one strip, tag by tag; Pillow writes none of 16 bits in colour."""
    height, width, *channels = pixels.shape
    entries = {256: (3, (width,)), 257: (3, (height,)), 258: (3, (bits,) * (channels[0] if channels else 1)), 259: (3, (1,))}
    entries |= {262: (3, (photometric,)), 273: (4, (0,)), 277: (3, (channels[0] if channels else 1,)), 278: (3, (height,))}
    entries |= {279: (4, (pixels.nbytes,))} | {int(name[1:]): value for name, value in tags.items()}
    place, directory, rest = 8 + 2 + 12 * len(entries) + 4, b"", b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if tag == 273:
            entries_before = len(directory)
        if len(packed) > 4:
            directory += struct.pack("<HHII", tag, kind, len(values), place + len(rest))
            rest += packed
        else:
            directory += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    strip = struct.pack("<I", place + len(rest))
    directory = directory[: entries_before + 8] + strip + directory[entries_before + 12 :]
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + directory + b"\0" * 4 + rest + pixels.tobytes())


def jpeg_of_12_bits(path: Path) -> None:
    Image.fromarray(some_images(1, 32)[0]).save(path)
    data = path.read_bytes()
    place = data.index(b"\xff\xc0") + 4  # the precision in the frame header
    path.write_bytes(data[:place] + b"\x0c" + data[place + 1 :])


DEEP = np.full((32, 32, 3), 700, "<u2")
PIXELS = some_images(1, 32)[0]
PROFILES = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
TOO_DEEP = {
    "grey.png": lambda path: Image.fromarray(DEEP[..., 0]).save(path),
    "colour.png": lambda path: png_of_16_bits(path, 3),
    "alpha.png": lambda path: png_of_16_bits(path, 4),
    "grey_alpha.png": lambda path: png_of_16_bits(path, 2),
    "wrong_name.jpg": lambda path: png_of_16_bits(path, 3),
    "colour.tif": lambda path: tiff(path, DEEP, 16, 2),
    "grey.tif": lambda path: tiff(path, DEEP[..., 0], 16, 1),
    "float.tiff": lambda path: Image.fromarray(np.ones((32, 32), np.float32)).save(path),
    "signed.tif": lambda path: tiff(path, PIXELS[..., 0], 8, 1, _339=(3, (2,))),
    "palette.tif": lambda path: tiff(path, PIXELS[..., 0], 8, 3, _320=(3, tuple(range(768)))),
    "colour.ppm": lambda path: path.write_bytes(b"P6\n# a comment\n32 32\n1023\n" + DEEP.astype(">u2").tobytes()),
    "plain.ppm": lambda path: path.write_text("P3 32 32 1023 " + "700 " * 3072),
    "grey.pgm": lambda path: path.write_bytes(b"P5 32 32 65535\n" + DEEP[..., 0].tobytes()),
    "float.ppm": lambda path: path.write_bytes(b"Pf\n32 32\n-1.0\n" + np.ones((32, 32), "<f4").tobytes()),
    "medical.jpg": jpeg_of_12_bits,
}


@pytest.mark.parametrize("name", TOO_DEEP)
def test_more_than_8_bits_are_refused_by_what_the_file_says(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    TOO_DEEP[name](folder / name)
    for place in range(3):
        Image.fromarray(some_images(1, 32, place)[0]).save(folder / f"{place}.png")
    with pytest.raises(
        UserError, match=rf"{name}: not a readable image \(.*\); accepted: a whole image file with one frame and 8 bits"
    ) as caught:
        prepare(params(), tmp_path / "out", images=folder)
    assert "\n" not in str(caught.value)
    assert re.search(r"\((16|32|10) bits|not unsigned integers|a palette of 16 bits|the variant Pf|12-bit or damaged", str(caught.value))


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.png", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    + [("a.tif", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB")]
    + [("a.jpg", mode) for mode in ("L", "RGB", "CMYK")]
    + [("a.gif", "P"), ("a.bmp", "RGB"), ("a.bmp", "P"), ("a.webp", "RGB"), ("a.webp", "RGBA")]
    + [("a.pbm", "1"), ("a.pgm", "L"), ("a.ppm", "RGB")],
)
def test_8_bits_in_every_mode_are_read_as_pillow_converts_them(tmp_path, name, mode):
    source = Image.fromarray(PIXELS)
    image = ImageCms.applyTransform(source, ImageCms.buildTransform(*PROFILES, "RGB", "LAB")) if mode == "LAB" else source.convert(mode)
    image.save(tmp_path / name)
    found, left_out = image_files.open_image(tmp_path / name)
    with Image.open(tmp_path / name) as again:
        assert np.array_equal(found, again.convert("RGB"))
    assert left_out == []


def test_a_palette_of_8_bits_in_a_tiff_file_is_read(tmp_path):
    for factor in (256, 257):
        tiff(tmp_path / "a.tif", PIXELS[..., 0], 8, 3, _320=(3, tuple(value * factor for value in range(256)) * 3))
        assert np.array_equal(image_files.open_image(tmp_path / "a.tif")[0], PIXELS[..., :1].repeat(3, -1))


# --- what of a folder is left out


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with three images."""
    path = tmp_path / "holiday"
    path.mkdir()
    for place in range(3):
        Image.fromarray(some_images(1, 32, place)[0]).save(path / f"{place}.png")
    return path


def test_nothing_of_a_folder_is_left_out_without_a_word(folder, tmp_path, capsys):
    for name in ("notes.txt", "Thumbs.db", ".DS_Store", "._0.png"):
        (folder / name).write_text("no image")
    (folder / "raw").mkdir()
    Image.fromarray(PIXELS).save(folder / "3.jfif", "jpeg")
    see_through = np.dstack([some_images(1, 32, 5)[0], np.full((32, 32, 1), 9, np.uint8)])
    Image.fromarray(see_through, "RGBA").save(folder / "4.png")
    views = [Image.fromarray(view) for view in some_images(3, 32, 6)]
    views[0].save(folder / "5.jpg", "MPO", save_all=True, append_images=views[1:])
    manifest = prepare(params(test_images=2), tmp_path / "out", images=folder)
    assert [file["name"] for file in manifest["files"]] == ["0.png", "1.png", "2.png", "3.jfif", "4.png", "5.jpg"]
    assert manifest["left_out"] == [
        {"name": ".DS_Store", "reason": "hidden"},
        {"name": "._0.png", "reason": "hidden"},
        {"name": "Thumbs.db", "reason": "no image"},
        {"name": "notes.txt", "reason": "no image"},
        {"name": "raw", "reason": "folder"},
        {"name": "4.png", "reason": "transparency"},
        {"name": "5.jpg, frames 2 to 3", "reason": "further frames"},
    ]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"{folder}: left out: hidden 2 (.DS_Store, ._0.png); no image 2 (Thumbs.db, notes.txt); folder 1 (raw); transparency 1 (4.png); "
        "further frames 1 (5.jpg, frames 2 to 3)\n"
    )
    images = np.concatenate([load_images(tmp_path / "out", split) for split in ("train", "test")])
    assert np.array_equal(images[4], image_files.resize_square(Image.fromarray(see_through[..., :3].copy()), 0, 0, 32, 16))


@pytest.mark.parametrize("name", ["a.heic", "b.AVIF", "c.jp2", "d.tga", "e.CR2", "f.svg", "g.mpo"])
def test_images_that_are_not_read_are_named(folder, tmp_path, name):
    (folder / name).write_text("whatever")
    with pytest.raises(
        UserError, match=f"holiday: images that are not read: {name}; accepted: files ending in .bmp .*; convert, rename or move"
    ):
        prepare(params(), tmp_path / "out", images=folder)


@pytest.mark.parametrize(
    ("name", "kind"), [("image", "png"), ("photo.dat", "jpeg"), ("photo.txt", "gif"), ("b.xyz", "avif"), ("c.xyz", "jpeg2000")]
)
def test_images_under_other_names_are_found_by_their_content(folder, tmp_path, name, kind):
    Image.fromarray(PIXELS).save(folder / name, kind)
    with pytest.raises(UserError, match=f"images that are not read: {name}"):
        prepare(params(), tmp_path / "out", images=folder)


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp", "a.png"])
def test_frames_are_not_dropped(folder, tmp_path, name):
    frames = [Image.fromarray(frame) for frame in some_images(4, 32, 7)]
    frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    with pytest.raises(
        UserError, match=rf"{name}: not a readable image \(4 frames; save each as a file of its own\); accepted: .* one frame"
    ):
        prepare(params(), tmp_path / "out", images=folder)


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "in" / "train").mkdir(parents=True)
    (tmp_path / "in" / "labels.csv").write_text("1")
    with pytest.raises(
        UserError, match=r"without images \(left out: no image 1 \(labels.csv\); folder 1 \(train\)\); accepted: files ending in"
    ):
        prepare(params(), tmp_path / "out", images=tmp_path / "in")


def test_the_fingerprint_of_a_folder_changes_with_its_files(folder):
    found = {listing.fingerprint(folder)}
    (folder / ".hidden").write_text("1")
    assert listing.fingerprint(folder) in found
    (folder / "more.png").write_bytes((folder / "0.png").read_bytes())
    found.add(listing.fingerprint(folder))
    os.utime(folder / "1.png", ns=(0, 0))
    found.add(listing.fingerprint(folder))
    (folder / "2.png").unlink()
    found.add(listing.fingerprint(folder))
    (folder / "2.png").symlink_to("nowhere")
    found.add(listing.fingerprint(folder))
    assert len(found) == 5
    assert listing.fingerprint(folder / "absent") == listing.fingerprint(folder / "absent")


def test_dvc_is_told_the_path_and_an_absent_file_is_not_made(tmp_path):
    note = tmp_path / "own_images.yaml"
    listing.note_for_dvc(note, params().prepare)
    assert not note.exists()
    for damaged in (b"", b"\xff"):
        note.write_bytes(damaged)
        listing.note_for_dvc(note, params(source="images", path='my: "ä".npz').prepare)
        assert yaml.safe_load(note.read_text(encoding="utf-8")) == {"own_images": 'my: "ä".npz'}
    listing.note_for_dvc(note, params(path="ignored.npz").prepare)
    assert yaml.safe_load(note.read_text(encoding="utf-8")) == {"own_images": note.as_posix()}


def test_the_committed_note_is_that_of_the_committed_preset(root, tmp_path, monkeypatch):
    committed = (root / "workflow/own_images.yaml").read_bytes()
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow/own_images.yaml").touch()
    monkeypatch.chdir(tmp_path)
    listing.note_for_dvc("workflow/own_images.yaml", params().prepare)
    assert (tmp_path / "workflow/own_images.yaml").read_bytes() == committed
