"""How long Snakemake takes to plan a grid of 2,000 cells with the slurm profile."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Print one line a target: jobs, seconds, milliseconds a job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=2000)
    cells = parser.parse_args().cells
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("workflow", "agave"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Snakefile", "claims.yaml"):
            shutil.copy(ROOT / name, folder)
        (folder / "slurm").symlink_to("workflow/profiles/slurm")
        document = yaml.safe_load((ROOT / "params.yaml").read_text())
        grid = document["paper"]["grid"]
        grid["kl_weights"] += [round(100 + index / 100, 2) for index in range(cells)]
        (folder / "params.yaml").write_text(yaml.safe_dump(document))
        print(f"{'target':<10}{'jobs':>8}{'seconds':>10}{'ms a job':>10}")
        for target in ("joint", "all"):
            began = time.monotonic()
            command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "-n", target, "--quiet", "rules"]
            done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            seconds = time.monotonic() - began
            total = re.search(r"^total +(\d+)", done.stdout, re.MULTILINE)
            if total is None:
                print(done.stdout, file=sys.stderr)
                return 1
            jobs = int(total[1])
            print(f"{target:<10}{jobs:>8}{seconds:>10.1f}{1000 * seconds / jobs:>10.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
