"""The part `report`: report.json, report.md and figures, with what `compute` and the Slurm profile should say for the device."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from agave import config
from agave.config import Params
from agave.files import atomic_write
from agave.gpu_check.figures import draw_learning, draw_speed
from agave.gpu_check.setting import Setting
from agave.grid import KINDS, Cell
from agave.models import SYSTEMS
from agave.planning import network_costs, plan
from agave.planning.plan import MIB, Throughput

Results = Mapping[str, dict[str, Any]]


def write_report(setting: Setting, results: Results, output: Path) -> Path:
    """Write the report of the parts that are finished.

    Args:
        setting: setting of the check.
        results: by part.
        output: folder of all devices' reports.

    Returns:
        The folder of this device's report.
    """
    device = str(results["environment"]["device"]) if "environment" in results else setting.device.type
    folder = output / re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    throughput = measured(setting, results, device) if "speed" in results else None
    advice = recommended(setting, results, throughput) if throughput is not None else None
    report = {"device": device, "size": setting.size, "passed": passed(results), "parts": dict(results)}
    if throughput is not None:
        report |= {"throughput": vars(throughput), "recommended": advice}
    figures = [draw_learning(results["learning"], folder)] if "learning" in results else []
    figures += [draw_speed(results["speed"], folder)] if "speed" in results else []
    for name, text in (("report.json", json.dumps(report, indent=2) + "\n"), ("report.md", "\n".join(_page(report, figures)) + "\n")):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder


def passed(results: Results) -> bool:
    """Return whether no part that was run found a fault."""
    return all(part.get("passed", True) for part in results.values())


def measured(setting: Setting, results: Results, device: str) -> Throughput | None:
    """Return what the device sustained, FLOP/s: the fastest training steps of each system, and its importance samples in float32."""
    params = setting.params()
    training: dict[str, float] = {}
    evaluation: dict[str, float] = {}
    rows = _usable(results)
    for name in SYSTEMS:
        kind = KINDS.get(name, name)
        adds = network_costs.multiply_adds(params, Cell(kind, resolution=params.prepare.image_size))
        forward = 2 * sum(adds.values())
        own = [row for row in rows if row["system"] == name]
        if own:
            training[kind] = 3 * forward * max(row["images_per_second"] for row in own)
            exact = [row["images_per_second"] for row in own if row["precision"] == "float32"]
            evaluation[kind] = 3 * forward * max(exact) if exact else training[kind]
        bounds = [row for row in results["speed"].get("importance", []) if row["system"] == name]
        if bounds:
            encode = 2 * adds.get("encoder", 0)
            evaluation[kind] = (forward - encode) * max(row["samples_per_second"] for row in bounds)
    if not training:
        return None
    for kind in ("agave", "vae", "pixelcnn_pp"):
        training.setdefault(kind, min(training.values()))
        evaluation.setdefault(kind, min(evaluation.values()))
    networks = "the networks of the preset tiny, NOT the published ones" if setting.size == "tiny" else "the published networks"
    return Throughput(training, evaluation, plan.STARTUP_SECONDS, device, f"measured by agave gpu-check: {networks}")


def _usable(results: Results) -> list[dict[str, Any]]:
    """Return the training steps that ran, in a precision that `compute` can ask for."""
    return [row for row in results["speed"].get("training", []) if "images_per_second" in row and row["precision"] != "tf32"]


def recommended(setting: Setting, results: Results, throughput: Throughput) -> dict[str, Any]:
    """Return what `compute` and the Slurm profile should say for this device, and the hours of the preset `paper`."""
    paper = config.load(setting.params_file, "paper")
    rows = [row for row in _usable(results) if row["system"] == "agave"]
    best = max(rows, key=lambda row: float(row["images_per_second"]))
    batch = paper.joint.batch
    compute = {
        "precision": "bfloat16" if best["precision"] == "bfloat16" else "float32",
        "compile": best["mode"] == "compiled",
        "images_per_pass": None if best["batch"] >= batch else best["batch"],
    }
    changed = paper.model_copy(update={"compute": paper.compute.model_copy(update=compute)})
    made = plan.make(changed, throughput)
    return {
        "compute": compute,
        "tflops": round(throughput.training["agave"] / 1e12, 3),
        "rules": _rules(changed, throughput),
        "paper_device_hours": made["total"]["device_hours"],
        "paper_longest_chain_hours": made["longest_chain_hours"],
    }


def _rules(params: Params, throughput: Throughput) -> dict[str, dict[str, int]]:
    """Return memory on the device and on the host, MiB, and time, minutes, that a job of each rule should ask for."""
    found: dict[str, dict[str, int]] = {}
    for job, _ in plan.jobs(params):
        asked = {
            "device_mb": -(-job.memory // MIB),
            "mem_mb": plan.mem_mb(job),
            "runtime": plan.minutes(job, throughput),
        }
        before = found.get(job.rule, {})
        found[job.rule] = {name: max(value, before.get(name, 0)) for name, value in asked.items()}
    return found


def _page(report: Mapping[str, Any], figures: list[str]) -> Iterator[str]:
    parts = report["parts"]
    yield f"# {report['device']}"
    yield ""
    yield f"Written by `agave gpu-check`, networks of the {'published size' if report['size'] == 'published' else 'preset tiny'}. "
    yield f"{'All checks passed.' if report['passed'] else 'Some checks FAILED.'}"
    if report["size"] == "tiny":
        yield "Its networks are far too small to say anything about the preset `paper`: times, advice and hours below only show the form."
    if "environment" in parts:
        facts = {name: value for name, value in parts["environment"].items() if not isinstance(value, dict)}
        yield from _section("Environment", pd.DataFrame({"what": facts.keys(), "value": [str(value) for value in facts.values()]}))
    if "correctness" in parts:
        yield from _section("Correctness, against float64 on the CPU", pd.DataFrame(parts["correctness"]["checks"]))
    for name, rows in parts.get("speed", {}).items():
        if rows:
            yield from _section(f"Speed: {name}", pd.DataFrame(rows))
    if "learning" in parts:
        trainings = parts["learning"]["trainings"]
        shown = [{"system": name} | {key: value for key, value in one.items() if key != "history"} for name, one in trainings.items()]
        yield from _section("Learning, bits/dim of the first and the last quarter", pd.DataFrame(shown))
    for figure in figures:
        yield f"\n![{figure}]({figure})"
    if report.get("recommended"):
        yield from _advice(report["recommended"])


def _advice(advice: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## What to ask for\n\nIn params.yaml, preset `paper`:\n"
    yield "    compute: {" + ", ".join(f"{name}: {json.dumps(value)}" for name, value in advice["compute"].items()) + "}"
    yield f"\nIn workflow/profiles/slurm, block `config`: `tflops={advice['tflops']:g}`. It makes the workflow ask for this:"
    rules = pd.DataFrame(advice["rules"]).T.rename_axis("rule").reset_index()
    yield from _section("Memory (MiB) and time (minutes) of a job", rules)
    hours, chain = advice["paper_device_hours"], advice["paper_longest_chain_hours"]
    yield f"\nPreset `paper`: {hours:.3g} hours of one such device in all, {chain:.3g} in the longest chain of jobs that wait for"
    yield "each other: estimates from the measured throughput."


def _section(title: str, table: pd.DataFrame) -> Iterator[str]:
    yield f"\n## {title}\n"
    yield str(table.to_markdown(index=False, floatfmt=".4g", missingval=""))
