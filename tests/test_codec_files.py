"""Compressed files: as long as the model says, decoded exactly wherever, refused when damaged."""

import math
import os
import re
import subprocess
import sys
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from codec_models import SIZE, images, trained
from PIL import Image
from test_codec_entropy import Known
from torch.utils._pytree import tree_leaves, tree_map

from agave import config
from agave.cli import main
from agave.codec import latents, tiles
from agave.codec.compression import Codec
from agave.codec.container import VERSION, Coding, Header, ImageGroup, read_container, write_container
from agave.codec.entropy import GRID, LOWEST, Exhausted, Stack, distance_to_boundary, round_to_grid
from agave.codec.groups import GUARD, GroupCoder
from agave.codec.pixels import pixel_intervals, push_pixels
from agave.errors import UserError
from agave.grid import Cell
from agave.models.files import describe_model
from agave.runtime.checkpoints import write_tensors

SYSTEMS = ["pixelcnn_pp", "agave", "vae_iaf"]


@pytest.fixture(params=SYSTEMS)
def codec(request):
    return Codec(trained(request.param), b"abcd")


def bound_in_bits(model, x):
    return -model.log_prob(x).numpy() / math.log(2)


def test_the_file_is_as_long_as_the_model_says(codec):
    x = images(40)
    made = codec.compress(x, group=16)
    bits, header = bound_in_bits(codec.model, x), 8 * 60
    by_model = np.array(made.codings) == Coding.MODEL
    difference = (made.lengths - bits)[by_model]
    assert by_model.sum() >= 30 and len(made.lengths) == 40
    assert 8 * len(made.data) == pytest.approx(made.lengths.sum(), abs=header)
    if codec.model.bound == "exact":
        assert np.abs(difference).max() < 1e-3 * bits.mean() and by_model.all()
    else:
        assert abs(difference.mean()) < 4 * difference.std() / len(difference) ** 0.5 + 0.005 * bits.mean()


@pytest.mark.parametrize(("count", "height", "width", "group"), [(1, SIZE, SIZE, 64), (5, SIZE, SIZE, 3), (2, 11, 17, 4), (1, 5, 3, 1)])
def test_images_come_back_exactly(codec, count, height, width, group):
    x = images(count, height, width)
    made = codec.compress(x, group=group)
    assert np.array_equal(codec.decompress(made.data), x)
    assert max(group.size for group in made.header.groups) <= group


def test_feature_maps_can_be_left_out():
    codec, x = Codec(trained("agave", blocks=2)), images(6)
    made = codec.compress(x, least_map_bits=1e6)
    assert made.header.left_out == (0b1111, 0b1111) and np.array_equal(codec.decompress(made.data), x)


def test_noise_costs_no_more_than_its_values():
    x = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    codec = Codec(trained("pixelcnn_pp"))
    made = codec.compress(x)
    assert set(made.codings) == {Coding.PLAIN} and len(made.data) < x.size + 60
    assert np.array_equal(codec.decompress(made.data), x)


def per_image(function):
    """Compute every image of a batch by itself."""

    def call(*arguments):
        count = len(next(leaf for leaf in tree_leaves(arguments) if torch.is_tensor(leaf)))
        alone = [tree_map(lambda leaf, i=i: leaf[i : i + 1] if torch.is_tensor(leaf) else leaf, arguments) for i in range(count)]
        return tree_map(lambda *parts: torch.cat(parts), *(function(*one) for one in alone))

    return call


class Each:
    """Networks of one image each as the network of all."""

    def __init__(self, networks):
        self.networks = networks

    def start_row(self, row):
        for one in self.networks:
            one.start_row(row)

    def logits(self, column):
        return np.concatenate([one.logits(column) for one in self.networks])

    def write(self, column, pixel):
        for one, part in zip(self.networks, pixel, strict=True):
            one.write(column, part[None])

    def end_row(self):
        for one in self.networks:
            one.end_row()


