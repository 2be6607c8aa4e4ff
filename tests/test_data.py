"""Sources, splits, manifest, damaged and wrong input, auxiliary image."""

import hashlib
import io
import json
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import get_args
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from torchvision.datasets import CIFAR10
from torchvision.datasets import utils as torchvision_utils

from agave.auxiliary_image import auxiliary_image, quantize
from agave.config import Params, Photos, load
from agave.data import cifar10 as cifar10_module
from agave.data import image_files, photographs
from agave.data.arrays import load_images
from agave.data.sources import SOURCES
from agave.errors import UserError
from agave.steps.prepare import prepare

CROPS = Photos(train_crops=40, test_crops=12, smallest_crop=48, largest_crop=256)
TINY = load(Path(__file__).parents[1] / "params.yaml", "tiny")
FEW = TINY.joint.model_copy(update={"init_images": 2})
DEFAULTS = TINY.model_copy(
    update={
        "pretrain": TINY.pretrain.model_copy(update={"vae": FEW, "pixelcnn_pp": FEW}),
        "joint": FEW,
        "table1": TINY.table1.model_copy(update={"systems": []}),
        "prepare": TINY.prepare.model_copy(update={"photos": CROPS}),
        "sample": TINY.sample.model_copy(update={"images": 2}),
        "evaluate": TINY.evaluate.model_copy(update={"iwae_images": 2}),
    }
)
FILES = ["manifest.json", "test.npy", "train.npy"]


def params(**changes: object) -> Params:
    """Parameters whose block `prepare` is changed; the other steps need few images."""
    block = type(DEFAULTS.prepare).model_validate(DEFAULTS.prepare.model_dump() | changes)
    return DEFAULTS.model_copy(update={"prepare": block})


