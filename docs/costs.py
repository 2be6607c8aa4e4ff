"""Write the cost table of docs/gpu.md: `python docs/costs.py`. Estimates; a device with a report adds a measured column."""

from __future__ import annotations

import json
from pathlib import Path

from agave import config
from agave.planning import plan
from agave.planning.device_report import measured_throughput
from agave.planning.plan import GPU_BFLOAT16, GPU_FLOAT32, STARTUP_SECONDS, Throughput

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- costs: begin -->", "<!-- costs: end -->"

PEAKS = {"A100": (312e12, 19.5e12), "H100 SXM": (989e12, 67e12), "RTX 4090, 24 GB": (165e12, 82.6e12)}
"""Published dense peaks, FLOP/s: bfloat16 with sums in float32, and float32."""

SHARES = GPU_BFLOAT16 / PEAKS["A100"][0], GPU_FLOAT32 / PEAKS["A100"][1]
"""Shares of the peaks that planning assumes for an A100; here for every device."""


def throughputs() -> dict[str, Throughput]:
    """Return the estimated and the measured throughputs by heading of the table."""
    found = {}
    for name, peaks in PEAKS.items():
        training, evaluation = (peak * share for peak, share in zip(peaks, SHARES, strict=True))
        rates = dict.fromkeys(("agave", "vae", "pixelcnn_pp"), training), dict.fromkeys(("agave", "vae", "pixelcnn_pp"), evaluation)
        found[f"{name} (estimate)"] = Throughput(*rates, STARTUP_SECONDS, name, "estimate")
    for path in sorted((ROOT / "results/gpu").glob("*/report.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["size"] == "published" and "throughput" in report:
            found[f"{report['device']} (measured)"] = measured_throughput(path)
    return found


def table() -> str:
    """Return the table as Markdown: hours of the longest job of each rule, and of all its jobs together."""
    params = config.load(ROOT / "params.yaml", "paper")
    plans = {name: plan.make(params, throughput) for name, throughput in throughputs().items()}
    first = next(iter(plans.values()))
    lines = ["| rule | jobs | device memory | " + " | ".join(plans) + " |", "| --- | ---: | ---: |" + " ---: |" * len(plans)]
    for place, rule in enumerate(first["rules"]):
        cells = [f"{made['rules'][place]['hours_per_job']:.2g} h, {made['rules'][place]['device_hours']:.3g} h" for made in plans.values()]
        lines.append(f"| `{rule['rule']}` | {rule['jobs']} | {rule['memory'] / 2**30:.1f} GiB | " + " | ".join(cells) + " |")
    totals = [f"**{made['total']['device_hours']:.3g} h**" for made in plans.values()]
    chains = [f"{made['longest_chain_hours']:.3g} h" for made in plans.values()]
    lines.append(f"| all | {first['total']['jobs']} | | " + " | ".join(totals) + " |")
    lines.append("| longest chain of jobs | | | " + " | ".join(chains) + " |")
    return "\n".join(lines)


def document() -> str:
    """Return the page with the table of today."""
    before, _, rest = (ROOT / "docs/gpu.md").read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    (ROOT / "docs/gpu.md").write_text(document(), encoding="utf-8")
