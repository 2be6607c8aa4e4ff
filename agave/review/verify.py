"""The reviewer's check of the results of a preset: nothing is computed that needs a trained network.

Checksums come first, because what follows marks results as finished and redraws from them. It works with all results and in a
clone of the git repository alone, which has neither weights nor image arrays.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agave import figures
from agave.claims import Decision, counts, decisive, shown
from agave.config import Params
from agave.files import sha256
from agave.provenance.code_digest import digest
from agave.provenance.run_record import git_state
from agave.results import Results
from agave.review import redraw
from agave.steps import records
from agave.steps.records import CHECKSUMS, Record

DRAWING_RULES = ("write_tables", *(f"figure_{name}" for name in figures.NAMES), "decide_claims", "write_records")
DRAWING_STEPS = ("tables", "figures", "claims", "records")


@dataclass
class Check:
    """One part of the verdict page.

    Attributes:
        name: what was checked.
        summary: in a line, what was found.
        problems: each names a file or a job and what is wrong; none: all is well.
    """

    name: str
    summary: str = ""
    problems: list[str] = field(default_factory=list)


def verify(params: Params, preset: str, results: Path, claims_file: Path, say: Callable[[str], None]) -> bool:
    """Check the results of a preset and print the verdict page.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.
        claims_file: claims.yaml.
        say: prints a line.

    Returns:
        Whether all is well.

    Raises:
        UserError: there is no list of checksums to check by.
    """
    began = time.monotonic()
    state = git_state()
    commit = f"commit {state['commit'][:10]}{', edited' if state['dirty'] else ''}" if state["commit"] else "no git repository"
    say(f"Results of the preset {preset} in {results}, {commit}\n")
    source = Results(params, preset, results)
    listed = _listed(source)
    missing = [path for path in redraw.drawn() if path in listed and not (results / path).exists()]
    checks = [_checksums(source, listed, missing)]
    _show(checks[0], say)
    if not checks[0].problems:  # what is damaged is neither marked as finished nor drawn from
        found = records.read_all(source)
        for check in (_chain(found), _settings(found, params), _workflow(source, found, missing, listed)):
            checks.append(check)
            _show(check, say)
        check, decisions = _redrawn(source, claims_file)
        checks.append(check)
        _show(check, say)
        say("\n" + "\n".join(claims_page(decisions)))
    failed = [check.name for check in checks if check.problems]
    rest = "" if not checks[0].problems else "; the other checks wait for it"
    say(f"\nVERDICT: {'all is well' if not failed else 'NOT in order: ' + ', '.join(failed) + rest} ({time.monotonic() - began:.0f} s)")
    return not failed


def _show(check: Check, say: Callable[[str], None]) -> None:
    say(f"{'FAILED' if check.problems else 'ok':<7} {check.name:<10} {check.summary}")
    for problem in check.problems[:20]:
        say(f"{'':<18} {problem}")
    if len(check.problems) > 20:
        say(f"{'':<18} and {len(check.problems) - 20} more")


def _listed(source: Results) -> dict[str, str]:
    """records/SHA256SUMS as {path: hash}."""
    try:
        lines = (source.folder / CHECKSUMS).read_bytes().decode("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise source.wrong(CHECKSUMS, "missing") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line)
        if match is None:
            raise source.wrong(CHECKSUMS, f"line {number} is no checksum")
        found[match[2]] = match[1]
    return found


def _checksums(source: Results, listed: Mapping[str, str], missing: Sequence[str]) -> Check:
    """The small results against records/SHA256SUMS; weights and arrays, where they are, against the run records."""
    check = Check("checksums")
    wanted = {*records.inputs(source.params), records.COMPUTE, records.MARKDOWN}
    check.problems += [f"{source.folder / path}: not in {CHECKSUMS}, as the grid asks for" for path in sorted(wanted - set(listed))]
    check.problems += [f"{source.folder / path}: in {CHECKSUMS}, but not of the grid" for path in sorted(set(listed) - wanted)]
    for path, recorded in listed.items():
        file = source.folder / path
        if path in missing:
            continue
        if not file.is_file():
            check.problems.append(f"{file}: missing")
        elif (found := sha256(file)) != recorded:
            check.problems.append(f"{file}: changed; its SHA-256 is {found[:12]}..., recorded is {recorded[:12]}...")
    if check.problems:
        check.summary = f"{len(check.problems)} of {len(wanted)} files are not as recorded in {source.folder / CHECKSUMS}"
        return check
    large, absent = _large(records.read_all(source)), 0
    for path, recorded in large.items():
        file = source.folder / path
        if not file.exists():
            absent += 1
        elif (found := sha256(file)) != recorded:
            check.problems.append(f"{file}: changed; its SHA-256 is {found[:12]}..., its run record says {recorded[:12]}...")
    check.summary = f"{len(listed) - len(missing)} small files as recorded; of the weights and arrays {len(large) - absent} as recorded"
    check.summary += f", {absent} not here (dvc pull brings them)" if absent else ""
    return check


def _large(found: Mapping[str, Record]) -> dict[str, str]:
    """Weights, histories and arrays, which lie in DVC's cache: {path: hash}."""
    return {
        f"{_folder(place, record)}/{name}": recorded
        for place, record in found.items()
        if record["step"] in ("prepare", "pretrain", "joint")
        for name, recorded in record["outputs"].items()
        if name != "manifest.json"
    }


