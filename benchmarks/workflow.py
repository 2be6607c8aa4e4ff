"""Time and memory of each rule in the last run of a preset, from the benchmark files that Snakemake wrote beside the logs."""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path


def measurements(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Seconds and peak memory (MiB) of every job below logs/<preset>/, by step."""
    found = defaultdict(list)
    for path in sorted(folder.rglob("*.tsv")):
        kind = path.stem.partition("-")[2].partition(".")[0]  # the kinds of `evaluate` lie side by side, and their shards
        step = " ".join(part for part in (path.relative_to(folder).parts[0].removesuffix(".tsv"), kind) if part)
        for row in csv.DictReader(path.read_text().splitlines(), delimiter="\t"):
            memory = row["max_rss"]
            found[step].append((float(row["s"]), 0.0 if memory in ("-", "NA") else float(memory)))  # "-", "NA": too short to measure
    return found


def main() -> int:
    """Print one line a step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="demo")
    folder = Path("logs") / parser.parse_args().preset
    found = measurements(folder)
    if not found:
        print(f"error: {folder}: no benchmark files; make them with: make demo PRESET={folder.name}", file=sys.stderr)
        return 1
    print(f"{'step':<16}{'jobs':>6}{'seconds':>10}{'longest':>10}{'peak MiB':>10}")
    for step, jobs in found.items():
        seconds = [job[0] for job in jobs]
        print(f"{step:<16}{len(jobs):>6}{sum(seconds):>10.1f}{max(seconds):>10.1f}{max(job[1] for job in jobs):>10.0f}")
    print(f"{'all jobs':<16}{sum(map(len, found.values())):>6}{sum(job[0] for jobs in found.values() for job in jobs):>10.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