def test_a_receiver_may_compute_every_image_by_itself(codec):
    x = images(9)
    made = codec.compress(x, group=9)
    network = codec._conditional.network
    codec._conditional.network = lambda count, mean: Each([network(1, None if mean is None else mean[i : i + 1]) for i in range(count)])
    if codec._vae is not None:
        codec._vae.encode, codec._vae.finish = per_image(codec._vae.encode), per_image(codec._vae.finish)
        for layer in codec._vae.layers:
            layer.split, layer.posterior, layer.merge = (per_image(one) for one in (layer.split, layer.posterior, layer.merge))
    assert np.array_equal(codec.decompress(made.data), x)


@pytest.mark.parametrize(("error", "exact"), [(2e-13, True), (1e-6, False)])
def test_another_arithmetic_is_tolerated_or_noticed(codec, monkeypatch, error, exact):
    """Whatever the networks compute is off by a little, ten times as much as was seen between machines, or by very much."""
    x, numbers = images(6), np.random.default_rng(0)
    made = codec.compress(x)

    def off(function):
        return lambda *arguments: (lambda found: found + error * numbers.uniform(-1, 1, found.shape))(function(*arguments))

    network = codec._conditional.network

    def disturbed(count, mean):
        made = network(count, mean)
        made.logits = off(made.logits)
        return made

    monkeypatch.setattr(codec._conditional, "network", disturbed)
    monkeypatch.setattr("agave.codec.latents.by_pixel", off(latents.by_pixel))
    if exact:
        assert np.array_equal(codec.decompress(made.data), x)
    else:
        with pytest.raises(UserError, match="the file is whole, but this machine computes the model otherwise"):
            codec.decompress(made.data)


DECODE = """
import sys, zlib, torch
from agave.codec.compression import Codec
torch.set_num_threads(int(sys.argv[1]))
print(torch.backends.cpu.get_cpu_capability())
for system in sys.argv[2:]:
    print(zlib.crc32(Codec.of_file(system + ".safetensors").decompress(open(system + ".agv", "rb").read()).tobytes()))
"""


def saved(system, folder, root):
    params = config.load(root / "params.yaml", "tiny")
    params = params.model_copy(update={"prepare": params.prepare.model_copy(update={"image_size": SIZE})})
    path, cell = folder / f"{system}.safetensors", Cell({"vae_iaf": "vae"}.get(system, system), resolution=SIZE)
    write_tensors(path, trained(system).float().state_dict(), describe_model(cell, params))
    return path


@pytest.mark.integration
def test_other_processes_with_other_instructions_and_threads_find_the_same(tmp_path, root):
    x = images(6)
    for system in SYSTEMS:
        (tmp_path / f"{system}.agv").write_bytes(Codec.of_file(saved(system, tmp_path, root)).compress(x).data)
    for threads, capability in ((1, "default"), (2, "avx2")):
        environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", DECODE, str(threads), *SYSTEMS]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=True)
        used, *checksums = done.stdout.split("\n", 1)
        assert checksums[0].split() == 3 * [str(zlib.crc32(x.tobytes()))] and (used == "DEFAULT" or capability != "default")


class Fixed:
    """Logits that do not depend on the image; the receiver's may differ."""

    def __init__(self, sent, received):
        self.sent, self.received = sent, received

    def logits(self, x_uint8, mean):
        return self.sent

    def network(self, count, mean):
        return Known(self.received)


def test_a_number_close_to_a_boundary_shifts_the_grid():
    numbers = np.random.default_rng(0)
    logits = round_to_grid(numbers.normal(0, 0.1, (2, 20, 4, 4)))  # far from all boundaries
    logits[:, 2:].reshape(2, 3, 3, 2, 4, 4)[:, :, 1] = -3.0
    logits[0, 3, 1, 1] = 0.5 / GRID - 1e-13
    across = logits.copy()
    across[0, 3, 1, 1] += 2e-13
    x = torch.from_numpy(numbers.integers(100, 150, (2, 3, 4, 4)).astype(np.uint8))
    coder = GroupCoder(Fixed(logits, across), None)
    pushed = coder.push_last(Stack(), x, 2)
    assert pushed.group.offset > 0
    found = coder.pop(pushed.stack, pushed.group, range(2), (4, 4), lambda: None)
    assert (found == x.numpy()).all() and pushed.stack == Stack()
    unguarded = ImageGroup(2, Coding.MODEL, 0)
    assert distance_to_boundary(logits).min() < GUARD
    stack = Stack()
    push_pixels(stack, *pixel_intervals(logits, x.numpy(), 0))
    with suppress(Exhausted):
        assert not (coder.pop(stack, unguarded, range(2), (4, 4), lambda: None) == x.numpy()).all() or stack != Stack()


