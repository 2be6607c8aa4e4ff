"""The steps of the workflow, one module each. A step never imports a later one: they know each other through files only."""

# In the order in which data flow. The rule file, the sub-command, the module and the folder of results have the same names.
STEPS = ("prepare", "pretrain", "joint", "trainings", "evaluate", "sample", "tables", "figures", "claims", "records", "report")
