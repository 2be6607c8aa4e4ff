"""The steps of the workflow, one module each. Steps know each other through files only; a step never imports a later one."""

# In the order in which data flow. The rule file, the sub-command, the module and the folder of results have the same names.
STEPS = (
    "prepare",
    "pretrain",
    "joint",
    "trainings",
    "evaluate",
    "sample",
    "codec",
    "formats",
    "tables",
    "figures",
    "claims",
    "records",
    "page",
    "report",
)
