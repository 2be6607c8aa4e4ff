"""Import PixelCNN++ weights that were trained elsewhere, and export ours, by canonical name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as dump_tensors

from agave.config import Params
from agave.data.arrays import read_array_file, write_npz
from agave.errors import UserError
from agave.files import atomic_write, sha256
from agave.grid import Cell
from agave.models.files import describe_model, load_cell
from agave.models.pixelcnn_pp import load_published_weights, published_weights
from agave.models.pixelcnn_pp_alone import PixelCNNppAlone
from agave.provenance.run_record import Recorder
from agave.runtime.checkpoints import read_tensors, write_tensors

ENDINGS = (".npz", ".safetensors")


def import_pixelcnn_pp(params: Params, weights: Path, output: Path) -> None:
    """Write weights trained elsewhere as `agave pretrain pixelcnn_pp` writes its own.

    Args:
        params: parameters of the preset; its sizes must be those of the weights.
        weights: .npz or .safetensors file of arrays as `load_published_weights` takes them.
        output: folder for model.safetensors, raw.safetensors (the same weights) and run.json.

    Raises:
        UserError: the file is of another format, or holds the weights of another network.
    """
    arrays: dict[str, Any] = _read(weights)
    cell = Cell("pixelcnn_pp", resolution=params.prepare.image_size)
    model = PixelCNNppAlone.from_options(params.model, params.prepare.image_size)
    try:
        load_published_weights(model.pixelcnn_pp, arrays)
    except ValueError as error:
        raise UserError(f"{weights}: {error}") from None
    record = Recorder("pretrain", {"cell": "pixelcnn_pp", "imported": True, "model": params.model.model_dump()}, {"weights": weights})
    metadata = describe_model(cell, params) | {"step": "pretrain", "imported_sha256": sha256(weights)}
    files = [output / "model.safetensors", output / "raw.safetensors"]
    for path in files:
        write_tensors(path, model.state_dict(), metadata)
    record.write(output / "run.json", files)


def export_pixelcnn_pp(params: Params, model: Path, output: Path) -> None:
    """Write a pretrained PixelCNN++ as effective weights and biases by canonical name.

    Args:
        params: parameters of the preset that it was trained with.
        model: model.safetensors of `agave pretrain pixelcnn_pp`.
        output: .npz or .safetensors file to write.

    Raises:
        UserError: the model is of another kind, or the ending is not accepted.
    """
    if output.suffix not in ENDINGS:
        raise UserError(f"{output}: accepted endings: {', '.join(ENDINGS)}")
    size = params.prepare.image_size
    loaded = load_cell(model, params, Cell("pixelcnn_pp", resolution=size))
    assert isinstance(loaded, PixelCNNppAlone), "the system of the cell pixelcnn_pp"
    arrays = {name: tensor.contiguous() for name, tensor in published_weights(loaded.pixelcnn_pp).items()}
    if output.suffix == ".npz":
        write_npz(output, {name: tensor.numpy() for name, tensor in arrays.items()})
        return
    with atomic_write(output) as temporary:
        temporary.write_bytes(dump_tensors(arrays))


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return dict(read_tensors(path))
    if path.suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in read_array_file(path).items() if array.dtype.kind == "f"}
    raise UserError(f"{path}: accepted endings: {', '.join(ENDINGS)}")