def test_the_header_comes_back():
    groups = (ImageGroup(1, Coding.MODEL), ImageGroup(1, Coding.MODEL, 7), ImageGroup(300, Coding.PLAIN), ImageGroup(2, Coding.PRIOR_MEAN))
    header = Header(1, b"1234", 7, 400, groups, 6, (0, 1 << 200, 5))
    stack = Stack([0, 65535, 3], LOWEST + 5)
    assert read_container(write_container(header, stack), "it") == (header, stack)


def test_every_flipped_bit_and_every_truncation_is_refused(codec):
    data = codec.compress(images(1, 3, 3)).data
    assert codec.decompress(data).shape == (1, 3, 3, 3)
    refused = 0
    for bit in range(8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UserError, match=r"damaged|not a file"):
            codec.decompress(bytes(broken))
        refused += 1
    for length in range(len(data)):
        with pytest.raises(UserError, match=r"damaged|not a file"):
            codec.decompress(data[:length])
        refused += 1
    with pytest.raises(UserError, match="damaged"):
        codec.decompress(data + b"\0")
    assert refused == 9 * len(data)


def test_damage_that_the_checksum_misses_gives_no_other_picture_and_no_traceback(codec):
    """Changes in files whose checksum is made to fit: the checksum of the pixels finds them, or the header makes no sense."""
    x, numbers, refused = images(2), np.random.default_rng(0), 0
    data = codec.compress(x).data
    places = [*range(9, 20), *numbers.integers(20, len(data) - 4, 5)]
    for place in places:
        broken = bytearray(data[:-4])
        broken[place] ^= 1 << int(numbers.integers(8))
        try:
            found = codec.decompress(bytes(broken) + zlib.crc32(broken).to_bytes(4, "little"))
        except UserError:
            refused += 1
        else:
            assert np.array_equal(found, x)
    assert refused >= len(places) - 2


def test_other_models_and_versions_are_refused():
    x = images(1)
    data = Codec(trained("pixelcnn_pp"), b"abcd").compress(x).data
    with pytest.raises(UserError, match="made with the pixelcnn_pp model whose SHA-256 begins with 61626364; given is the agave model"):
        Codec(trained("agave"), b"abcd").decompress(data)
    with pytest.raises(UserError, match="accepted: the model that it was made with"):
        Codec(trained("pixelcnn_pp"), b"abce").decompress(data)
    other = data[:4] + bytes([2 << 4]) + data[5:-4]
    with pytest.raises(UserError, match=f"version 2 of the format; accepted: version {VERSION}"):
        Codec(trained("pixelcnn_pp"), b"abcd").decompress(other + zlib.crc32(other).to_bytes(4, "little"))


def test_what_cannot_be_coded_is_refused():
    codec = Codec(trained("pixelcnn_pp"))
    for wrong in (images(1)[:0], images(1).astype(float), images(1)[0]):
        with pytest.raises(UserError, match="accepted: uint8"):
            codec.compress(wrong)
    with pytest.raises(UserError, match="its probabilities do not sum to one"):
        vae = trained("vae_iaf")
        vae.options = vae.options.model_copy(update={"likelihood": vae.options.likelihood.model_copy(update={"tails": False})})
        Codec(vae)
    with pytest.raises(UserError, match="it models images of 4 pixels and 256 levels"):
        vae = trained("vae_iaf")
        vae.resolution = 4
        Codec(vae)
    broken = trained("pixelcnn_pp")
    with torch.no_grad():
        broken.pixelcnn_pp.out.bias.fill_(math.nan)
    with pytest.raises(UserError, match="not finite"):
        Codec(broken).compress(images(1))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 1), (40, 33)])
