# Every table and figure of the paper. params.yaml says what is computed, workflow/profiles/ where.
#
#   snakemake all --profile workflow/profiles/local                        the preset that params.yaml names
#   snakemake all --profile workflow/profiles/local --config preset=tiny   another preset
#   snakemake --profile slurm all                                          the preset `paper` on a Slurm cluster
#
# One target per step: prepare, pretrain, joint, trainings, evaluate, sample, codec, formats, tables, figures, claims, records, page, report, all.
from snakemake.utils import min_version

min_version("9.27")


report: "workflow/report/workflow.rst"


# The image that .venv is made for (uv.lock); used only with `--software-deployment-method apptainer`.
container: "docker://python:3.11-bookworm"


include: "workflow/rules/common.smk"  # checks params.yaml, then reads it
include: "workflow/rules/prune.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/joint.smk"
include: "workflow/rules/trainings.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/codec.smk"
include: "workflow/rules/formats.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/claims.smk"
include: "workflow/rules/records.smk"
include: "workflow/rules/page.smk"
include: "workflow/rules/report.smk"


onstart:
    share_process()


rule all:
    default_target: True
    input:
        rules.trainings.input,
        rules.evaluate.input,
        rules.sample.input,
        rules.codec.input,
        rules.formats.input,
        rules.tables.input,
        rules.figures.input,
        rules.claims.input,
        rules.records.input,
        rules.page.input,