def _folder(place: str, record: Record) -> str:
    return record.get("folder") or str(Path(place).parent)


def _chain(found: Mapping[str, Record]) -> Check:
    """Every input that a step of this preset made must be, by its hash, what the record of that step says it wrote."""
    made = {f"{_folder(place, record)}/{name}": hash_ for place, record in found.items() for name, hash_ in record["outputs"].items()}
    check, inputs = Check("chain"), 0
    for place, record in found.items():
        for entry in record["inputs"].values():
            path = re.sub(r"^results/[^/]+/", "", entry["file"])
            if path in made:
                inputs += 1
                if made[path] != entry["sha256"]:
                    check.problems.append(f"{place}: made from another {path} than the one recorded beside it")
    check.summary = f"{len(found)} run records; each of {inputs} inputs is the output that an earlier step recorded"
    return check


def _settings(found: Mapping[str, Record], params: Params) -> Check:
    """The parameters and the code that the records name against those of the checkout."""
    check = Check("settings", "made with the parameters and the code of this checkout")
    for place, record in found.items():
        if record.get("source") not in (None, digest(record["step"])):
            check.problems.append(f"{place}: made with other code of the step {record['step']} (agave digest {record['step']})")
        for key, (recorded, now) in _different(record, params):
            check.problems.append(f"{place}: made with {key} {recorded}; params.yaml says {now}")
    unknown = [place for place, record in found.items() if "source" not in record]
    if unknown and not check.problems:
        check.summary = f"made with the parameters of this checkout; {len(unknown)} records do not say with which code"
    return check


def _different(record: Record, params: Params) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Keys of the options of a record that the parameters have otherwise; those that change no result are left out."""
    options = record["options"]
    names = ("prepare", "model", "evaluate", "sample", "figures", "grid")
    blocks: dict[str, Any] = {name: getattr(params, name).model_dump(mode="json") for name in names}
    if "training" in options:
        part = "vae" if str(options["cell"]).startswith("vae") else "pixelcnn_pp"
        chosen = params.joint if record["step"] == "joint" else getattr(params.pretrain, part)
        blocks["training"] = chosen.model_dump(mode="json")
    bound_alone = record["step"] == "evaluate" and "iwae.csv" not in record["outputs"]
    for name in blocks.keys() & options.keys():
        for key, recorded in options[name].items():
            ignored = (key == "batch" and name != "training") or (bound_alone and key.startswith("iwae"))
            if not ignored and key != "path" and blocks[name].get(key) != recorded:
                yield f"{name}.{key}", (recorded, blocks[name].get(key))


def _workflow(source: Results, found: Mapping[str, Record], missing: Sequence[str], listed: Mapping[str, str]) -> Check:
    """Make what was deleted again, bring Snakemake's records in step, and show that nothing is to be done."""
    check = Check("workflow")
    whole = all((source.folder / path).exists() for path in _large(found))
    # of a clone without the weights only the steps after them can be marked as finished
    restricted = [] if whole else ["--allowed-rules", *DRAWING_RULES, *DRAWING_STEPS]
    target = ["all"] if whole else [*DRAWING_STEPS]
    if missing:
        _make_again(source, missing, listed, target, restricted, check)
    if not check.problems:
        _mark_as_finished(source, listed, target, restricted, check)
    if not check.problems:
        plan = _snakemake(source, *target, "--dry-run", *restricted)
        if "Nothing to be done" not in plan.stdout:
            rules = [rule for rule in re.findall(r"^(\w+) +\d+$", plan.stdout, re.MULTILINE) if rule != "total"]
            check.problems.append(f"Snakemake would run {', '.join(rules)}" if rules else _last(plan.stdout))
    nothing = f"nothing to be done for {' '.join(target)}" if not check.problems else "results are missing or out of date"
    check.summary = "; ".join(part for part in (check.summary, nothing) if part)
    return check