def test_tiles_join_to_the_image(height, width):
    x = images(3, height, width)
    assert np.array_equal(tiles.join(tiles.cut(x, 16), height, width), x)


@pytest.fixture
def run(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    saved("pixelcnn_pp", tmp_path, root)

    def invoke(*arguments):
        return CliRunner().invoke(main, [*map(str, arguments), "--model", "pixelcnn_pp.safetensors"])

    return invoke


def test_commands(run, tmp_path):
    photo = images(1, 10, 15)[0]
    Image.fromarray(photo).save("photo.png")
    done = run("compress", "photo.png", "--output", "photo.agv")
    assert done.exit_code == 0 and "photo.agv: 1 image of 15 x 10 pixels in" in done.output and "bits/dim; as PNG" in done.output
    assert run("decompress", "photo.agv", "--output", "again.png").exit_code == 0
    assert np.array_equal(np.asarray(Image.open("again.png")), photo)
    x = images(3)
    np.savez("x.npz", images=x)
    assert run("compress", "x.npz", "--output", "x.agv", "--group", 2, "--no-check").exit_code == 0
    for output in ("y.npz", "y.npy", "y"):
        assert run("decompress", "x.agv", "--output", output).exit_code == 0
    assert np.array_equal(np.load("y.npz")["images"], x) and np.array_equal(np.load("y.npy"), x)
    paths = sorted((tmp_path / "y").iterdir())
    assert [path.name for path in paths] == ["0.png", "1.png", "2.png"]
    assert all(np.array_equal(np.asarray(Image.open(path)), one) for path, one in zip(paths, x, strict=True))
    assert (
        run("compress", *paths, "--output", "z.agv", "--group", 2).exit_code == 0
        and (tmp_path / "z.agv").read_bytes() == (tmp_path / "x.agv").read_bytes()
    )


def test_mistakes_are_told_in_one_line_and_nothing_is_written(run, tmp_path):
    picture = Image.fromarray(images(1)[0])
    picture.save("rgb.png")
    picture.convert("P").save("palette.png")
    picture.putalpha(100)
    picture.save("alpha.png")
    Image.fromarray(np.zeros((16, 16), np.uint16)).save("deep.png")
    Image.fromarray(images(1, 4, 4)[0]).save("small.png")
    np.save("grey.npy", np.zeros((2, 16, 16), np.uint8))
    np.save("x.npy", images(2))
    for inputs, message in {
        ("alpha.png",): "alpha.png: has transparency, which would be lost; accepted: RGB or grey .* magick alpha.png -alpha off",
        ("palette.png",): "palette.png: has a palette, which would be lost",
        ("deep.png",): "16 bits per channel",
        ("rgb.png", "small.png"): "small.png: 4 x 4 pixels, but rgb.png has 8 x 8; accepted: images of one size",
        ("grey.npy",): r"grey.npy: uint8 \(2, 16, 16\); accepted: uint8",
        ("x.npy", "rgb.png"): "x.npy: one of 2 files; accepted: a single array file",
    }.items():
        done = run("compress", *inputs, "--output", "out.agv")
        assert done.exit_code == 1 and re.search(message, done.output) and done.output.count("\n") == 1, done.output
    assert run("compress", "x.npy", "--output", "x.agv").exit_code == 0
    (tmp_path / "cut.agv").write_bytes((tmp_path / "x.agv").read_bytes()[:-9])
    for file, output, message in (
        ("x.agv", "out.jpg", "out.jpg: not a lossless output; accepted: a file .png, .npz or .npy, or a folder"),
        ("x.agv", "out.png", "out.png: the file holds 2 images; accepted: a folder, or a file .npz or .npy"),
        ("cut.agv", "out.npy", "cut.agv: damaged"),
        ("rgb.png", "out.npy", "rgb.png: not a file of `agave compress`"),
    ):
        done = run("decompress", file, "--output", output)
        assert done.exit_code == 1 and message in done.output, done.output
    assert not [path for path in tmp_path.iterdir() if path.stem == "out"]
