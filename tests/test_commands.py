"""Every command in README.md and the pages is run by a test, or is marked there as needing what a test does not have.

A command that is new in a page fails `test_every_command_is_covered` until a line here says how it is covered.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = [page for page in (ROOT / "README.md", ROOT / "ARTIFACT.md", *sorted((ROOT / "docs").glob("*.md"))) if page.exists()]
PROGRAMS = "agave|apt-get|cp|dvc|git|make|mkdocs|pip|pytest|python|rm|scancel|scontrol|sinfo|snakemake|squeue|sudo|uv"

# Run here as they stand, in a throw-away checkout with a preset `mine`.
RUN = [
    r"agave --help",
    r"agave (joint|figures|evaluate (bound|iwae)) --help",
    r"agave (config|summary|plan|models)( --preset \w+)?",
    r"agave digest [a-z]+",
    r"agave claims --preset demo --results results/demo",
    r"agave figures 4 --preset demo --results results/demo",
    r"agave prune --dry-run --preset demo --results results/demo",
    r"agave prepare --preset demo --images my_images.npz --output work/look",
    r"snakemake -n all --profile workflow/profiles/local( --config preset=mine)?",
    r"snakemake prepare (--forcerun prepare_images )?--profile workflow/profiles/local --config preset=mine",
    r"python docs/\w+\.py",
    r"dvc metrics (show --md|diff HEAD~1)",
    r"dvc plots (diff HEAD~1|show --show-vega \"dvc.yaml::Figure 4\")",
    r"dvc exp show",
]

# Run by another test: at the sizes of that test where the page names larger ones.
TESTED = {
    r"agave STEP": "test_cli.py::test_help",
    r"agave digest STEP( --system NAME)?": "test_source.py::test_unknown_step_and_missing_module_are_named",
    r"agave evaluate \.\.\. --memory MIB": "test_evaluation.py::test_bad_input_is_named_before_any_work",
    r"agave import-weights .*|agave export-weights .*": "test_weights.py::test_import_and_export",
    r"agave joint CELL --pixelcnn-pp .*": "test_cli.py::test_steps_in_order_write_what_the_next_one_reads",
    r"make demo( PRESET=\w+)?": "test_commands.py::test_make_demo_is_the_workflow_that_ci_runs",
    r"make (install|test|test-integration|check)": "test_commands.py::test_ci_runs_the_targets",
    r"make verify( PRESET=study)?": "test_verify.py::test_results_in_order",
    r"make plan PRESET=paper": "test_plan.py::test_the_command_prints_a_table_and_writes_json",
    r"make gpu-check|agave gpu-check.*": "test_gpu_check.py::test_the_report_holds_every_part",
    r"agave (compress|decompress)( .*)?": "test_codec_files.py::test_commands",
    r"pip install 'agave\[codecs\]'": "test_codec_step.py::test_a_package_that_is_missing_is_named",
    r"agave prepare --preset demo --output work/photographs": "test_commands.py::test_the_tutorial",
    r"cp work/photographs/train.npy my_images.npy": "test_commands.py::test_the_tutorial",
    r"agave pretrained .*": "test_codec_step.py::test_models_are_copied_with_a_card_each",
    r"agave plan --preset paper --device-report .*": "test_gpu_check.py::test_a_plan_takes_the_throughput_of_the_report",
    r"make page( PRESET=study)?": "test_page.py::test_the_page_is_made_from_the_files_in_git",
    r"make report": "test_report.py::test_every_item_of_every_category_opens",
    r"make crate": "test_crate.py::test_the_validator_accepts_it",
    r"make schema": "test_docs.py::test_generated_pages_are_up_to_date",
    r"make site": "test_docs.py::test_the_site_is_built_with_every_link_and_asks_no_other_server",
    r"make bench|python benchmarks/.*": "test_commands.py::test_benchmarks_run_at_a_small_size",
    r"make dvc-commit|dvc commit( --force)?|git add dvc.lock results|git commit -m .*": (
        "test_dvc.py::test_after_a_run_by_hand_dvc_has_nothing_to_do"
    ),
    r"make dvc-checkout|git checkout( \.| results)?|snakemake --touch --forceall": "test_dvc.py::test_an_experiment_with_another_k",
    r"dvc exp (run|apply).*|dvc params diff|dvc metrics diff|dvc plots diff": "test_dvc.py::test_an_experiment_with_another_k",
    r"(SNAKEMAKE_PROFILE=workflow/profiles/local )?dvc repro": "test_dvc.py::test_a_reworded_docstring_runs_stages_but_no_job",
    r"dvc repro --dry": "test_dvc.py::test_after_a_run_by_hand_dvc_has_nothing_to_do",
    r"dvc status|snakemake -n( all)?": "test_dvc.py::test_both_see_exactly_what_depends_on_an_edit",
    r"snakemake all": "test_dvc.py::test_after_a_run_by_hand_dvc_has_nothing_to_do",
    r"cp -a work/pruned/.*": "test_dvc.py::test_a_grid_that_grows_and_shrinks_leaves_nothing_stale",
    r"dvc remote add --default store /mnt/.*|dvc (push|pull)|git clone \.\.\.": "test_dvc.py::test_clone_and_pull_need_no_job",
}

# Not run by these tests: the page says beside the command, or at its beginning, what it needs.
NEEDS = {
    r"snakemake --profile slurm .*|squeue .*|scancel .*|scontrol .*": "a cluster",  # tests/slurm has a throw-away one
    r"make test-slurm|sudo apt-get .*|python tests/slurm/cluster.py bash": "root",
    r"snakemake all .* --config preset=study.*": "the images",
    r"dvc remote (add --default store (s3|ssh)|modify) ?.*|git push": "a remote",
}

# Of the shell alone: nothing of ours runs.
SHELL = [r"\. \.venv/bin/activate", r"export \w+=\S+", r"cd \w+", r"\$EDITOR params\.yaml", r"rm -r work/pruned"]


def sections(page: Path) -> Iterator[tuple[str, str]]:
    """The text of a page before the first heading of second level and below each, with the introduction."""
    introduction, *others = re.split(r"^(?=##+ )", page.read_text(), flags=re.MULTILINE)
    yield introduction, introduction
    for section in others:
        yield section, introduction + section


def commands(section: str) -> Iterator[str]:
    """The commands of indented blocks, of fences for a shell, and of `code` in the text and in tables."""
    fence: str | None = None
    previous = "\n"
    text = []
    for line in section.splitlines():
        if line.startswith("```"):
            fence = line.removeprefix("```").strip() if fence is None else None
        elif fence in ("bash", "console", "sh", "shell", "") or (fence is None and line.startswith("    ") and previous in ("", "    ")):
            for part in re.split(r" && | ; ", re.sub(r"\s+#\s.*", "", line.strip())):
                if part:
                    yield part
            previous = "    "
            continue
        elif fence is None:
            text.append(line)
        previous = line.strip()
    yield from re.findall(rf"`((?:\w+=\S+ )?(?:{PROGRAMS}) [^`]+)`", " ".join(text))


def all_commands() -> list[tuple[str, str, str]]:
    """(page, what stands around it, command)."""
    return [(page.name, around, command) for page in PAGES for section, around in sections(page) for command in commands(section)]


def matches(patterns: list[str] | dict[str, str], command: str) -> list[str]:
    return [pattern for pattern in patterns if re.fullmatch(pattern, command)]


TO_RUN = list(dict.fromkeys(command for _, _, command in all_commands() if matches(RUN, command)))


def test_every_command_is_covered() -> None:
    for page, around, command in all_commands():
        needs = [NEEDS[pattern] for pattern in matches(NEEDS, command)]
        known = [*matches(RUN, command), *matches(TESTED, command), *matches(SHELL, command), *needs]
        assert known, f"{page}: `{command}` is new: say in tests/test_commands.py how it is tested, or what it needs"
        for what in needs:
            assert re.search(rf"\bneeds? {what}\b", around), f"{page}: `{command}`: say beside it that it needs {what}"


def test_no_line_is_left_over() -> None:
    found = {command for _, _, command in all_commands()}
    for pattern in [*RUN, *TESTED, *NEEDS, *SHELL]:
        assert any(re.fullmatch(pattern, command) for command in found), f"no page has a command {pattern} any more"


@pytest.mark.parametrize("test", sorted(set(TESTED.values())))
def test_the_other_tests_exist(test: str) -> None:
    file, _, name = test.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), test


def run(folder: Path, command: str) -> str:
    """A command line as a user types it, in the environment of the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE", "DVC", "GIT"))}
    settings = {f"DVC_{name}_DIR": str(folder.parent / "dvc") for name in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")}
    settings |= {f"GIT_{role}_{name}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for name in ("NAME", "EMAIL")}
    settings |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    environment = kept | settings | {"DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def preset_of_the_page() -> str:
    """The preset `mine` as docs/tutorial.md shows it."""
    return re.findall(r"```yaml\n(mine:.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL)[0]


def check_out(folder: Path, mine: str) -> Path:
    """A copy of what the commands need, with own images as two kinds of files."""
    for name in ("agave", "benchmarks", "docs", "pretrained", "workflow", ".dvc"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local"))
    for name in ("Snakefile", "Makefile", "claims.yaml", "dvc.yaml", "dvc.lock", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    (folder / "slurm").symlink_to("workflow/profiles/slurm")
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text() + "\n" + mine)
    size = yaml.safe_load(mine)["mine"]["prepare"]["image_size"]
    images = np.random.default_rng(0).integers(0, 256, (2200, size, size, 3), np.uint8)
    np.savez(folder / "my_images.npz", images=images)
    np.save(folder / "my_images.npy", images)
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the results of the preset `demo` that are in git, as two commits."""
    folder = check_out(tmp_path_factory.mktemp("commands") / "checkout", preset_of_the_page())
    ignored = shutil.ignore_patterns("*.npy", "pretrain", "joint")
    shutil.copytree(ROOT / "results/demo", folder / "results/demo", ignore=ignored)
    commit = "git add --all && git commit --quiet --message"
    run(folder, f"git init --quiet && {commit} one && echo '# edited' >> params.yaml && {commit} two")
    return folder


@pytest.mark.integration
@pytest.mark.parametrize("command", TO_RUN)
def test_the_command_runs(checkout: Path, command: str) -> None:
    run(checkout, command)


@pytest.mark.integration
def test_the_tutorial(tmp_path: Path) -> None:
    """Everything on the page, in its order, with networks and trainings of the preset `tiny`."""
    preset = yaml.safe_load(preset_of_the_page())
    tiny = yaml.safe_load((ROOT / "params.yaml").read_text())["tiny"]
    preset["mine"] |= {key: tiny[key] for key in ("model", "pretrain", "joint", "evaluate", "sample")}
    folder = check_out(tmp_path / "checkout", yaml.safe_dump(preset))
    (folder / "my_images.npy").unlink()
    page = (ROOT / "docs/tutorial.md").read_text()
    typed = [command for command in commands(page) if not matches([*SHELL, "make install"], command)]
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (folder / "draw.py").write_text(code)
    training = typed.index("make demo PRESET=mine") + 1
    for command in [*typed[:training], "python draw.py", *typed[training:]]:
        if command.startswith("make"):
            command = next(line for line in recipe(command.removeprefix("make "), folder) if line.startswith("snakemake"))
        run(folder, command)
    assert "images test (200 of my_images.npy)" in (folder / "results/mine/evaluate/pixelcnn_pp/seed~0/bound.csv").read_text()
    assert (folder / "results/mine/page/index.html").exists()
    drawn, again = (plt.imread(folder / f"work/{name}.png") for name in ("drawn", "again"))
    assert drawn.shape == (2 * 32, 8 * 32, 3) and np.array_equal(drawn, again)


def recipe(target: str, folder: Path = ROOT) -> list[str]:
    """What `make TARGET` runs once everything is installed."""
    command = ["make", "--dry-run", "--no-print-directory", "--old-file=.venv/installed", *target.split()]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()


def test_make_demo_is_the_workflow_that_ci_runs() -> None:
    workflow = "--profile workflow/profiles/local"
    assert f"snakemake all --forcerun prepare_images {workflow} --config preset=mine" in recipe("demo PRESET=mine")
    assert f"snakemake all {workflow} --forceall --config preset=tiny" in (ROOT / ".ci/run").read_text()


def test_make_demo_starts_from_the_images_only_where_there_is_no_network(tmp_path: Path) -> None:
    """A clone has the small results, which Snakemake may take for finished."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "results/demo/evaluate").mkdir(parents=True)
    assert any("--forcerun prepare_images" in line for line in recipe("demo", tmp_path))
    (tmp_path / "results/demo/pretrain").mkdir()
    assert not any("--forcerun" in line for line in recipe("demo", tmp_path))


def test_ci_runs_the_targets() -> None:
    steps = (ROOT / ".ci/run").read_text()
    assert re.search(r"^make check$", steps, re.MULTILINE) and re.search(r"^make test ", steps, re.MULTILINE)  # both install first
    assert "mkdocs build --strict" in "\n".join(recipe("check"))


SMALL = {
    "training": "--filters 4 --resnets 1 --mixtures 1 --batch 2 --size 8 --steps 1 --threads 1 --precision float32",
    "sampling": "--filters 4 --resnets 1 --mixtures 1 --size 8 --batch 1 --repeats 1",
    "evaluation": "--preset tiny --samples 2 --images 1 --batches 2 --repeats 1",
    "codec": "--models pretrained/pixelcnn_pp/model.safetensors --images 2 --group 2 --repeats 1",
    "operations": "--preset tiny --most 3",
    "planning": "--cells 3",
    "workflow": "--preset demo",
}


@pytest.mark.integration
@pytest.mark.parametrize("script", SMALL)
def test_benchmarks_run_at_a_small_size(checkout: Path, script: str) -> None:
    (checkout / "logs/demo").mkdir(parents=True, exist_ok=True)
    (checkout / "logs/demo/prepare.tsv").write_text("s\tmax_rss\n1.5\t100\n")
    run(checkout, f"python benchmarks/{script}.py {SMALL[script]}")
    known = run(checkout, f"python benchmarks/{script}.py --help")
    for _, _, command in all_commands():
        if command.startswith(f"python benchmarks/{script}.py"):
            assert all(option in known for option in re.findall(r"--\w+", command)), command


def test_every_benchmark_is_on_its_page() -> None:
    page = (ROOT / "docs/benchmarks.md").read_text()
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert scripts == SMALL.keys() and all(f"benchmarks/{name}.py" in page for name in scripts)
