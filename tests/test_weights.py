import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save_file

from agave import config
from agave.cli import main
from agave.models import load, make_model
from agave.models.pixelcnn_pp import published_weights


@pytest.fixture
def model(root):
    params = config.load(root / "params.yaml", "tiny")
    return make_model("pixelcnn_pp", params, 16).eval()


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
@pytest.mark.parametrize("prefix", ["", "param/"])
def test_import_and_export(model, tmp_path, root, ending, prefix):
    arrays = {prefix + name: tensor.numpy() for name, tensor in published_weights(model.pixelcnn_pp).items()}
    source = tmp_path / f"weights.{ending}"
    if ending == "npz":
        np.savez(source, config=np.array([8, 1, 2]), **arrays)
    else:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, source)
    options = ["--params", str(root / "params.yaml"), "--preset", "tiny"]
    result = CliRunner().invoke(main, ["import-weights", str(source), *options, "--output", str(tmp_path / "imported")])
    assert result.exit_code == 0, result.output
    imported = load(tmp_path / "imported" / "model.safetensors")
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(imported(x).log_prob_x, model(x).log_prob_x, rtol=1e-5)
    exported = tmp_path / f"exported.{ending}"
    arguments = ["export-weights", str(tmp_path / "imported" / "model.safetensors"), *options, "--output", str(exported)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert exported.exists()


@pytest.mark.parametrize("damage", ["another network", "truncated", "ending"])
def test_wrong_files_are_refused_and_nothing_is_written(model, tmp_path, root, damage):
    arrays = {name: tensor.numpy() for name, tensor in published_weights(model.pixelcnn_pp).items()}
    source = tmp_path / ("weights.txt" if damage == "ending" else "weights.npz")
    np.savez(tmp_path / "weights.npz", **(arrays if damage != "another network" else {"a.W": np.zeros(3)}))
    if damage == "truncated":
        source.write_bytes(source.read_bytes()[:1000])
    if damage == "ending":
        source.write_text("")
    options = ["--params", str(root / "params.yaml"), "--preset", "tiny", "--output", str(tmp_path / "o")]
    result = CliRunner().invoke(main, ["import-weights", str(source), *options])
    expected = {"another network": "missing", "truncated": "not a complete .npz file", "ending": "accepted endings: .npz, .safetensors"}
    assert result.exit_code == 1 and expected[damage] in result.output and "Traceback" not in result.output
    assert not (tmp_path / "o").exists()