def some_images(count: int, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def array_file(folder: Path, images: np.ndarray, name: str = "pictures.npy") -> Path:
    np.save(folder / name, images)
    return folder / name


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- photos


def test_photos_are_deterministic_and_match_their_manifest(tmp_path):
    manifest = prepare(params(), tmp_path / "a")
    prepare(params(), tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(contents(tmp_path / "a")) == FILES
    assert json.loads((tmp_path / "a/manifest.json").read_text()) == manifest
    assert manifest["name"] == {"train": "photos train (40 crops)", "test": "photos test (12 crops)"}
    for split, count in (("train", 40), ("test", 12)):
        images = load_images(tmp_path / "a", split)
        assert images.shape == (count, 16, 16, 3)
        assert images.dtype == np.uint8
        assert manifest[split] == {"images": count, "sha256": hashlib.sha256(images.tobytes()).hexdigest()}
    prepare(params(seed=1), tmp_path / "c")
    assert not np.array_equal(load_images(tmp_path / "a", "test"), load_images(tmp_path / "c", "test"))


def test_crops_of_a_smaller_request_are_the_first_of_a_larger_one():
    few = photographs.crops(CROPS.model_copy(update={"test_crops": 5}), "test", 16, seed=3)
    assert np.array_equal(few, photographs.crops(CROPS, "test", 16, seed=3)[:5])


def test_splits_share_no_photograph_and_every_photograph_has_a_licence(tmp_path):
    files = prepare(params(), tmp_path)["files"]
    train, test = ({file["sha256"] for file in files if file["split"] == split} for split in ("train", "test"))
    assert len(train) >= 2
    assert len(test) >= 2
    assert not train & test
    assert all(file["licence"] for file in files)


def test_every_photograph_gives_crops_with_contrast():
    for split in ("train", "test"):
        count = sum(photograph.split == split for photograph in photographs.PHOTOGRAPHS)
        images = photographs.crops(CROPS, split, 16, seed=0)
        assert (images.std(axis=(1, 2)).mean(axis=1) >= photographs.MINIMUM_CONTRAST).all()
        # The photographs take turns: the mean colours of their crops differ.
        assert len({tuple(images[place::count].mean(axis=(0, 1, 2)).round()) for place in range(count)}) == count


def test_crops_of_one_pixel_per_pixel_are_parts_of_the_photograph():
    exact = Photos(train_crops=4, test_crops=4, smallest_crop=32, largest_crop=32)
    photograph = next(p for p in photographs.PHOTOGRAPHS if p.split == "test")
    whole = np.asarray(image_files.open_image(photograph.path)[0])
    crop = photographs.crops(exact, "test", 32, seed=0)[0]
    windows = np.lib.stride_tricks.sliding_window_view(whole, (32, 32), axis=(0, 1))  # (rows, columns, 3, 32, 32)
    candidates = np.argwhere((windows[..., 0, 0] == crop[0, 0]).all(-1))
    assert any(np.array_equal(whole[top : top + 32, left : left + 32], crop) for top, left in candidates)


def test_resizing_removes_what_the_coarse_grid_cannot_show():
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    coarse = image_files.resize_square(Image.fromarray(stripes), 0, 0, 128, 16)
    assert coarse.std() < 4  # plain subsampling would give 0 or 127 everywhere, or moire
    assert abs(float(coarse.mean()) - 127.5) < 2


def test_largest_crop_is_clipped_to_the_photograph():
    huge = Photos(train_crops=8, test_crops=8, smallest_crop=400, largest_crop=400)
    assert photographs.crops(huge, "test", 16, seed=0).shape == (8, 16, 16, 3)


def test_crops_are_never_enlarged(tmp_path):
    with pytest.raises(UserError, match=r"smallest_crop 48 is smaller than prepare\.image_size 64"):
        prepare(params(image_size=64), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_thousands_of_crops_need_neither_torch_nor_scikit_image(tmp_path):
    code = (
        "import sys; from pathlib import Path; from agave.config import Params; from agave.steps.prepare import prepare\n"
        f"prepare(Params.model_construct(**vars(Params.model_validate_json({params().model_dump_json()!r}))), Path({str(tmp_path)!r}))\n"
        "print(sorted({'torch', 'torchvision', 'skimage', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- images


def test_array_is_split_in_its_order(tmp_path):
    images = some_images(30)
    path = array_file(tmp_path, images)
    manifest = prepare(params(source="images", path=str(path), train_images=20, test_images=7), tmp_path / "out")
    assert np.array_equal(load_images(tmp_path / "out", "train"), images[:20])
    assert np.array_equal(load_images(tmp_path / "out", "test"), images[20:27])
    assert manifest["name"] == {"train": "images train (20 of pictures.npy)", "test": "images test (7 of pictures.npy)"}
    assert manifest["files"] == [{"name": "pictures.npy", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}]


@pytest.mark.parametrize(
    ("train", "test", "expected"), [(None, None, (25, 5)), (None, 4, (26, 4)), (10, None, (10, 5)), (28, 2, (28, 2)), (3, 2, (3, 2))]
)
def test_sizes_of_the_split(tmp_path, train, test, expected):
    path = array_file(tmp_path, some_images(30))
    manifest = prepare(params(source="images", train_images=train, test_images=test), tmp_path / "out", images=path)
    assert (manifest["train"]["images"], manifest["test"]["images"]) == expected


@pytest.mark.parametrize("arrays", [{"images": 0, "labels": 1}, {"anything": 0}])
def test_npz_key(tmp_path, arrays):
    stored = [some_images(12), np.arange(12)]
    np.savez(tmp_path / "a.npz", **{name: stored[place] for name, place in arrays.items()})
    prepare(params(), tmp_path / "out", images=tmp_path / "a.npz")
    assert np.array_equal(load_images(tmp_path / "out", "train"), stored[0][:10])


def test_path_argument_overrides_every_source(tmp_path):
    path = array_file(tmp_path, some_images(12))
    for source in ("photos", "images", "cifar10"):
        manifest = prepare(params(source=source, path="nowhere"), tmp_path / "out", images=path)
        assert manifest["source"] == "images"


def test_folder_of_images(tmp_path):
    folder = tmp_path / "holiday"
    folder.mkdir()
    exact, wide = some_images(1)[0], np.zeros((40, 80, 3), np.uint8)
    wide[:, :20], wide[:, 20:60], wide[:, 60:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    Image.fromarray(exact).save(folder / "b.png")
    Image.fromarray(wide).save(folder / "a.png")
    Image.fromarray(some_images(1, 20)[0]).convert("L").save(folder / "c.PNG")
    Image.fromarray(some_images(1, 20)[0]).convert("RGBA").save(folder / "d.png")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    manifest = prepare(params(test_images=2), tmp_path / "out", images=folder)
    images = np.concatenate([load_images(tmp_path / "out", "train"), load_images(tmp_path / "out", "test")])
    assert [file["name"] for file in manifest["files"]] == ["a.png", "b.png", "c.PNG", "d.png"]
    assert (images[0] == (0, 255, 0)).all()  # the centre square only
    assert np.array_equal(images[1], exact)  # not resampled
    assert np.array_equal(images[2, ..., 0], images[2, ..., 2])
    assert manifest["name"]["test"] == "images test (2 of holiday)"


def bad_arrays() -> dict[str, tuple[np.ndarray, str]]:
    images = some_images(12)
    return {
        "type": (images.astype(np.float32), "float32.*accepted: uint8"),
        "size": (some_images(12, 20), r"shape \(12, 20, 20, 3\).*accepted: uint8 \(N, 16, 16, 3\)"),
        "order": (images.transpose(0, 3, 1, 2), r"shape \(12, 3, 16, 16\).*accepted"),
        "dimensions": (images[0], r"shape \(16, 16, 3\)"),
        "scalar": (np.array(3, np.uint8), r"shape \(\)"),
        "empty": (images[:0], "no images"),
        "one": (images[:1], "1 images, not enough"),
        "pickled": (np.array([{"a": 1}], dtype=object), "pickle"),
        "duplicate": (np.concatenate([images, images[1:2]]), "1 of 2 test images are also training images.*image 2 is training image 2"),
    }


@pytest.mark.parametrize("name", bad_arrays())
def test_bad_array_is_one_error_and_changes_nothing(tmp_path, name):
    array, message = bad_arrays()[name]
    out = tmp_path / "out"
    prepare(params(), out)
    before = contents(out)
    for path in (tmp_path / "bad.npy", tmp_path / "bad.npz"):
        np.save(path, array) if path.suffix == ".npy" else np.savez_compressed(path, images=array)
        with pytest.raises(UserError, match=message) as caught:
            prepare(params(), out, images=path)
        assert name == "duplicate" or path.name in str(caught.value)
        assert contents(out) == before


def test_pickles_are_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    for suffix in ("npy", "npz"):
        (tmp_path / f"bad.{suffix}").write_bytes(pickle.dumps(Trap()))
        with pytest.raises(UserError, match=f"bad.{suffix}: not a complete NumPy file"):
            prepare(params(), tmp_path / "out", images=tmp_path / f"bad.{suffix}")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", ["npy", "npz", "png", "jpg", "gif", "tif", "webp"])
def test_damaged_files_are_one_error_that_names_them(tmp_path, suffix):
    good, bad, out = io.BytesIO(), tmp_path / "in" / f"bad.{suffix}", tmp_path / "out"
    bad.parent.mkdir()
    images = some_images(12)
    if suffix == "npy":
        np.save(good, images)
    elif suffix == "npz":
        np.savez_compressed(good, images=images)
    else:
        Image.fromarray(images[0]).save(good, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
        Image.fromarray(images[1]).save(bad.parent / "good.png")
    whole = good.getvalue()
    for damaged in (b"", whole[: len(whole) // 3], b"\0" * 8 + whole[8:], b"plain text"):
        bad.write_bytes(damaged)
        with pytest.raises(UserError, match=f"bad.{suffix}.*accepted"):
            prepare(params(), out, images=bad if suffix.startswith("np") else bad.parent)
    assert not out.exists()


@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_is_an_error_or_an_array(tmp_path_factory, place, value):
    folder = tmp_path_factory.mktemp("bytes")
    stored = io.BytesIO()
    np.savez(stored, images=some_images(2, 4))
    damaged = bytearray(stored.getvalue())
    damaged[place % len(damaged)] = value
    (folder / "a.npz").write_bytes(damaged)
    try:
        prepare(params(image_size=8, photos=CROPS.model_dump()), folder / "out", images=folder / "a.npz")
    except UserError as error:
        assert "a.npz" in str(error)
    else:
        raise AssertionError("images of 4 x 4 pixels were accepted as 8 x 8")


def test_other_bad_input_names_what_is_wrong(tmp_path):
    out, folder = tmp_path / "out", tmp_path / "folder"
    folder.mkdir()

    def error(images: Path | None, **changes: object) -> str:
        with pytest.raises(UserError) as caught:
            prepare(params(**changes), out, images)
        assert not out.exists()
        return str(caught.value)

    assert "prepare.path is not set" in error(None, source="images")
    assert "missing.npz: not there" in error(tmp_path / "missing.npz")
    assert "folder without images" in error(folder)
    np.savez(tmp_path / "two.npz", a=some_images(2), b=some_images(2))
    assert "arrays ['a', 'b']; accepted: one called images" in error(tmp_path / "two.npz")
    ten = array_file(tmp_path, some_images(10))
    assert "10 images, not enough for prepare.train_images 8 and prepare.test_images 3" in error(ten, train_images=8, test_images=3)
    assert "not enough" in error(ten, test_images=10)
    for place in range(2):
        Image.fromarray(some_images(1, 32, place)[0]).save(folder / f"{place}.png")
    Image.fromarray(some_images(1, 15)[0]).resize((40, 15)).save(folder / "small.png")
    assert "small.png: 40 x 15 pixels; accepted: at least prepare.image_size, 16 x 16" in error(folder)
    (folder / "small.png").unlink()
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(folder / "deep.png")
    assert "deep.png: not a readable image (16 bits per channel)" in error(folder)


# --- the registry, and counts that later steps need


def test_the_registry_and_the_parameters_name_the_same_sources():
    assert set(SOURCES) == set(get_args(type(DEFAULTS.prepare).model_fields["source"].annotation))


@pytest.mark.parametrize(("block", "key"), [("sample", "images"), ("evaluate", "iwae_images")])
def test_too_few_test_images_for_a_later_step_are_noticed_at_once(tmp_path, block, key):
    path = array_file(tmp_path, some_images(30))
    needy = params(source="images", path=str(path))
    needy = needy.model_copy(update={block: getattr(needy, block).model_copy(update={key: 6})})
    with pytest.raises(UserError, match=f"{block}.{key} 6 .*accepted: at most 5"):
        prepare(needy, tmp_path / "out")
    with pytest.raises(UserError, match="test images: 1; accepted: at least 2"):
        prepare(params(source="images"), tmp_path / "out", images=array_file(tmp_path, some_images(6), "few.npy"))
    hungry = DEFAULTS.model_copy(update={"joint": FEW.model_copy(update={"init_images": 26})})
    with pytest.raises(UserError, match=r"joint\.init_images 26 is more than there are training images; accepted: at most 25"):
        prepare(hungry, tmp_path / "out", images=path)
    assert not (tmp_path / "out").exists()


def test_a_missing_photograph_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "PHOTOGRAPHS", (photographs.Photograph("skimage", "data/no_such.png", "train", "none"),))
    with pytest.raises(UserError, match=r"data/no_such.png of scikit-image is missing.*uv sync"):
        prepare(params(), tmp_path / "out")


# --- writing and reading back


def test_full_disk_leaves_the_earlier_result(tmp_path):
    out = tmp_path / "out"
    prepare(params(), out)
    before, limits = contents(out), resource.getrlimit(resource.RLIMIT_FSIZE)
    path = array_file(tmp_path, some_images(600))
    earlier = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(UserError, match="not written, the disk is full"):
            prepare(params(), out, images=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, earlier)
    assert contents(out) == before


def test_load_notices_every_kind_of_damage(tmp_path):
    original, out = tmp_path / "original", tmp_path / "out"
    prepare(params(), original)
    whole = (original / "test.npy").read_bytes()
    changed = whole[:-1] + bytes([whole[-1] ^ 1])
    other = io.BytesIO()
    np.save(other, some_images(12, 8))
    damages = {
        "test.npy": {whole[:-1]: "not a complete NumPy file", changed: "SHA-256", other.getvalue(): r"\(12, 8, 8, 3\)", None: "not there"},
        "manifest.json": {
            b"{": "not a manifest",
            b"{}": "not a manifest",
            b"[1]": "not a manifest",
            None: "not there",
            b"\xff": "not a man",
        },
    }
    for name, cases in damages.items():
        for damage, message in cases.items():
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(original, out)
            assert len(load_images(out, "test")) == 12
            (out / name).unlink() if damage is None else (out / name).write_bytes(damage)
            with pytest.raises(UserError, match=f"{name}: .*{message}") as caught:
                load_images(out, "test")
            assert "agave prepare" in str(caught.value)


# --- cifar10: a small archive in the same format, with its own checksums


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    """A folder with a small archive: 5 batches of 6 training images, 10 test images; nothing can be downloaded."""
    folder = tmp_path / "archive"
    folder.mkdir()
    train, test = some_images(30, 32, 1), some_images(10, 32, 2)
    test[4] = train[7]
    parts = {f"data_batch_{k + 1}": train[6 * k : 6 * k + 6] for k in range(5)} | {"test_batch": test}
    files = {
        name: pickle.dumps({"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1), "labels": [0] * len(images)})
        for name, images in parts.items()
    } | {"batches.meta": pickle.dumps({"label_names": ["none"]})}
    with tarfile.open(folder / CIFAR10.filename, "w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))

    def md5(data: bytes) -> str:
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    sums = [[name, md5(files[name])] for name in parts]
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5((folder / CIFAR10.filename).read_bytes()))
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5(files["batches.meta"])})
    monkeypatch.setattr(torchvision_utils, "_urlretrieve", offline)
    monkeypatch.setattr(torchvision_utils, "_get_redirect_url", offline)
    return folder


def offline(url: str, *arguments: object, **options: object) -> None:
    raise URLError("no network")


def cifar10(folder: Path, **changes: object) -> Params:
    return params(source="cifar10", path=str(folder), image_size=32, **changes)


def test_cifar10_official_split(archive, tmp_path):
    manifest = prepare(cifar10(archive), tmp_path / "out")
    assert manifest["name"] == {"train": "CIFAR-10 train", "test": "CIFAR-10 test"}
    assert manifest["duplicates_across_splits"] == 1
    assert [file["name"] for file in manifest["files"]] == [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    assert np.array_equal(load_images(tmp_path / "out", "train"), some_images(30, 32, 1))
    assert np.array_equal(load_images(tmp_path / "out", "test")[:4], some_images(10, 32, 2)[:4])
    assert sorted(contents(archive)) == [CIFAR10.filename]  # nothing unpacked beside the archive


@pytest.mark.parametrize(
    ("changes", "train", "test"),
    [
        ({"test_images": 4}, "CIFAR-10 train", "CIFAR-10 test (first 4)"),
        ({"train_images": 12, "test_images": 10}, "CIFAR-10 train (first 12)", "CIFAR-10 test"),
        ({"test_from_train": True, "train_images": 20, "test_images": 5}, "CIFAR-10 train (first 20)", "CIFAR-10 train images 21-25"),
        ({"test_from_train": True, "test_images": 3}, "CIFAR-10 train (first 27)", "CIFAR-10 train images 28-30"),
    ],
)
def test_cifar10_names_say_what_the_images_are(archive, tmp_path, changes, train, test):
    manifest = prepare(cifar10(archive, **changes), tmp_path / "out")
    assert manifest["name"] == {"train": train, "test": test}
    images = np.concatenate([load_images(tmp_path / "out", "train"), load_images(tmp_path / "out", "test")])
    if changes.get("test_from_train"):
        assert np.array_equal(images, some_images(30, 32, 1)[: len(images)])


def test_cifar10_from_unpacked_batches_is_the_same(archive, tmp_path):
    prepare(cifar10(archive), tmp_path / "packed")
    shutil.unpack_archive(archive / CIFAR10.filename, tmp_path / "folder")
    prepare(cifar10(tmp_path / "folder"), tmp_path / "unpacked")
    assert contents(tmp_path / "packed") == contents(tmp_path / "unpacked")
    prepare(cifar10(tmp_path / "folder" / CIFAR10.base_folder), tmp_path / "itself")
    assert contents(tmp_path / "packed") == contents(tmp_path / "itself")
    (tmp_path / "folder" / CIFAR10.base_folder).rename(tmp_path / "renamed")
    prepare(cifar10(tmp_path / "renamed"), tmp_path / "other")
    assert contents(tmp_path / "packed") == contents(tmp_path / "other")


def test_cifar10_is_not_downloaded_among_other_files(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10_module, "_download_cifar10", lambda archive: pytest.fail("a download"))
    shutil.unpack_archive(archive / CIFAR10.filename, tmp_path / "folder")
    batches = tmp_path / "folder" / CIFAR10.base_folder
    (batches / "data_batch_2").write_bytes(b"changed")
    for path in (tmp_path / "folder", batches):
        before = contents(path)
        with pytest.raises(
            UserError, match="data_batch_2 is missing or damaged; nothing is downloaded among other files; accepted: a folder with"
        ):
            prepare(cifar10(path), tmp_path / "out")
        assert contents(path) == before
    (batches / "data_batch_2").unlink()
    with pytest.raises(UserError, match="data_batch_2 is missing or damaged"):
        prepare(cifar10(batches), tmp_path / "out")
    with pytest.raises(UserError, match=f"neither {CIFAR10.filename} nor its unpacked batches are there"):
        prepare(cifar10(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_cifar10_download(archive, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    served = archive / CIFAR10.filename
    monkeypatch.setattr(torchvision_utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(torchvision_utils, "_urlretrieve", lambda url, path: Path(path).write_bytes(served.read_bytes()[:-1]))
    with pytest.raises(UserError, match="download"):
        prepare(cifar10(tmp_path / "data"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "data").iterdir())  # half an archive does not stay
    monkeypatch.setattr(torchvision_utils, "_urlretrieve", lambda url, path: shutil.copy(served, path))
    monkeypatch.chdir(tmp_path)
    prepare(params(source="cifar10", image_size=32), tmp_path / "out")  # into data/, the default
    assert sorted(contents(tmp_path / "data")) == [CIFAR10.filename]


def test_cifar10_without_network_says_what_to_do(archive, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError) as caught:
        prepare(cifar10(tmp_path / "data"), tmp_path / "out")
    assert f"{CIFAR10.filename} (MD5 {CIFAR10.tgz_md5})" in str(caught.value)
    assert str(tmp_path / "data") in str(caught.value)
    assert "no network" in str(caught.value)


def test_cifar10_damaged_archive_is_never_unpacked(archive, tmp_path, monkeypatch):
    whole = (archive / CIFAR10.filename).read_bytes()
    monkeypatch.setattr(pickle, "load", offline)
    for damaged in (whole[:-100], whole[:200] + b"\0" + whole[201:], b""):
        (archive / CIFAR10.filename).write_bytes(damaged)
        with pytest.raises(UserError, match=f"{CIFAR10.filename}: damaged or incomplete"):
            prepare(cifar10(archive), tmp_path / "out")
    assert contents(archive) == {CIFAR10.filename: b""}
    assert not (tmp_path / "out").exists()


def test_cifar10_bad_requests(archive, tmp_path):
    for changes, message in [
        ({"image_size": 16}, "prepare.image_size 16: .*accepted: 32"),
        ({"train_images": 31}, "prepare.train_images 31: CIFAR-10 train has 30 images"),
        ({"test_images": 11}, "prepare.test_images 11: CIFAR-10 test has 10 images"),
        ({"test_from_train": True, "train_images": 28, "test_images": 3}, "30 images, not enough"),
        ({"path": str(tmp_path / "missing")}, "missing: no such folder"),
    ]:
        with pytest.raises(UserError, match=message):
            prepare(params(**{"source": "cifar10", "path": str(archive), "image_size": 32} | changes), tmp_path / "out")


# --- the auxiliary image

IMAGES = hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(3), st.just(24), st.just(24)))


@given(IMAGES, st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]))
def test_box_average_is_the_rounded_mean(x, resolution):
    scale = 24 // resolution
    mean = x.reshape(len(x), 3, resolution, scale, resolution, scale).astype(np.float64).mean(axis=(3, 5))
    y = auxiliary_image(torch.from_numpy(x), resolution)
    assert y.dtype == torch.uint8
    assert np.array_equal(y.numpy(), np.floor(mean + 0.5))  # ties are rounded up


def test_box_average_by_hand():
    x = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    x[0, 0, 0, 0] = 1  # mean 0.25
    x[0, 1, :2, :2] = torch.tensor([[1, 1], [0, 0]])  # mean 0.5: up
    x[0, 2, 2:, 2:] = 255
    expected = torch.tensor([[[0, 0], [0, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 255]]], dtype=torch.uint8)
    assert torch.equal(auxiliary_image(x, 2)[0], expected)
    assert torch.equal(auxiliary_image(x, 4), x)


@pytest.mark.parametrize("levels", [1, 2, 4, 8, 16, 32, 64, 128, 256])
def test_quantize_gives_bins_of_equal_width(levels):
    values = torch.arange(256, dtype=torch.uint8)
    index = quantize(values, levels)
    assert np.array_equal(index.numpy(), np.floor(np.arange(256) / (256 / levels)))
    assert torch.equal(torch.bincount(index.long()), torch.full((levels,), 256 // levels))


@given(IMAGES, st.sampled_from([2, 8, 32, 256]))
def test_quantizing_loses_less_than_one_bin(x, levels):
    width = 256 // levels
    rest = x.astype(int) - quantize(torch.from_numpy(x), levels).numpy().astype(int) * width
    assert rest.min() >= 0
    assert rest.max() < width


def test_auxiliary_image_refuses_what_it_cannot_do():
    x = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    for call, message in [
        (lambda: auxiliary_image(x, 5), "resolution 5 does not divide the image size 32"),
        (lambda: auxiliary_image(x, 0), "resolution 0"),
        (lambda: auxiliary_image(x, 64), "resolution 64"),
        (lambda: auxiliary_image(x.float(), 8), "float32"),
        (lambda: auxiliary_image(x[0], 8), r"\(3, 32, 32\)"),
        (lambda: auxiliary_image(x[:, :, :16], 8), r"\(1, 3, 16, 32\)"),
        (lambda: quantize(x, 3), "levels 3 does not divide 256"),
        (lambda: quantize(x, 0), "levels 0"),
        (lambda: quantize(x.float(), 2), "float32"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
