"""The step `formats`: compress the images of the step `codec` with common image formats, for comparison."""

from __future__ import annotations

from pathlib import Path

from agave.codec.image_formats import format_sizes
from agave.config import Params
from agave.csv_tables import write_table
from agave.data.arrays import load_images
from agave.data.manifest import name_of_test_images
from agave.provenance.run_record import recording


def run(params: Params, data: Path, output: Path) -> None:
    """Write formats.csv, what image formats take for the first test images, and the run record run.json.

    Args:
        params: parameters of the preset.
        data: folder of `agave prepare`.
        output: folder for the two files.

    Raises:
        UserError: bad input, the packages of the formats are not installed, or a format does not give the same pixels back.
    """
    images = load_images(data, "test")[: params.codec.images]
    options = {"codec": params.codec.model_dump(include={"images", "others"})}
    with recording("formats", options, {"images": data / "test.npy"}, output / "run.json") as record:
        data_set = name_of_test_images(data)
        rows = format_sizes(images, params.codec.others, "image formats")
        write_table(output / "formats.csv", [{"data_set": data_set} | row for row in rows])
        record.outputs.append(output / "formats.csv")
