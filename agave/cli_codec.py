"""The commands `agave codec`, `agave formats`, `agave compress` and `agave decompress`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agave.cli_options import (
    Command,
    FileArgument,
    FolderArgument,
    all_of,
    blocks_of,
    cell_of,
    data_option,
    dry_run_option,
    model_options,
    only_shown,
    place_of,
    place_options,
    preset_options,
)
from agave.config import Params
from agave.errors import UserError
from agave.files import atomic_write

if TYPE_CHECKING:
    from agave.codec.compression import Codec
    from agave.data.arrays import ImageArray


@click.command("codec", cls=Command)
@model_options
@click.option("--bound", type=FileArgument, required=True, help="File per_image.npz of `agave evaluate bound` of the same model.")
@place_options
def codec_command(params: Params, cell: str, dry_run: bool, model: Path, bound: Path, **arguments: Any) -> None:
    """Compress test images with CELL to a file as long as its likelihood, decompress it and compare."""
    found = cell_of(params, cell)
    if only_shown(dry_run, blocks_of(params, "model", "compute", "codec"), cell=cell, model=model, bound=bound, **arguments):
        return
    from agave.steps.codec import run

    seed, data, output = (arguments.pop(name) for name in ("seed", "data", "output"))
    run(params, found, seed, data, model, bound, output, place_of("codec", found.system, **arguments))


@click.command(cls=Command)
@preset_options
@data_option
@click.option("--output", type=FolderArgument, required=True, help="Folder for the results.")
@dry_run_option
def formats(params: Params, data: Path, output: Path, dry_run: bool) -> None:
    """Compress the same test images with PNG, JPEG-LS, AVIF, WebP and JPEG XL, for comparison."""
    if only_shown(dry_run, blocks_of(params, "codec"), data=data, output=output):
        return
    from agave.steps.formats import run

    run(params, data, output)


model_and_place = all_of(
    click.option("--model", type=FileArgument, required=True, help="File model.safetensors of a trained PixelCNN++, AGAVE or VAE."),
    click.option(
        "--device", type=click.Choice(["cpu", "cuda", "auto"]), default="cpu", help="Device to run on; auto takes a GPU if there is one."
    ),
    click.option("--threads", type=click.IntRange(min=1), metavar="NUMBER", help="Number of CPU threads (default: one per core)."),
)


@click.command(cls=Command)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=FileArgument)
@model_and_place
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write, by custom FILE.agv.")
@click.option(
    "--group",
    type=click.IntRange(min=1),
    default=64,
    metavar="NUMBER",
    help="Largest number of tiles, of the model's size, coded together.",
)
@click.option("--no-check", is_flag=True, help="Do not decompress again and compare before the file is written.")
def compress(inputs: tuple[Path, ...], model: Path, device: str, threads: int | None, output: Path, group: int, no_check: bool) -> None:
    """Compress images without loss, with a trained model as the distribution of pixels.

    INPUT is one or several image files of one size, or an .npz or .npy file with uint8 (N, height, width, 3). Larger images are cut into
    tiles of the model's size. The same model is needed to decompress.
    """
    import numpy as np

    from agave.codec.pictures import png_bytes, read_pictures

    images, codec = read_pictures(inputs), _codec(model, device, threads)
    data = codec.compress(images, group=group, label="compress").data
    if not (no_check or np.array_equal(codec.decompress(data, str(output), label="check"), images)):
        raise UserError(f"{output}: not written, decompressing does not give the same pixels. This should not happen; please report it")
    with atomic_write(output) as temporary:
        temporary.write_bytes(data)
    sizes = [f"{size:,} bytes, {8 * size / images.size:.3f} bits/dim" for size in (len(data), png_bytes(images))]
    click.echo(f"{output}: {_described(images)} in {sizes[0]}; as PNG {sizes[1]}")


@click.command(cls=Command)
@click.argument("file", type=FileArgument)
@model_and_place
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="File to write, .npz, .npy or, for a single image, .png; or a folder for numbered PNG files.",
)
def decompress(file: Path, model: Path, device: str, threads: int | None, output: Path) -> None:
    """Decompress FILE, made by `agave compress`, to exactly the same pixels."""
    from agave.codec.pictures import check_output, write_pictures

    check_output(output)
    codec = _codec(model, device, threads)
    images = codec.decompress(file.read_bytes(), str(file), label="decompress")
    write_pictures(output, images)
    click.echo(f"{output}: {_described(images)}")


def _codec(model: Path, device: str, threads: int | None) -> Codec:
    from agave.codec.compression import Codec
    from agave.config import Compute
    from agave.runtime.devices import set_up

    return Codec.of_file(model, set_up(Compute(), device, threads))


def _described(images: ImageArray) -> str:
    count, height, width, _ = images.shape
    return f"{count} image{'s' if count > 1 else ''} of {width} x {height} pixels"