def _make_again(
    source: Results, missing: Sequence[str], listed: Mapping[str, str], target: Sequence[str], restricted: Sequence[str], check: Check
) -> None:
    """Have Snakemake draw the missing files, and nothing else; the run records beside them stay those of the recorded run."""
    for path in missing:  # all others count as finished
        (source.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (source.folder / path).touch()
    _mark_as_finished(source, listed, target, restricted, check)
    for path in missing:
        (source.folder / path).unlink()
    records_there = [source.folder / path for path in listed if path.endswith(".json")]
    kept = {file: file.read_bytes() for file in records_there if file.exists()}
    made = _snakemake(source, *(str(source.folder / path) for path in missing), *restricted)
    for file, content in kept.items():
        if file.read_bytes() != content:
            file.write_bytes(content)
    rules = re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", made.stdout, re.MULTILINE)
    check.summary = f"missing were {', '.join(missing)}: made again by {', '.join(rules) or 'no job'}"
    for path in missing:
        file = source.folder / path
        if not file.exists():
            check.problems.append(f"{file}: missing, and not made again: {_last(made.stdout)}")
        elif sha256(file) != listed[path]:
            check.problems.append(f"{file}: was missing; made again, its SHA-256 is not the recorded one")


def _mark_as_finished(source: Results, listed: Mapping[str, str], target: Sequence[str], restricted: Sequence[str], check: Check) -> None:
    now = time.time()
    for path in listed:  # git gives files the time of the checkout, in any order
        if (source.folder / path).exists():
            os.utime(source.folder / path, (now, now))
    marked = _snakemake(source, *target, "--touch", "--forceall", *restricted)
    if marked.returncode:
        check.problems.append(f"snakemake --touch: {_last(marked.stdout)}")


def _snakemake(source: Results, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", *arguments, "--cores", "2", "--max-checksum-file-size", "1MB"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE")}
    return subprocess.run(
        [*command, "--config", f"preset={source.preset}"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"


def _redrawn(source: Results, claims_file: Path) -> tuple[Check, list[Decision]]:
    """Every table, figure and claim once more in another folder, compared with what lies there."""
    check = Check("redrawn")
    with tempfile.TemporaryDirectory() as name:
        decisions = redraw.redraw(source.params, source.preset, source.folder, Path(name), claims_file)
        check.problems += [f"{source.folder / path}: {how}" for path, how in redraw.differences(source.folder, Path(name))]
        same = sum((source.folder / path).read_bytes() == (Path(name) / path).read_bytes() for path in redraw.drawn())
    total = len(redraw.drawn())
    rest = "" if same == total else f", {total - same - len(check.problems)} the same to rounding"
    check.summary = f"tables, figures and claims from the small files: {same} of {total} files the same bytes{rest}"
    return check, decisions


def claims_page(decisions: Sequence[Decision]) -> Iterator[str]:
    """The lines of the verdicts: two a claim, then how many of each."""
    for decision in decisions:
        one = decisive(decision)
        yield f"{decision.claim.id:<4} {decision.verdict:<26} {decision.claim.claim}"
        yield f"{'':<31} {shown(one) if one else decision.basis}"
    yield ", ".join(f"{number} {verdict}" for verdict, number in counts(decisions).items())
